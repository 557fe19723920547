//! Turns of the main loop: how many of the records and events that wait in the kernel each one takes in, bounded by CPU time.

use std::time::Duration;

use crate::clock;

/// How much of what waits is taken in at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Some milliseconds of CPU time at most: reports, signals and probes wait meanwhile, and with 1 % of a CPU for a hundred
    /// times as long.
    Short,
    /// As much as the kernel can keep, and so all that waits when it begins.
    Whole,
}

/// What was taken in so far of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Bytes of records, with their headers.
    pub records: u64,
    /// Destroy events.
    pub events: u64,
}

/// Whether more waits of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct More {
    /// Records.
    pub records: bool,
    /// Destroy events.
    pub events: bool,
}

/// CPU time of a short turn: half a second where flowcar has 1 % of a CPU.
const CPU_TIME: Duration = Duration::from_millis(5);

/// Bytes after which the clock is asked, which is a system call of some 0.5 us: records of connections take a hundred meanwhile, and DNS
/// messages, which are longer, a millisecond.
const ASK_EVERY: usize = 8 << 10;

/// The CPU time that is left of a turn.
#[derive(Debug)]
pub(super) struct Allowance {
    /// As [`clock::thread_cpu_time`]; none for a whole turn.
    end: Option<Duration>,
    /// Bytes since the clock was asked.
    taken: usize,
}

// === impl More ===

impl More {
    /// Of any kind.
    pub const fn any(self) -> bool {
        self.records || self.events
    }
}

// === impl Allowance ===

impl Allowance {
    /// A turn begins.
    pub(super) fn of(turn: Turn) -> Self {
        let end = (turn == Turn::Short).then(|| clock::thread_cpu_time() + CPU_TIME);
        Self { end, taken: 0 }
    }

    /// One of so many bytes was taken in. Gives whether the turn is over.
    pub(super) fn is_spent(&mut self, bytes: usize) -> bool {
        self.taken += bytes;
        if self.taken < ASK_EVERY {
            return false;
        }
        self.taken = 0;
        self.end.is_some_and(|end| clock::thread_cpu_time() >= end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each takes a tenth of a short turn.
    fn work() {
        let end = clock::thread_cpu_time() + CPU_TIME / 10;
        while clock::thread_cpu_time() < end {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn short_turn_ends_by_its_cpu_time_and_whole_turn_does_not() {
        let mut short = Allowance::of(Turn::Short);
        // Waiting is no work.
        std::thread::sleep(CPU_TIME * 2);
        assert!(!short.is_spent(ASK_EVERY));
        let taken = (0..=2 * 64).take_while(|_| {
            work();
            !short.is_spent(ASK_EVERY / 64)
        });
        let taken = taken.count();
        assert!(taken < 64, "{taken}");
        // The longer they are, the sooner the clock is asked.
        let mut short = Allowance::of(Turn::Short);
        let taken = (0..=20).take_while(|_| {
            work();
            !short.is_spent(ASK_EVERY / 2)
        });
        let taken = taken.count();
        assert!(taken <= 11, "{taken}");
        let mut whole = Allowance::of(Turn::Whole);
        assert!((0..2 * 64).all(|_| {
            work();
            !whole.is_spent(ASK_EVERY / 64)
        }));
    }
}
