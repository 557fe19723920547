//! Where every connection is.

use std::collections::BTreeMap;

/// What cost a connection its place in the figures (`flowcar.lost`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lost {
    /// The kernel refused socket storage.
    Storage,
    /// The kernel refused to arm the socket's callbacks.
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
    /// It ended while no flowcar followed: between the last report of the one before this and this one's first look.
    Restart,
}

impl Lost {
    /// The value of `flowcar.lost`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Storage => "socket_storage",
            Self::Callbacks => "callbacks",
            Self::RingFull => "ring_full",
            Self::Malformed => "malformed_record",
            Self::Overrun => "destroy_overrun",
            Self::Wiped => "wiped",
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
