//! A series as people are shown it, and as the control protocol sends it: the flows of one peer, added up. Pure.

use super::{retransmits::RetransmitRow, row::End};
use crate::{
    flow::Role,
    histogram::Histogram,
    snapshot::{Peer, Series, SeriesKey},
};

/// The flows of one peer since flowcar began to count. On the wire a protobuf message: a field keeps its number for ever, and a number is
/// not used again.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PeerRow {
    /// The number of the series, which its flows name. Another process numbers anew.
    #[prost(uint64, tag = "1")]
    pub series: u64,
    /// Whether these are the flows over the limit of series.
    #[prost(bool, tag = "2")]
    is_overflow: bool,
    /// Which end of the handshake this is.
    #[prost(enumeration = "End", tag = "3")]
    end: i32,
    /// The name, address or prefix that the series has; empty where it names no peer.
    #[prost(string, tag = "4")]
    peer: String,
    /// `server.port`
    #[prost(uint32, optional, tag = "5")]
    server_port: Option<u32>,
    /// Connections opened.
    #[prost(uint64, tag = "6")]
    pub opened: u64,
    /// Connections open now.
    #[prost(uint64, tag = "7")]
    pub live: u64,
    /// Connections that were cut off.
    #[prost(uint64, tag = "8")]
    pub cut_off: u64,
    /// Attempts that failed.
    #[prost(uint64, tag = "9")]
    pub failed: u64,
    /// Payload bytes that the peer acknowledged.
    #[prost(uint64, tag = "10")]
    pub bytes_sent: u64,
    /// Payload bytes received.
    #[prost(uint64, tag = "11")]
    pub bytes_received: u64,
    /// Segments sent.
    #[prost(uint64, tag = "12")]
    pub segments_sent: u64,
    /// SYNs and SYN-ACKs sent again.
    #[prost(uint64, tag = "13")]
    pub handshake_retransmits: u64,
    /// Other segments sent again.
    #[prost(uint64, tag = "14")]
    pub data_retransmits: u64,
    /// Time that connections had data to send and no room in the peer's window, microseconds.
    #[prost(uint64, tag = "15")]
    pub receive_window_limited_us: u64,
    /// Time that connections had data to send and no room in the send buffer, microseconds.
    #[prost(uint64, tag = "16")]
    pub send_buffer_limited_us: u64,
    /// `flowcar.tcp.connect.duration` of attempts that succeeded.
    #[prost(message, required, tag = "17")]
    pub connect: Buckets,
    /// `flowcar.tcp.rtt`, measured and smoothed.
    #[prost(message, required, tag = "18")]
    pub rtt: Buckets,
    /// `flowcar.tcp.exchange.duration`
    #[prost(message, required, tag = "19")]
    pub exchange: Buckets,
    /// The id of the container that the series is of, where there are several.
    #[prost(string, optional, tag = "20")]
    pub container: Option<String>,
    /// Segments sent again by type; absent where the flowcar is older.
    #[prost(message, optional, tag = "21")]
    pub retransmits_by_type: Option<RetransmitRow>,
}

/// A [`Histogram`] without its sum and extremes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Buckets {
    /// Durations in the zero bucket.
    #[prost(uint64, tag = "1")]
    zero: u64,
    /// The OTLP index of the first bucket.
    #[prost(sint32, tag = "2")]
    first: i32,
    /// How many durations each bucket has, from the first one on.
    #[prost(uint64, repeated, tag = "3")]
    counts: Vec<u64>,
}

/// A peer with its port in few characters: `api.example.com:443`, `[::1]:80`; of a server's connections, which have the clients' addresses
/// in common with nothing else, `clients of :8080`.
pub fn name(role: Role, peer: &str, server_port: Option<u16>) -> String {
    let is_ipv6 = peer.contains(':') && !peer.contains('/');
    let peer = if is_ipv6 {
        format!("[{peer}]")
    } else {
        peer.to_owned()
    };
    match (role, server_port) {
        (Role::Server, Some(port)) if peer.is_empty() => format!("clients of :{port}"),
        (Role::Server, Some(port)) => format!("{peer} of :{port}"),
        (_, Some(port)) if peer.is_empty() => format!("any:{port}"),
        (_, Some(port)) => format!("{peer}:{port}"),
        (_, None) if peer.is_empty() => "any".to_owned(),
        (_, None) => peer,
    }
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
                ..
            } => (*role, text(peer), *server_port),
            SeriesKey::Overflow => (Role::Unknown, String::new(), None),
        };
        let retransmits = &series.volume.retransmits;
        let closed = series.closed.iter();
        let cut_off = closed.filter(|(of, _)| of.is_failure);
        Self {
            series: series.id.0,
            is_overflow: *key == SeriesKey::Overflow,
            end: End::from(role) as i32,
            peer,
            server_port: server_port.map(u32::from),
            opened: series.opened,
            live: series.live,
            cut_off: cut_off.map(|(_, count)| count).sum(),
            failed: series.failed.values().sum(),
            bytes_sent: series.volume.bytes_sent,
            bytes_received: series.volume.bytes_received,
            segments_sent: series.volume.segments_sent,
            handshake_retransmits: retransmits.of_handshakes(),
            data_retransmits: retransmits.of_data(),
            retransmits_by_type: Some(retransmits.into()),
            receive_window_limited_us: series.receive_window_limited_us,
            send_buffer_limited_us: series.send_buffer_limited_us,
            connect: Buckets::of(series.connect.get(&None)),
            rtt: Buckets::of(series.rtt.values()),
            exchange: Buckets::of([&series.exchange]),
            container: key.container().map(ToString::to_string),
        }
    }

    /// Which end of the handshake this is.
    pub fn role(&self) -> Role {
        self.end().into()
    }

    /// The peer with its port, and the container where there are several.
    pub fn name(&self) -> String {
        let name = self.peer_name();
        match &self.container {
            Some(id) => format!("{name} in {id:.12}"),
            None => name,
        }
    }

    /// The peer with its port.
    pub fn peer_name(&self) -> String {
        if self.is_overflow {
            return "peers over the limit".to_owned();
        }
        let port = self.server_port.and_then(|port| u16::try_from(port).ok());
        name(self.role(), &self.peer, port)
    }
}

