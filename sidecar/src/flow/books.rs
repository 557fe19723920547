//! The books: every connection is closed, live or lost.

use std::collections::BTreeMap;

use flowcar_shared::counter::Counter;

/// Why a connection was lost (`flowcar.tcp.lost.reason`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lost {
    /// The kernel refused socket storage, or flowcar's memory limit has no room for it.
    Storage,
    /// The kernel refused to arm the socket's callbacks; or another program disabled them, so that its close was not
    /// reported: polls do not show it any more.
    Callbacks,
    /// The ring buffer was full when the connection closed.
    RingFull,
    /// The record of its close did not decode.
    Malformed,
    /// More sockets closed at once than the destroy group's receive buffer holds, and this one's destroy event was dropped.
    Overrun,
    /// Its socket was disconnected before it was first seen (a reset by `SO_LINGER`, a server's multipath subflow), which
    /// erased its counts and its peer's address.
    Disconnected,
    /// It closed while flowcar's programs were detached from the cgroup by another process.
    Detached,
    /// It closed while no flowcar followed it: between the last report of the previous flowcar and this one's first poll.
    Restart,
}

impl Lost {
    /// Every cause.
    pub const ALL: [Self; 8] = [
        Self::Storage,
        Self::Callbacks,
        Self::RingFull,
        Self::Malformed,
        Self::Overrun,
        Self::Disconnected,
        Self::Detached,
        Self::Restart,
    ];

    /// The value of `flowcar.tcp.lost.reason`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Storage => "socket_storage",
            Self::Callbacks => "callbacks",
            Self::RingFull => "ring_full",
            Self::Malformed => "malformed_record",
            Self::Overrun => "destroy_overrun",
            Self::Disconnected => "disconnected",
            Self::Detached => "detached",
            Self::Restart => "restart",
        }
    }
}

/// Every connection, by what became of it: `opened = closed + live + lost`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Books {
    /// Established while the programs were attached, by the kernel's count; found open by a poll; reported only by their close; and
    /// lost to the restart.
    pub opened: u64,
    /// Reported closed, with a close reason and all counts.
    pub closed: u64,
    /// Neither reported closed nor lost.
    pub live: u64,
    /// Attempts that were never established; not among the opened.
    pub failed: u64,
    /// Connections whose close is not known, by reason.
    pub lost: BTreeMap<Lost, u64>,
}

impl Books {
    /// Connections lost for any reason.
    pub fn lost_total(&self) -> u64 {
        self.lost.values().sum()
    }

    /// How many more are closed or lost than were opened.
    pub fn excess(&self) -> u64 {
        (self.closed + self.lost_total()).saturating_sub(self.opened)
    }

    /// Whether `opened = closed + live + lost`.
    pub fn balance(&self) -> bool {
        self.opened == self.closed + self.live + self.lost_total()
    }
}

/// Open and sample records that the kernel counted and that were not received yet, where `seen` were: those sent since the ring was
/// drained, and all behind one that is being written. Some are the first record of their connection.
pub fn waiting(kernel: impl Fn(Counter) -> u64, seen: u64) -> u64 {
    let to_be_sent = kernel(Counter::Established) + kernel(Counter::Sampled);
    let not_sent = [
        Counter::StorageRefused,
        Counter::ArmRefused,
        Counter::OpenDropped,
        Counter::SampleDropped,
    ];
    let not_sent: u64 = not_sent.into_iter().map(kernel).sum();
    to_be_sent.saturating_sub(not_sent + seen)
}
