//! A flow as people and scripts are shown it: what tables and JSON have in common, and what the control protocol sends. Pure.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::retransmits::RetransmitRow;
use crate::{
    clock::Anchor,
    flow::{Flow, Monotonic, Role, RttKind},
    histogram::Histogram,
};

/// One flow. On the wire a protobuf message: a field keeps its number for ever, and a number is not used again.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Row {
    /// The kernel's socket cookie.
    #[prost(fixed64, tag = "1")]
    pub cookie: u64,
    /// Which end of the handshake this is.
    #[prost(enumeration = "End", tag = "2")]
    end: i32,
    #[prost(message, optional, tag = "3")]
    local: Option<Address>,
    #[prost(message, optional, tag = "4")]
    peer: Option<Address>,
    /// SYN sent, or established, nanoseconds since the Unix epoch.
    #[prost(fixed64, tag = "5")]
    pub opened_unix_ns: u64,
    /// Established to closed, or to the last record or poll, nanoseconds; absent for a failed attempt.
    #[prost(uint64, optional, tag = "6")]
    pub duration_ns: Option<u64>,
    /// SYN sent to established, or to failure, nanoseconds; absent where either was not seen.
    #[prost(uint64, optional, tag = "7")]
    pub connect_ns: Option<u64>,
    /// Payload bytes that the peer acknowledged.
    #[prost(uint64, tag = "8")]
    pub bytes_sent: u64,
    /// Payload bytes received.
    #[prost(uint64, tag = "9")]
    pub bytes_received: u64,
    /// Segments sent.
    #[prost(uint64, tag = "10")]
    pub segments_sent: u64,
    /// Segments received.
    #[prost(uint64, tag = "11")]
    pub segments_received: u64,
    /// Segments sent again.
    #[prost(uint64, tag = "12")]
    pub retransmits: u64,
    /// Whether RTTs are the kernel's smoothed values.
    #[prost(bool, tag = "13")]
    pub is_smoothed: bool,
    #[prost(message, optional, tag = "14")]
    rtt: Option<Times>,
    #[prost(message, optional, tag = "15")]
    exchanges: Option<Times>,
    /// The close reason or failure; absent while the flow is open.
    #[prost(string, optional, tag = "16")]
    pub close_reason: Option<String>,
    /// Whether somebody has to look at it: it was cut off, or failed.
    #[prost(bool, tag = "17")]
    pub is_failure: bool,
    /// The trace id's upper half.
    #[prost(fixed64, tag = "18")]
    trace_high: u64,
    /// The trace id's lower half.
    #[prost(fixed64, tag = "19")]
    trace_low: u64,
    /// The span id.
    #[prost(fixed64, tag = "20")]
    pub span_id: u64,
    /// Time that it had data to send and no room in the peer's window, microseconds.
    #[prost(uint64, tag = "21")]
    pub receive_window_limited_us: u64,
    /// Time that it had data to send and no room in its send buffer, microseconds.
    #[prost(uint64, tag = "22")]
    pub send_buffer_limited_us: u64,
    /// What a client asked for, where that is not the peer.
    #[prost(message, optional, tag = "23")]
    asked: Option<Address>,
    /// The name that a client asked a resolver for.
    #[prost(string, optional, tag = "24")]
    name: Option<String>,
    /// The series that it is counted in ([`super::peers::PeerRow::series`]).
    #[prost(uint64, optional, tag = "25")]
    pub series: Option<u64>,
    /// The process that called `connect()`, or `listen()` of the listener, in the initial PID namespace.
    #[prost(uint32, optional, tag = "26")]
    pub pid: Option<u32>,
    /// What it is called.
    #[prost(string, optional, tag = "27")]
    process: Option<String>,
    /// The id of the container.
    #[prost(string, optional, tag = "28")]
    pub container: Option<String>,
    /// Segments sent again by type; absent where the flowcar is older.
    #[prost(message, optional, tag = "29")]
    pub retransmits_by_type: Option<RetransmitRow>,
}

/// Which end of the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(super) enum End {
    Unknown = 0,
    Client = 1,
    Server = 2,
}

