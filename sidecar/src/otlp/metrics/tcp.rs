//! `flowcar.tcp.*`: the figures of every series.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};

use super::{CountPoint, DurationPoint, Encoder, attribute, signed, text};
use crate::{
    flow::{End, Failure, Retransmits, RttKind},
    histogram::Histogram,
    otlp::{
        exemplars::Measure,
        names::{self, Metric, attribute as name},
        spans::{role, rtt_kind},
    },
    snapshot::{NetworkType, Peer, Series, SeriesKey, Unseen},
};

/// A series now, what it was in the snapshot before, and its attributes.
struct Pair<'a> {
    key: &'a SeriesKey,
    attributes: Vec<KeyValue>,
    now: &'a Series,
    before: Option<&'a Series>,
}

pub(super) fn encode(encoder: &mut Encoder<'_>) {
    let (now, before) = (encoder.now, encoder.before);
    let pairs: Vec<_> = now
        .series
        .iter()
        .map(|(key, series)| Pair {
            key,
            attributes: series_attributes(key),
            now: series,
            before: before.and_then(|before| before.series.get(key)),
        })
        .collect();
    histograms(encoder, &pairs);
    connections(encoder, &pairs);
    traffic(encoder, &pairs);
    let lost = |snapshot: &BTreeMap<_, u64>, key| snapshot.get(key).copied().unwrap_or(0);
    let lost = now.lost.iter().map(|(reason, count)| CountPoint {
        attributes: vec![text(name::LOST, reason.name())],
        now: *count,
        before: before.map_or(0, |before| lost(&before.lost, reason)),
    });
    encoder.counter(names::LOST, lost.collect());
}

fn series_attributes(key: &SeriesKey) -> Vec<KeyValue> {
    let SeriesKey::Flows {
        role: of,
        network,
        peer,
        server_port,
    } = key
    else {
        return vec![attribute(name::OVERFLOW, Value::BoolValue(true))];
    };
    let network = match network {
        NetworkType::Ipv4 => "ipv4",
        NetworkType::Ipv6 => "ipv6",
    };
    let mut all = vec![
        text(name::TRANSPORT, "tcp"),
        text(name::NETWORK_TYPE, network),
        text(name::ROLE, role(*of)),
    ];
    if let Some(port) = server_port {
        let port = Value::IntValue(i64::from(*port));
        all.push(attribute(name::SERVER_PORT, port));
    }
    if let Peer::Named(address) = peer {
        all.push(text(name::PEER_ADDRESS, address));
    }
    all
}

fn histograms(encoder: &mut Encoder<'_>, pairs: &[Pair<'_>]) {
    let failure = |failure: &Option<Failure>| {
        let extra = failure.map(|failure| (name::ERROR_TYPE, failure.name()));
        (extra, Measure::Connect(*failure))
    };
    let kind = |kind: &RttKind| {
        let extra = Some((name::RTT_KIND, rtt_kind(*kind)));
        (extra, Measure::Rtt(*kind))
    };
    let end = |end: &End| (Some((name::END, end.name())), Measure::Duration(*end));
    by(encoder, names::CONNECT, pairs, |of| &of.connect, failure);
    by(encoder, names::RTT, pairs, |of| &of.rtt, kind);
    let exemplars = encoder.exemplars;
    let exchanges = pairs.iter().map(|pair| DurationPoint {
        attributes: pair.attributes.clone(),
        now: &pair.now.exchange,
        before: pair.before.map(|before| &before.exchange),
        exemplar: exemplars.get(pair.key, Measure::Exchange),
    });
    encoder.histograms(names::EXCHANGE, exchanges);
    by(encoder, names::DURATION, pairs, |of| &of.duration, end);
}

/// Adds a metric of one histogram for each value of an attribute.
fn by<'a, K: Ord + 'a>(
    encoder: &mut Encoder<'_>,
    metric: Metric,
    pairs: &'a [Pair<'a>],
    pick: impl Fn(&'a Series) -> &'a BTreeMap<K, Histogram>,
    tell: impl Fn(&K) -> (Option<(&'static str, &'static str)>, Measure),
) {
    let mut points = Vec::new();
    for pair in pairs {
        let before = pair.before.map(&pick);
        for (key, now) in pick(pair.now) {
            let (extra, measure) = tell(key);
            points.push(DurationPoint {
                attributes: pair.with(extra),
                now,
                before: before.and_then(|before| before.get(key)),
                exemplar: encoder.exemplars.get(pair.key, measure),
            });
        }
    }
    encoder.histograms(metric, points);
}

