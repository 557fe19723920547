//! `flowcar export` beside a busy pod whose Collector is killed, stays away, and comes back.

use std::time::Duration;

use flowcar_tests::{
    peers::{Collector, Peer},
    place::{TestPod, require_cgroup2, require_root},
    sidecar::Sidecar,
    traffic::{CallPlan, LoadPlan, ServePlan, Serving, load_in},
};
use serde_json::Value;

/// Connections a second; flowcar sees both ends of each.
const RATE: f64 = 500.0;

/// The memory that flowcar may add during the outage: the spans that wait, twice for those under way, and what the
/// allocator keeps.
const GROWTH: u64 = 6 << 20;
const SPAN_BYTES: u64 = 1 << 20;

/// The sum over all points of a counter in the last report.
fn last_sum(collector: &Collector, name: &str) -> u64 {
    let reports = collector.received_metrics();
    let last = reports.last().expect("a report");
    let scope = &last["resourceMetrics"][0]["scopeMetrics"][0];
    let metrics = scope["metrics"].as_array().expect("metrics");
    let metric = metrics.iter().find(|metric| metric["name"] == name);
    let points = metric.and_then(|metric| metric["sum"]["dataPoints"].as_array());
    let value = |point: &Value| point["asInt"].as_str()?.parse::<u64>().ok();
    points.into_iter().flatten().filter_map(value).sum()
}

#[test]
fn books_are_closed_and_memory_is_bounded_after_an_outage() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let pod = TestPod::new("outage").unwrap();
    let serving = Serving::start(&pod, &ServePlan::at("[::]:0".parse().unwrap())).unwrap();
    let target = ([127, 0, 0, 1], serving.address().port()).into();
    let collector = Collector::start();
    let settings = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.grpc_endpoint()),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10000".to_owned()),
        ("OTEL_METRIC_EXPORT_INTERVAL", "500".to_owned()),
        ("FLOWCAR_SPAN_QUEUE", "100000".to_owned()),
        ("FLOWCAR_SPAN_QUEUE_BYTES", SPAN_BYTES.to_string()),
        ("FLOWCAR_SHUTDOWN_TIMEOUT", "20000".to_owned()),
        ("FLOWCAR_LOG_FORMAT", "json".to_owned()),
    ];
    let sidecar = Sidecar::follow(pod.cgroup().path(), settings).unwrap();
    let load = |seconds| {
        let plan = LoadPlan {
            call: CallPlan::to(target).connections(0, 8),
            duration: Duration::from_secs(seconds),
            rate: Some(RATE),
        };
        let report = load_in(&pod, &plan).unwrap();
        assert!(report.failed.is_empty(), "{:?}", report.failed);
        report
    };

    let calm = load(5);
    let before = sidecar.anonymous().unwrap();
    collector.kill();
    let outage = load(20);
    let grown = sidecar.anonymous().unwrap().saturating_sub(before);
    println!("{grown} bytes more than {before}");
    assert!(grown <= GROWTH, "{grown} bytes more than {before}");
    collector.restart();
    let after = load(3);
    let reports = [calm, outage, after];
    let connections: u64 = reports.iter().map(|report| report.connections).sum();
    let sent: u64 = reports
        .iter()
        .map(|report| report.sent + report.received)
        .sum();
    serving
        .reports(
            usize::try_from(connections).unwrap(),
            Duration::from_secs(30),
        )
        .unwrap();

    let stopped = sidecar.stop().unwrap();
    let log = stopped.log.join("\n");
    assert!(stopped.status.success(), "{log}");
    // Failures, the recovery, and the exit: no line for each export.
    assert!(stopped.log.len() <= 12, "{log}");
    assert!(log.contains("are taken again"), "{log}");
    for line in &stopped.log {
        serde_json::from_str::<Value>(line).expect("JSON");
    }
    // Both ends are in the pod.
    for name in ["opened", "closed"] {
        let name = format!("flowcar.tcp.connection.{name}");
        assert_eq!(last_sum(&collector, &name), 2 * connections, "{name}");
    }
    assert_eq!(last_sum(&collector, "flowcar.tcp.connection.lost"), 0);
    // What either end sent the other received: transmitted and received, all bytes are there twice.
    assert_eq!(last_sum(&collector, "flowcar.tcp.io"), 2 * sent);
    assert_eq!(last_sum(&collector, "flowcar.tcp.connection.failed"), 0);
}
