use std::{io, net::SocketAddr, time::Duration};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::{options::Close, tcp_info::TcpInfo};

/// Significant decimal digits kept of each duration.
const DIGITS: u8 = 3;

/// Which end reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The end that connected.
    Client,
    /// The end that accepted.
    Server,
}

/// One finished connection as its application reports it. Bytes are payload; times are nanoseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConnectionReport {
    /// Which end reports.
    pub role: Role,
    /// Local address; none when the connection was never established.
    pub local: Option<SocketAddr>,
    /// The other end's address.
    pub peer: SocketAddr,
    /// Bytes that the socket took.
    pub sent: u64,
    /// Bytes that were read.
    pub received: u64,
    /// Exchanges that were completed.
    pub exchanges: u64,
    /// How long connect() took, also when it failed; none on the server.
    pub connect_ns: Option<u64>,
    /// Client: from the first byte of a request written to the last of its response read. Server: from the
    /// last byte of a request read to the first of its response written.
    pub exchange: Percentiles,
    /// How it was to be closed; none on the server.
    pub close: Option<Close>,
    /// The failure, if any.
    pub failure: Option<Failure>,
    /// The kernel's view, read just before this end closed.
    pub tcp_info: Option<TcpInfo>,
}

/// A failure and its phase.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// In which phase of the connection.
    pub phase: Phase,
    /// What it was.
    pub kind: FailureKind,
    /// The operating system's message.
    pub message: String,
}

/// A phase of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Before the connection was established.
    Connect,
    /// During the exchanges.
    Exchange,
    /// After the last exchange.
    Close,
}

/// Kinds of errors of TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// ECONNREFUSED.
    Refused,
    /// ETIMEDOUT, or the application's own time-out.
    Timeout,
    /// ECONNRESET or EPIPE.
    Reset,
    /// EHOSTUNREACH or ENETUNREACH.
    Unreachable,
    /// The peer closed in the middle of an exchange.
    EndOfStream,
    /// Anything else; see the message.
    Other,
}

/// A distribution of durations in nanoseconds, exact to three digits. All zero when the count is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Percentiles {
    /// How many were measured.
    pub count: u64,
    /// The smallest.
    pub min_ns: u64,
    /// Half of them are at most this.
    pub p50_ns: u64,
    /// 90 % of them are at most this.
    pub p90_ns: u64,
    /// 99 % of them are at most this.
    pub p99_ns: u64,
    /// The largest.
    pub max_ns: u64,
}

/// Collects durations.
#[derive(Clone, Debug)]
pub(super) struct Stopwatch(Histogram<u64>);

// === impl Failure ===

impl Failure {
    pub(super) fn new(phase: Phase, error: &io::Error) -> Self {
        Self {
            phase,
            kind: FailureKind::of(error),
            message: error.to_string(),
        }
    }
}

// === impl FailureKind ===

impl FailureKind {
    fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            // WouldBlock: SO_RCVTIMEO or SO_SNDTIMEO ran out.
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Self::Timeout,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Reset,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Self::Unreachable,
            io::ErrorKind::UnexpectedEof => Self::EndOfStream,
            _ => Self::Other,
        }
    }
}

// === impl Stopwatch ===

impl Stopwatch {
    pub(super) fn new() -> io::Result<Self> {
        Histogram::new(DIGITS).map(Self).map_err(io::Error::other)
    }

    pub(super) fn record(&mut self, duration: Duration) {
        // It resizes itself, so only running out of memory for it could fail, and that aborts.
        let _ = self.0.record(nanoseconds(duration));
    }

    pub(super) fn add(&mut self, other: &Self) -> io::Result<()> {
        self.0.add(&other.0).map_err(io::Error::other)
    }

    pub(super) fn percentiles(&self) -> Percentiles {
        if self.0.is_empty() {
            return Percentiles::default();
        }
        Percentiles {
            count: self.0.len(),
            min_ns: self.0.min(),
            p50_ns: self.0.value_at_quantile(0.5),
            p90_ns: self.0.value_at_quantile(0.9),
            p99_ns: self.0.value_at_quantile(0.99),
            max_ns: self.0.max(),
        }
    }
}

pub(super) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
