use std::time::Duration;

use super::packet::TcpSummary;

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the first namespace to the second.
    AtoB,
    /// From the second namespace to the first.
    BtoA,
}

// === impl Direction ===

impl Direction {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::AtoB, Self::BtoA];

    /// The other one.
    pub fn opposite(self) -> Self {
        match self {
            Self::AtoB => Self::BtoA,
            Self::BtoA => Self::AtoB,
        }
    }

    /// Index of the device that packets of this direction come from.
    pub(super) fn origin(self) -> usize {
        self as usize
    }

    /// Index of the device that packets of this direction go to.
    pub(super) fn target(self) -> usize {
        self.opposite() as usize
    }
}

/// The fate of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    /// It is still on its way.
    InFlight,
    /// It arrived, and no later packet arrived before it.
    Delivered,
    /// It arrived after one that had entered later.
    Reordered,
    /// The plan dropped it.
    Dropped,
    /// The other end's device refused it (it is down, or removed).
    Refused,
}

/// One packet and what the link did to it.
#[derive(Clone, Copy, Debug)]
pub struct PacketRecord {
    /// Which way it went.
    pub direction: Direction,
    /// When the emulator took it from the sender's device, CLOCK_MONOTONIC.
    pub entered: Duration,
    /// When it was handed to the receiver's device, CLOCK_MONOTONIC.
    pub left: Option<Duration>,
    /// Bytes, IP header included.
    pub length: u32,
    /// Its TCP headers, unless it is something else.
    pub tcp: Option<TcpSummary>,
    /// Its fate.
    pub fate: Fate,
    /// Whether it is a copy that the link made of the packet recorded before it.
    pub copy: bool,
}

// === impl PacketRecord ===

impl PacketRecord {
    /// The delay that the link truly gave it, if it arrived.
    pub fn delay(&self) -> Option<Duration> {
        self.left?.checked_sub(self.entered)
    }

    /// Whether its TCP headers satisfy `test`.
    pub fn is(&self, test: impl FnOnce(&TcpSummary) -> bool) -> bool {
        self.tcp.as_ref().is_some_and(test)
    }
}
