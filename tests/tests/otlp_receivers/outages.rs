//! The Collector, Prometheus and Jaeger stopped, killed and started again while figures and spans flow.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use flowcar::{flow::Role, snapshot::SelfMetrics};
use flowcar_tests::peers::{Collector, Jaeger, Peer, Prometheus, PrometheusOptions};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;

use crate::{
    sample::{LIMIT, LOGS, export, flow, report_at},
    totals::{io, last_of_sums, sum_of_deltas},
};

const DELTA: (&str, &str) = ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta");
const HTTP: (&str, &str) = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
/// A stopped receiver hangs: that is to be seen in the time of a test.
const SHORT: (&str, &str) = ("OTEL_EXPORTER_OTLP_TIMEOUT", "800");

/// An application's totals, and the results of its exports.
struct Done {
    bytes: u64,
    flows: u32,
    self_metrics: SelfMetrics,
}

/// An application that runs until [`Application::stop`]: ten reports a second, and a connection for each.
struct Application {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Done>,
}

impl Application {
    fn start(endpoint: String, settings: &'static [(&str, &str)]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            export("web", settings, async |start| {
                let mut exporter = start(&endpoint);
                let (mut bytes, mut flows) = (0, 0);
                while !stopped.load(Ordering::Relaxed) {
                    flows += 1;
                    bytes += u64::from(flows % 50);
                    exporter.metrics(report_at(flows.into(), bytes));
                    let (flow, anchor) = flow(Role::Client, flows, 77);
                    exporter.flow(&flow, &anchor);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                assert!(
                    exporter.flush(Duration::from_secs(60)).await,
                    "{:?}",
                    exporter.self_metrics().exports
                );
                let self_metrics = exporter.self_metrics();
                Done {
                    bytes,
                    flows,
                    self_metrics,
                }
            })
        });
        Self { stop, thread }
    }

    fn stop(self) -> Done {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the application")
    }
}

/// Long enough for exports to hang and be cut, and for the back-off to grow.
const OUTAGE: Duration = Duration::from_millis(2_500);
const CALM: Duration = Duration::from_millis(1_500);

/// Stops it, lets it go on, kills it, and starts it again.
fn vex(peer: &impl Peer) {
    thread::sleep(CALM);
    peer.pause();
    thread::sleep(OUTAGE);
    peer.resume();
    thread::sleep(CALM);
    peer.kill();
    thread::sleep(OUTAGE);
    peer.restart();
    thread::sleep(CALM);
}

/// Whether exports failed: else nothing was tested.
fn assert_hurt(done: &Done, signal: &'static str) {
    println!(
        "{:?} {:?}",
        done.self_metrics.exports, done.self_metrics.spans_dropped
    );
    assert!(done.self_metrics.exports.contains_key(&(signal, "failure")));
    assert!(
        !done.self_metrics.exports.contains_key(&(signal, "refused")),
        "{:?}",
        done.self_metrics.exports
    );
}

const SENT: &str = r#"sum(flowcar_tcp_io_bytes_total{network_io_direction="transmit"})"#;

/// Asserts that Prometheus logs no refused sample.
fn assert_no_refusal(prometheus: &Prometheus) {
    let log = prometheus.log().to_lowercase();
    for word in [
        "out of order",
        "out-of-order",
        "duplicate",
        "out of bounds",
        "too old",
    ] {
        let line = log.lines().find(|line| line.contains(word));
        assert!(line.is_none(), "{line:?}");
    }
}

fn shows(prometheus: &Prometheus, query: &str, bytes: u64) {
    prometheus.wait_for(query, LIMIT, |result| {
        let value = result[0]["value"][1].as_str()?.parse::<f64>().ok()?;
        println!("{value} of {bytes}");
        (value == bytes as f64).then_some(())
    });
}

#[test]
fn prometheus_has_the_right_totals_after_a_stop_and_a_kill() {
    let prometheus = Prometheus::start(&["service.name"]);
    let settings = &[HTTP, SHORT, ("OTEL_TRACES_EXPORTER", "none")];
    let application = Application::start(prometheus.otlp_endpoint(), settings);
    vex(&prometheus);
    let done = application.stop();
    assert_hurt(&done, "metrics");
    shows(&prometheus, SENT, done.bytes);
    assert_no_refusal(&prometheus);
    // Never less than before: no restart of the counter was seen.
    let resets = "sum(resets(flowcar_tcp_io_bytes_total[5m]))";
    assert_eq!(prometheus.number(resets), Some(0.0));
}

