//! When what the kernel has sent is taken in: ten times a second while records come, and seldom while none does. Pure, but for its timers.

use std::time::Duration;

use tokio::time::Interval;

use super::every;

/// The time from drain to drain while records come. A flow's close is seen this much later at most; waking up for each record would
/// cost the kernel side more than following the flow does.
const AWAKE: Duration = Duration::from_millis(100);

/// The same while none comes: the kernel wakes flowcar for the first one. The counts of the network namespace, by which closes are
/// judged, are read then, too: the older they are, the more of them are of other sockets.
const ASLEEP: Duration = Duration::from_secs(2);

/// Drains in a row that take nothing in before flowcar sleeps.
const EMPTY: u32 = 5;

/// The drains of a session.
#[derive(Debug)]
pub(super) struct Drains {
    awake: Interval,
    asleep: Interval,
    empty: u32,
    is_asleep: bool,
}

impl Drains {
    /// Awake.
    pub(super) fn new() -> Self {
        Self {
            awake: every(AWAKE),
            asleep: every(ASLEEP),
            empty: 0,
            is_asleep: false,
        }
    }

    /// Waits until the next drain is due.
    pub(super) async fn due(&mut self) {
        let drains = if self.is_asleep {
            &mut self.asleep
        } else {
            &mut self.awake
        };
        drains.tick().await;
    }

    /// Notes a drain, and whether it took anything in or something waits. Gives whether flowcar has to sleep, or to wake up; `None` if
    /// it stays as it is.
    pub(super) const fn drained(&mut self, is_busy: bool) -> Option<bool> {
        if is_busy {
            self.empty = 0;
            return if self.is_asleep { Some(false) } else { None };
        }
        self.empty = self.empty.saturating_add(1);
        if !self.is_asleep && self.empty >= EMPTY {
            Some(true)
        } else {
            None
        }
    }

    /// Sleeps from now on, or does not.
    pub(super) fn set_asleep(&mut self, is_asleep: bool) {
        self.is_asleep = is_asleep;
        self.empty = 0;
        if is_asleep {
            self.asleep.reset();
        } else {
            self.awake.reset();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sleep_follows_empty_drains_and_ends_with_the_first_record() {
        let mut drains = Drains::new();
        for _ in 1..EMPTY {
            assert_eq!(drains.drained(false), None);
        }
        assert_eq!(drains.drained(true), None);
        for _ in 1..EMPTY {
            assert_eq!(drains.drained(false), None);
        }
        assert_eq!(drains.drained(false), Some(true));
        drains.set_asleep(true);
        for _ in 0..2 * EMPTY {
            assert_eq!(drains.drained(false), None);
        }
        assert_eq!(drains.drained(true), Some(false));
        drains.set_asleep(false);
        assert_eq!(drains.drained(false), None);
    }
}
