//! Connections that are in the books and in no series. Pure.

use std::collections::BTreeMap;

use super::SeriesSet;
use crate::{
    flow::{Books, Lost},
    snapshot::{Series, UnattributedCounts},
};

/// Finds the connections that no series has. Most lost connections were never reported, and are added to those opened at once. Where
/// closes are lost, it takes two polls to decide whether series have the connections: until then they are only taken off the live
/// ones, so that the sum of those opened never decreases.
#[derive(Debug, Default)]
pub struct Unattributed {
    /// Closes that were lost before the last poll.
    before_last: u64,
    /// The same before the poll that preceded it: of these, series count none as live any more.
    settled: u64,
    opened: u64,
    /// As last reported.
    lost: BTreeMap<Lost, u64>,
}

impl Unattributed {
    /// A poll is over that began when so many closes were lost. `unsettled` flows are still listed that it did not show, or are not
    /// reported yet: a flow whose close was lost just before the previous poll, or whose socket was just closing, takes one more poll
    /// to be evicted.
    pub const fn finish_poll(&mut self, lost_closes: u64, unsettled: u64) {
        self.settled = self.before_last.saturating_sub(unsettled);
        self.before_last = lost_closes;
    }

    /// What is missing in `series`. So many records are `waiting` in the ring that may be the first of their connection: its close may
    /// be among the lost ones, and a series will have it all the same.
    pub fn of(&mut self, books: &Books, waiting: u64, series: &SeriesSet) -> UnattributedCounts {
        let sum = |of: fn(&Series) -> u64| series.all().map(|(_, one)| of(one)).sum::<u64>();
        let dropped = series.dropped();
        let began = sum(Series::began) + dropped.began;
        let closed = sum(|of| of.closed.values().sum()) + dropped.closed;
        let live = sum(|of| of.live);
        // Neither closed nor live: lost, and in a series.
        let known = began.saturating_sub(closed + live);
        let at_restart = lost_to(books, Lost::Restart);
        let lost = books.lost_total() - at_restart;
        let lost_closes = lost_closes(books);
        // Series can have no more of them than are live, or will be once their records are received.
        let never_opened = lost_closes.saturating_sub(live + waiting);
        let settled = self.settled.max(never_opened).min(lost_closes);
        let certain = lost - lost_closes + settled;
        // Of those that were reported, none waited in the ring then: a series has them by now, or none ever will.
        let in_no_series = self.reported().saturating_sub(known + live);
        let opened = certain.saturating_sub(known).max(in_no_series);
        self.opened = self.opened.max(opened);
        let pending = lost.saturating_sub(self.opened + known);
        // The others are live in series, though it is not known which they are.
        let unopened = pending.min(waiting);
        self.report(lost - unopened, books);
        UnattributedCounts {
            opened: self.opened,
            adopted_at_restart: at_restart,
            pending,
            dead: self.reported().saturating_sub(self.opened + known),
        }
    }

    /// The lost by cause, as they are reported: without those whose open record may not have been received.
    pub const fn lost(&self) -> &BTreeMap<Lost, u64> {
        &self.lost
    }

    /// Reports that at least so many are lost, besides those lost to the restart. A reported loss is never taken back.
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

/// Lost closes of connections that series may have or not.
pub fn lost_closes(books: &Books) -> u64 {
    lost_to(books, Lost::RingFull) + lost_to(books, Lost::Malformed)
}

fn lost_to(books: &Books, reason: Lost) -> u64 {
    books.lost.get(&reason).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        flow::{Change, Flow, example},
        series::{PeerLabel, SeriesLabels},
    };

    /// Lost closes that are taken off live connections, which then all close as they should while new ones wait in the ring: the lost
    /// connections are in no series.
    #[test]
    fn reported_loss_without_a_live_connection_is_in_no_series() {
        let (all, lost) = (100_u32, 50);
        let mut series = SeriesSet::new(SeriesLabels {
            peer: PeerLabel::Address,
            ports: true,
            limit: 10,
        });
        let open = |number| Flow {
            outcome: None,
            ..example::closed(number)
        };
        for number in 1..=all {
            series.apply(&Change::new(open(number), true));
        }
        let books = |live| Books {
            opened: u64::from(all) + lost,
            closed: u64::from(all) - live,
            live,
            failed: 0,
            lost: BTreeMap::from([(Lost::RingFull, lost)]),
        };
        let mut unattributed = Unattributed::default();
        let before = unattributed.of(&books(u64::from(all)), 0, &series);
        assert_eq!((before.opened, before.dead), (0, lost));
        for number in 1..=all {
            series.apply(&Change::close(open(number), example::closed(number)));
        }
        let after = unattributed.of(&books(0), 60, &series);
        assert_eq!((after.opened, after.dead), (lost, 0));
        assert_eq!(unattributed.lost()[&Lost::RingFull], lost);
    }
}
