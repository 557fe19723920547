//! Which closes are timeouts, by the kernel's counts of the network namespace.
//!
//! A timer that aborts a connection counts that after the close record is sent: a count that was read before the ring was drained is of
//! closes that have been taken in by then, and one that was read a moment after a close includes it.

use std::{collections::VecDeque, thread, time::Duration};

use super::readings::EVERY_NS;
use crate::{
    clock::Anchor,
    flow::{Answers, Monotonic, SocketSnapshot, Timer},
    source::{namespace::NamespaceReading, namespace_counts::Counts},
};

/// The time that the kernel may take from a close to its count.
const LAG_NS: u64 = 2_000_000;

/// Closes by a timer that are kept, at most: more than happen between the oldest reading and now.
const MOST: usize = 65_536;

/// Readings of turns that are kept. A close a moment before a reading may be in its counts or not: then an older one serves.
const TURNS: usize = 3;

/// Readings that were made for closes that are kept: they are newer than those of turns, and what they count is known.
const AFTERS: usize = 3;

/// Readings, and the closes by a timer that are known without them.
#[derive(Debug)]
pub(super) struct Timers {
    /// Those of turns, the newest first. Closes that have not been taken in came after the last but one.
    turns: VecDeque<Reading>,
    /// Those that were made for closes, the newest first.
    afters: VecDeque<Reading>,
    known: VecDeque<Close>,
    /// Closes of which it is not known whether a timer was the reason: its count explains no other close.
    undecided: VecDeque<Close>,
    /// How many of both have records that are still to be taken in.
    foreseen: usize,
}

/// The namespace's counts, with the time span of the read: on a busy machine it may be long, and a close meanwhile is in the counts or
/// not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    from: Monotonic,
    to: Monotonic,
    counts: Option<Counts>,
}

/// The namespace's counts a moment before the destroy events that are about to be taken in.
#[derive(Debug)]
pub(super) struct Recent {
    before: Reading,
    latest: Reading,
    /// Events waited when the last ones were taken in: they may be older than a reading since.
    more: bool,
}

/// A close by a timer.
#[derive(Clone, Copy, Debug)]
struct Close {
    /// It was counted later than this.
    from: Monotonic,
    /// It was counted by then.
    counted: Monotonic,
}

/// Counts since a connection was seen alive, less those of known closes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Since {
    /// Connections that timers aborted; `None` where that is not known.
    pub(super) aborted_by_timer: Option<u64>,
    /// No RST was sent.
    pub(super) sent_no_reset: bool,
    /// Every timewait socket found room.
    pub(super) timewait_had_room: bool,
    /// No connection was aborted because payload came for it, nor by SO_LINGER of 0.
    pub(super) aborted_none_on_data: bool,
    /// Attempts that the kernel ended; `None` where that is not known.
    pub(super) attempts_ended: Option<u64>,
    /// How many earlier closes may have been timers', too.
    pub(super) undecided: u64,
}

/// Closes to decide together. The quiet ones cannot have been closed by a RST.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Candidates {
    pub(super) quiet: u64,
    pub(super) others: u64,
}

impl Since {
    /// What follows for sockets whose destroy events came just now; `recent` is since a moment before.
    pub(super) fn answers(self, recent: Self, closed: &[SocketSnapshot], alone: bool) -> Answers {
        let may_have_expired =
            |observed: &&SocketSnapshot| observed.info.is_some_and(|info| info.could_expire());
        let candidates = closed.iter().filter(may_have_expired).count() as u64 + self.undecided;
        let timer = match self.aborted_by_timer {
            Some(0) => Timer::NotExpired,
            Some(count) if alone && count >= candidates => Timer::Expired,
            _ => Timer::Unknown,
        };
        Answers {
            timer,
            sent_no_reset: self.sent_no_reset,
            sent_no_recent_reset: recent.sent_no_reset,
            timewait_had_room: recent.timewait_had_room,
            aborted_none_on_data: recent.aborted_none_on_data,
            attempts_ended: self.attempts_ended,
            ..Answers::default()
        }
    }
}

impl Candidates {
    /// Whether timers closed the quiet ones, and whether they closed the others. `uncertain` other closes may be among the counts.
    /// `alone`: no other process has a socket here.
    pub(super) fn judge(self, since: Since, uncertain: u64, alone: bool) -> (Timer, Timer) {
        let Some(count) = since.aborted_by_timer else {
            return (Timer::Unknown, Timer::Unknown);
        };
        let certain = count.saturating_sub(uncertain + since.undecided);
        if count == 0 {
            (Timer::NotExpired, Timer::NotExpired)
        } else if certain < self.quiet {
            (Timer::Unknown, Timer::Unknown)
        } else if count == self.quiet {
            (Timer::Expired, Timer::NotExpired)
        } else if alone && certain - self.quiet >= self.others {
            (Timer::Expired, Timer::Expired)
        } else {
            (Timer::Expired, Timer::Unknown)
        }
    }
}

