//! `flowcar.self.*`, `otel.sdk.*` and `process.*`: the self metrics, under a resource of their own.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::common::v1::KeyValue;

use super::{CountPoint, DurationPoint, Encoder, signed, text};
use crate::{
    config::{SelfMetricsLevel, Signal, Temporality},
    otlp::names::{self, Metric, attribute as name},
    snapshot::{ItemQueue, SelfMetrics},
};

/// Adds the self metrics that are wanted. For those once a minute, `due` is whether this report has them. Deltas come with every
/// report: their baseline is the report before.
pub(super) fn encode(encoder: &mut Encoder<'_>, due: bool) {
    let deltas = encoder.options.temporality == Temporality::Delta;
    match encoder.options.self_metrics {
        SelfMetricsLevel::None => {}
        SelfMetricsLevel::Basic => {
            if due || deltas {
                counters(encoder);
            }
            if due {
                levels(encoder);
            }
        }
        SelfMetricsLevel::Detailed => {
            counters(encoder);
            levels(encoder);
            details(encoder);
        }
    }
}

fn counters(encoder: &mut Encoder<'_>) {
    counted_by(
        encoder,
        names::SELF_RECORDS_DROPPED,
        name::RECORD_KIND,
        |self_metrics| &self_metrics.records_dropped,
    );
    counted(encoder, names::SELF_RECORDS_MALFORMED, |self_metrics| {
        self_metrics.records_malformed
    });
    counted_by(
        encoder,
        names::SELF_DNS_DROPPED,
        name::DNS_REASON,
        |self_metrics| &self_metrics.dns_dropped,
    );
    counted(encoder, names::SELF_STATISTICS_MALFORMED, |self_metrics| {
        self_metrics.malformed_statistics
    });
    counted(encoder, names::SELF_TABLE_FULL, |self_metrics| {
        self_metrics.table_over_capacity
    });
    counted(encoder, names::SELF_UNSCOPED, |self_metrics| {
        self_metrics.sockets_unscoped
    });
    counted(encoder, names::SELF_UNADOPTED, |self_metrics| {
        self_metrics.sockets_unadopted
    });
    counted(encoder, names::SELF_INEXACT, |self_metrics| {
        self_metrics.flows_inexact
    });
    unfollowed(encoder);
    counted(encoder, names::SELF_LOG_DROPPED, |self_metrics| {
        self_metrics.log_lines_dropped
    });
    counted_by(
        encoder,
        names::SELF_SPANS_DROPPED,
        name::DROP_REASON,
        |self_metrics| &self_metrics.spans_dropped,
    );
    counted_by(
        encoder,
        names::SELF_LOG_RECORDS_DROPPED,
        name::DROP_REASON,
        |self_metrics| &self_metrics.logs_dropped,
    );
    exported(encoder, names::SELF_EXPORTED_SPANS, "traces");
    exported(encoder, names::SELF_EXPORTED_LOG_RECORDS, "logs");
    exported(encoder, names::SELF_EXPORTED_POINTS, "metrics");
    let before = encoder
        .before
        .map_or(0.0, |before| before.self_metrics.cpu_s);
    let now = encoder.now.self_metrics.cpu_s;
    encoder.seconds(names::SELF_CPU, vec![(Vec::new(), now, before)]);
}

fn levels(encoder: &mut Encoder<'_>) {
    let now = &encoder.now.self_metrics;
    level(encoder, names::SELF_TABLE, Vec::new(), now.table_flows);
    level(encoder, names::SELF_SERIES, Vec::new(), now.series);
    level(encoder, names::SELF_RSS, Vec::new(), now.rss_bytes);
    if encoder.sends(Signal::Traces) {
        let queue = component("batching_span_processor");
        level(encoder, names::SELF_SPAN_QUEUE, queue, now.span_queue.items);
    }
    if encoder.sends(Signal::Logs) {
        let queue = component("batching_log_processor");
        level(
            encoder,
            names::SELF_LOG_RECORD_QUEUE,
            queue,
            now.log_queue.items,
        );
    }
    encoder.gauge(names::SELF_UNBALANCED, encoder.now.unbalanced());
}

