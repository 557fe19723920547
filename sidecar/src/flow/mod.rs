//! What a flow is: one TCP connection as seen from one of its ends. Pure: no clock, no I/O.

mod asked;
mod attempt;
mod books;
pub mod checkpoint;
mod close_reason;
mod counts;
mod cut_off;
mod event;
#[cfg(test)]
pub(crate) mod example;
mod exchanges;
mod history;
mod interim;
mod listener;
mod malformed;
mod memory;
mod origin;
mod pending_closes;
mod raw;
mod record;
mod restored;
mod shown;
mod socket_snapshot;
mod table;
mod trace;
mod watermark;

use std::net::SocketAddr;

pub use asked::Asked;
pub use attempt::{AttemptJudge, LastSeen, NamespaceCounts, Unanswered};
pub use books::{Books, Lost, waiting};
pub use close_reason::{CloseReason, CountedClose, Failure, Outcome};
pub use counts::{Retransmits, Volume};
pub use cut_off::{Answers, CloseEvidence, Timer, Verdict};
pub use event::Event;
pub use exchanges::Exchanges;
pub use flowcar_shared::record::Role;
pub use history::{CloseSummary, History};
pub use interim::{Instant, InterimSpan, InterimSpans, SpanTime};
pub use listener::Listener;
pub use malformed::Malformed;
pub use origin::{
    Caller, ContainerId, ListenerName, Origin, OriginEvent, Process, SharedText, SocketNetns,
};
pub use pending_closes::{CloseEvent, OtherEnd, PendingCloses};
pub use record::{FailedAttempt, Record, decode, evidence, kind_of};
pub use restored::EndedWhileUnfollowed;
pub use socket_snapshot::{PostCloseState, SocketName, SocketSnapshot, State, TcpInfo};
pub use table::{
    ABSENT, Absent, Adopt, Adoption, Change, EstablishedFlow, Listing, PollContext, Table,
};
pub use trace::TraceIdentity;
use watermark::PayloadWatermark;

use crate::histogram::Histogram;

/// `CLOCK_MONOTONIC` nanoseconds, the kernel's time for flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Monotonic(pub u64);

impl Monotonic {
    /// Nanoseconds since `earlier`; 0 if that lies later.
    pub const fn since_ns(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A name in the Domain Name System, in lower case, without the dot at its end.
pub type Name = SharedText;

/// A series, as long as flowcar runs: it is given once, to the first flow of the series, and never to another series.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeriesId(pub u64);

/// Why a connection's handshake was not seen (`flowcar.tcp.adopted.by`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AdoptedBy {
    /// It was open before flowcar followed.
    Startup,
    /// It was open, and the previous flowcar had counted it.
    Restart,
}

impl AdoptedBy {
    /// Every reason.
    pub const ALL: [Self; 2] = [Self::Startup, Self::Restart];

    /// The value of `flowcar.tcp.adopted.by`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Restart => "restart",
        }
    }
}

/// The kind of a flow's RTT samples (`flowcar.tcp.rtt.kind`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RttKind {
    /// Measured, one a round trip.
    Measured,
    /// The kernel's smoothed value: all that kernels before 6.10 give.
    Smoothed,
}

impl RttKind {
    /// Both kinds.
    pub const ALL: [Self; 2] = [Self::Measured, Self::Smoothed];
}

/// The socket's figures (`tcp_info`), as of its last poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketFigures {
    /// Time that it had data to send and no room in the peer's window, microseconds.
    pub receive_window_limited_us: u64,
    /// Time that it had data to send and no room in its send buffer, microseconds.
    pub send_buffer_limited_us: u64,
    /// The least RTT, microseconds: of the last 5 minutes (sysctl tcp_min_rtt_wlen).
    pub min_rtt_us: Option<u32>,
    /// The newest delivery rate, bytes a second.
    pub delivery_rate: Option<u64>,
    /// Whether payload counts are exact. Not so where it is uncertain whether the peer's FIN is among the bytes received, or where a
    /// disconnect erased the counts, which then are those of the last poll.
    pub exact: bool,
}

