//! The wait before a retry.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(500);
const MOST: Duration = Duration::from_secs(30);

/// The shortest wait during a flush.
const HURRIED: Duration = Duration::from_millis(200);

/// The longest wait that a receiver can ask for. A wrong clock, there or here, must not stop the exports permanently.
pub(super) const MOST_ASKED: Duration = Duration::from_secs(600);

/// Doubles from half a second to half a minute; the wait is drawn from the upper half, so that the
/// flowcars of a cluster do not all connect at once to a collector that returns.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
    /// The next one during a flush.
    next_hurried: Duration,
}

impl Backoff {
    pub(super) const fn new() -> Self {
        Self {
            next: FIRST,
            next_hurried: HURRIED.saturating_mul(2),
        }
    }

    /// The next wait; `random` is in [0, 1).
    pub(super) fn next(&mut self, random: f64) -> Duration {
        draw(&mut self.next, random)
    }

    /// The next wait during a flush with so much time `left`: from 200 ms on, doubling, too. At most half of the time, so that the last try
    /// comes shortly before the flush ends, and not after it.
    pub(super) fn next_hurried(&mut self, random: f64, left: Duration) -> Duration {
        let wait = draw(&mut self.next_hurried, random);
        wait.min(left / 2).max(HURRIED)
    }

    /// The shortest wait before a flush may cut it short.
    pub(super) fn least(wait: Duration) -> Duration {
        wait.min(HURRIED)
    }
}

/// Draws from the upper half up to the ceiling, which doubles.
fn draw(next: &mut Duration, random: f64) -> Duration {
    let ceiling = *next;
    *next = (ceiling * 2).min(MOST);
    ceiling.mul_f64(0.5 + random / 2.0)
}

/// The wait that a receiver asked for (`Retry-After`, `RetryInfo`): [`MOST_ASKED`] at most. It never shortens the back-off: no
/// time, or one in the past, asks for nothing.
pub(super) fn asked_for(asked: Option<Duration>) -> Duration {
    asked.unwrap_or_default().min(MOST_ASKED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_30_s_and_is_never_zero() {
        let mut backoff = Backoff::new();
        let least: Vec<_> = (0..8).map(|_| backoff.next(0.0).as_millis()).collect();
        assert_eq!(least, [250, 500, 1000, 2000, 4000, 8000, 15_000, 15_000]);
        let mut backoff = Backoff::new();
        let most: Vec<_> = (0..8).map(|_| backoff.next(1.0).as_millis()).collect();
        assert_eq!(most, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
    }

    #[test]
    fn hurried_backoff_doubles_and_its_last_try_fits_the_time() {
        let all = Duration::from_secs(3_600);
        let mut backoff = Backoff::new();
        let least: Vec<_> = (0..4)
            .map(|_| backoff.next_hurried(0.0, all).as_millis())
            .collect();
        assert_eq!(least, [200, 400, 800, 1600]);
        assert_eq!(backoff.next_hurried(1.0, all).as_millis(), 6_400, "jitter");
        for random in [0.0, 0.3, 0.999] {
            let all = Duration::from_secs(5);
            let (mut backoff, mut at, mut tries) = (Backoff::new(), Duration::ZERO, 0);
            loop {
                let wait = backoff.next_hurried(random, all - at);
                assert!(wait >= HURRIED);
                if at + wait > all {
                    break;
                }
                at += wait;
                tries += 1;
            }
            assert!((5..=10).contains(&tries), "{random}: {tries}");
            assert!(all - at < HURRIED, "{random}: the last at {at:?}");
        }
    }

    #[test]
    fn requested_wait_is_bounded() {
        assert_eq!(asked_for(None), Duration::ZERO);
        assert_eq!(asked_for(Some(Duration::ZERO)), Duration::ZERO);
        assert_eq!(asked_for(Some(Duration::from_secs(7))).as_secs(), 7);
        assert_eq!(asked_for(Some(Duration::MAX)), MOST_ASKED);
    }
}
