//! What a flowcar answers once an interval: its books, its peers, and the connections of one of them. Pure.

use std::{collections::BTreeMap, fmt, net::SocketAddr, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::histogram::Histogram;

/// Which end of the handshake.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The end that connects.
    Client,
    /// The end that accepts.
    Server,
    /// The handshake was not seen.
    #[default]
    #[serde(other)]
    Unknown,
}

/// A peer, in all flowcars that have it: `client api.example.com:443`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Which end this is.
    pub role: Role,
    /// The peer with its port.
    pub name: String,
}

/// An answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// The books, and when they were so.
    pub books: Books,
    /// Every series.
    pub peers: Vec<PeerCounts>,
    /// Series that there was no room for.
    pub left_out: u64,
    /// The connections of a peer, where they were asked for.
    pub connections: Option<Connections>,
}

/// The books of a flowcar.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Books {
    /// When, nanoseconds since the Unix epoch.
    pub at_unix_ns: u64,
    /// `flowcar.source`
    pub source: String,
    /// Connections opened or adopted.
    pub opened: u64,
    /// Connections closed.
    pub closed: u64,
    /// Connections open.
    pub live: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Connections lost, by `flowcar.tcp.lost.reason`.
    pub lost: BTreeMap<String, u64>,
}

/// The flows of one peer since flowcar began to count.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PeerCounts {
    /// The number of the series. Another process numbers anew.
    pub series: u64,
    /// Which end of the handshake this is.
    pub role: Role,
    /// The peer with its port: `api.example.com:443`, `clients of :8080`.
    pub name: String,
    /// Connections opened.
    pub opened: u64,
    /// Connections open now.
    pub live: u64,
    /// Connections that were cut off.
    pub cut_off: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Payload bytes that the peer acknowledged.
    pub bytes_sent: u64,
    /// Payload bytes received.
    pub bytes_received: u64,
    /// Segments sent.
    pub segments_sent: u64,
    /// SYNs and SYN-ACKs sent again.
    pub handshake_retransmits: u64,
    /// Other segments sent again.
    pub data_retransmits: u64,
    /// Both by type; absent where the flowcar is older.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retransmits_by_type: Option<RetransmitCounts>,
    /// Time that connections had data to send and no room in the peer's window, microseconds.
    pub receive_window_limited_us: u64,
    /// Time that connections had data to send and no room in the send buffer, microseconds.
    pub send_buffer_limited_us: u64,
    /// `flowcar.tcp.connect.duration` of attempts that succeeded.
    #[serde(with = "crate::buckets")]
    pub connect: Histogram,
    /// `flowcar.tcp.rtt`, measured and smoothed.
    #[serde(with = "crate::buckets")]
    pub rtt: Histogram,
    /// `flowcar.tcp.exchange.duration`
    #[serde(with = "crate::buckets")]
    pub exchange: Histogram,
}

/// Open connections of one peer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Connections {
    /// The peer that was asked for, as [`Key`] writes it.
    pub of: String,
    /// The connections.
    pub all: Vec<ConnectionCounts>,
    /// Connections that there was no room for.
    pub left_out: u64,
    /// Those that closed last, the newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub closed: Vec<ClosedCounts>,
}

/// An open connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConnectionCounts {
    /// The kernel's socket cookie.
    pub cookie: u64,
    /// This end.
    pub local: SocketAddr,
    /// The other end.
    pub peer: SocketAddr,
    /// Since it was established, nanoseconds.
    pub duration_ns: Option<u64>,
    /// Payload bytes that the peer acknowledged.
    pub bytes_sent: u64,
    /// Payload bytes received.
    pub bytes_received: u64,
    /// Segments sent.
    pub segments_sent: u64,
    /// Segments sent again.
    pub retransmits: u64,
    /// The same by type; absent where the flowcar is older.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retransmits_by_type: Option<RetransmitCounts>,
    /// Time that it had data to send and no room in the peer's window, microseconds.
    pub receive_window_limited_us: u64,
    /// Time that it had data to send and no room in its send buffer, microseconds.
    pub send_buffer_limited_us: u64,
    /// Half of its round trips took no longer, nanoseconds.
    pub rtt_p50_ns: Option<u64>,
    /// 99 of 100 took no longer, nanoseconds.
    pub rtt_p99_ns: Option<u64>,
    /// How many round trips were measured, and how long they took together; absent where the flowcar is older.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_sum: Option<RttSum>,
    /// 99 of 100 exchanges took no longer, nanoseconds.
    pub exchange_p99_ns: Option<u64>,
    /// Whose socket it is, where that is known: the name and the number of the process.
    #[serde(default)]
    pub process: Option<String>,
}

