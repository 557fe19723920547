//! How flows close, and why attempts fail.

/// How an established connection ended (`flowcar.tcp.close.reason`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CloseReason {
    /// This end sent the first FIN.
    LocalFin,
    /// The peer sent the first FIN.
    PeerFin,
    /// This end sent a RST.
    ResetSent,
    /// The peer sent a RST.
    ResetReceived,
    /// A RST; which end sent it was not seen.
    Reset,
    /// A timer of the kernel expired: retransmissions or probes were not answered.
    Timeout,
    /// Not seen.
    Unknown,
}

impl CloseReason {
    /// Every reason.
    pub const ALL: [Self; 7] = [
        Self::LocalFin,
        Self::PeerFin,
        Self::ResetSent,
        Self::ResetReceived,
        Self::Reset,
        Self::Timeout,
        Self::Unknown,
    ];

    /// The value of `flowcar.tcp.close.reason`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LocalFin => "local_fin",
            Self::PeerFin => "peer_fin",
            Self::ResetSent => "reset_sent",
            Self::ResetReceived => "reset_received",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Unknown => "unknown",
        }
    }

    /// Whether the connection was cut off rather than closed.
    pub const fn is_error(self) -> bool {
        matches!(
            self,
            Self::ResetSent | Self::ResetReceived | Self::Reset | Self::Timeout
        )
    }
}

/// How a connection closed, as metrics count it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CountedClose {
    /// The close reason.
    pub reason: CloseReason,
    /// Whether that was a failure (`error.type`): a health check that resets by design is none.
    pub is_failure: bool,
}

impl From<CloseReason> for CountedClose {
    /// Of a connection that was no health check.
    fn from(reason: CloseReason) -> Self {
        Self {
            reason,
            is_failure: reason.is_error(),
        }
    }
}

/// Why a connection attempt failed (`error.type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Failure {
    /// The peer answered the SYN with a RST.
    Refused,
    /// No answer until the kernel timed the attempt out.
    Timeout,
    /// A RST came after the peer had answered.
    Reset,
    /// An ICMP error came: destination unreachable, time exceeded or parameter problem.
    Unreachable,
    /// The application dropped it: `close()`, `shutdown()`, `connect(AF_UNSPEC)`, a timer of its own, or its process's exit; or an
    /// operator did (`ss -K`).
    Abandoned,
    /// This end could not send its SYN.
    Local,
    /// Not seen.
    Other,
}

impl Failure {
    /// Every failure.
    pub const ALL: [Self; 7] = [
        Self::Refused,
        Self::Timeout,
        Self::Reset,
        Self::Unreachable,
        Self::Abandoned,
        Self::Local,
        Self::Other,
    ];

    /// The value of `error.type`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::Unreachable => "unreachable",
            Self::Abandoned => "abandoned",
            Self::Local => "local",
            Self::Other => "_OTHER",
        }
    }
}

/// What became of a connection or of the attempt at one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It was established and closed.
    Closed(CloseReason),
    /// It was never established.
    Failed(Failure),
}

impl Outcome {
    /// The value of `flowcar.tcp.close.reason` of a connection, of `error.type` of an attempt, and of `close_reason` in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed(reason) => reason.name(),
            Self::Failed(failure) => failure.name(),
        }
    }

    /// Whether a span of it has the status error.
    pub const fn is_error(self) -> bool {
        match self {
            Self::Closed(reason) => reason.is_error(),
            Self::Failed(_) => true,
        }
    }
}
