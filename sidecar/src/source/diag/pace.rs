//! How often sockets are dumped.

use std::time::{Duration, Instant};

/// What a socket costs in a dump.
const PER_SOCKET: Duration = Duration::from_nanos(2_000);

/// The share of one CPU's time that dumps may take.
const SHARE: u32 = 500;

/// The least time between two dumps that show this many sockets, where there is a report every `report`.
pub fn interval(sockets: u64, report: Duration) -> Duration {
    let sockets = u32::try_from(sockets).unwrap_or(u32::MAX);
    report.max(PER_SOCKET.saturating_mul(sockets).saturating_mul(SHARE))
}

/// When the next dump is due.
#[derive(Debug)]
pub struct Pace {
    report: Duration,
    next: Option<Instant>,
}

impl Pace {
    /// The first dump is due at once.
    pub const fn new(report: Duration) -> Self {
        Self { report, next: None }
    }

    /// Whether a dump is due.
    pub fn is_due(&self) -> bool {
        self.next.is_none_or(|next| Instant::now() >= next)
    }

    /// A dump that showed this many sockets is over.
    pub fn dumped(&mut self, sockets: u64) {
        // Reports come by a clock of their own: a dump that is due a moment after one would wait for the next.
        self.next = Some(Instant::now() + interval(sockets, self.report) * 9 / 10);
    }
}
