//! A series as the control protocol sends it: the flows of one peer, added up. Pure.

use std::collections::BTreeMap;

use crate::{
    flow::Role,
    histogram::{Histogram, quantile_of_buckets_s},
    snapshot::{Peer, Series, SeriesKey},
    view::json::role_name,
};

/// The flows of one peer since flowcar began to count. On the wire a protobuf message: a field keeps its number for ever, and a number is
/// not used again.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PeerRow {
    /// `network.tcp.handshake.role`; empty for flows over the limit of series.
    #[prost(string, tag = "1")]
    pub role: String,
    /// The name, address or prefix that the series has; empty where it names no peer.
    #[prost(string, tag = "2")]
    pub peer: String,
    /// `server.port`
    #[prost(uint32, optional, tag = "3")]
    pub server_port: Option<u32>,
    /// Connections opened.
    #[prost(uint64, tag = "4")]
    pub opened: u64,
    /// Connections adopted.
    #[prost(uint64, tag = "5")]
    pub adopted: u64,
    /// Connections open now.
    #[prost(uint64, tag = "6")]
    pub live: u64,
    /// Connections closed, by `flowcar.tcp.close.reason`.
    #[prost(btree_map = "string, uint64", tag = "7")]
    pub closed: BTreeMap<String, u64>,
    /// Connections of these that were cut off.
    #[prost(uint64, tag = "18")]
    pub cut_off: u64,
    /// Attempts that failed, by `error.type`.
    #[prost(btree_map = "string, uint64", tag = "8")]
    pub failed: BTreeMap<String, u64>,
    /// Payload bytes that the peer acknowledged.
    #[prost(uint64, tag = "9")]
    pub bytes_sent: u64,
    /// Payload bytes received.
    #[prost(uint64, tag = "10")]
    pub bytes_received: u64,
    /// Segments sent.
    #[prost(uint64, tag = "11")]
    pub segments_sent: u64,
    /// Segments sent again, by `flowcar.tcp.retransmit.type`.
    #[prost(btree_map = "string, uint64", tag = "12")]
    pub retransmits: BTreeMap<String, u64>,
    /// Time that connections had data to send and no room in the peer's window, microseconds.
    #[prost(uint64, tag = "13")]
    pub receive_window_limited_us: u64,
    /// Time that connections had data to send and no room in the send buffer, microseconds.
    #[prost(uint64, tag = "14")]
    pub send_buffer_limited_us: u64,
    /// `flowcar.tcp.connect.duration` of attempts that succeeded.
    #[prost(message, required, tag = "15")]
    pub connect: Buckets,
    /// `flowcar.tcp.rtt`, measured and smoothed.
    #[prost(message, required, tag = "16")]
    pub rtt: Buckets,
    /// `flowcar.tcp.exchange.duration`
    #[prost(message, required, tag = "17")]
    pub exchange: Buckets,
}

/// A histogram in OTLP's exponential buckets of scale 3.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Buckets {
    /// Durations in the zero bucket.
    #[prost(uint64, tag = "1")]
    pub zero: u64,
    /// The index of the first bucket.
    #[prost(sint32, tag = "2")]
    pub first: i32,
    /// How many durations each bucket has, from the first one on.
    #[prost(uint64, repeated, tag = "3")]
    pub counts: Vec<u64>,
}

// === impl PeerRow ===

impl PeerRow {
    /// The row of a series.
    pub fn of(key: &SeriesKey, series: &Series) -> Self {
        let (role, peer, server_port) = match key {
            SeriesKey::Flows {
                role,
                peer,
                server_port,
            } => (role_text(*role), peer_text(peer), *server_port),
            SeriesKey::Overflow => (String::new(), String::new(), None),
        };
        let retransmits = &series.retransmits;
        let retransmits = [
            ("syn", retransmits.syn),
            ("synack", retransmits.synack),
            ("fast", retransmits.fast),
            ("timeout", retransmits.timeout),
            ("tail_loss_probe", retransmits.tail_loss_probe),
            ("unknown", retransmits.unknown),
        ];
        let counted = retransmits.into_iter().filter(|(_, count)| *count > 0);
        let mut closed = BTreeMap::new();
        let mut cut_off = 0;
        for (of, count) in &series.closed {
            *closed.entry(of.reason.name().to_owned()).or_default() += count;
            cut_off += u64::from(of.is_failure) * count;
        }
        let failed = series.failed.iter();
        let succeeded = series.connect.get(&None);
        Self {
            role,
            peer,
            server_port: server_port.map(u32::from),
            opened: series.opened,
            adopted: series.adopted_at_startup + series.adopted_at_restart,
            live: series.live,
            closed,
            cut_off,
            failed: failed
                .map(|(of, count)| (of.name().to_owned(), *count))
                .collect(),
            bytes_sent: series.bytes_sent,
            bytes_received: series.bytes_received,
            segments_sent: series.segments_sent,
            retransmits: counted.map(|(of, count)| (of.to_owned(), count)).collect(),
            receive_window_limited_us: series.receive_window_limited_us,
            send_buffer_limited_us: series.send_buffer_limited_us,
            connect: Buckets::of(succeeded.into_iter()),
            rtt: Buckets::of(series.rtt.values()),
            exchange: Buckets::of([&series.exchange].into_iter()),
        }
    }
}

fn role_text(role: Role) -> String {
    match role {
        Role::Unknown => "unknown".to_owned(),
        known => role_name(known).to_owned(),
    }
}

