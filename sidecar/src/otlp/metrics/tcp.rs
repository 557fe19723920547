//! `flowcar.tcp.*`: the metrics of every series.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};

use super::{CountPoint, DurationPoint, Encoder, attribute, signed, text};
use crate::{
    flow::{AdoptedBy, ContainerId, CountedClose, Failure, Retransmits, RttKind},
    histogram::Histogram,
    otlp::{
        exemplars::Measure,
        names::{self, Metric, attribute as name},
        spans::{role, rtt_kind},
    },
    snapshot::{Peer, Series, SeriesKey, UnattributedCounts},
};

/// A series, the same of the snapshot before, and its attributes.
struct Pair<'a> {
    attributes: Vec<KeyValue>,
    now: &'a Series,
    before: Option<&'a Series>,
}

/// The metrics of the flows whose container is not known, or that have none, and of connections in no series.
pub(super) fn encode(encoder: &mut Encoder<'_>) {
    let unattributed = unattributed(encoder);
    encode_series(encoder, None, unattributed);
    let (now, before) = (encoder.now, encoder.before);
    let lost = |snapshot: &BTreeMap<_, u64>, key| snapshot.get(key).copied().unwrap_or(0);
    let lost = now.lost.iter().map(|(reason, count)| CountPoint {
        attributes: vec![text(name::LOST_REASON, reason.name())],
        now: *count,
        before: before.map_or(0, |before| lost(&before.lost, reason)),
    });
    encoder.counter(names::LOST, lost.collect());
}

/// The metrics of a container's flows.
pub(super) fn encode_container(encoder: &mut Encoder<'_>, container: &ContainerId) {
    encode_series(encoder, Some(container), Unattributed::default());
}

fn encode_series(
    encoder: &mut Encoder<'_>,
    container: Option<&ContainerId>,
    unattributed: Unattributed,
) {
    let (now, before) = (encoder.now, encoder.before);
    let pairs: Vec<_> = now
        .series
        .iter()
        .filter(|(key, _)| key.container() == container)
        .map(|(key, series)| Pair {
            attributes: series_attributes(key),
            now: series,
            before: before
                .and_then(|before| before.series.get(key))
                // A series that was dropped in the meantime counts from zero.
                .filter(|before| before.since_unix_ns == series.since_unix_ns),
        })
        .collect();
    histograms(encoder, &pairs);
    connections(encoder, &pairs, unattributed);
    traffic(encoder, &pairs);
}

/// Points of connections in no series.
#[derive(Default)]
struct Unattributed {
    opened: Option<CountPoint>,
    adopted: Option<CountPoint>,
}

/// Those opened and those adopted.
fn unattributed(encoder: &Encoder<'_>) -> Unattributed {
    let before = encoder
        .before
        .map_or(UnattributedCounts::default(), |before| before.unattributed);
    let now = encoder.now.unattributed;
    let point = |extra: Option<KeyValue>, pick: fn(&UnattributedCounts) -> u64| {
        let mark = attribute(name::UNATTRIBUTED, Value::BoolValue(true));
        CountPoint {
            attributes: extra.into_iter().chain([mark]).collect(),
            now: pick(&now),
            before: pick(&before),
        }
    };
    let restart = text(name::ADOPTED_BY, AdoptedBy::Restart.name());
    Unattributed {
        opened: Some(point(None, |of| of.opened)),
        adopted: Some(point(Some(restart), |of| of.adopted_at_restart)),
    }
}

fn series_attributes(key: &SeriesKey) -> Vec<KeyValue> {
    let SeriesKey::Flows {
        container: _,
        role: of,
        peer,
        server_port,
    } = key
    else {
        return vec![attribute(name::OVERFLOW, Value::BoolValue(true))];
    };
    let mut all = vec![text(name::ROLE, role(*of))];
    if let Some(port) = server_port {
        let port = Value::IntValue(i64::from(*port));
        all.push(attribute(name::SERVER_PORT, port));
    }
    match peer {
        Peer::Unnamed => {}
        Peer::Address(address) => all.push(text(name::PEER_ADDRESS, &address.to_string())),
        Peer::Asked(address) => all.push(text(name::SERVER_ADDRESS, &address.to_string())),
        Peer::Name(server) => all.push(text(name::SERVER_ADDRESS, server)),
        Peer::Prefix(prefix) => all.push(text(name::PEER_PREFIX, prefix)),
    }
    all
}