/// All that is known of one flow at one time.
#[derive(Clone, Debug)]
pub struct Flow {
    /// The kernel's socket cookie.
    pub cookie: u64,
    /// Which end of the handshake this is.
    pub role: Role,
    /// This end. IPv4-mapped addresses are given as IPv4.
    pub local: SocketAddr,
    /// The other end.
    pub peer: SocketAddr,
    /// Trace and span ids; random for flows whose handshake was not seen.
    pub trace: TraceIdentity,
    /// SYN sent (client) or established (server); for a client, too, if its SYN was not seen.
    pub started: Monotonic,
    /// Handshake complete; `None` for an attempt that failed.
    pub established: Option<Monotonic>,
    /// When the kernel last reported it; for a closed flow the time of the close.
    pub seen: Monotonic,
    /// Counts so far.
    pub volume: Volume,
    /// RTT samples so far.
    pub rtt: Histogram,
    /// What kind of samples they are.
    pub rtt_kind: RttKind,
    /// Exchanges so far, last byte of the request to first byte of the response; empty where not measured.
    pub exchanges: Histogram,
    /// What its application asked for in `connect()`, where that is not the peer's address and port: something between them chose another,
    /// as a socket load balancer does. `None` also where the call was not seen.
    pub asked: Option<Box<SocketAddr>>,
    /// The name that its application asked a resolver for, of a client; see [`crate::peer`].
    pub name: Option<Name>,
    /// Whose socket it is.
    pub origin: Origin,
    /// Whether its begin was seen: a client's SYN.
    pub start_seen: bool,
    /// Whether socket dumps alone report it: then its start is the first of them, or its end.
    pub polled: bool,
    /// Why its handshake was not seen, for a connection that was open before flowcar followed. `None` for all that opened since, even
    /// where a dump showed them first.
    pub adopted: Option<AdoptedBy>,
    /// The socket's figures; `None` where it was never polled.
    pub socket: Option<SocketFigures>,
    /// The close reason or failure; `None` while it is open.
    pub outcome: Option<Outcome>,
    /// Whether a RST closed it after the peer had closed its direction.
    pub reset_after_fin: bool,
    /// The series that it is counted in; `None` until it is counted.
    pub series: Option<SeriesId>,
}

impl Flow {
    /// Whether it was established at a time that is not known: socket dumps alone report it.
    pub const fn established_unseen(&self) -> bool {
        self.established.is_some() && self.polled
    }

    /// The server's address and port: of a client what it asked for. `None` where the role is unknown.
    pub fn server(&self) -> Option<SocketAddr> {
        match self.role {
            Role::Server => Some(self.local),
            Role::Client => Some(self.asked()),
            Role::Unknown => None,
        }
    }

    /// What a client's application asked for; else the peer.
    pub fn asked(&self) -> SocketAddr {
        self.asked.as_deref().copied().unwrap_or(self.peer)
    }

    /// The port that names the service: the server's. `None` where the role is unknown, and where the socket is disconnected.
    pub fn server_port(&self) -> Option<u16> {
        let port = self.server()?.port();
        (port != 0).then_some(port)
    }

    /// SYN sent to established, or to failure, nanoseconds: clients only, once either has come, if both were seen.
    pub fn connect_ns(&self) -> Option<u64> {
        if !self.start_seen {
            return None;
        }
        let done = match (self.role, self.established, self.outcome) {
            (Role::Client, Some(established), _) => established,
            (Role::Client, None, Some(_)) => self.seen,
            _ => return None,
        };
        Some(done.since_ns(self.started))
    }

    /// Whether it failed: it was cut off, or never established. A health check is no failure.
    pub fn is_failure(&self) -> bool {
        let is_error = self.outcome.is_some_and(|outcome| outcome.is_error());
        is_error && !self.is_health_check()
    }

    /// How it closed, as metrics count it; `None` while it is open, and of a failed attempt.
    pub fn counted_close(&self) -> Option<CountedClose> {
        match self.outcome {
            Some(Outcome::Closed(reason)) => Some(CountedClose {
                reason,
                is_failure: self.is_failure(),
            }),
            _ => None,
        }
    }

    /// Whether the end that opened it reset it before it sent any payload, as health checks do by design: keepalived's TCP_CHECK and
    /// HAProxy's `check` close with SO_LINGER 0, or with the greeting of a server that speaks first unread. Where the server's end does
    /// not know who sent the RST, it was most likely such a check. A client that is reset before it could send anything is none: its
    /// server refused it.
    fn is_health_check(&self) -> bool {
        let Some(Outcome::Closed(reason)) = self.outcome else {
            return false;
        };
        match (self.role, reason) {
            (Role::Client, CloseReason::ResetSent) => self.volume.bytes_sent == 0,
            (Role::Server, CloseReason::ResetReceived | CloseReason::Reset) => {
                self.volume.bytes_received == 0
            }
            _ => false,
        }
    }

    /// Established to closed, or to the last record or poll, nanoseconds; `None` for a failed attempt.
    pub fn duration_ns(&self) -> Option<u64> {
        self.established
            .map(|established| self.seen.since_ns(established))
    }
}