/// An address and a port.
#[derive(Clone, PartialEq, prost::Message)]
struct Address {
    /// 4 or 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    address: Vec<u8>,
    #[prost(uint32, tag = "2")]
    port: u32,
}

/// How long something took, over all times that it was measured.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Times {
    /// How often.
    #[prost(uint64, tag = "1")]
    pub count: u64,
    /// The shortest, nanoseconds.
    #[prost(uint64, optional, tag = "2")]
    pub min_ns: Option<u64>,
    /// Half took no longer, nanoseconds.
    #[prost(uint64, optional, tag = "3")]
    pub p50_ns: Option<u64>,
    /// 99 of 100 took no longer, nanoseconds.
    #[prost(uint64, optional, tag = "4")]
    pub p99_ns: Option<u64>,
    /// All together, nanoseconds; absent where the flowcar is older.
    #[prost(uint64, optional, tag = "5")]
    pub sum_ns: Option<u64>,
}

/// The longest time that somebody waited, nanoseconds: for the handshake, a round trip or an exchange. 0 where nothing was measured.
pub fn longest_ns(connect_ns: Option<u64>, rtt: Times, exchanges: Times) -> u64 {
    let times = [connect_ns, rtt.p99_ns, exchanges.p99_ns];
    times.into_iter().flatten().max().unwrap_or(0)
}

// === impl Row ===

impl Row {
    /// The row of a flow that is open or over.
    pub fn of(flow: &Flow, anchor: &Anchor) -> Self {
        let (volume, process) = (&flow.volume, flow.origin.process.as_ref());
        Self {
            cookie: flow.cookie,
            end: End::from(flow.role) as i32,
            local: Some(flow.local.into()),
            peer: Some(flow.peer.into()),
            opened_unix_ns: anchor.unix_ns(flow.started),
            duration_ns: flow.duration_ns(),
            connect_ns: flow.connect_ns(),
            bytes_sent: volume.bytes_sent,
            bytes_received: volume.bytes_received,
            segments_sent: volume.segments_sent,
            segments_received: volume.segments_received,
            retransmits: volume.retransmits.total(),
            retransmits_by_type: Some((&volume.retransmits).into()),
            is_smoothed: flow.rtt_kind == RttKind::Smoothed,
            rtt: Some((&flow.rtt).into()),
            exchanges: Some((&flow.exchanges).into()),
            close_reason: flow.outcome.map(|outcome| outcome.name().to_owned()),
            is_failure: flow.is_failure(),
            trace_high: (flow.trace.trace_id >> 64) as u64,
            trace_low: flow.trace.trace_id as u64,
            span_id: flow.trace.span_id,
            receive_window_limited_us: flow.socket.map_or(0, |of| of.receive_window_limited_us),
            send_buffer_limited_us: flow.socket.map_or(0, |of| of.send_buffer_limited_us),
            name: flow.name.as_ref().map(ToString::to_string),
            series: flow.series.map(|id| id.0),
            pid: process.map(|of| of.pid.get()),
            process: process.and_then(|of| Some(of.name.as_ref()?.to_string())),
            container: flow.origin.container.as_ref().map(ToString::to_string),
            asked: Some(flow.asked())
                .filter(|asked| *asked != flow.peer)
                .map(Address::from),
        }
    }

    /// The row of a flow that is open at this time.
    pub fn open(flow: &Flow, anchor: &Anchor, now: Monotonic) -> Self {
        let established = flow.established;
        Self {
            duration_ns: established.map(|established| now.since_ns(established)),
            ..Self::of(flow, anchor)
        }
    }

    /// Which end of the handshake this is.
    pub fn role(&self) -> Role {
        self.end().into()
    }

    /// This end.
    pub fn local(&self) -> SocketAddr {
        socket_address(self.local.as_ref())
    }

    /// The other end.
    pub fn peer(&self) -> SocketAddr {
        socket_address(self.peer.as_ref())
    }

    /// What a client asked for in `connect()`, where that is not the peer.
    pub fn asked(&self) -> Option<SocketAddr> {
        self.asked.as_ref().map(|asked| socket_address(Some(asked)))
    }