fn peer_text(peer: &Peer) -> String {
    match peer {
        Peer::Unnamed => String::new(),
        Peer::Address(address) | Peer::Asked(address) => address.to_string(),
        Peer::Name(name) => name.to_string(),
        Peer::Prefix(prefix) => prefix.clone(),
    }
}

// === impl Buckets ===

impl Buckets {
    fn of<'a>(histograms: impl Iterator<Item = &'a Histogram>) -> Self {
        let mut all = Histogram::default();
        histograms.for_each(|histogram| all.merge(histogram));
        let mut buckets = all.buckets();
        let Some((first, count)) = buckets.next() else {
            return Self {
                zero: all.zero_count(),
                ..Self::default()
            };
        };
        let rest = buckets.map(|(_, count)| count);
        Self {
            zero: all.zero_count(),
            first,
            counts: std::iter::once(count).chain(rest).collect(),
        }
    }

    /// How many durations.
    pub fn count(&self) -> u64 {
        self.zero + self.counts.iter().sum::<u64>()
    }

    /// What was counted since `earlier`, an older state of the same histogram. All of it, where the older one has more: then it is another
    /// flowcar's.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |index: i32| {
            let at = usize::try_from(index - earlier.first).ok();
            at.and_then(|at| earlier.counts.get(at))
                .copied()
                .unwrap_or(0)
        };
        let counts = self
            .numbered()
            .map(|(index, count)| count.saturating_sub(before(index)));
        Self {
            zero: self.zero.saturating_sub(earlier.zero),
            first: self.first,
            counts: counts.collect(),
        }
    }

    /// Adds what another one counted.
    pub fn add(&mut self, other: &Self) {
        self.zero += other.zero;
        if other.counts.is_empty() {
            return;
        }
        if self.counts.is_empty() {
            self.first = other.first;
        }
        if other.first < self.first {
            let missing = usize::try_from(self.first - other.first).unwrap_or_default();
            self.counts.splice(0..0, std::iter::repeat_n(0, missing));
            self.first = other.first;
        }
        for (index, count) in other.numbered() {
            let at = usize::try_from(index - self.first).unwrap_or_default();
            if at >= self.counts.len() {
                self.counts.resize(at + 1, 0);
            }
            self.counts[at] += count;
        }
    }

    /// The `q`-quantile in seconds; `None` while nothing was counted. Off by at most one bucket's width (9 %).
    pub fn quantile_s(&self, q: f64) -> Option<f64> {
        quantile_of_buckets_s(q, self.count(), self.zero, self.numbered())
    }

    /// Each bucket's index and count.
    pub fn numbered(&self) -> impl Iterator<Item = (i32, u64)> {
        (self.first..).zip(self.counts.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buckets(durations_ns: &[u64]) -> Buckets {
        let mut histogram = Histogram::default();
        durations_ns.iter().for_each(|ns| histogram.record(*ns));
        Buckets::of([&histogram].into_iter())
    }

    #[test]
    fn quantile_is_within_a_bucket() {
        let all = buckets(&[1_000_000, 2_000_000, 40_000_000]);
        assert_eq!(all.count(), 3);
        let p99 = all.quantile_s(0.99).expect("three");
        assert!((0.036..0.044).contains(&p99), "{p99}");
        assert_eq!(Buckets::default().quantile_s(0.5), None);
    }

    #[test]
    fn difference_is_what_came_since() {
        let (before, new) = ([5_000_000, 1_000], [90_000, 300_000_000]);
        let after: Vec<u64> = before.into_iter().chain(new).collect();
        let since = buckets(&after).since(&buckets(&before));
        assert_eq!(since.count(), 2);
        assert_eq!(since.quantile_s(0.99), buckets(&new).quantile_s(0.99));
        // Another flowcar's: nothing is negative.
        assert_eq!(buckets(&new).since(&buckets(&after)).count(), 0);
    }

    #[test]
    fn sum_has_every_bucket() {
        for (one, other) in [
            (vec![5_000_000], vec![1_000, 70_000]),
            (vec![], vec![5_000_000]),
            (vec![5_000_000], vec![]),
            (vec![1_000_000], vec![900_000_000]),
        ] {
            let mut sum = buckets(&one);
            sum.add(&buckets(&other));
            let both: Vec<u64> = one.iter().chain(&other).copied().collect();
            assert_eq!(sum, buckets(&both), "{both:?}");
        }
    }

    #[test]
    fn row_names_what_the_series_names() {
        let mut series = Series {
            opened: 5,
            ..Series::default()
        };
        series.retransmits.fast = 2;
        let key = |peer| SeriesKey::Flows {
            role: Role::Client,
            peer,
            server_port: Some(443),
        };
        let address = "2001:db8::1".parse().expect("an address");
        for (peer, text) in [
            (Peer::Unnamed, ""),
            (Peer::Asked(address), "2001:db8::1"),
            (Peer::Prefix("10.0.0.0/8".to_owned()), "10.0.0.0/8"),
        ] {
            let row = PeerRow::of(&key(peer), &series);
            assert_eq!((row.role.as_str(), row.peer.as_str()), ("client", text));
            assert_eq!((row.server_port, row.opened), (Some(443), 5));
            assert_eq!(row.retransmits, BTreeMap::from([("fast".to_owned(), 2)]));
        }
        assert_eq!(PeerRow::of(&SeriesKey::Overflow, &series).role, "");
    }
}
