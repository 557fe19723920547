//! The rules of k8s/prometheus and the panels of k8s/grafana, asked of a Prometheus that holds flowcar's own metrics: of a pod with
//! every fault that an alert is for, and of one without any.

use std::{collections::BTreeMap, fs, time::Duration};

use flowcar::{
    clock::Anchor,
    flow::{Books, CloseReason, Failure, Lost, Role, RttKind},
    histogram::Histogram,
    snapshot::{Listener, Peer, SelfMetrics, Series, SeriesKey, Snapshot},
};
use flowcar_tests::{
    monitoring::{alerts, dashboards::dashboards, inline, repository, rules},
    peers::{Prometheus, PrometheusOptions, eventually},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    questions::questions,
    sample::{LIMIT, export},
};

const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

/// Hours of history, each with two reports a minute apart: a rate of five minutes has both for four minutes, so that a subquery with
/// steps of two minutes cannot miss it.
const HISTORY: u64 = 48;

/// Reports of the last five minutes, one every ten seconds.
const REPORTS: u64 = 29;

/// A pod's flowcar from two days ago until now. In a faulty pod connections and bytes grow in the last hours, and in the last five
/// minutes everything else goes wrong.
struct Pod {
    is_faulty: bool,
    now: u64,
    snapshot: Snapshot,
    /// Connections from clients of the pod, in each report of the last five minutes.
    served: u64,
}

fn key(peer: [u8; 4]) -> SeriesKey {
    SeriesKey::Flows {
        container: None,
        role: Role::Client,
        peer: Peer::Address(peer.into()),
        server_port: Some(8080),
    }
}

fn server() -> SeriesKey {
    SeriesKey::Flows {
        container: None,
        role: Role::Server,
        peer: Peer::Unnamed,
        server_port: Some(80),
    }
}

/// Clients of the pod by their address, as with FLOWCAR_PEER=address.
fn client_of_server() -> SeriesKey {
    SeriesKey::Flows {
        container: None,
        role: Role::Server,
        peer: Peer::Address([10, 1, 2, 9].into()),
        server_port: Some(80),
    }
}

fn record(histogram: &mut Histogram, millis: u64, count: u64) {
    for _ in 0..count {
        histogram.record(millis * 1_000_000);
    }
}

impl Pod {
    fn new(is_faulty: bool) -> Self {
        let now = Anchor::now();
        let now = now.unix_ns(now.monotonic());
        let start = now - HISTORY * HOUR - HOUR;
        let series = Series {
            since_unix_ns: start,
            ..Default::default()
        };
        let keys = [[10, 1, 2, 3], [10, 1, 2, 5]].map(key);
        let snapshot = Snapshot {
            start_unix_ns: start,
            at_unix_ns: start,
            series: keys
                .into_iter()
                .chain([server(), client_of_server()])
                .map(|key| (key, series.clone()))
                .collect(),
            dropped: Default::default(),
            unattributed: Default::default(),
            lost: BTreeMap::new(),
            listeners: BTreeMap::new(),
            containers: BTreeMap::new(),
            books: Books::default(),
            self_metrics: SelfMetrics::default(),
        };
        Self {
            is_faulty,
            now,
            snapshot,
            served: 10,
        }
    }

    /// The times of its reports.
    fn times(&self) -> Vec<u64> {
        let history = (1..=HISTORY).rev().flat_map(|hours| {
            let at = self.now - hours * HOUR;
            [at - 3 * MINUTE, at - 2 * MINUTE]
        });
        let last = (0..REPORTS)
            .rev()
            .map(|number| self.now - number * 10 * SECOND);
        history.chain(last).collect()
    }