    /// The name that a client asked a resolver for: printable text.
    pub fn server_name(&self) -> Option<String> {
        self.name.as_deref().map(printable)
    }

    /// What the process is called: printable text.
    pub fn process_name(&self) -> Option<String> {
        self.process.as_deref().map(printable)
    }

    /// The process in few characters: `curl (4711)`, or its number alone.
    pub fn process_text(&self) -> Option<String> {
        let pid = self.pid?;
        Some(match self.process_name() {
            Some(name) => format!("{name} ({pid})"),
            None => format!("process {pid}"),
        })
    }

    /// The server as its client asked for it; `None` at the other end.
    pub fn server_of_client(&self) -> Option<SocketAddr> {
        let server = self.asked().unwrap_or_else(|| self.peer());
        (self.role() == Role::Client).then_some(server)
    }

    /// RTT samples.
    pub fn rtt(&self) -> Times {
        self.rtt.unwrap_or_default()
    }

    /// Exchanges: last byte of a request to first byte of its response.
    pub fn exchanges(&self) -> Times {
        self.exchanges.unwrap_or_default()
    }

    /// The trace id.
    pub const fn trace_id(&self) -> u128 {
        (self.trace_high as u128) << 64 | self.trace_low as u128
    }
}

/// Whoever chose the name chose its characters, too.
fn printable(text: &str) -> String {
    let printable = |each: char| match each.is_ascii_graphic() {
        true => each,
        false => '?',
    };
    text.chars().map(printable).collect()
}

impl From<Role> for End {
    fn from(role: Role) -> Self {
        match role {
            Role::Client => Self::Client,
            Role::Server => Self::Server,
            Role::Unknown => Self::Unknown,
        }
    }
}

impl From<End> for Role {
    fn from(end: End) -> Self {
        match end {
            End::Client => Self::Client,
            End::Server => Self::Server,
            End::Unknown => Self::Unknown,
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(socket: SocketAddr) -> Self {
        Self {
            address: match socket.ip() {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            },
            port: socket.port().into(),
        }
    }
}

/// The unspecified address where there is none, or none of a known length.
fn socket_address(of: Option<&Address>) -> SocketAddr {
    let (bytes, port) = of.map_or((&[][..], 0), |of| (&of.address[..], of.port));
    let address = <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    (address, u16::try_from(port).unwrap_or_default()).into()
}

impl From<&Histogram> for Times {
    fn from(histogram: &Histogram) -> Self {
        let quantile = |q| histogram.quantile_s(q).map(|s| (s * 1e9).round() as u64);
        Self {
            count: histogram.count(),
            min_ns: histogram.min_ns(),
            p50_ns: quantile(0.5),
            p99_ns: quantile(0.99),
            sum_ns: Some(u64::try_from(histogram.sum_ns()).unwrap_or(u64::MAX)),
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::flow::example;

    #[test]
    fn row_is_the_same_after_it_was_sent() {
        let anchor = Anchor::new(Monotonic(0), 1_000);
        for peer in ["10.1.2.3:80", "[2001:db8::1]:443", "0.0.0.0:0"] {
            let mut flow = example::closed(7);
            flow.peer = peer.parse().expect("an address");
            flow.rtt.record(5_000_000);
            let row = Row::of(&flow, &anchor);
            let sent = Row::decode(&row.encode_to_vec()[..]).expect("a row");
            assert_eq!(sent, row);
            assert_eq!((sent.peer(), sent.local()), (flow.peer, flow.local));
            assert_eq!(sent.trace_id(), flow.trace.trace_id);
            assert_eq!(sent.role(), flow.role);
            assert_eq!(sent.rtt().min_ns, Some(5_000_000));
        }
    }

    #[test]
    fn row_of_a_later_version_is_read() {
        let mut sent = Row::of(&example::closed(7), &Anchor::new(Monotonic(0), 0));
        sent.end = 99;
        sent.peer = Some(Address {
            address: vec![1; 5],
            port: 70_000,
        });
        let row = Row::decode(&sent.encode_to_vec()[..]).expect("a row");
        assert_eq!(row.role(), Role::Unknown);
        assert_eq!(row.peer().to_string(), "[::]:0");
    }
}
