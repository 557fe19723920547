//! How long a process that was ready to run had no processor, over time.

use std::{
    fs,
    time::{Duration, Instant},
};

/// How long a process's main thread was ready to run and had no processor so far: the second figure of `/proc/PID/schedstat`
/// (Documentation/scheduler/sched-stats.rst). The kernel adds a wait when it ends.
pub(super) fn waited(id: u32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{id}/schedstat")).unwrap();
    let nanoseconds = text.split_whitespace().nth(1).unwrap();
    Duration::from_nanos(nanoseconds.parse().unwrap())
}

/// Readings of how long a process waited.
#[derive(Clone, Debug)]
pub struct ProcessorWaits {
    id: u32,
    readings: Vec<(Instant, Duration)>,
}

impl ProcessorWaits {
    /// Readings of this process; none yet.
    #[must_use]
    pub const fn of(id: u32) -> Self {
        Self {
            id,
            readings: Vec::new(),
        }
    }

    /// Reads how long it has waited so far.
    ///
    /// # Panics
    /// It has exited.
    pub fn read(&mut self) {
        self.readings.push((Instant::now(), waited(self.id)));
    }

    /// The longest that it waited between any two readings that are no further apart than `within`, or that follow each other.
    #[must_use]
    pub fn longest(&self, within: Duration) -> Duration {
        let mut longest = Duration::ZERO;
        let mut first = 0;
        for last in 1..self.readings.len() {
            while first + 1 < last && self.readings[last].0 - self.readings[first].0 > within {
                first += 1;
            }
            longest = longest.max(self.readings[last].1 - self.readings[first].1);
        }
        longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_wait_is_within_a_span_or_between_two_readings() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let waits = |readings: &[(u64, u64)]| ProcessorWaits {
            id: 0,
            readings: readings
                .iter()
                .map(|(ms, waited)| (at(*ms), Duration::from_millis(*waited)))
                .collect(),
        };
        let within = Duration::from_millis(100);
        for (readings, longest) in [
            (&[][..], 0),
            (&[(0, 7)], 0),
            (&[(0, 0), (50, 10), (100, 30), (150, 35)], 30),
            // One wait of two seconds ends between the readings.
            (&[(0, 0), (50, 10), (100, 2_010), (150, 2_011)], 2_010),
            (&[(0, 0), (1_000, 300), (2_000, 900)], 600),
        ] {
            let is = waits(readings).longest(within);
            assert_eq!(is, Duration::from_millis(longest), "{readings:?}");
        }
    }
}
