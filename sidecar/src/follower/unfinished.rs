//! Polls that are not judged yet. Records and events stay in the kernel for several short turns, because reports, signals and probes have
//! their turns in between. Only once all is taken in that was there at a poll's end is it known which of the flows that the poll did not
//! show have closed: their records and events may be among it.

use crate::{
    flow::PollContext,
    source::{More, Taken},
};

/// What waited at some time.
#[derive(Debug)]
pub(super) struct Waiting {
    /// What is taken in once all of it is.
    upto: Taken,
    /// Whether some of it may still wait.
    left: More,
}

/// What is left to do of a poll.
#[derive(Debug)]
pub(super) struct Unfinished {
    /// Its circumstances.
    pub(super) poll: PollContext,
    /// Whether the flows that it did not show are to be judged.
    pub(super) judges: bool,
    /// Whether it showed all sockets.
    pub(super) shown: bool,
    /// What waited at its end.
    pub(super) waiting: Waiting,
}

// === impl Waiting ===

impl Waiting {
    /// What waits now. `upto` is what is taken in once all is that the kernel can keep.
    pub(super) const fn upto(upto: Taken) -> Self {
        let left = More {
            records: true,
            events: true,
        };
        Self { upto, left }
    }

    /// A turn is over, which left `more`. Gives whether all that waited is taken in.
    pub(super) const fn is_over(&mut self, more: More, taken: Taken) -> bool {
        self.left.records &= more.records && taken.records < self.upto.records;
        self.left.events &= more.events && taken.events < self.upto.events;
        !self.left.any()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(records: u64, more_records: bool, events: u64, more_events: bool) -> (More, Taken) {
        let more = More {
            records: more_records,
            events: more_events,
        };
        (more, Taken { records, events })
    }

    #[test]
    fn all_is_taken_in_once_nothing_that_waited_can_be_left() {
        for (turns, expected) in [
            (&[turn(0, true, 0, true)][..], false),
            (&[turn(999, true, 10, true)], false),
            (&[turn(1_000, true, 9, true)], false),
            (&[turn(1_000, true, 10, true)], true),
            // The ring was empty once: what is there now came later.
            (&[turn(10, false, 0, true), turn(20, true, 1, false)], true),
            (&[turn(10, false, 0, true), turn(20, true, 1, true)], false),
        ] {
            let mut waiting = Waiting::upto(Taken {
                records: 1_000,
                events: 10,
            });
            let of = |(more, taken): &(More, Taken)| waiting.is_over(*more, *taken);
            let is_over = turns.iter().map(of).fold(false, |_, last| last);
            assert_eq!(is_over, expected, "{turns:?}");
        }
    }
}
