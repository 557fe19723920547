//! How often sockets are dumped.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// Dumps take one part in this many of one CPU's time, at most.
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
///
/// The kernel walks past sockets that are not asked for, too: 84,000 in TIME_WAIT, or 20,000 listeners, of whichever pod, take
/// some 35 ms. So the CPU time that a dump took decides, and not how many sockets it showed.
const SHARE: u32 = 200;

/// What a dump costs at least, and what each socket that it shows adds: 1.7 to 2.3 us in the kernel, 0.3 us to decode, the rest
/// for the table.
const FIXED: Duration = Duration::from_micros(1_800);
const PER_SOCKET: Duration = Duration::from_nanos(3_000);

/// A dump that took less CPU time is paced by these. It matters only where reports come more often than every 4 s: caches that
/// others have emptied are not to thin out what whoever wants such reports sees.
const SMALL: Duration = Duration::from_millis(20);

/// A dump that took longer is not to keep the next one off for ever: the machine may have had a bad moment.
const LONGEST: Duration = Duration::from_secs(600);

/// The least time between two dumps of which the first took this much CPU time and showed so many sockets, where there is a
/// report every `report`.
fn interval(took: Duration, sockets: u64, report: Duration) -> Duration {
    let sockets = u32::try_from(sockets).unwrap_or(u32::MAX);
    let usual = FIXED.saturating_add(PER_SOCKET.saturating_mul(sockets));
    let cost = if took < SMALL { usual } else { took.max(usual) };
    report.max(cost.saturating_mul(SHARE).min(LONGEST))
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
        self.next.is_none_or(|next| Instant::now() >= next)
    }

    /// The next dump is due at once, whatever the last one cost.
    pub const fn hurry(&mut self) {
        self.next = None;
    }

    /// A dump that began on this thread is over, and all that came of it is taken in. It showed so many sockets.
    pub fn dumped(&mut self, dumping: &Dumping, sockets: u64) {
        let cost = cpu_time().saturating_sub(dumping.began);
        // Reports come by a clock of their own: a dump that is due a moment after one would wait for the next.
        self.next = Some(Instant::now() + interval(cost, sockets, self.report).mul_f64(0.9));
    }
}

impl Dumping {
    /// Begins now, on this thread.
    pub fn begin() -> Self {
        Self { began: cpu_time() }
    }
}

/// CPU time that this thread has used, in user and kernel mode (clock_gettime(2), CLOCK_THREAD_CPUTIME_ID).
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: Duration = Duration::from_secs(10);

    #[test]
    fn the_interval_grows_with_the_cost_and_never_falls_below_the_report() {
        for (took_ms, sockets, expected_s) in [
            (0, 10, 10),
            (50, 10, 10),
            (51, 10, 10),
            (300, 10, 60),
            (60_000, 10, 600),
            (0, 10_000, 10),
            (0, 100_000, 60),
            (400, 100_000, 80),
        ] {
            let interval = interval(Duration::from_millis(took_ms), sockets, REPORT);
            assert_eq!(interval.as_secs(), expected_s, "{took_ms} ms, {sockets}");
        }
        assert_eq!(interval(Duration::MAX, u64::MAX, REPORT), LONGEST);
        let often = Duration::from_millis(200);
        assert_eq!(interval(SMALL / 2, 0, often), FIXED * SHARE);
    }

    /// Against what the thread really used: a dump that only waited is no reason to wait.
    #[test]
    fn cpu_time_counts_and_waiting_does_not() {
        let due_in = |work: &dyn Fn()| {
            let mut pace = Pace::new(Duration::ZERO);
            let dumping = Dumping::begin();
            work();
            pace.dumped(&dumping, 0);
            let next = pace.next.expect("a time");
            next.saturating_duration_since(Instant::now())
        };
        let waits = due_in(&|| std::thread::sleep(Duration::from_millis(300)));
        let works = due_in(&|| {
            let end = cpu_time() + Duration::from_millis(300);
            while cpu_time() < end {
                std::hint::spin_loop();
            }
        });
        assert!(works > Duration::from_secs(40), "{works:?}");
        assert!(waits < works / 4, "{waits:?} {works:?}");
    }
}