    /// What happens until the next report.
    fn advance(&mut self, at: u64) {
        let seconds = ((at - self.snapshot.at_unix_ns) / SECOND).min(60);
        let left = self.now - at;
        let is_last = left < 5 * MINUTE;
        let is_fault = self.is_faulty && is_last;
        self.snapshot.at_unix_ns = at;
        let to_peer = self.snapshot.series.get_mut(&key([10, 1, 2, 3]));
        Self::connect(to_peer.expect("the series"), seconds, is_fault);
        let grown = (HISTORY * HOUR).saturating_sub(left) / HOUR;
        let leaked = 23_000 * (6 * HOUR).saturating_sub(left) / (6 * HOUR);
        let (grown, leaked) = if self.is_faulty {
            (grown, leaked)
        } else {
            (0, 0)
        };
        let to_pool = self.snapshot.series.get_mut(&key([10, 1, 2, 5]));
        let to_pool = to_pool.expect("the series");
        to_pool.bytes_sent += seconds * (1_000_000 + grown * 50_000);
        to_pool.live = 200 + leaked;
        to_pool.opened = 200 + leaked;
        let to_client = self.snapshot.series.get_mut(&client_of_server());
        to_client.expect("the series").bytes_sent += 2_000 * seconds;
        if is_last {
            let to_pod = self.snapshot.series.get_mut(&server());
            Self::serve(to_pod.expect("the series"), self.served);
        }
        self.fail(is_fault);
    }

    /// Connections to the peer that is well, or slow, lossy and refusing.
    fn connect(series: &mut Series, seconds: u64, is_fault: bool) {
        let rtt = series.rtt.entry(RttKind::Measured).or_default();
        record(rtt, if is_fault { 80 } else { 5 }, seconds);
        let count = if is_fault {
            20 * seconds
        } else {
            seconds.min(10)
        };
        series.opened += count;
        *series
            .closed
            .entry(CloseReason::LocalFin.into())
            .or_default() += count;
        let lives = if is_fault { 50 } else { 60_000 };
        let duration = series
            .duration
            .entry(CloseReason::LocalFin.into())
            .or_default();
        record(duration, lives, count);
        record(series.connect.entry(None).or_default(), 6, count);
        record(&mut series.exchange, if is_fault { 200 } else { 30 }, count);
        series.bytes_received += 1_000 * count;
        series.segments_sent += 100 * seconds;
        series.segments_received += 100 * seconds;
        if !is_fault {
            return;
        }
        *series.failed.entry(Failure::Refused).or_default() += 5 * seconds;
        *series
            .closed
            .entry(CloseReason::ResetReceived.into())
            .or_default() += 1;
        series.opened += 1;
        series.retransmits.fast += 5 * seconds;
        series.receive_window_limited_us += 600_000 * seconds;
    }

    /// Connections from clients of the pod.
    fn serve(series: &mut Series, count: u64) {
        series.opened += count;
        series
            .closed
            .insert(CloseReason::PeerFin.into(), series.opened);
        series.bytes_sent += 10_000;
        series.bytes_received += 10_000;
        series.segments_sent += 50;
        series.segments_received += 50;
        record(series.rtt.entry(RttKind::Measured).or_default(), 5, 50);
        record(&mut series.exchange, 3, count);
    }

    /// What goes wrong in the pod, and in its flowcar.
    fn fail(&mut self, is_fault: bool) {
        let listener = self.snapshot.listeners.entry(Some(80)).or_insert(Listener {
            drops: 0,
            waiting: 1,
            limit: 128,
        });
        if is_fault {
            listener.drops += 2;
            listener.waiting = 120;
            *self.snapshot.lost.entry(Lost::RingFull).or_default() += 50;
            let self_metrics = &mut self.snapshot.self_metrics;
            *self_metrics.rejected.entry("metrics").or_default() += 3;
            *self_metrics.spans_dropped.entry("expired").or_default() += 3;
        }
        let lost: u64 = self.snapshot.lost.values().sum();
        // Lost connections were opened, too; two of the faulty pod's are missing.
        self.snapshot.unattributed.opened = lost.saturating_sub(2);
        let self_metrics = &mut self.snapshot.self_metrics;
        *self_metrics.exported.entry("metrics").or_default() += 100;
        *self_metrics.records.entry("close").or_default() += 10;
        *self_metrics.exported.entry("traces").or_default() += 10;
        self_metrics.sockets = BTreeMap::from([("followed", 200), ("other", 3)]);
        record(&mut self_metrics.dump_duration, 2, 1);
        let exports = [("metrics", "success"), ("traces", "success")];
        for key in exports {
            record(self_metrics.export_duration.entry(key).or_default(), 4, 1);
        }
        self_metrics.span_queue.items = 5;
        self_metrics.span_queue.capacity = 100;
        self_metrics.span_queue.bytes = 5_000;
        self_metrics.series = 3;
        self_metrics.table_flows = 200;
        self_metrics.cpu_s += 0.01;
        self_metrics.rss_bytes = 10 << 20;
    }
}

