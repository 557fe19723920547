//! The clocks, which are read here only; from the kernel's monotonic time to wall time, across steps of the clock.

use std::time::{Duration, Instant, SystemTime};

use nix::time::{ClockId, clock_gettime};

use crate::flow::{self, Monotonic};

/// The monotonic clock, for deadlines and for how long something takes. Whatever is tested in virtual time reads tokio's clock instead.
#[expect(clippy::disallowed_methods, reason = "the one place that reads it")]
pub fn now() -> Instant {
    Instant::now()
}

/// The wall clock, for dates that somebody else wrote.
#[expect(clippy::disallowed_methods, reason = "the one place that reads it")]
pub fn wall_time() -> SystemTime {
    SystemTime::now()
}

/// CPU time that this thread has used, in user and kernel mode (clock_gettime(2), CLOCK_THREAD_CPUTIME_ID). A system call.
pub fn thread_cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// CPU time that all threads of this process have used, in user and kernel mode (CLOCK_PROCESS_CPUTIME_ID). A system call.
pub fn process_cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// Readings that name one instant in every clock.
///
/// Flows are timed in `CLOCK_MONOTONIC`, which NTP slews but nobody steps; OTLP wants Unix time. They are
/// taken again in every report ([`Anchor::refresh`]), so a step of the wall clock moves flows that close after it
/// and does not change durations. A flow that has sent interim spans keeps their clock ([`flow::InterimSpans`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    monotonic_ns: u64,
    unix_ns: u64,
    /// How long the machine was suspended since it started: how far `CLOCK_BOOTTIME` is ahead of `CLOCK_MONOTONIC`.
    suspended_ns: u64,
}

/// How far the clocks may drift apart before it is called a step: well above the cost of two readings and
/// NTP's slewing (500 ppm) over a report interval.
const STEP_NS: u64 = 50_000_000;

/// Readings of all clocks within this time name one instant.
const AT_ONCE_NS: u64 = 1_000_000;

/// How often they are read until they do.
const READINGS: u32 = 5;

impl Anchor {
    /// Names an instant in both clocks.
    pub const fn new(monotonic: Monotonic, unix_ns: u64) -> Self {
        Self {
            monotonic_ns: monotonic.0,
            unix_ns,
            suspended_ns: 0,
        }
    }

    /// The same instant on a machine that was suspended for so long since it started.
    #[must_use]
    pub const fn suspended_for(self, suspended_ns: u64) -> Self {
        Self {
            suspended_ns,
            ..self
        }
    }

    /// Reads the clocks, which takes less than a microsecond. A process that is stopped meanwhile, as by a quota of CPU time, reads them
    /// again: what lies between would be taken for a suspend.
    pub fn now() -> Self {
        let mut readings = (0..READINGS).map(|_| Self::read());
        let first = readings.next().expect("there is one");
        let at_once = std::iter::once(first)
            .chain(readings)
            .find(|(_, took_ns)| *took_ns <= AT_ONCE_NS);
        at_once.unwrap_or(first).0
    }

    /// One reading of each, and the time from the first to the last, nanoseconds.
    fn read() -> (Self, u64) {
        let monotonic_ns = read(ClockId::CLOCK_MONOTONIC);
        let unix_ns = read(ClockId::CLOCK_REALTIME);
        let boot_ns = read(ClockId::CLOCK_BOOTTIME);
        let took_ns = read(ClockId::CLOCK_MONOTONIC).saturating_sub(monotonic_ns);
        let suspended_ns = boot_ns.saturating_sub(monotonic_ns);
        let now = Self {
            monotonic_ns,
            unix_ns,
            suspended_ns,
        };
        (now, took_ns)
    }

    /// Takes the newer readings. Gives the step in nanoseconds if the wall clock was stepped in between; a suspend is none.
    pub fn refresh(&mut self, newer: Self) -> Option<i64> {
        // The clocks are read one after the other.
        let suspended = newer.suspended_ns.saturating_sub(self.suspended_ns);
        let suspended = if suspended > STEP_NS { suspended } else { 0 };
        let expected = self.unix_ns(Monotonic(newer.monotonic_ns)) + suspended;
        let step = newer.unix_ns as i64 - expected as i64;
        *self = newer.suspended_for(self.suspended_ns + suspended);
        (step.unsigned_abs() > STEP_NS).then_some(step)
    }

    /// Nanoseconds since the Unix epoch at `time`.
    pub const fn unix_ns(&self, time: Monotonic) -> u64 {
        self.unix_ns
            .saturating_add_signed(time.0 as i64 - self.monotonic_ns as i64)
    }

    /// How long the machine was suspended since it started, in nanoseconds.
    pub const fn suspended_ns(&self) -> u64 {
        self.suspended_ns
    }

    /// The anchor's own instant, by every clock.
    pub const fn instant(&self) -> flow::Instant {
        flow::Instant {
            monotonic: self.monotonic(),
            suspended_ns: self.suspended_ns,
            unix_ns: self.unix_ns,
        }
    }

