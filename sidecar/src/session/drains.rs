//! When what the kernel has sent is taken in: ten times a second while records come, and once in one second or in three while none does. Pure.

use std::time::{Duration, Instant};

/// The time from drain to drain while records come. A flow's close is seen this much later at most; waking up for each record would cost
/// the kernel side more than following the flow does.
const AWAKE: Duration = Duration::from_millis(100);

/// The same while none comes: the kernel wakes flowcar for the first one. The counts of the network namespace, by which closes are
/// judged, are read then, too: the older they are, the more of them are of other sockets. While records come they are read once a second
/// by a drain, so that they are as old as this at most.
const ASLEEP: Duration = Duration::from_millis(1_100);

/// The same while those counts stay as they are, as in most pods: the older reading has no counts of other sockets either. With reports
/// every ten seconds, three drains lie between two of them, and one has the samples asked for.
const ASLEEP_IN_QUIET: Duration = Duration::from_millis(2_600);

/// Drains in a row that take nothing in before the kernel is to wake flowcar.
const EMPTY: u32 = 5;

/// What a drain means for those to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// Awake, or asleep as before.
    Same,
    /// The kernel is to wake flowcar with the next record. One more drain follows at once: a record that was on its way meanwhile wakes
    /// nobody.
    Sleep,
    /// Records came without a wake-up.
    Awake,
}

/// The drains of a session.
#[derive(Debug)]
pub(super) struct Drains {
    next: Instant,
    empty: u32,
}

impl Drains {
    /// Awake from `now` on.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            next: now + AWAKE,
            empty: 0,
        }
    }

    /// When the next one is due.
    pub(super) const fn next(&self) -> Instant {
        self.next
    }

    /// Whether the next record is to wake flowcar.
    const fn is_asleep(&self) -> bool {
        self.empty > EMPTY
    }

    /// Notes a drain at this time, whether it took anything in or something waits, and whether the namespace's counts stay as they are.
    pub(super) fn drained(&mut self, is_busy: bool, is_quiet: bool, now: Instant) -> Pace {
        let was = self.empty;
        self.empty = if is_busy { 0 } else { (was + 1).min(EMPTY + 1) };
        self.next = now
            + match (self.is_asleep(), is_quiet) {
                (false, _) => AWAKE,
                (true, false) => ASLEEP,
                (true, true) => ASLEEP_IN_QUIET,
            };
        match self.empty {
            0 if was >= EMPTY => Pace::Awake,
            EMPTY if was < EMPTY => Pace::Sleep,
            _ => Pace::Same,
        }
    }

    /// A record has woken flowcar: it is taken in with those that come at the same time, as while records come. Gives false if flowcar was
    /// awake: then the ring fills up.
    pub(super) fn woken(&mut self, now: Instant) -> bool {
        let was_asleep = self.empty >= EMPTY;
        if was_asleep {
            self.stay_awake();
            self.next = self.next.min(now + AWAKE);
        }
        was_asleep
    }

    /// The kernel cannot wake flowcar.
    pub(super) const fn stay_awake(&mut self) {
        self.empty = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn sleep_follows_empty_drains_and_ends_with_a_record() {
        let began = clock::now();
        let mut drains = Drains::new(began);
        let mut drained_in = |is_busy, is_quiet| {
            let at = drains.next();
            let pace = drains.drained(is_busy, is_quiet, at);
            (pace, drains.next() - at)
        };
        let mut drained = |is_busy| drained_in(is_busy, false);
        for _ in 0..2 {
            for _ in 1..EMPTY {
                assert_eq!(drained(false), (Pace::Same, AWAKE));
            }
            assert_eq!(drained(true), (Pace::Same, AWAKE));
        }
        for _ in 1..EMPTY {
            assert_eq!(drained(false), (Pace::Same, AWAKE));
        }
        assert_eq!(drained(false), (Pace::Sleep, AWAKE));
        for _ in 0..3 * EMPTY {
            assert_eq!(drained(false), (Pace::Same, ASLEEP));
        }
        // It took something in that nothing woke it for.
        assert_eq!(drained(true), (Pace::Awake, AWAKE));
        for _ in 1..EMPTY {
            assert_eq!(drained(false), (Pace::Same, AWAKE));
        }
        assert_eq!(drained(false), (Pace::Sleep, AWAKE));
        assert_eq!(drained_in(false, true), (Pace::Same, ASLEEP_IN_QUIET));
        assert_eq!(drained_in(false, false), (Pace::Same, ASLEEP));
        assert_eq!(drained_in(true, true), (Pace::Awake, AWAKE));
    }

    #[test]
    fn first_record_is_taken_in_as_soon_as_while_records_come() {
        let began = clock::now();
        let mut drains = Drains::new(began);
        assert!(!drains.woken(began), "the ring fills up");
        for _ in 0..=EMPTY {
            drains.drained(false, false, drains.next());
        }
        let now = drains.next() - ASLEEP / 2;
        assert!(drains.woken(now));
        assert_eq!(drains.next(), now + AWAKE);
        assert!(!drains.woken(now));
        // A drain that is due earlier stays.
        for _ in 0..=EMPTY {
            drains.drained(false, false, drains.next());
        }
        let due = drains.next();
        assert!(drains.woken(due - AWAKE / 2));
        assert_eq!(drains.next(), due);
    }
}