fn connections(encoder: &mut Encoder<'_>, pairs: &[Pair<'_>]) {
    opened(encoder, pairs);
    let closed = pairs.iter().flat_map(|pair| {
        pair.now.closed.keys().map(|end| {
            let count = |series: &Series| series.closed.get(end).copied().unwrap_or(0);
            pair.count(Some((name::END, end.name())), count)
        })
    });
    encoder.counter(names::CLOSED, closed.collect());
    let failed = pairs.iter().flat_map(|pair| {
        pair.now.failed.keys().map(|failure| {
            let count = |series: &Series| series.failed.get(failure).copied().unwrap_or(0);
            pair.count(Some((name::ERROR_TYPE, failure.name())), count)
        })
    });
    encoder.counter(names::FAILED, failed.collect());
    let live = pairs
        .iter()
        .map(|pair| (pair.attributes.clone(), signed(pair.now.live)));
    let unseen = encoder.now.unseen.live.map(|live| (Vec::new(), live));
    encoder.up_down(names::LIVE, live.chain(unseen).collect());
}

fn opened(encoder: &mut Encoder<'_>, pairs: &[Pair<'_>]) {
    let inherited = || attribute(name::INHERITED, Value::BoolValue(true));
    let mut points = Vec::new();
    for pair in pairs {
        points.push(pair.count(None, |series| series.opened));
        if pair.now.inherited > 0 {
            let mut point = pair.count(None, |series| series.inherited);
            point.attributes.push(inherited());
            points.push(point);
        }
    }
    let before = encoder
        .before
        .map_or(Unseen::default(), |before| before.unseen);
    let now = encoder.now.unseen;
    let unseen = [
        (Vec::new(), now.opened, before.opened),
        (vec![inherited()], now.inherited, before.inherited),
    ];
    let unseen = unseen.into_iter().filter(|(_, now, _)| *now > 0);
    points.extend(unseen.map(|(attributes, now, before)| CountPoint {
        attributes,
        now,
        before,
    }));
    encoder.counter(names::OPENED, points);
}

fn traffic(encoder: &mut Encoder<'_>, pairs: &[Pair<'_>]) {
    let both = |sent: fn(&Series) -> u64, received: fn(&Series) -> u64| {
        pairs
            .iter()
            .flat_map(|pair| {
                [
                    pair.count(Some((name::DIRECTION, "transmit")), sent),
                    pair.count(Some((name::DIRECTION, "receive")), received),
                ]
            })
            .collect()
    };
    let io = both(|series| series.bytes_sent, |series| series.bytes_received);
    encoder.counter(names::IO, io);
    let segments = both(
        |series| series.segments_sent,
        |series| series.segments_received,
    );
    encoder.counter(names::SEGMENTS, segments);
    let retransmits = pairs.iter().flat_map(|pair| {
        let causes = CAUSES
            .iter()
            .filter(|(_, pick)| pick(&pair.now.retransmits) > 0);
        causes.map(|(cause, pick)| {
            pair.count(Some((name::CAUSE, cause)), |series| {
                pick(&series.retransmits)
            })
        })
    });
    encoder.counter(names::RETRANSMITS, retransmits.collect());
    limited(encoder, pairs);
}

/// What never held a series back is left out.
fn limited(encoder: &mut Encoder<'_>, pairs: &[Pair<'_>]) {
    let points = pairs.iter().flat_map(|pair| {
        let limits = LIMITS.iter().filter(|(_, pick)| pick(pair.now) > 0);
        limits.map(|(limit, pick)| {
            let seconds = |series| pick(series) as f64 / 1e6;
            let attributes = pair.with(Some((name::LIMIT, limit)));
            (
                attributes,
                seconds(pair.now),
                pair.before.map_or(0.0, seconds),
            )
        })
    });
    encoder.seconds(names::LIMITED, points.collect());
}

/// What holds a sender back, by name, and for how long it did, microseconds.
type Limit = (&'static str, fn(&Series) -> u64);

const LIMITS: [Limit; 2] = [
    ("receive_window", |of| of.receive_window_limited_us),
    ("send_buffer", |of| of.send_buffer_limited_us),
];

/// A cause by name, and its share of the retransmits.
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
    fn with(&self, extra: Option<(&str, &str)>) -> Vec<KeyValue> {
        let extra = extra.map(|(name, value)| text(name, value));
        self.attributes.iter().cloned().chain(extra).collect()
    }

    fn count(&self, extra: Option<(&str, &str)>, count: impl Fn(&Series) -> u64) -> CountPoint {
        CountPoint {
            attributes: self.with(extra),
            now: count(self.now),
            before: self.before.map_or(0, &count),
        }
    }
}
