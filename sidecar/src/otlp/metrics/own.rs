//! `flowcar.self.*`, `otel.sdk.*` and `process.*`: flowcar's own figures, under a resource of its own.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::common::v1::KeyValue;

use super::{CountPoint, DurationPoint, Encoder, signed, text};
use crate::{
    config::{SelfMetrics, Temporality},
    otlp::names::{self, Metric, attribute as name},
    snapshot::Own,
};

/// Adds the figures that are wanted. Where they come once a minute, `due` says whether this report has them. Deltas come with every
/// report: what they are against is the report before.
pub(super) fn encode(encoder: &mut Encoder<'_>, due: bool) {
    let deltas = encoder.options.temporality == Temporality::Delta;
    match encoder.options.self_metrics {
        SelfMetrics::None => {}
        SelfMetrics::Basic => {
            if due || deltas {
                counters(encoder);
            }
            if due {
                levels(encoder);
            }
        }
        SelfMetrics::Detailed => {
            counters(encoder);
            levels(encoder);
            details(encoder);
        }
    }
}

fn counters(encoder: &mut Encoder<'_>) {
    counted_by(
        encoder,
        names::OWN_RECORDS_DROPPED,
        name::RECORD_KIND,
        |own| &own.records_dropped,
    );
    counted(encoder, names::OWN_RECORDS_MALFORMED, |own| {
        own.records_malformed
    });
    counted(encoder, names::OWN_TABLE_FULL, |own| own.table_unlisted);
    counted(encoder, names::OWN_UNSCOPED, |own| own.sockets_unscoped);
    counted(encoder, names::OWN_UNADOPTED, |own| own.sockets_unadopted);
    counted(encoder, names::OWN_INEXACT, |own| own.flows_inexact);
    unfollowed(encoder);
    counted(encoder, names::OWN_LOG_DROPPED, |own| own.log_lines_dropped);
    counted_by(encoder, names::OWN_SPANS_DROPPED, name::REASON, |own| {
        &own.spans_dropped
    });
    exported(encoder, names::OWN_EXPORTED_SPANS, "traces");
    exported(encoder, names::OWN_EXPORTED_POINTS, "metrics");
    let before = encoder.before.map_or(0.0, |before| before.own.cpu_s);
    let now = encoder.now.own.cpu_s;
    encoder.seconds(names::OWN_CPU, vec![(Vec::new(), now, before)]);
}

fn levels(encoder: &mut Encoder<'_>) {
    let now = &encoder.now.own;
    level(encoder, names::OWN_TABLE, Vec::new(), now.table_flows);
    level(encoder, names::OWN_SERIES, Vec::new(), now.series);
    level(encoder, names::OWN_RSS, Vec::new(), now.rss_bytes);
    if encoder.sends_spans() {
        let queue = component("batching_span_processor");
        level(encoder, names::OWN_SPAN_QUEUE, queue, now.span_queue);
    }
    encoder.gauge(names::OWN_UNBALANCED, encoder.now.unbalanced());
}

fn details(encoder: &mut Encoder<'_>) {
    let now = &encoder.now.own;
    counted_by(encoder, names::OWN_RECORDS, name::RECORD_KIND, |own| {
        &own.records
    });
    let sockets = now.sockets.iter();
    let sockets = sockets.map(|(side, count)| (vec![text(name::SOCKETS, side)], signed(*count)));
    encoder.up_down(names::OWN_SOCKETS, sockets.collect());
    let before = encoder.before.map(|before| &before.own.dump_duration);
    encoder.histograms(
        names::OWN_DUMP_DURATION,
        [DurationPoint {
            attributes: Vec::new(),
            now: &now.dump_duration,
            before,
            exemplar: None,
        }],
    );
    export_durations(encoder);
    if encoder.sends_spans() {
        let queue = component("batching_span_processor");
        let capacity = now.span_queue_capacity;
        level(encoder, names::OWN_SPAN_QUEUE_CAPACITY, queue, capacity);
        let bytes = now.span_queue_bytes;
        level(encoder, names::OWN_SPAN_QUEUE_BYTES, Vec::new(), bytes);
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
    let seconds = |own: &Own| own.unfollowed_ns as f64 / 1e9;
    let before = encoder.before.map_or(0.0, |before| seconds(&before.own));
    let now = seconds(&encoder.now.own);
    encoder.seconds(names::OWN_UNFOLLOWED, vec![(Vec::new(), now, before)]);
}

fn export_durations(encoder: &mut Encoder<'_>) {
    let before = encoder.before.map(|before| &before.own);
    let (now, components) = (encoder.now, encoder.options.components);
    let durations = now.own.export_duration.iter().map(|(key, now)| {
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
            before: before.and_then(|own| own.export_duration.get(key)),
            exemplar: None,
        }
    });
    encoder.histograms(names::OWN_EXPORT_DURATION, durations);
}

/// What was taken, and, as OpenTelemetry's conventions have it, under the same name what was not.
fn exported(encoder: &mut Encoder<'_>, metric: Metric, signal: &str) {
    /// Why the items were not taken, if they were not, and their counts by signal.
    type Kind = (
        Option<&'static str>,
        fn(&Own) -> &BTreeMap<&'static str, u64>,
    );
    let kinds: [Kind; 3] = [
        (None, |own| &own.exported),
        (Some("rejected"), |own| &own.rejected),
        (Some("too_large"), |own| &own.too_large),
    ];
    let (now, before) = (encoder.now, encoder.before);
    let exporter = encoder.options.components.of(signal);
    if exporter.is_empty() {
        return;
    }
    let points = kinds.map(|(error, pick)| {
        let of = |own: &Own| pick(own).get(signal).copied().unwrap_or(0);
        let error = error.map(|error| text(name::ERROR_TYPE, error));
        CountPoint {
            attributes: component(exporter).into_iter().chain(error).collect(),
            now: of(&now.own),
            before: before.map_or(0, |before| of(&before.own)),
        }
    });
    encoder.counter(metric, points.into());
}

fn counted(encoder: &mut Encoder<'_>, metric: Metric, pick: impl Fn(&Own) -> u64) {
    let point = CountPoint {
        attributes: Vec::new(),
        now: pick(&encoder.now.own),
        before: encoder.before.map_or(0, |before| pick(&before.own)),
    };
    encoder.counter(metric, vec![point]);
}

fn counted_by(
    encoder: &mut Encoder<'_>,
    metric: Metric,
    attribute: &str,
    pick: impl Fn(&Own) -> &BTreeMap<&'static str, u64>,
) {
    let before = encoder.before.map(|before| pick(&before.own));
    let points = pick(&encoder.now.own).iter().map(|(value, count)| {
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
