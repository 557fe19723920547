//! What the Prometheus of these tests holds: a pod's reports with every fault that an alert is for, or without any, and what kube-state-metrics
//! has of the nodes.

use std::collections::BTreeMap;

use flowcar::{
    clock::Anchor,
    flow::{Books, CloseReason, Failure, Lost, Role, RttKind},
    histogram::Histogram,
    snapshot::{Listener, Peer, SelfMetrics, Series, SeriesKey, Snapshot},
};
use flowcar_tests::peers::Prometheus;
use serde_json::json;

pub(super) const SECOND: u64 = 1_000_000_000;
pub(super) const MINUTE: u64 = 60 * SECOND;
pub(super) const HOUR: u64 = 60 * MINUTE;

/// Hours of history, each with two reports a minute apart: a rate of five minutes has both for four minutes, so that a subquery with
/// steps of two minutes cannot miss it.
const HISTORY: u64 = 48;

/// Reports of the last five minutes, one every ten seconds.
const REPORTS: u64 = 29;

/// A pod's flowcar from two days ago until now. In a faulty pod connections and bytes grow in the last hours, and in the last five
/// minutes everything else goes wrong.
pub(super) struct Pod {
    is_faulty: bool,
    /// When the last report is made.
    pub(super) now: u64,
    /// The newest report.
    pub(super) snapshot: Snapshot,
    /// Connections from clients of the pod, in each report of the last five minutes.
    pub(super) served: u64,
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

/// Clients of the pod by their address, as with FLOWCAR_PEER=address, and what they are sent, bytes a second: one in the pod's zone, and one
/// in another.
const CLIENTS: [([u8; 4], u64); 2] = [([10, 1, 2, 8], 5_000), ([10, 1, 2, 9], 2_000)];

fn client(address: [u8; 4]) -> SeriesKey {
    SeriesKey::Flows {
        container: None,
        role: Role::Server,
        peer: Peer::Address(address.into()),
        server_port: Some(80),
    }
}

fn record(histogram: &mut Histogram, millis: u64, count: u64) {
    for _ in 0..count {
        histogram.record(millis * 1_000_000);
    }
}

impl Pod {
    pub(super) fn new(is_faulty: bool) -> Self {
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
                .chain([server()])
                .chain(CLIENTS.map(|(address, _)| client(address)))
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
    pub(super) fn times(&self) -> Vec<u64> {
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
    pub(super) fn advance(&mut self, at: u64) {
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
        to_pool.volume.bytes_sent += seconds * (1_000_000 + grown * 50_000);
        to_pool.live = 200 + leaked;
        to_pool.opened = 200 + leaked;
        for (address, bytes) in CLIENTS {
            let to_client = self.snapshot.series.get_mut(&client(address));
            to_client.expect("the series").volume.bytes_sent += bytes * seconds;
        }
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
        series.volume.bytes_received += 1_000 * count;
        series.volume.segments_sent += 100 * seconds;
        series.volume.segments_received += 100 * seconds;
        if !is_fault {
            return;
        }
        *series.failed.entry(Failure::Refused).or_default() += 5 * seconds;
        *series
            .closed
            .entry(CloseReason::ResetReceived.into())
            .or_default() += 1;
        series.opened += 1;
        series.volume.retransmits.fast += 5 * seconds;
        series.receive_window_limited_us += 600_000 * seconds;
    }

    /// Connections from clients of the pod.
    fn serve(series: &mut Series, count: u64) {
        series.opened += count;
        series
            .closed
            .insert(CloseReason::PeerFin.into(), series.opened);
        series.volume.bytes_sent += 10_000;
        series.volume.bytes_received += 10_000;
        series.volume.segments_sent += 50;
        series.volume.segments_received += 50;
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

/// What kube-state-metrics has of two nodes in two zones, of a client's pod on each of them, and of a job's pod that had the address of one before.
pub(super) fn send_zones(prometheus: &Prometheus) {
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
    let pod = |name, node, address| {
        let labels = [
            ("namespace", "shop"),
            ("pod", name),
            ("node", node),
            ("pod_ip", address),
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
        pod("near", "node-a", "10.1.2.8"),
        phase("near", "Running"),
        pod("job", "node-a", "10.1.2.9"),
        phase("job", "Succeeded"),
        pod("far", "node-b", "10.1.2.9"),
        phase("far", "Running"),
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