#[cfg(test)]
impl ConnectionCounts {
    /// One of which nothing was measured.
    pub(crate) fn unmeasured(cookie: u64, local: SocketAddr, peer: SocketAddr) -> Self {
        Self {
            cookie,
            local,
            peer,
            duration_ns: None,
            bytes_sent: 0,
            bytes_received: 0,
            segments_sent: 0,
            retransmits: 0,
            retransmits_by_type: None,
            receive_window_limited_us: 0,
            send_buffer_limited_us: 0,
            rtt_p50_ns: None,
            rtt_p99_ns: None,
            rtt_sum: None,
            exchange_p99_ns: None,
            process: None,
        }
    }
}

/// A connection that closed, with what it had then.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClosedCounts {
    /// The kernel's socket cookie.
    pub cookie: u64,
    /// `flowcar.tcp.close.reason`
    pub reason: String,
    /// Whether it was cut off.
    pub is_failure: bool,
    /// Since it was established, nanoseconds.
    pub duration_ns: Option<u64>,
    /// Payload bytes that the peer acknowledged.
    pub bytes_sent: u64,
    /// Payload bytes received.
    pub bytes_received: u64,
    /// Segments sent.
    pub segments_sent: u64,
    /// Segments sent again.
    pub retransmits: RetransmitCounts,
}

/// Segments sent again, by `flowcar.tcp.retransmit.type`. What a flowcar does not send is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RetransmitCounts {
    /// SYN: the client's.
    pub syn: u64,
    /// SYN-ACK: the server's.
    pub synack: u64,
    /// By fast recovery.
    pub fast: u64,
    /// After the retransmission timer expired.
    pub timeout: u64,
    /// By a tail loss probe.
    pub tail_loss_probe: u64,
    /// Cause not seen.
    pub unknown: u64,
}

/// Round trips added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RttSum {
    /// How many.
    pub count: u64,
    /// How long they took together, nanoseconds.
    pub sum_ns: u64,
}

// === impl Role ===

impl Role {
    const fn word(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
            Self::Unknown => "unknown",
        }
    }
}

// === impl Key ===

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.role.word(), self.name)
    }
}

impl FromStr for Key {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (role, name) = text.split_once(' ').ok_or(())?;
        let all = [Role::Client, Role::Server, Role::Unknown];
        let role = all.into_iter().find(|of| of.word() == role).ok_or(())?;
        let name = name.to_owned();
        Ok(Self { role, name })
    }
}

// === impl PeerCounts ===

impl PeerCounts {
    /// The peer, in all flowcars.
    pub fn key(&self) -> Key {
        Key {
            role: self.role,
            name: self.name.clone(),
        }
    }

    /// Segments sent again.
    pub const fn retransmits(&self) -> u64 {
        self.handshake_retransmits
            .saturating_add(self.data_retransmits)
    }
}

// === impl RetransmitCounts ===

impl RetransmitCounts {
    /// The count of each type, by the type's name.
    pub const fn named(&self) -> [(&'static str, u64); 6] {
        [
            ("syn", self.syn),
            ("synack", self.synack),
            ("fast", self.fast),
            ("timeout", self.timeout),
            ("tail_loss_probe", self.tail_loss_probe),
            ("unknown", self.unknown),
        ]
    }

    /// Segments sent again for any cause.
    pub fn total(&self) -> u64 {
        let counts = self.named().into_iter();
        counts.fold(0, |sum, (_, count)| sum.saturating_add(count))
    }

    /// What was added since an earlier time.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        self.with(earlier, u64::saturating_sub)
    }

    /// Both together.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        self.with(other, u64::saturating_add)
    }

    fn with(&self, other: &Self, of: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            syn: of(self.syn, other.syn),
            synack: of(self.synack, other.synack),
            fast: of(self.fast, other.fast),
            timeout: of(self.timeout, other.timeout),
            tail_loss_probe: of(self.tail_loss_probe, other.tail_loss_probe),
            unknown: of(self.unknown, other.unknown),
        }
    }
}
