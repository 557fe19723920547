//! How often sockets are dumped.
//!
//! Measured on Linux 6.18, CPU time of the reader, kernel included, both families, before decoding:
//!
//! | sockets | CPU time | CPU time a socket | elapsed, on a busy machine | netlink bytes |
//! |---|---|---|---|---|
//! | 10 | 1.8 ms | | 1.8 ms | 4 kB |
//! | 1,000 | 4.4 ms | 2.6 us above the fixed part | 12 ms | 0.4 MB |
//! | 10,000 | 23 ms | 2.1 us | 47 ms | 4 MB |
//! | 30,000 | 65 ms | 2.1 us | 108 ms | 12 MB |
//! | 100,000 | 168 ms | 1.7 us | 319 ms | 41 MB |
//!
//! The kernel walks past sockets that are not asked for, too: 84,000 in TIME_WAIT, or 20,000 listeners, of whichever pod, take
//! some 35 ms. So the CPU time that a dump took decides, and not how many sockets it showed.

use std::time::{Duration, Instant};

use crate::clock;

/// Dumps take at most one part in this many of a CPU's time, where reports come every ten seconds; or one part in [`LEAST_SHARE`] where
/// they come each second, because frequent reports need frequent dumps.
const SHARE: u32 = 200;
const LEAST_SHARE: u32 = 20;

/// See [`LEAST_SHARE`].
const ONCE_A_SECOND: Duration = Duration::from_secs(1);

/// The least interval, however frequent reports are: a close reports what happened to a connection between two dumps, and more frequent
/// dumps see transient states.
const LEAST: Duration = Duration::from_millis(360);

/// The longest interval: a dump may have taken long only because the machine was busy.
const LONGEST: Duration = Duration::from_secs(600);

/// The least time between two dumps of which the first took this much CPU time, where there is a report every `report`.
fn interval(took: Duration, report: Duration) -> Duration {
    let by_cost = took.saturating_mul(share(report));
    report.max(by_cost.clamp(LEAST, LONGEST))
}

fn share(report: Duration) -> u32 {
    let by_report = report.as_millis() * u128::from(LEAST_SHARE) / ONCE_A_SECOND.as_millis();
    let by_report = u32::try_from(by_report).unwrap_or(u32::MAX);
    by_report.clamp(LEAST_SHARE, SHARE)
}

/// When the next dump is due.
#[derive(Debug)]
pub struct Pace {
    report: Duration,
    next: Option<Instant>,
}

/// A dump that is under way.
#[derive(Debug)]
pub struct Dumping {
    began: Duration,
}

impl Pace {
    /// The first dump is due at once.
    pub const fn new(report: Duration) -> Self {
        Self { report, next: None }
    }

    /// Whether a dump is due.
    pub fn is_due(&self) -> bool {
        self.next.is_none_or(|next| clock::now() >= next)
    }

    /// The next dump is due at once, whatever the last one cost.
    pub const fn hurry(&mut self) {
        self.next = None;
    }

    /// A dump that began on this thread is over, and the sockets that it showed are taken in.
    pub fn dumped(&mut self, dumping: &Dumping) {
        let cost = clock::thread_cpu_time().saturating_sub(dumping.began);
        // Reports come by a clock of their own: a dump that is due a moment after one would wait for the next.
        self.next = Some(clock::now() + interval(cost, self.report).mul_f64(0.9));
    }
}

impl Dumping {
    /// Begins now, on this thread.
    pub fn begin() -> Self {
        Self {
            began: clock::thread_cpu_time(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: Duration = Duration::from_secs(10);

    #[test]
    fn the_interval_grows_with_the_cost_and_never_falls_below_the_report() {
        for (took_ms, report_ms, expected_ms) in [
            (0, 10_000, 10_000),
            (50, 10_000, 10_000),
            (300, 10_000, 60_000),
            (300, 60_000, 60_000),
            (60_000, 10_000, 600_000),
            (5, 1_000, 1_000),
            (300, 1_000, 6_000),
            (5, 200, 360),
            (300, 200, 6_000),
        ] {
            let [took, report] = [took_ms, report_ms].map(Duration::from_millis);
            let interval = interval(took, report).as_millis();
            assert_eq!(interval, expected_ms, "{took_ms} {report_ms}");
        }
        assert_eq!(interval(Duration::MAX, REPORT), LONGEST);
    }

    /// Against what the thread really used: a dump that only waited is no reason to wait.
    #[test]
    fn cpu_time_counts_and_waiting_does_not() {
        let due_in = |work: &dyn Fn()| {
            let mut pace = Pace::new(Duration::ZERO);
            let dumping = Dumping::begin();
            work();
            pace.dumped(&dumping);
            let next = pace.next.expect("a time");
            next.saturating_duration_since(clock::now())
        };
        let waits = due_in(&|| std::thread::sleep(Duration::from_millis(300)));
        let works = due_in(&|| {
            let end = clock::thread_cpu_time() + Duration::from_millis(300);
            while clock::thread_cpu_time() < end {
                std::hint::spin_loop();
            }
        });
        assert!(works > Duration::from_secs(4), "{works:?}");
        assert!(waits < works / 4, "{waits:?} {works:?}");
    }
}