fn histograms(encoder: &mut Encoder<'_>, pairs: &[Pair<'_>]) {
    let failure = |failure: &Option<Failure>| {
        let extra = failure.map(|failure| (name::ERROR_TYPE, failure.name()));
        (extra.into_iter().collect(), Measure::Connect(*failure))
    };
    let kind = |kind: &RttKind| {
        let extra = vec![(name::RTT_KIND, rtt_kind(*kind))];
        (extra, Measure::Rtt(*kind))
    };
    let end = |end: &CountedClose| (closed_as(*end), Measure::Duration(*end));
    by(encoder, names::CONNECT, pairs, |of| &of.connect, failure);
    by(encoder, names::RTT, pairs, |of| &of.rtt, kind);
    let exemplars = encoder.exemplars;
    let exchanges = pairs.iter().map(|pair| DurationPoint {
        attributes: pair.attributes.clone(),
        now: &pair.now.exchange,
        before: pair.before.map(|before| &before.exchange),
        exemplar: exemplars.get(pair.now.id, Measure::Exchange),
    });
    encoder.histograms(names::EXCHANGE, exchanges);
    by(encoder, names::DURATION, pairs, |of| &of.duration, end);
}

/// Attributes of a point besides those of its series.
type Extra = Vec<(&'static str, &'static str)>;

/// The close reason, and the error type if that was a failure, as on spans.
fn closed_as(close: CountedClose) -> Extra {
    let reason = close.reason.name();
    let cut_off = close.is_failure.then_some((name::ERROR_TYPE, reason));
    std::iter::once((name::CLOSE_REASON, reason))
        .chain(cut_off)
        .collect()
}

/// Adds a metric of one histogram for each value of an attribute.
fn by<'a, K: Ord + 'a>(
    encoder: &mut Encoder<'_>,
    metric: Metric,
    pairs: &'a [Pair<'a>],
    pick: impl Fn(&'a Series) -> &'a BTreeMap<K, Histogram>,
    describe: impl Fn(&K) -> (Extra, Measure),
) {
    let mut points = Vec::new();
    for pair in pairs {
        let before = pair.before.map(&pick);
        for (key, now) in pick(pair.now) {
            let (extra, measure) = describe(key);
            points.push(DurationPoint {
                attributes: pair.with(extra),
                now,
                before: before.and_then(|before| before.get(key)),
                exemplar: encoder.exemplars.get(pair.now.id, measure),
            });
        }
    }
    encoder.histograms(metric, points);
}

fn connections(encoder: &mut Encoder<'_>, pairs: &[Pair<'_>], unattributed: Unattributed) {
    opened(encoder, pairs, unattributed);
    let closed = pairs.iter().flat_map(|pair| {
        pair.now.closed.keys().map(|end| {
            let count = |series: &Series| series.closed.get(end).copied().unwrap_or(0);
            pair.count(closed_as(*end), count)
        })
    });
    encoder.counter(names::CLOSED, closed.collect());
    let failed = pairs.iter().flat_map(|pair| {
        pair.now.failed.keys().map(|failure| {
            let count = |series: &Series| series.failed.get(failure).copied().unwrap_or(0);
            pair.count([(name::ERROR_TYPE, failure.name())], count)
        })
    });
    encoder.counter(names::FAILED, failed.collect());
    let live = pairs
        .iter()
        .map(|pair| (pair.attributes.clone(), signed(pair.now.live)));
    encoder.up_down(names::LIVE, live.collect());
}

