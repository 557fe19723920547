//! The rules of k8s/prometheus and the panels of k8s/grafana, asked of a Prometheus that holds flowcar's own metrics: of a pod with
//! every fault that an alert is for, and of one without any.

use std::{fs, time::Duration};

use flowcar::{clock::Anchor, snapshot::Snapshot};
use flowcar_tests::{
    monitoring::{alerts, dashboards::dashboards, inline, repository, rules},
    peers::{Prometheus, PrometheusOptions, eventually},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    monitored::{HOUR, MINUTE, Pod, SECOND, send_zones},
    questions::questions,
    sample::{LIMIT, export},
};

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
    send_zones(&monitor.prometheus);
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
