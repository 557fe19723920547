//! What is in the books and in no series. Pure.

use std::collections::BTreeMap;

use super::SeriesSet;
use crate::{
    flow::{Books, Lost},
    snapshot::{Series, Unseen},
};

/// Finds what no series has. Most of what is lost was never told of, and is added to the connections opened at once. Where
/// news of ends is lost, it takes two looks to tell whether series have the connection: until then it only goes off those that live,
/// so that the sum of those opened never goes back.
#[derive(Debug, Default)]
pub struct Remainder {
    /// Ends whose news were lost before the last look.
    before_last: u64,
    /// The same before the look that preceded it: of these, series have none as living any more.
    settled: u64,
    opened: u64,
    /// As they were reported last.
    lost: BTreeMap<Lost, u64>,
}

impl Remainder {
    /// A look is over that began when so many ends' news were lost. It left so many flows listed that it did not show, or not
    /// heard of yet: one whose end was lost just before the look before it, or whose socket was just about to go, takes a look
    /// more to go off the list.
    pub const fn looked(&mut self, unheard: u64, unsettled: u64) {
        self.settled = self.before_last.saturating_sub(unsettled);
        self.before_last = unheard;
    }

    /// What is missing in `series`. So many records are `waiting` to be heard that may be the first word of their connection: its
    /// end may be among those whose news was lost, and a series will have it all the same.
    pub fn of(&mut self, books: &Books, waiting: u64, series: &SeriesSet) -> Unseen {
        let sum = |of: fn(&Series) -> u64| series.all().map(|(_, one)| of(one)).sum::<u64>();
        let dropped = series.dropped();
        let began = sum(Series::began) + dropped.began;
        let closed = sum(|of| of.closed.values().sum()) + dropped.closed;
        let live = sum(|of| of.live);
        // Neither closed nor live: lost, and in a series.
        let known = began.saturating_sub(closed + live);
        let at_restart = lost_to(books, Lost::Restart);
        let lost = books.lost_total() - at_restart;
        let unheard = unheard(books);
        // No more of them than live in series, or will once they are heard of, can be in series.
        let never_heard = unheard.saturating_sub(live + waiting);
        let settled = self.settled.max(never_heard).min(unheard);
        let certain = lost - unheard + settled;
        self.opened = self.opened.max(certain.saturating_sub(known));
        let pending = lost.saturating_sub(self.opened + known);
        // The others live in series, though it is not known which they are.
        let unopened = pending.min(waiting);
        self.report(lost - unopened, books);
        Unseen {
            opened: self.opened,
            adopted_at_restart: at_restart,
            pending,
            dead: self.reported().saturating_sub(self.opened + known),
        }
    }

    /// The lost by cause, as they are reported: without those of which not even the opening may have been reported.
    pub const fn lost(&self) -> &BTreeMap<Lost, u64> {
        &self.lost
    }

    /// Reports that at least so many are lost, besides those lost to the restart. What was reported is never taken back.
    fn report(&mut self, at_least: u64, books: &Books) {
        let mut more = at_least.saturating_sub(self.reported());
        for (cause, count) in &books.lost {
            if *cause == Lost::Restart {
                self.lost.insert(*cause, *count);
                continue;
            }
            let reported = self.lost.get(cause).copied().unwrap_or(0);
            let new = more.min(count.saturating_sub(reported));
            more -= new;
            if new > 0 {
                self.lost.insert(*cause, reported + new);
            }
        }
    }

    /// How many were reported, besides those lost to the restart.
    fn reported(&self) -> u64 {
        let others = self
            .lost
            .iter()
            .filter(|(cause, _)| **cause != Lost::Restart);
        others.map(|(_, count)| count).sum()
    }
}

/// Ends whose news were lost, of connections that series may have or not.
pub fn unheard(books: &Books) -> u64 {
    lost_to(books, Lost::RingFull) + lost_to(books, Lost::Malformed)
}

fn lost_to(books: &Books, reason: Lost) -> u64 {
    books.lost.get(&reason).copied().unwrap_or(0)
}
