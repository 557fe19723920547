//! Readings of the network namespace's counts, by which closes and attempts are judged: one serves all that need one in a turn.

use crate::source::namespace::{NamespaceCounters, NamespaceReading};

/// The least age of a reading before another is made that nothing needs yet: the older a reading, the more counts of other sockets lie
/// between it and a close. Less than the second from drain to drain of a flowcar that sleeps.
pub(super) const EVERY_NS: u64 = 900_000_000;

/// Makes readings.
#[derive(Debug)]
pub(super) struct Readings {
    /// None where `/proc` does not show them.
    counters: Option<NamespaceCounters>,
    of_turn: Option<NamespaceReading>,
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
        counters.map_or_else(NamespaceReading::none, NamespaceCounters::read)
    }
}
