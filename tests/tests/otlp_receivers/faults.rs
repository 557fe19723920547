//! A receiver with every fault, which then works: the totals are right.

use std::{collections::BTreeMap, time::Duration};

use flowcar::flow::Role;

use crate::{
    sample::{export, flow, report_at},
    scripted::{EVERYTHING, Scripted},
    totals::{io, last_of_sums, span_ids, sum_of_deltas},
};

/// Connections that end, in bursts a second apart.
const FLOWS: u32 = 240;
const BURSTS: u32 = 8;

fn survives(protocol: &str, temporality: &str) {
    let settings = [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
        (
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
            temporality,
        ),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "3000"),
    ];
    export("web", &settings, async |start| {
        let scripted = Scripted::start(&EVERYTHING).await;
        let mut exporter = start(&scripted.endpoint());
        let mut sent = 0;
        for burst in 0..BURSTS {
            for isn in 0..FLOWS / BURSTS {
                let (flow, anchor) = flow(Role::Client, burst * 1_000 + isn, 9);
                exporter.flow(&flow, &anchor);
            }
            for step in 0..10 {
                sent += u64::from(burst + step);
                exporter.metrics(report_at((burst * 10 + step).into(), sent));
                tokio::time::sleep(Duration::from_millis(110)).await;
            }
        }
        assert!(exporter.flush(Duration::from_secs(60)).await);
        let self_metrics = exporter.self_metrics();
        println!(
            "{protocol} {temporality}: {:?} {:?}",
            self_metrics.exports, self_metrics.spans_dropped
        );
        scripted.with(|seen| {
            assert_eq!(seen.impatient, 0, "a request came during the pause");
            let points = io(&seen.metrics);
            let reported = match temporality {
                "delta" => sum_of_deltas(&points),
                _ => last_of_sums(&points),
            };
            assert_eq!(reported, i64::try_from(sent).expect("few"));
            let dropped: u64 = self_metrics.spans_dropped.values().sum();
            let delivered = span_ids(&seen.traces).len() as u64;
            assert_eq!(
                delivered + dropped,
                u64::from(FLOWS),
                "{:?}",
                self_metrics.spans_dropped
            );
        });
        for signal in ["metrics", "traces"] {
            let count = |outcome| {
                self_metrics
                    .exports
                    .get(&(signal, outcome))
                    .copied()
                    .unwrap_or(0)
            };
            assert_eq!(count("partial"), 1, "{signal}");
            // Unavailable, throttled, hung, reset, and garbage: the result is unknown.
            assert_eq!(count("failure"), 5, "{signal}");
            assert_eq!(count("refused"), 0, "{signal}");
        }
        assert_eq!(
            self_metrics.rejected,
            BTreeMap::from([("metrics", 2), ("traces", 2)])
        );
    });
}

#[test]
fn cumulative_figures_by_grpc_survive_everything() {
    survives("grpc", "cumulative");
}

#[test]
fn cumulative_figures_by_http_survive_everything() {
    survives("http/protobuf", "cumulative");
}

#[test]
fn deltas_by_grpc_survive_everything() {
    survives("grpc", "delta");
}

#[test]
fn deltas_by_http_survive_everything() {
    survives("http/protobuf", "delta");
}