#[test]
fn prometheus_has_the_right_totals_of_deltas_after_a_stop() {
    let prometheus = Prometheus::start_with(PrometheusOptions {
        promote_resource_attributes: vec!["service.name".to_owned()],
        args: vec!["--enable-feature=otlp-deltatocumulative".to_owned()],
        ..Default::default()
    });
    let settings = &[HTTP, SHORT, DELTA, ("OTEL_TRACES_EXPORTER", "none")];
    let application = Application::start(prometheus.otlp_endpoint(), settings);
    thread::sleep(CALM);
    prometheus.pause();
    thread::sleep(OUTAGE);
    prometheus.resume();
    thread::sleep(CALM);
    let done = application.stop();
    assert_hurt(&done, "metrics");
    shows(&prometheus, SENT, done.bytes);
    assert_no_refusal(&prometheus);
}

/// Understood by the Collector, as it hands on.
fn understood(collector: &Collector) -> Vec<ExportMetricsServiceRequest> {
    let all = collector.received_metrics().into_iter();
    all.map(|request| serde_json::from_value(request).expect("OTLP"))
        .collect()
}

#[test]
fn collector_has_every_point_once_after_a_stop_and_a_kill() {
    for delta in [false, true] {
        let collector = Collector::start();
        let settings: &'static [_] = if delta {
            &[SHORT, LOGS, DELTA]
        } else {
            &[SHORT, LOGS]
        };
        let application = Application::start(collector.grpc_endpoint(), settings);
        vex(&collector);
        let done = application.stop();
        assert_hurt(&done, "metrics");
        assert_hurt(&done, "traces");
        assert_hurt(&done, "logs");
        let points = io(&understood(&collector));
        let reported = if delta {
            sum_of_deltas(&points)
        } else {
            last_of_sums(&points)
        };
        assert_eq!(
            reported,
            i64::try_from(done.bytes).expect("few"),
            "delta: {delta}"
        );
        let received = collector.received();
        for (items, dropped) in [
            (received.spans(), &done.self_metrics.spans_dropped),
            (received.log_records(), &done.self_metrics.logs_dropped),
        ] {
            let ids = items.iter().map(|item| item["spanId"].to_string());
            let ids: std::collections::BTreeSet<_> = ids.collect();
            let dropped: u64 = dropped.values().sum();
            assert_eq!(ids.len() as u64 + dropped, u64::from(done.flows));
        }
    }
}

#[test]
fn jaeger_has_every_span_after_a_stop_or_an_outage() {
    let jaeger = Jaeger::start();
    let settings = &[SHORT, ("OTEL_METRICS_EXPORTER", "none")];
    let application = Application::start(jaeger.grpc_endpoint(), settings);
    thread::sleep(CALM);
    jaeger.pause();
    thread::sleep(OUTAGE);
    jaeger.resume();
    thread::sleep(CALM);
    let done = application.stop();
    assert_hurt(&done, "traces");
    assert!(
        done.self_metrics.spans_dropped.is_empty(),
        "{:?}",
        done.self_metrics.spans_dropped
    );
    has_traces(&jaeger, done.flows);

    // It keeps spans in memory: the kill loses those, and must lose none of the outage.
    jaeger.kill();
    let application = Application::start(jaeger.grpc_endpoint(), settings);
    thread::sleep(OUTAGE);
    jaeger.restart();
    let done = application.stop();
    assert_hurt(&done, "traces");
    assert!(
        done.self_metrics.spans_dropped.is_empty(),
        "{:?}",
        done.self_metrics.spans_dropped
    );
    has_traces(&jaeger, done.flows);
}

fn has_traces(jaeger: &Jaeger, flows: u32) {
    for isn in 1..=flows {
        let (flow, _) = flow(Role::Client, isn, 77);
        jaeger.wait_for_trace(&format!("{:032x}", flow.trace.trace_id), 1, LIMIT);
    }
}
