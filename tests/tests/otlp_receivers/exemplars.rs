//! From a slow sample in Prometheus to its connection in Jaeger.

use std::time::Duration;

use flowcar::{
    flow::{Change, Retransmits, Role},
    series::{PeerLabel, SeriesLabels, SeriesSet},
};
use flowcar_tests::peers::{Jaeger, Prometheus, PrometheusOptions};

use crate::sample::{LIMIT, export, flow, millis, snapshot};

#[test]
fn exemplar_of_a_slow_sample_in_prometheus_is_a_jaeger_trace() {
    let prometheus = Prometheus::start_with(PrometheusOptions {
        promote_resource_attributes: vec!["service.name".to_owned()],
        args: vec!["--enable-feature=exemplar-storage".to_owned()],
        ..Default::default()
    });
    let jaeger = Jaeger::start();
    let metrics = format!("{}/v1/metrics", prometheus.otlp_endpoint());
    let settings = [
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", metrics.as_str()),
        ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/protobuf"),
        // Ten of the first second, so that few of the connections have a span.
        ("FLOWCAR_SPANS_PER_SECOND", "1"),
    ];
    let mut series = SeriesSet::new(SeriesLabels {
        peer: PeerLabel::Address,
        ports: true,
        limit: 2_000,
    });
    let slow = 250;
    let slowest = export("web", &settings, async |start| {
        let mut exporter = start(&jaeger.grpc_endpoint());
        let mut slowest = 0;
        for isn in 0..300 {
            let (mut now, anchor) = flow(Role::Client, isn, 5);
            now.volume.retransmits = Retransmits::default();
            if isn == slow {
                now.rtt = millis(&[(900, 1)]);
                slowest = now.trace.trace_id;
            }
            now.series = series.apply(&Change::new(now.clone(), false));
            exporter.flow(&now, &anchor);
        }
        let sent = async {
            while exporter.self_metrics().span_queue.items > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(LIMIT, sent)
            .await
            .expect("spans taken");
        let mut report = snapshot();
        report.series = series.report(report.at_unix_ns);
        exporter.metrics(report);
        assert!(
            exporter.flush(LIMIT).await,
            "{:?}",
            exporter.self_metrics().exports
        );
        assert!(exporter.self_metrics().spans_dropped["rate_limit"] > 200);
        slowest
    });
    let slowest = format!("{slowest:032x}");
    let client = prometheus.client();
    let query = "/api/v1/query_exemplars?query=flowcar_tcp_rtt_seconds&start=0&end=9999999999";
    let answer = client.get(query).expect("an answer").success();
    let exemplars = answer["data"][0]["exemplars"].clone();
    let exemplar = &exemplars.as_array().expect("exemplars")[0];
    assert_eq!(exemplar["labels"]["trace_id"], slowest.as_str(), "{answer}");
    assert_eq!(
        exemplar["value"]
            .as_str()
            .and_then(|value| value.parse().ok()),
        Some(0.9)
    );
    let trace = jaeger.wait_for_trace(&slowest, 1, LIMIT);
    let span = exemplar["labels"]["span_id"].as_str().expect("a span");
    assert_eq!(trace["spans"][0]["spanID"], span, "{trace}");
}
