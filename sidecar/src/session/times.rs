//! When something is due that is done again and again.

use std::time::{Duration, Instant};

/// Something that is done again and again. What was missed is not made up for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) next: Instant,
    period: Duration,
}

// === impl Times ===

impl Times {
    pub(super) const fn after(first: Instant, period: Duration) -> Self {
        Self {
            next: first,
            period,
        }
    }

    /// Until when it can wait for something else that is to be done: a fifth of its period. An own wake-up costs more than it.
    pub(super) fn latest(&self) -> Instant {
        self.next + self.period / 5
    }

    /// Whether it is to be done now: then the next time is one of those to come.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.next <= now;
        if is_due {
            let late = (now - self.next).as_nanos() % self.period.as_nanos().max(1);
            let late = Duration::from_nanos(u64::try_from(late).unwrap_or_default());
            self.next = now + (self.period - late);
        }
        is_due
    }
}