fn send(endpoint: &str, pod: &str, reports: &[Snapshot]) {
    let settings = [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("FLOWCAR_POD_NAME", pod),
        ("FLOWCAR_POD_UID", pod),
        ("FLOWCAR_POD_NAMESPACE", "shop"),
        ("FLOWCAR_NODE_NAME", "node-a"),
        ("FLOWCAR_SELF_METRICS", "detailed"),
    ];
    export("web", &settings, async |start| {
        let exporter = start(endpoint);
        for report in reports {
            exporter.metrics(report.clone());
            let stats = || exporter.self_metrics().exports;
            assert!(exporter.flush(LIMIT).await, "{:?}", stats());
            assert!(
                stats().keys().all(|key| key.1 == "success"),
                "{:?}",
                stats()
            );
        }
    });
}

/// What kube-state-metrics has of two nodes in two zones, of the client's pod on one of them, and of a job's pod that had its address before.
fn send_zones(prometheus: &Prometheus) {
    let now = Anchor::now();
    let now = now.unix_ns(now.monotonic()).to_string();
    let one = |name: &str, labels: &[(&str, &str)]| {
        let attributes: Vec<_> = labels
            .iter()
            .map(|(key, value)| json!({"key": key, "value": {"stringValue": value}}))
            .collect();
        let point = json!({"timeUnixNano": now, "asInt": "1", "attributes": attributes});
        json!({"name": name, "gauge": {"dataPoints": [point]}})
    };
    let node = |name, zone| {
        let labels = [("node", name), ("label_topology_kubernetes_io_zone", zone)];
        one("kube_node_labels", &labels)
    };
    let pod = |name, node| {
        let labels = [
            ("namespace", "shop"),
            ("pod", name),
            ("node", node),
            ("pod_ip", "10.1.2.9"),
            ("host_network", "false"),
        ];
        one("kube_pod_info", &labels)
    };
    let phase = |name, phase| {
        let labels = [("namespace", "shop"), ("pod", name), ("phase", phase)];
        one("kube_pod_status_phase", &labels)
    };
    let metrics = [
        node("node-a", "zone-a"),
        node("node-b", "zone-b"),
        pod("job", "node-a"),
        phase("job", "Succeeded"),
        pod("client", "node-b"),
        phase("client", "Running"),
    ];
    let request = json!({"resourceMetrics": [{"scopeMetrics": [{"metrics": metrics}]}]});
    let path = "/api/v1/otlp/v1/metrics";
    let body = request.to_string().into_bytes();
    let reply = prometheus
        .client()
        .send("POST", path, "application/json", body);
    let reply = reply.expect("Prometheus answers");
    assert_eq!(reply.status, 200, "{reply:?}");
}

/// Prometheus with the rules, and the folder that they are in.
struct Monitor {
    prometheus: Prometheus,
    _folder: TempDir,
}

