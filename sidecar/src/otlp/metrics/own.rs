//! `flowcar.self.*`: flowcar's own figures.

use std::collections::BTreeMap;

use super::{CountPoint, DurationPoint, Encoder, signed, text};
use crate::{
    otlp::names::{self, Metric, attribute as name},
    snapshot::Own,
};

pub(super) fn encode(encoder: &mut Encoder<'_>) {
    let now = &encoder.now.own;
    counted_by(encoder, names::OWN_RECORDS, name::RECORD_KIND, |own| {
        &own.records
    });
    counted_by(
        encoder,
        names::OWN_RECORDS_DROPPED,
        name::RECORD_KIND,
        |own| &own.records_dropped,
    );
    counted(encoder, names::OWN_RECORDS_MALFORMED, |own| {
        own.records_malformed
    });
    level(encoder, names::OWN_TABLE, now.table_flows);
    counted(encoder, names::OWN_TABLE_FULL, |own| own.table_unlisted);
    let sockets = now.sockets.iter();
    let sockets = sockets.map(|(side, count)| (vec![text(name::SOCKETS, side)], signed(*count)));
    encoder.up_down(names::OWN_SOCKETS, sockets.collect());
    counted(encoder, names::OWN_UNSCOPED, |own| own.sockets_unscoped);
    counted(encoder, names::OWN_UNADOPTED, |own| own.sockets_unadopted);
    counted(encoder, names::OWN_INEXACT, |own| own.flows_inexact);
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
    unfollowed(encoder);
    counted(encoder, names::OWN_LOG_DROPPED, |own| own.log_lines_dropped);
    level(encoder, names::OWN_SERIES, now.series);
    encoder.gauge(names::OWN_UNBALANCED, encoder.now.unbalanced());
    exports(encoder);
    counted_by(encoder, names::OWN_REJECTED, name::SIGNAL, |own| {
        &own.rejected
    });
    counted_by(encoder, names::OWN_SPANS_DROPPED, name::REASON, |own| {
        &own.spans_dropped
    });
    level(encoder, names::OWN_SPAN_QUEUE, now.span_queue);
    level(
        encoder,
        names::OWN_SPAN_QUEUE_CAPACITY,
        now.span_queue_capacity,
    );
    level(encoder, names::OWN_SPAN_QUEUE_BYTES, now.span_queue_bytes);
    exported(encoder, names::OWN_EXPORTED_SPANS, "traces");
    exported(encoder, names::OWN_EXPORTED_POINTS, "metrics");
    let before = encoder.before.map_or(0.0, |before| before.own.cpu_s);
    encoder.seconds(names::OWN_CPU, vec![(Vec::new(), now.cpu_s, before)]);
    level(encoder, names::OWN_RSS, now.rss_bytes);
}

fn unfollowed(encoder: &mut Encoder<'_>) {
    let seconds = |own: &Own| own.unfollowed_ns as f64 / 1e9;
    let before = encoder.before.map_or(0.0, |before| seconds(&before.own));
    let now = seconds(&encoder.now.own);
    encoder.seconds(names::OWN_UNFOLLOWED, vec![(Vec::new(), now, before)]);
}

fn exports(encoder: &mut Encoder<'_>) {
    let before = encoder.before.map(|before| &before.own);
    let points = encoder.now.own.exports.iter().map(|(key, count)| {
        let (signal, outcome) = key;
        let before = before.and_then(|own| own.exports.get(key));
        CountPoint {
            attributes: vec![text(name::SIGNAL, signal), text(name::OUTCOME, outcome)],
            now: *count,
            before: before.copied().unwrap_or(0),
        }
    });
    encoder.counter(names::OWN_EXPORTS, points.collect());
    let durations = encoder.now.own.export_duration.iter().map(|(key, now)| {
        let (signal, outcome) = key;
        let error = match *outcome {
            "success" => None,
            "partial" => Some("rejected"),
            other => Some(other),
        };
        let error = error.map(|error| text(name::ERROR_TYPE, error));
        DurationPoint {
            attributes: std::iter::once(text(name::SIGNAL, signal))
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
    let of = |own: &BTreeMap<&'static str, u64>| own.get(signal).copied().unwrap_or(0);
    let (now, before) = (&encoder.now.own, encoder.before.map(|before| &before.own));
    let taken = CountPoint {
        attributes: Vec::new(),
        now: of(&now.exported),
        before: before.map_or(0, |before| of(&before.exported)),
    };
    let rejected = CountPoint {
        attributes: vec![text(name::ERROR_TYPE, "rejected")],
        now: of(&now.rejected),
        before: before.map_or(0, |before| of(&before.rejected)),
    };
    let too_large = CountPoint {
        attributes: vec![text(name::ERROR_TYPE, "too_large")],
        now: of(&now.too_large),
        before: before.map_or(0, |before| of(&before.too_large)),
    };
    let seen = too_large.now > 0;
    let points = [taken, rejected]
        .into_iter()
        .chain(seen.then_some(too_large));
    encoder.counter(metric, points.collect());
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

fn level(encoder: &mut Encoder<'_>, metric: Metric, value: u64) {
    encoder.up_down(metric, vec![(Vec::new(), signed(value))]);
}