// === impl Recent ===

impl Recent {
    pub(super) const fn new(now: Reading) -> Self {
        Self {
            before: now,
            latest: now,
            more: false,
        }
    }

    /// Destroy events are about to be taken in. `now` is asked where a reading is due.
    pub(super) fn begin(&mut self, now: impl FnOnce() -> Reading) {
        let age_ns = Anchor::now().monotonic().since_ns(self.latest.from);
        if age_ns >= EVERY_NS && !self.more {
            self.before = std::mem::replace(&mut self.latest, now());
        }
    }

    /// Destroy events were taken in; `more` wait.
    pub(super) const fn taken_in(&mut self, more: bool) {
        self.more = more;
    }

    /// The newest reading that is a moment older than the events.
    pub(super) const fn before(&self) -> &Reading {
        &self.before
    }
}

// === impl Timers ===

impl Timers {
    pub(super) fn new(now: Reading) -> Self {
        Self {
            turns: VecDeque::from([now]),
            afters: VecDeque::new(),
            known: VecDeque::new(),
            undecided: VecDeque::new(),
            foreseen: 0,
        }
    }

    /// Records are about to be taken in. `now` is asked where a reading is due; `before_dumps` is one that is still needed.
    pub(super) fn begin(&mut self, before_dumps: Option<&Reading>, now: impl FnOnce() -> Reading) {
        let age_ns = |latest: &Reading| Anchor::now().monotonic().since_ns(latest.from);
        if self.turns.front().is_some_and(|of| age_ns(of) < EVERY_NS) {
            return;
        }
        let now = now();
        keep(&mut self.turns, now, TURNS);
        let oldest = *self.turns.back().unwrap_or(&now);
        self.afters.retain(|after| after.from >= oldest.from);
        let needed = before_dumps.filter(|reading| reading.from < oldest.from);
        self.forget(needed.copied().unwrap_or(oldest));
    }

    /// A dump is about to begin, and no records go before: nothing is counted from before `oldest` any more.
    pub(super) fn dump_begins(&mut self, oldest: Reading) {
        if self.turns.len() == 1 {
            self.forget(oldest);
        }
    }

    fn forget(&mut self, oldest: Reading) {
        self.known.retain(|close| !oldest.has(close));
        self.undecided.retain(|close| !oldest.has(close));
    }

    /// A timer of this network namespace aborted a connection, or an attempt, at this time.
    pub(super) fn is_known(&mut self, at: Monotonic) {
        remember(&mut self.known, Close::of_record(at));
    }

    /// A timer aborted a connection, or an attempt, at this time, by a record that is still to be taken in. `is_here`: in this network
    /// namespace; else its count may be in another's.
    pub(super) fn is_foreseen(&mut self, at: Monotonic, is_here: bool) {
        self.is_of_a_record(at, is_here);
        self.foreseen += 1;
    }

    /// The same, by a record that is being taken in.
    pub(super) fn is_taken_in(&mut self, at: Monotonic, is_here: bool) {
        match self.foreseen.checked_sub(1) {
            Some(left) => self.foreseen = left,
            None => self.is_of_a_record(at, is_here),
        }
    }

    fn is_of_a_record(&mut self, at: Monotonic, is_here: bool) {
        if is_here {
            self.is_known(at);
        } else {
            self.is_undecided(at);
        }
    }

    /// A timer aborted a connection after `from`, and before its destroy event came: its application may have held the socket in
    /// between.
    pub(super) fn is_known_by_destroy_event(&mut self, from: Monotonic, at: Monotonic) {
        // The event is sent when the socket is freed, which its timer does after it has counted.
        remember(&mut self.known, Close { from, counted: at });
    }

    /// A connection closed at this time, and a timer may have aborted it.
    pub(super) fn is_undecided(&mut self, at: Monotonic) {
        remember(&mut self.undecided, Close::of_record(at));
    }

    /// The same, after `from` and before its destroy event came.
    pub(super) fn is_undecided_by_destroy_event(&mut self, from: Monotonic, at: Monotonic) {
        remember(&mut self.undecided, Close { from, counted: at });
    }