impl Monitor {
    /// Its groups are evaluated each second, so that nothing has to wait.
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let text = fs::read_to_string(repository().join("k8s/prometheus/flowcar.rules.yaml"));
        let text = text.expect("the rules");
        let lines = text
            .lines()
            .filter(|line| !line.trim().starts_with("interval:"));
        let file = folder.path().join("flowcar.rules.yaml");
        fs::write(&file, lines.collect::<Vec<_>>().join("\n")).expect("the rules can be written");
        let labels = [
            "service.name",
            "service.namespace",
            "k8s.namespace.name",
            "k8s.pod.name",
            "k8s.node.name",
            "k8s.deployment.name",
        ];
        let prometheus = Prometheus::start_with(PrometheusOptions {
            promote_resource_attributes: labels.map(str::to_owned).into(),
            overlay: json!({
                "global": {"evaluation_interval": "1s"},
                "rule_files": [file],
                // One pod's reports follow those of another.
                "storage": {"tsdb": {"out_of_order_time_window": "3h"}},
            }),
            ..Default::default()
        });
        Self {
            prometheus,
            _folder: folder,
        }
    }

    /// With all reports of a pod, and those of another one that ended some time ago.
    fn of(is_faulty: bool) -> Self {
        let monitor = Self::start();
        let mut pod = Pod::new(is_faulty);
        let mut reports = Vec::new();
        for at in pod.times() {
            pod.advance(at);
            reports.push(pod.snapshot.clone());
        }
        let endpoint = monitor.prometheus.otlp_endpoint();
        send(&endpoint, "web-1", &reports);
        send_zones(&monitor.prometheus);
        if is_faulty {
            let mut ended = Pod::new(false);
            ended.advance(ended.now - 20 * MINUTE);
            send(&endpoint, "web-9", &[ended.snapshot]);
        }
        monitor.wait_for_rules();
        monitor
    }

    /// Waits until each rule was evaluated without an error after the data came.
    fn wait_for_rules(&self) {
        let now = Anchor::now();
        let now = now.unix_ns(now.monotonic()) / SECOND;
        let limit = Duration::from_secs(60);
        eventually("evaluation of every rule", limit, || {
            let reply = self.prometheus.client().get("/api/v1/rules").ok()?.json();
            let groups = reply["data"]["groups"].as_array()?.clone();
            assert!(!groups.is_empty(), "{reply}");
            let of_groups = groups.iter().flat_map(|group| group["rules"].as_array());
            for rule in of_groups.flatten() {
                assert_eq!(rule["lastError"], Value::Null, "{rule}");
                let at: jiff::Timestamp = rule["lastEvaluation"].as_str()?.parse().ok()?;
                if at.as_second() < i64::try_from(now).ok()? + 2 || rule["health"] != "ok" {
                    return None;
                }
            }
            Some(())
        });
    }

    fn ask(&self, query: &str) -> Vec<Value> {
        let answer = self.prometheus.query(&inline(query, &rules()));
        answer.as_array().expect("answers").clone()
    }
}

/// What each alert shows of the faulty pod: a label's value, and the value; NAN where any value above the alert's bound will do.
#[rustfmt::skip]
const ALERTS: [(&str, &str, f64); 15] = [
    ("FlowcarConnectFailures", "10.1.2.3", 5.0 / 25.1),
    ("FlowcarRetransmits", "10.1.2.3", 0.05),
    ("FlowcarRoundTripsSlow", "10.1.2.3", 0.08),
    ("FlowcarAcceptQueueFull", "80", 58.0),
    ("FlowcarAcceptQueueFilling", "80", 120.0 / 128.0),
    ("FlowcarConnectionChurn", "10.1.2.3", 20.1),
    ("FlowcarPortHeadroom", "10.1.2.5", 23_200.0 / 28_232.0),
    ("FlowcarPortsForecast", "10.1.2.5", 115_000.0),
    ("FlowcarConnectionsForecast", "client", f64::NAN),
    ("FlowcarBytesForecast", "transmit", f64::NAN),
    ("FlowcarBooksUnbalanced", "web-1", -2.0),
    ("FlowcarConnectionsLost", "ring_full", 1_450.0),
    ("FlowcarPodSilent", "web-9", 1.0),
    ("FlowcarExportsRejected", "rejected", 87.0),
    ("FlowcarSpansDropped", "expired", 87.0),
];