/// Connections opened and adopted, and the unattributed ones of both.
fn opened(encoder: &mut Encoder<'_>, pairs: &[Pair<'_>], unattributed: Unattributed) {
    let opened = pairs
        .iter()
        .map(|pair| pair.count([], |series| series.opened));
    let lost = unattributed.opened;
    encoder.counter(names::OPENED, opened.chain(lost).collect());
    let by = |by: AdoptedBy| (name::ADOPTED_BY, by.name());
    let adopted = pairs.iter().flat_map(|pair| {
        [
            pair.count([by(AdoptedBy::Startup)], |of| of.adopted_at_startup),
            pair.count([by(AdoptedBy::Restart)], |of| of.adopted_at_restart),
        ]
    });
    let lost = unattributed.adopted;
    encoder.counter(names::ADOPTED, adopted.chain(lost).collect());
}

fn traffic(encoder: &mut Encoder<'_>, pairs: &[Pair<'_>]) {
    let both = |sent: fn(&Series) -> u64, received: fn(&Series) -> u64| {
        pairs
            .iter()
            .flat_map(|pair| {
                [
                    pair.count([(name::DIRECTION, "transmit")], sent),
                    pair.count([(name::DIRECTION, "receive")], received),
                ]
            })
            .collect()
    };
    let io = both(
        |series| series.volume.bytes_sent,
        |series| series.volume.bytes_received,
    );
    encoder.counter(names::IO, io);
    let segments = both(
        |series| series.volume.segments_sent,
        |series| series.volume.segments_received,
    );
    encoder.counter(names::SEGMENTS, segments);
    let retransmits = pairs.iter().flat_map(|pair| {
        let causes = CAUSES
            .iter()
            .filter(|(_, pick)| pick(&pair.now.volume.retransmits) > 0);
        causes.map(|(cause, pick)| {
            pair.count([(name::RETRANSMIT_TYPE, *cause)], |series| {
                pick(&series.volume.retransmits)
            })
        })
    });
    encoder.counter(names::RETRANSMITS, retransmits.collect());
    limited(encoder, pairs);
}

/// A limit that never applied is omitted.
fn limited(encoder: &mut Encoder<'_>, pairs: &[Pair<'_>]) {
    let points = pairs.iter().flat_map(|pair| {
        let limits = LIMITS.iter().filter(|(_, pick)| pick(pair.now) > 0);
        limits.map(|(limit, pick)| {
            let seconds = |series| pick(series) as f64 / 1e6;
            let attributes = pair.with([(name::LIMITED_BY, *limit)]);
            (
                attributes,
                seconds(pair.now),
                pair.before.map_or(0.0, seconds),
            )
        })
    });
    encoder.seconds(names::LIMITED, points.collect());
}

/// A limit of the sender, by name, and its time in microseconds.
type Limit = (&'static str, fn(&Series) -> u64);

const LIMITS: [Limit; 2] = [
    ("receive_window", |of| of.receive_window_limited_us),
    ("send_buffer", |of| of.send_buffer_limited_us),
];

/// A retransmit type by name, and its share of the retransmits.
type Cause = (&'static str, fn(&Retransmits) -> u64);

const CAUSES: [Cause; 6] = [
    ("syn", |of| of.syn),
    ("synack", |of| of.synack),
    ("fast", |of| of.fast),
    ("timeout", |of| of.timeout),
    ("tail_loss_probe", |of| of.tail_loss_probe),
    ("unknown", |of| of.unknown),
];

impl Pair<'_> {
    fn with(&self, extra: impl IntoIterator<Item = (&'static str, &'static str)>) -> Vec<KeyValue> {
        let extra = extra.into_iter().map(|(name, value)| text(name, value));
        self.attributes.iter().cloned().chain(extra).collect()
    }

    fn count(
        &self,
        extra: impl IntoIterator<Item = (&'static str, &'static str)>,
        count: impl Fn(&Series) -> u64,
    ) -> CountPoint {
        CountPoint {
            attributes: self.with(extra),
            now: count(self.now),
            before: self.before.map_or(0, &count),
        }
    }
}
