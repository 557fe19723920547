//! How often sockets are dumped.

use std::time::{Duration, Instant};

/// What a dump costs at least: a walk over the tables of all sockets, twice, for each family.
const FIXED: Duration = Duration::from_micros(1_800);

/// What each socket adds: 1.7 to 2.3 us in the kernel, 0.3 us to decode, the rest for the table.
///
/// Measured on Linux 6.18, CPU time of the reader, kernel included, both families, before decoding:
///
/// | sockets | CPU time | CPU time a socket | elapsed, on a busy machine | netlink bytes |
/// |---|---|---|---|---|
/// | 10 | 1.8 ms | | 1.8 ms | 4 kB |
/// | 1,000 | 4.4 ms | 2.6 us above the fixed part | 12 ms | 0.4 MB |
/// | 10,000 | 23 ms | 2.1 us | 47 ms | 4 MB |
/// | 30,000 | 65 ms | 2.1 us | 108 ms | 12 MB |
/// | 100,000 | 168 ms | 1.7 us | 319 ms | 41 MB |
const PER_SOCKET: Duration = Duration::from_nanos(3_000);

/// Dumps take one part in this many of one CPU's time, at most: every 10 s up to 16,000 sockets, every minute at 100,000.
const SHARE: u32 = 200;

/// The least time between two dumps that show this many sockets, where there is a report every `report`.
pub fn interval(sockets: u64, report: Duration) -> Duration {
    let sockets = u32::try_from(sockets).unwrap_or(u32::MAX);
    let cost = FIXED.saturating_add(PER_SOCKET.saturating_mul(sockets));
    report.max(cost.saturating_mul(SHARE))
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

    /// The next dump is due at once, whatever the last one cost.
    pub const fn hurry(&mut self) {
        self.next = None;
    }

    /// A dump that showed this many sockets is over.
    pub fn dumped(&mut self, sockets: u64) {
        // Reports come by a clock of their own: a dump that is due a moment after one would wait for the next.
        self.next = Some(Instant::now() + interval(sockets, self.report).mul_f64(0.9));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_grows_with_the_count_and_never_falls_below_the_report() {
        let report = Duration::from_secs(10);
        assert_eq!(interval(10, report), report);
        assert_eq!(interval(10_000, report), report);
        assert_eq!(interval(100_000, report), Duration::from_millis(60_360));
        assert!(interval(u64::MAX, report) > Duration::from_secs(3600));
    }
}
