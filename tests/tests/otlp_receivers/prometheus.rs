//! Prometheus makes series and native histograms of it.

use flowcar::flow::RttKind;
use flowcar_tests::peers::Prometheus;

use crate::sample::{LIMIT, millis, send_metrics, snapshot};

const HTTP: (&str, &str) = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");

#[test]
fn prometheus_gives_quantiles_of_native_histograms_and_the_sums() {
    let prometheus = Prometheus::start(&["service.name"]);
    send_metrics(&prometheus.otlp_endpoint(), &[HTTP], snapshot());
    let rtt = prometheus.wait_for("flowcar_tcp_rtt_seconds", LIMIT, |result| {
        Some(result[0].clone()).filter(|series| !series.is_null())
    });
    let labels = &rtt["metric"];
    assert_eq!(labels["service_name"], "web", "{rtt}");
    assert_eq!(labels["network_tcp_handshake_role"], "client", "{rtt}");
    assert_eq!(labels["server_port"], "8080", "{rtt}");
    assert_eq!(rtt["histogram"][1]["count"], "110", "{rtt}");

    let number = |query: &str| {
        let answer = prometheus.number(query);
        answer.unwrap_or_else(|| panic!("{query} gives no single number"))
    };
    // 5 ms is rank 1 to 100 of 110, 20 ms the rest; a bucket of scale 3 is 9 % wide.
    let within = |quantile: f64, truth: f64| {
        let query = format!("histogram_quantile({quantile}, flowcar_tcp_rtt_seconds)");
        let answer = number(&query);
        assert!(
            (truth / 1.0905..truth * 1.0905).contains(&answer),
            "{query} is {answer}"
        );
    };
    within(0.5, 0.005);
    within(0.9, 0.005);
    within(0.95, 0.02);
    assert_eq!(number("histogram_sum(flowcar_tcp_rtt_seconds)"), 0.7);
    let sent = r#"flowcar_tcp_io_bytes_total{network_io_direction="transmit"}"#;
    assert_eq!(number(sent), 1_000.0);
    assert_eq!(number("sum(flowcar_tcp_connection_closed_total)"), 5.0);
    assert_eq!(number("flowcar_tcp_connection_live"), 1.0);
    assert_eq!(number("flowcar_tcp_connection_lost_total"), 1.0);
    assert_eq!(number("flowcar_self_books_unbalanced"), 0.0);
}

#[test]
fn prometheus_takes_the_next_report_as_the_same_series() {
    let prometheus = Prometheus::start(&["service.name"]);
    let first = snapshot();
    let mut second = first.clone();
    // Of another process. Prometheus distinguishes times by the millisecond.
    second.start_unix_ns = first.at_unix_ns + 1_000_000;
    second.at_unix_ns = second.start_unix_ns + 1_000_000;
    let series = second.series.values_mut().next().expect("a series");
    series.volume.bytes_sent += 234;
    // What lies below the zero threshold, and a wider range, must not make another kind of histogram of it.
    let rtt = series.rtt.get_mut(&RttKind::Measured).expect("RTTs");
    rtt.record(1_000);
    rtt.merge(&millis(&[(4_000, 5)]));
    for report in [first, second] {
        send_metrics(&prometheus.otlp_endpoint(), &[HTTP], report);
    }
    let count = prometheus.wait_for(
        "histogram_count(flowcar_tcp_rtt_seconds)",
        LIMIT,
        |result| {
            let value = result[0]["value"][1].as_str()?.to_owned();
            (value != "110").then_some(value)
        },
    );
    assert_eq!(count, "116");
    let sent = r#"flowcar_tcp_io_bytes_total{network_io_direction="transmit"}"#;
    assert_eq!(prometheus.number(sent), Some(1_234.0));
    assert_eq!(
        prometheus.number("count(flowcar_tcp_rtt_seconds)"),
        Some(1.0)
    );
}
