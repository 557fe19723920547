//! Readings of the network namespace's counts, by which closes and attempts are judged: one serves all that need one in a turn.

use crate::source::namespace::{NamespaceCounters, NamespaceReading};

/// The least age of a reading before another is made that nothing needs yet: the older a reading, the more counts of other sockets lie
/// between it and a close. Less than the time from drain to drain of a flowcar that sleeps.
pub(super) const EVERY_NS: u64 = 900_000_000;

/// Makes readings.
#[derive(Debug)]
pub(super) struct Readings {
    /// None where `/proc` does not show them.
    counters: Option<NamespaceCounters>,
    of_turn: Option<NamespaceReading>,
    /// The last one that was compared with the one before it, and whether both had the same counts.
    compared: Option<NamespaceReading>,
    is_quiet: bool,
}

impl Readings {
    pub(super) fn new() -> Self {
        let counters = NamespaceCounters::open();
        if let Err(error) = &counters {
            tracing::debug!(%error, "the network namespace's counts cannot be read");
        }
        Self {
            counters: counters.ok(),
            of_turn: None,
            compared: None,
            is_quiet: false,
        }
    }

    /// Records or events are about to be taken in: the turn's reading is to be a new one.
    pub(super) const fn turn_begins(&mut self) {
        self.of_turn = None;
    }

    /// The turn's reading, from before all that the turn takes in. To be called first before that.
    pub(super) fn of_turn(&mut self) -> NamespaceReading {
        let reading = self.of_turn.unwrap_or_else(|| self.now());
        *self.of_turn.insert(reading)
    }

    /// A reading of now.
    pub(super) fn now(&mut self) -> NamespaceReading {
        let counters = self.counters.as_mut();
        let reading = counters.map_or_else(NamespaceReading::none, NamespaceCounters::read);
        self.compare(reading);
        reading
    }

    /// Whether nothing was counted from one reading to the next: then an older one serves as well.
    pub(super) const fn is_quiet(&self) -> bool {
        self.is_quiet
    }

    /// Two in one moment show nothing, unless they differ.
    fn compare(&mut self, reading: NamespaceReading) {
        let before = self.compared;
        let is_same = before.is_some_and(|before| before.has_same_counts(&reading));
        let is_apart = before.is_some_and(|of| reading.from.since_ns(of.from) >= EVERY_NS);
        if is_apart || !is_same {
            self.is_quiet = is_same;
            self.compared = Some(reading);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{flow::Monotonic, source::namespace_counts::Counts};

    #[test]
    fn namespace_is_quiet_while_readings_that_are_apart_are_the_same() {
        let mut readings = Readings::new();
        for (ms, resets_sent, is_quiet) in [
            (0, 1, false),
            (100, 1, false),
            (1_000, 1, true),
            (1_001, 2, false),
            (1_002, 2, false),
            (2_000, 2, true),
            (4_600, 2, true),
            (7_200, 3, false),
        ] {
            let at = Monotonic(ms * 1_000_000);
            readings.compare(NamespaceReading {
                from: at,
                to: at,
                counts: Some(Counts {
                    aborted_by_timer: 0,
                    resets_sent,
                    timewait_overflows: 0,
                    aborted_on_data: 0,
                    attempts_failed: 0,
                }),
                of_attempts: None,
            });
            assert_eq!(readings.is_quiet(), is_quiet, "{ms}");
        }
    }
}