/// The questions of docs/questions.md, with what they show of the faulty pod: a label's value, and the value.
#[rustfmt::skip]
const QUESTIONS: [(&str, &str, f64); 21] = [
    ("Which peer is slow?", "10.1.2.3", 0.2),
    ("Is it the network or the server?", "10.1.2.3", 0.4),
    ("Is it slower than an hour ago?", "10.1.2.3", 16.0),
    ("Is it one pod or all of them?", "client", 0.08),
    ("What fails to connect, and why?", "refused", 1_450.0),
    ("How long does connecting take?", "web", 0.006),
    ("Who resets us?", "10.1.2.3", 29.0),
    ("Which path loses packets?", "10.1.2.3", 0.05),
    ("Is the pool reused?", "10.1.2.3", 1.0),
    ("How long do connections live?", "client", 0.05),
    ("What holds it back?", "receive_window", 0.6),
    ("Is the accept queue full?", "80", 120.0 / 128.0),
    ("Are there local ports left?", "10.1.2.5", 23_200.0),
    ("Do connections leak?", "client", 11_500.0),
    ("Is the load even?", "web-1", 1.0),
    ("Who sends the most?", "10.1.2.5", 1_000_000.0 + 48.0 * 50_000.0),
    ("What crosses zones?", "zone-b", 2_000.0),
    ("Are the figures complete?", "ring_full", 1_450.0),
    ("Does every sidecar deliver?", "shop", 1.0),
    ("How much CPU does flowcar use?", "web-1", 0.001),
    ("How much memory does flowcar use?", "web-1", 10_485_760.0),
];

/// The questions that compare pods, with the pod that stands out and what it shows; and what another one shows, or NAN where the answer is
/// one for all.
#[rustfmt::skip]
const OF_PODS: [(&str, &str, f64, f64); 4] = [
    ("Is it slower than an hour ago?", "10.1.2.3", 16.0, f64::NAN),
    ("Is it one pod or all of them?", "web-1", 0.08, 0.005),
    ("Is the load even?", "web-1", 0.1, 1.0),
    ("Does every sidecar deliver?", "shop", 3.0, f64::NAN),
];

/// Where the answers of the pods are written to, for docs/images/questions.
const ANSWERS_FILE: &str = "FLOWCAR_ANSWERS";

/// The query as Grafana sends it where a user chose this pod.
fn chosen(query: &str) -> String {
    let variables = [
        ("$namespace", "shop"),
        ("$workload", "web"),
        ("$pod", "web-1"),
        ("$flowcar_pod", "web-1"),
        ("$__rate_interval", "5m"),
    ];
    variables
        .iter()
        .fold(query.to_owned(), |query, (name, value)| {
            query.replace(name, value)
        })
}

/// How far a value may be off, as a share: a report of 29, or a bucket.
const OFF: f64 = 0.1;

/// What is wrong with the answers to a query of which one has the label and the value, if anything.
fn differs(monitor: &Monitor, query: &str, label: &str, truth: f64, off: f64) -> Option<String> {
    let answers = monitor.ask(query);
    let found = answers.iter().find(|one| {
        let labels = one["metric"].as_object().expect("labels");
        labels.values().any(|value| value == label)
    });
    let value = found.and_then(|one| one["value"][1].as_str()?.parse::<f64>().ok());
    let is_right =
        value.is_some_and(|value| truth.is_nan() || (value - truth).abs() <= truth.abs() * off);
    let message = format!("with {label} is {value:?} and not {truth}: {answers:?}");
    (!is_right).then_some(message)
}

