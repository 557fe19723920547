//! From the kernel's monotonic time to wall time, across steps of the clock.

use nix::time::{ClockId, clock_gettime};

use crate::flow::Monotonic;

/// A pair of readings that names one instant in both clocks.
///
/// Flows are timed in `CLOCK_MONOTONIC`, which NTP slews but nobody steps; OTLP wants Unix time. The pair is
/// taken again in every report ([`Anchor::refresh`]), so a step of the wall clock moves flows that end after it
/// and leaves durations alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    monotonic_ns: u64,
    unix_ns: u64,
}

/// How far the clocks may drift apart before it is called a step: well above the cost of two readings and
/// NTP's slewing (500 ppm) over a report interval.
const STEP_NS: u64 = 50_000_000;

impl Anchor {
    /// Names an instant in both clocks.
    pub const fn new(monotonic: Monotonic, unix_ns: u64) -> Self {
        Self {
            monotonic_ns: monotonic.0,
            unix_ns,
        }
    }

    /// Reads both clocks.
    pub fn now() -> Self {
        Self {
            monotonic_ns: read(ClockId::CLOCK_MONOTONIC),
            unix_ns: read(ClockId::CLOCK_REALTIME),
        }
    }

    /// Takes the newer pair. Gives the step in nanoseconds if the wall clock was stepped in between.
    pub fn refresh(&mut self, newer: Self) -> Option<i64> {
        let expected = self.unix_ns(Monotonic(newer.monotonic_ns));
        let step = newer.unix_ns as i64 - expected as i64;
        *self = newer;
        (step.unsigned_abs() > STEP_NS).then_some(step)
    }

    /// Nanoseconds since the Unix epoch at `time`.
    pub const fn unix_ns(&self, time: Monotonic) -> u64 {
        self.unix_ns
            .saturating_add_signed(time.0 as i64 - self.monotonic_ns as i64)
    }

    /// The anchor's own instant.
    pub const fn monotonic(&self) -> Monotonic {
        Monotonic(self.monotonic_ns)
    }
}

fn read(clock: ClockId) -> u64 {
    let time = clock_gettime(clock).expect("CLOCK_MONOTONIC and CLOCK_REALTIME are always there");
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}