fn text(peer: &Peer) -> String {
    match peer {
        Peer::Unnamed => String::new(),
        Peer::Address(address) | Peer::Asked(address) => address.to_string(),
        Peer::Name(name) => name.to_string(),
        Peer::Prefix(prefix) => prefix.clone(),
    }
}

// === impl Buckets ===

impl Buckets {
    fn of<'a>(histograms: impl IntoIterator<Item = &'a Histogram>) -> Self {
        let mut all = Histogram::default();
        histograms
            .into_iter()
            .for_each(|histogram| all.merge(histogram));
        let mut buckets = all.buckets().peekable();
        Self {
            zero: all.zero_count(),
            first: buckets.peek().map_or(0, |(first, _)| *first),
            counts: buckets.map(|(_, count)| count).collect(),
        }
    }

    /// The histogram.
    pub fn histogram(&self) -> Histogram {
        let numbered = (self.first..).zip(self.counts.iter().copied());
        Histogram::of_buckets(self.zero, numbered)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use flowcar_screen::answer::RetransmitCounts;

    use super::*;
    use crate::flow::{CloseReason, CountedClose, Failure, Retransmits, SeriesId, Volume};

    #[test]
    fn histogram_is_the_same_after_it_was_sent() {
        for durations_ns in [&[][..], &[10], &[1_000_000, 2_000_000, 40_000_000, 10]] {
            let mut histogram = Histogram::default();
            durations_ns.iter().for_each(|ns| histogram.record(*ns));
            let sent = Buckets::of([&histogram]).histogram();
            assert_eq!(sent.count(), histogram.count());
            assert!(sent.buckets().eq(histogram.buckets()), "{sent:?}");
            assert_eq!(sent.zero_count(), histogram.zero_count());
        }
    }

    #[test]
    fn row_has_the_counts_of_its_series() {
        let check = CountedClose {
            reason: CloseReason::ResetReceived,
            is_failure: false,
        };
        let series = Series {
            id: SeriesId(7),
            opened: 9,
            live: 2,
            closed: BTreeMap::from([
                (CloseReason::LocalFin.into(), 1),
                (CloseReason::ResetReceived.into(), 3),
                (CloseReason::Timeout.into(), 2),
                (check, 1),
            ]),
            failed: BTreeMap::from([(Failure::Refused, 4), (Failure::Timeout, 1)]),
            volume: Volume {
                retransmits: Retransmits {
                    syn: 1,
                    synack: 2,
                    fast: 4,
                    timeout: 8,
                    tail_loss_probe: 16,
                    unknown: 32,
                },
                ..Volume::default()
            },
            ..Series::default()
        };
        let row = PeerRow::of(&SeriesKey::Overflow, &series);
        assert_eq!((row.series, row.opened, row.live), (7, 9, 2));
        assert_eq!((row.cut_off, row.failed), (5, 5));
        assert_eq!((row.handshake_retransmits, row.data_retransmits), (3, 60));
        let by_type = row.retransmits_by_type.map(RetransmitCounts::from);
        let by_type = by_type.map(|of| of.named().map(|(_, count)| count));
        assert_eq!(by_type, Some([1, 2, 4, 8, 16, 32]));
        assert_eq!(row.name(), "peers over the limit");
    }

    #[test]
    fn peers_are_named_in_few_characters() {
        let v6 = "2001:db8::1".parse().expect("an address");
        let v4 = "10.1.2.3".parse().expect("an address");
        let prefix = Peer::Prefix("2001:db8::/32".to_owned());
        for (role, peer, server_port, expected) in [
            (
                Role::Client,
                Peer::Name("api.example.com".into()),
                Some(443),
                "api.example.com:443",
            ),
            (Role::Client, Peer::Asked(v6), Some(80), "[2001:db8::1]:80"),
            (Role::Client, prefix, None, "2001:db8::/32"),
            (Role::Client, Peer::Unnamed, Some(443), "any:443"),
            (Role::Server, Peer::Unnamed, Some(8080), "clients of :8080"),
            (
                Role::Server,
                Peer::Address(v4),
                Some(8080),
                "10.1.2.3 of :8080",
            ),
            (Role::Unknown, Peer::Unnamed, None, "any"),
        ] {
            let key = SeriesKey::Flows {
                container: None,
                role,
                peer,
                server_port,
            };
            assert_eq!(PeerRow::of(&key, &Series::default()).name(), expected);
        }
    }
}