#[test]
fn alerts_fire_on_their_faults_alone_and_questions_and_panels_have_answers() {
    let (clean, faulty) = (Monitor::of(false), Monitor::of(true));
    let mut wrong = wrong_alerts(&clean, &faulty);
    wrong.extend(wrong_questions(&faulty));
    wrong.extend(empty_queries(&faulty));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Four pods of one workload: one that is slow and that clients hardly use, two that are well, and one whose flowcar stopped to deliver
/// an hour ago.
#[test]
fn questions_about_pods_point_at_the_pod_that_differs() {
    let monitor = Monitor::start();
    let endpoint = monitor.prometheus.otlp_endpoint();
    for (name, is_faulty, served, since) in [
        ("web-1", true, 1, 0),
        ("web-2", false, 10, 0),
        ("web-3", false, 10, 0),
        ("web-4", false, 10, 30 * MINUTE),
    ] {
        let mut pod = Pod::new(is_faulty);
        pod.served = served;
        let times = pod.times().into_iter();
        let times = times.filter(|at| (since..2 * HOUR).contains(&(pod.now - at)));
        let mut reports = Vec::new();
        for at in times.collect::<Vec<_>>() {
            pod.advance(at);
            reports.push(pod.snapshot.clone());
        }
        send(&endpoint, name, &reports);
    }
    let page = questions("questions.md");
    let mut wrong = Vec::new();
    for (title, label, truth, other) in OF_PODS {
        let check = |label: &str, truth| differs(&monitor, &page[title], label, truth, 2.0 * OFF);
        let others = (!other.is_nan()).then(|| check("web-2", other)).flatten();
        let both = check(label, truth).into_iter().chain(others);
        wrong.extend(both.map(|what| format!("{title} {what}")));
    }
    if let Some(file) = std::env::var_os(ANSWERS_FILE) {
        let answers = page
            .iter()
            .map(|(title, query)| (title.clone(), json!(monitor.ask(query))));
        let answers = Value::Object(answers.collect());
        fs::write(file, answers.to_string()).expect("the answers can be written");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn wrong_alerts(clean: &Monitor, faulty: &Monitor) -> Vec<String> {
    let absent = Monitor::start();
    let mut wrong = Vec::new();
    for alert in alerts() {
        let name = alert.name.as_str();
        let on_clean = clean.ask(&alert.expr);
        if !on_clean.is_empty() {
            wrong.push(format!("{name} fires on clean traffic: {on_clean:?}"));
        }
        if name == "FlowcarAbsent" {
            assert_eq!(absent.ask(&alert.expr).len(), 1, "{name}");
            assert!(faulty.ask(&alert.expr).is_empty(), "{name}");
            continue;
        }
        let expected = ALERTS.iter().find(|expected| expected.0 == name);
        let (_, label, truth) = expected.unwrap_or_else(|| panic!("{name} has no value here"));
        let differs = differs(faulty, &alert.expr, label, *truth, OFF);
        wrong.extend(differs.map(|what| format!("{name} {what}")));
    }
    wrong
}

fn wrong_questions(faulty: &Monitor) -> Vec<String> {
    let page = questions("questions.md");
    assert_eq!(page.len(), QUESTIONS.len(), "{:?}", page.keys());
    let wrong = QUESTIONS.iter().filter_map(|(title, label, truth)| {
        // A ratio of two percentiles is off by a bucket of each.
        let off = if title.starts_with("Is it") {
            2.0 * OFF
        } else {
            OFF
        };
        let differs = differs(faulty, &page[*title], label, *truth, off);
        differs.map(|what| format!("{title} {what}"))
    });
    wrong.collect()
}

/// Recording rules and panels that have no number.
fn empty_queries(faulty: &Monitor) -> Vec<String> {
    let recorded = rules().into_iter().filter(|rule| !rule.is_alert);
    let mut queries: Vec<_> = recorded.map(|rule| (rule.name, rule.expr)).collect();
    for dashboard in dashboards() {
        for panel in dashboard.rows.iter().flat_map(|row| &row.panels) {
            let place = format!("{}, {}", dashboard.title, panel.title);
            let of_panel = panel.queries.iter().map(|query| chosen(&query.expr));
            queries.extend(of_panel.map(|query| (place.clone(), query)));
        }
    }
    let has_number = |query: &str| {
        let answers = faulty.ask(query);
        let numbers = answers.iter().filter_map(|one| one["value"][1].as_str());
        numbers.filter(|number| *number != "NaN").count() > 0
    };
    let empty = queries.iter().filter(|(_, query)| !has_number(query));
    empty
        .map(|(place, query)| format!("{place} has no data: {query}"))
        .collect()
}