fn details(encoder: &mut Encoder<'_>) {
    let now = &encoder.now.self_metrics;
    counted_by(
        encoder,
        names::SELF_RECORDS,
        name::RECORD_KIND,
        |self_metrics| &self_metrics.records,
    );
    counted_by(
        encoder,
        names::SELF_UNNAMED,
        name::UNNAMED_REASON,
        |self_metrics| &self_metrics.unnamed,
    );
    counted_by(
        encoder,
        names::SELF_CONTAINER_UNRESOLVED,
        name::CONTAINER_REASON,
        |self_metrics| &self_metrics.unresolved_containers,
    );
    let sockets = now.sockets.iter();
    let sockets =
        sockets.map(|(side, count)| (vec![text(name::SOCKET_SCOPE, side)], signed(*count)));
    encoder.up_down(names::SELF_SOCKETS, sockets.collect());
    let before = encoder
        .before
        .map(|before| &before.self_metrics.dump_duration);
    encoder.histograms(
        names::SELF_DUMP_DURATION,
        [DurationPoint {
            attributes: Vec::new(),
            now: &now.dump_duration,
            before,
            exemplar: None,
        }],
    );
    export_durations(encoder);
    if encoder.sends(Signal::Traces) {
        let queue = component("batching_span_processor");
        let ItemQueue {
            capacity, bytes, ..
        } = now.span_queue;
        level(encoder, names::SELF_SPAN_QUEUE_CAPACITY, queue, capacity);
        level(encoder, names::SELF_SPAN_QUEUE_BYTES, Vec::new(), bytes);
    }
    if encoder.sends(Signal::Logs) {
        let queue = component("batching_log_processor");
        let ItemQueue {
            capacity, bytes, ..
        } = now.log_queue;
        level(
            encoder,
            names::SELF_LOG_RECORD_QUEUE_CAPACITY,
            queue,
            capacity,
        );
        level(
            encoder,
            names::SELF_LOG_RECORD_QUEUE_BYTES,
            Vec::new(),
            bytes,
        );
    }
}

/// The one component of its type.
fn component(kind: &str) -> Vec<KeyValue> {
    vec![
        text(name::COMPONENT_TYPE, kind),
        text(name::COMPONENT_NAME, &format!("{kind}/0")),
    ]
}

fn unfollowed(encoder: &mut Encoder<'_>) {
    let seconds = |self_metrics: &SelfMetrics| self_metrics.unfollowed_ns as f64 / 1e9;
    let before = encoder
        .before
        .map_or(0.0, |before| seconds(&before.self_metrics));
    let now = seconds(&encoder.now.self_metrics);
    encoder.seconds(names::SELF_UNFOLLOWED, vec![(Vec::new(), now, before)]);
}

fn export_durations(encoder: &mut Encoder<'_>) {
    let before = encoder.before.map(|before| &before.self_metrics);
    let (now, components) = (encoder.now, encoder.options.components);
    let durations = now.self_metrics.export_duration.iter().map(|(key, now)| {
        let (signal, outcome) = key;
        let error = match *outcome {
            "success" => None,
            "partial" => Some("rejected"),
            other => Some(other),
        };
        let error = error.map(|error| text(name::ERROR_TYPE, error));
        DurationPoint {
            attributes: component(components.of(signal))
                .into_iter()
                .chain(error)
                .collect(),
            now,
            before: before.and_then(|self_metrics| self_metrics.export_duration.get(key)),
            exemplar: None,
        }
    });
    encoder.histograms(names::SELF_EXPORT_DURATION, durations);
}

/// Items that were taken, and, by OpenTelemetry's conventions, under the same name those that were not.
fn exported(encoder: &mut Encoder<'_>, metric: Metric, signal: &str) {
    /// Why the items were not taken, and their counts by signal.
    type Kind = (
        Option<&'static str>,
        fn(&SelfMetrics) -> &BTreeMap<&'static str, u64>,
    );
    let kinds: [Kind; 3] = [
        (None, |self_metrics| &self_metrics.exported),
        (Some("rejected"), |self_metrics| &self_metrics.rejected),
        (Some("too_large"), |self_metrics| &self_metrics.too_large),
    ];
    let (now, before) = (encoder.now, encoder.before);
    let exporter = encoder.options.components.of(signal);
    if exporter.is_empty() {
        return;
    }
    let points = kinds.map(|(error, pick)| {
        let of = |self_metrics: &SelfMetrics| pick(self_metrics).get(signal).copied().unwrap_or(0);
        let error = error.map(|error| text(name::ERROR_TYPE, error));
        CountPoint {
            attributes: component(exporter).into_iter().chain(error).collect(),
            now: of(&now.self_metrics),
            before: before.map_or(0, |before| of(&before.self_metrics)),
        }
    });
    encoder.counter(metric, points.into());
}

fn counted(encoder: &mut Encoder<'_>, metric: Metric, pick: impl Fn(&SelfMetrics) -> u64) {
    let point = CountPoint {
        attributes: Vec::new(),
        now: pick(&encoder.now.self_metrics),
        before: encoder
            .before
            .map_or(0, |before| pick(&before.self_metrics)),
    };
    encoder.counter(metric, vec![point]);
}

fn counted_by(
    encoder: &mut Encoder<'_>,
    metric: Metric,
    attribute: &str,
    pick: impl Fn(&SelfMetrics) -> &BTreeMap<&'static str, u64>,
) {
    let before = encoder.before.map(|before| pick(&before.self_metrics));
    let points = pick(&encoder.now.self_metrics)
        .iter()
        .map(|(value, count)| {
            let before = before.and_then(|before| before.get(value));
            CountPoint {
                attributes: vec![text(attribute, value)],
                now: *count,
                before: before.copied().unwrap_or(0),
            }
        });
    encoder.counter(metric, points.collect());
}

fn level(encoder: &mut Encoder<'_>, metric: Metric, attributes: Vec<KeyValue>, value: u64) {
    encoder.up_down(metric, vec![(attributes, signed(value))]);
}