    /// Counts from before a close, or an earlier one of those that are decided together, to a reading that includes it.
    pub(super) fn since(&self, at: Monotonic, to: &Reading) -> Since {
        let is_older = |reading: &&Reading| reading.to.0 + LAG_NS < at.0;
        let mut older: Vec<_> = self.turns.iter().chain(&self.afters).collect();
        older.retain(is_older);
        older.sort_by_key(|reading| std::cmp::Reverse(reading.from));
        let mut since = older.into_iter().map(|from| self.between(from, to));
        let newest = since.next().unwrap_or_default();
        std::iter::once(newest)
            .chain(since)
            .find(|since| since.aborted_by_timer.is_some())
            .unwrap_or(newest)
    }

    /// A reading that includes a close. One is enough for all closes that waited for it: with little CPU time they are many, and a reading
    /// takes longer than a record.
    pub(super) fn reading_after(
        &mut self,
        at: Monotonic,
        read: impl FnOnce() -> Reading,
    ) -> Reading {
        let close = Close::of_record(at);
        // What is known is taken off, so it must be included, too.
        let mut all = self.known.iter().chain([&close]);
        if let Some(after) = self.afters.front()
            && all.all(|close| after.has(close))
        {
            return *after;
        }
        let now = Anchor::now().monotonic();
        if now.since_ns(at) < LAG_NS {
            thread::sleep(Duration::from_nanos(LAG_NS));
        }
        let after = read();
        keep(&mut self.afters, after, AFTERS);
        after
    }

    /// Counts between two readings. Those of timers are not known if a close by a timer may or may not be among the counts of one.
    pub(super) fn between(&self, from: &Reading, to: &Reading) -> Since {
        let (Some(before), Some(now)) = (from.counts, to.counts) else {
            return Since::default();
        };
        let counted = Since {
            aborted_by_timer: None,
            sent_no_reset: now.resets_sent == before.resets_sent,
            timewait_had_room: now.timewait_overflows == before.timewait_overflows,
            aborted_none_on_data: now.aborted_on_data == before.aborted_on_data,
            attempts_ended: Some(now.attempts_failed.saturating_sub(before.attempts_failed)),
            undecided: 0,
        };
        let since = (self.known.iter()).filter(|close| !from.has(close) && to.may_have(close));
        if (since.clone()).any(|close| from.may_have(close) || !to.has(close)) {
            return counted;
        }
        let known = since.count() as u64;
        let aborted_by_timer = now.aborted_by_timer.saturating_sub(before.aborted_by_timer);
        let may_count = |close: &&Close| !from.has(close) && to.may_have(close);
        Since {
            aborted_by_timer: Some(aborted_by_timer.saturating_sub(known)),
            undecided: self.undecided.iter().filter(may_count).count() as u64,
            ..counted
        }
    }
}

fn remember(closes: &mut VecDeque<Close>, close: Close) {
    if closes.len() >= MOST {
        closes.pop_front();
    }
    closes.push_back(close);
}

/// Keeps a reading as the newest of so many.
fn keep(readings: &mut VecDeque<Reading>, now: Reading, most: usize) {
    readings.truncate(most - 1);
    readings.push_front(now);
}

impl From<NamespaceReading> for Reading {
    fn from(reading: NamespaceReading) -> Self {
        Self {
            from: reading.from,
            to: reading.to,
            counts: reading.counts,
        }
    }
}

// === impl Close ===

impl Close {
    /// One whose record was sent at this time.
    const fn of_record(at: Monotonic) -> Self {
        Self {
            from: at,
            counted: Monotonic(at.0 + LAG_NS),
        }
    }
}

// === impl Reading ===

impl Reading {
    /// When the read began.
    pub(super) const fn begun(&self) -> Monotonic {
        self.from
    }

    /// Whether its counts certainly include a close whose record was sent at this time.
    pub(super) const fn includes(&self, at: Monotonic) -> bool {
        self.has(&Close::of_record(at))
    }

    /// Whether its counts include such a close or not, which cannot be known.
    pub(super) const fn is_uncertain(&self, at: Monotonic) -> bool {
        let close = Close::of_record(at);
        self.may_have(&close) && !self.has(&close)
    }

    /// Whether its counts certainly include a close.
    const fn has(&self, close: &Close) -> bool {
        close.counted.0 < self.from.0
    }

    /// Whether its counts may or certainly include a close.
    const fn may_have(&self, close: &Close) -> bool {
        close.from.0 <= self.to.0
    }
}

#[cfg(test)]
mod tests;
