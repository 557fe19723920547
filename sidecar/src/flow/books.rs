//! Where every connection is.

use std::collections::BTreeMap;

use flowcar_shared::counter::Counter;

/// What cost a connection its place in the figures (`flowcar.tcp.lost.reason`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lost {
    /// The kernel refused socket storage, or flowcar's memory limit has no room for it.
    Storage,
    /// The kernel refused to arm the socket's callbacks; or another program took them off, so that its end was not told: looks do
    /// not show it any more.
    Callbacks,
    /// The ring buffer was full when the connection closed.
    RingFull,
    /// The record of its close did not decode.
    Malformed,
    /// More sockets closed at once than the destroy group's receive buffer holds, and this one's news was not seen since.
    Overrun,
    /// Its socket was disconnected before it was first seen (a reset by `SO_LINGER`, a server's multipath subflow), which wiped
    /// its counts and its peer's address.
    Wiped,
    /// It ended while flowcar's programs were detached: somebody else took them off the cgroup.
    Detached,
    /// It ended while no flowcar followed: between the last report of the one before this and this one's first look.
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
        Self::Wiped,
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
            Self::Wiped => "wiped",
            Self::Detached => "detached",
            Self::Restart => "restart",
        }
    }
}

/// Where every connection is: `opened = closed + live + lost`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Books {
    /// Established under our eyes, by the kernel's own count, those that were found open or told of by their end, and those
    /// that were lost to the restart.
    pub opened: u64,
    /// Reported closed, with everything that was to be known.
    pub closed: u64,
    /// Neither reported closed nor lost.
    pub live: u64,
    /// Attempts that were never established; not among the opened.
    pub failed: u64,
    /// Connections of which the end is not known, by what cost it.
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

/// Records of flows that go on and have not been heard, where so many were, though the kernel counted them before: of others that
/// came since the ring was drained, and of all behind one that is being written. For some it is the first word of their connection.
pub fn waiting(kernel: impl Fn(Counter) -> u64, heard: u64) -> u64 {
    let to_be_sent = kernel(Counter::Established) + kernel(Counter::Sampled);
    let not_sent = [
        Counter::StorageRefused,
        Counter::ArmRefused,
        Counter::OpenDropped,
        Counter::SampleDropped,
    ];
    let not_sent: u64 = not_sent.into_iter().map(kernel).sum();
    to_be_sent.saturating_sub(not_sent + heard)
}