    /// The anchor's own instant.
    pub const fn monotonic(&self) -> Monotonic {
        Monotonic(self.monotonic_ns)
    }
}

/// The times of reports: the wall clock's, but never back, whatever is done to the clock.
///
/// A receiver rejects a point that is older than the last one of its series, and a start that is later than its point. So while the
/// wall clock is behind, because it was set back, reports follow each other at the least distance that every back end can
/// distinguish, until the clock has caught up. Nothing is lost by that: the figures are as of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportClock {
    last_unix_ns: u64,
}

/// The least time from one report to the next: Prometheus distinguishes times by the millisecond.
const LEAST_NS: u64 = 1_000_000;

impl ReportClock {
    /// Reports come after this time, nanoseconds since the Unix epoch.
    pub const fn after(unix_ns: u64) -> Self {
        Self {
            last_unix_ns: unix_ns,
        }
    }

    /// The time of a report that is made when the wall clock is at `wall_unix_ns`; both in nanoseconds since the Unix
    /// epoch.
    pub fn report(&mut self, wall_unix_ns: u64) -> u64 {
        self.last_unix_ns = wall_unix_ns.max(self.last_unix_ns.saturating_add(LEAST_NS));
        self.last_unix_ns
    }
}

fn read(clock: ClockId) -> u64 {
    let time = clock_gettime(clock).expect("every kernel has these clocks");
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000_000;
    const HOUR: i64 = 3_600 * S;
    const DAY: i64 = 24 * HOUR;

    /// When flowcar started, and how often it reports.
    const START: u64 = 1_700_000_000_000_000_000;
    const INTERVAL: u64 = 10_000_000_000;

    /// What may be done to the wall clock: before which report, and by how much it is stepped then. A suspend is a step
    /// forward, too: the monotonic clock stands still while the machine sleeps.
    const STEPS: &[(&str, &[(usize, i64)])] = &[
        ("none", &[]),
        ("an hour forward", &[(3, HOUR)]),
        ("an hour back", &[(3, -HOUR)]),
        ("an hour back before the first report", &[(0, -HOUR)]),
        ("an hour back, long after the start", &[(400, -HOUR)]),
        ("a day forward", &[(3, DAY)]),
        ("a day back", &[(3, -DAY)]),
        ("a month back", &[(3, -30 * DAY)]),
        ("a weekend's suspend", &[(3, 60 * HOUR)]),
        ("forward and back again", &[(3, HOUR), (5, -HOUR)]),
        ("back and forward again", &[(3, -HOUR), (5, HOUR)]),
        ("back twice", &[(3, -HOUR), (100, -HOUR)]),
        ("back and a suspend", &[(3, -HOUR), (5, 8 * HOUR)]),
        (
            "a little back, often",
            &[(1, -S), (2, -S), (3, -S), (4, -S), (5, -S)],
        ),
        (
            "less than is called a step",
            &[(3, -40_000_000), (4, 40_000_000)],
        ),
        ("to before the epoch", &[(3, -(START as i64))]),
    ];

    #[test]
    fn report_times_increase_and_return_to_the_wall_clock() {
        for (name, steps) in STEPS {
            let mut clock = ReportClock::after(START);
            let (mut wall, mut last) = (START, START);
            for report in 0..10_000 {
                wall += INTERVAL;
                let step = steps.iter().find(|(at, _)| *at == report);
                wall = wall.saturating_add_signed(step.map_or(0, |(_, step)| *step));
                let at = clock.report(wall);
                assert!(at >= last + LEAST_NS, "{name}: {report}");
                assert!(at >= START + LEAST_NS, "{name}: {report}");
                // It is the wall clock's, unless that lies before the reports so far.
                assert!(at == wall || wall < last + LEAST_NS, "{name}: {report}");
                last = at;
            }
        }
        let mut clock = ReportClock::after(u64::MAX);
        assert_eq!(clock.report(0), u64::MAX);
    }

    #[test]
    fn flow_keeps_its_duration_over_clock_steps() {
        let monotonic = 5 * HOUR as u64;
        for (name, steps) in STEPS {
            let mut anchor = Anchor::new(Monotonic(monotonic), START);
            for (_, step) in *steps {
                let wall = anchor.unix_ns(Monotonic(monotonic));
                let stepped = Anchor::new(Monotonic(monotonic), wall.saturating_add_signed(*step));
                let reported = anchor.refresh(stepped);
                assert_eq!(reported.is_some(), step.unsigned_abs() > STEP_NS, "{name}");
            }
            for duration in [0, 1, HOUR as u64, monotonic] {
                let started = anchor.unix_ns(Monotonic(monotonic - duration));
                let ended = anchor.unix_ns(Monotonic(monotonic));
                assert!(started <= ended, "{name}");
                assert!(ended - started == duration || started == 0, "{name}");
            }
        }
    }
}
