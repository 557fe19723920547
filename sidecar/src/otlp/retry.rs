//! How long to wait before another try.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(500);
const MOST: Duration = Duration::from_secs(30);

/// The longest time that a receiver is left alone for because it asked to be. A clock that is wrong, there or here,
/// must not end the exports for good.
pub(super) const MOST_ASKED: Duration = Duration::from_secs(600);

/// Doubles from half a second to half a minute; the wait is drawn from the upper half, so that the
/// flowcars of a cluster do not knock at once on a collector that comes back.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(super) const fn new() -> Self {
        Self { next: FIRST }
    }

    /// The next wait; `random` is in [0, 1).
    pub(super) fn next(&mut self, random: f64) -> Duration {
        let ceiling = self.next;
        self.next = (ceiling * 2).min(MOST);
        ceiling.mul_f64(0.5 + random / 2.0)
    }
}

/// For how long a receiver is left alone that asked for it (`Retry-After`, `RetryInfo`): [`MOST_ASKED`] at most. It
/// never shortens the back-off: no time, or one in the past, asks for nothing.
pub(super) fn asked_for(asked: Option<Duration>) -> Duration {
    asked.unwrap_or_default().min(MOST_ASKED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_half_a_minute_and_never_are_none() {
        let mut backoff = Backoff::new();
        let least: Vec<_> = (0..8).map(|_| backoff.next(0.0).as_millis()).collect();
        assert_eq!(least, [250, 500, 1000, 2000, 4000, 8000, 15_000, 15_000]);
        let mut backoff = Backoff::new();
        let most: Vec<_> = (0..8).map(|_| backoff.next(1.0).as_millis()).collect();
        assert_eq!(most, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
    }

    #[test]
    fn what_a_receiver_asks_for_is_bounded() {
        assert_eq!(asked_for(None), Duration::ZERO);
        assert_eq!(asked_for(Some(Duration::ZERO)), Duration::ZERO);
        assert_eq!(asked_for(Some(Duration::from_secs(7))).as_secs(), 7);
        assert_eq!(asked_for(Some(Duration::MAX)), MOST_ASKED);
    }
}
