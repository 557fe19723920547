//! The main loop's timer (timerfd_create(2)), armed for what is due first. The runtime's own timers are kept in a wheel of 64 slots to a
//! level: one that is a second away wakes the thread twice, and one that is a minute away three times.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd, RawFd},
    time::{Duration, Instant},
};

use nix::sys::{
    time::TimeSpec,
    timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
};
use tokio::io::{Interest, unix::AsyncFd};

use crate::clock;

/// One timer.
pub(super) struct Alarm {
    timer: AsyncFd<Descriptor>,
    /// When it expires, unless it has.
    at: Option<Instant>,
}

struct Descriptor(TimerFd);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Alarm {
    /// A timer that is not armed.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(super) fn new() -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = Descriptor(TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?);
        Ok(Self {
            // SAFETY: the descriptor is owned, and the AsyncFd owns its owner for as long as it is registered.
            timer: unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) }
                .map_err(io::Error::from)?,
            at: None,
        })
    }

    /// Waits until this time. Nothing is lost if the wait is dropped.
    pub(super) async fn until(&mut self, at: Instant) {
        let left = at.saturating_duration_since(clock::now());
        if left.is_zero() {
            return;
        }
        if self.at != Some(at) && self.arm(left).is_err() {
            // A timer that exists takes every time. Should one not, the runtime has others.
            return tokio::time::sleep(left).await;
        }
        self.at = Some(at);
        while clock::now() < at {
            let Ok(mut ready) = self.timer.readable().await else {
                return;
            };
            // Read, it is readable again only once it has expired again.
            let _ = ready.get_inner().0.wait();
            ready.clear_ready();
        }
    }

    fn arm(&mut self, left: Duration) -> nix::Result<()> {
        let once = Expiration::OneShot(TimeSpec::from_duration(left));
        self.timer.get_ref().0.set(once, TimerSetTimeFlags::empty())
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn alarm_comes_at_its_time_and_whenever_it_is_asked_for() {
        let mut alarm = Alarm::new().expect("a timer");
        let began = clock::now();
        let at = |ms| began + Duration::from_millis(ms);
        // Dropped, and replaced by an earlier and a later one.
        let early = timeout(Duration::from_millis(10), alarm.until(at(60_000))).await;
        assert!(early.is_err());
        for ms in [30, 20, 60, 0] {
            alarm.until(at(ms)).await;
            assert!(clock::now() >= at(ms), "{ms}");
        }
        assert!(began.elapsed() < Duration::from_secs(30));
    }
}
