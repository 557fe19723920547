//! Which closes are timeouts, by the kernel's counts of the network namespace.
//!
//! A timer that aborts a connection counts that after the close record is sent: a count that was read before the ring was drained is of
//! closes that have been taken in by then, and one that was read a moment after a close includes it.

use std::{collections::VecDeque, thread, time::Duration};

use super::readings::EVERY_NS;
use crate::{
    clock::Anchor,
    flow::{Answers, CloseEvidence, Monotonic, SocketSnapshot, Timer},
    source::{namespace::NamespaceReading, namespace_counts::Counts},
};

/// The time that the kernel may take from a close to its count.
const LAG_NS: u64 = 2_000_000;

/// Closes by a timer that are kept, at most: more than happen between the oldest reading and now.
const MOST: usize = 65_536;

/// Readings, and the closes by a timer that are known without them.
#[derive(Debug)]
pub(super) struct Timers {
    /// Closes that have not been taken in came after it.
    before: Reading,
    latest: Reading,
    /// The last one that was made for a close.
    after: Reading,
    known: VecDeque<Close>,
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

/// A close by a timer, within a time span.
#[derive(Clone, Copy, Debug)]
struct Close {
    from: Monotonic,
    to: Monotonic,
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
        let candidates = closed.iter().filter(may_have_expired).count() as u64;
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
            ..Answers::default()
        }
    }
}

impl Candidates {
    /// Whether timers closed the quiet ones, and whether they closed the others. `alone`: no other socket can have been ended by a timer:
    /// no other process has one here, and no close waits to be taken in.
    pub(super) fn judge(self, since: Since, alone: bool) -> (Timer, Timer) {
        match since.aborted_by_timer {
            None => (Timer::Unknown, Timer::Unknown),
            Some(0) => (Timer::NotExpired, Timer::NotExpired),
            Some(count) if count < self.quiet => (Timer::Unknown, Timer::Unknown),
            Some(count) if count == self.quiet => (Timer::Expired, Timer::NotExpired),
            Some(count) if alone && count - self.quiet >= self.others => {
                (Timer::Expired, Timer::Expired)
            }
            Some(_) => (Timer::Expired, Timer::Unknown),
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
    pub(super) const fn new(now: Reading) -> Self {
        Self {
            before: now,
            latest: now,
            after: now,
            known: VecDeque::new(),
        }
    }

    /// Records are about to be taken in. `now` is asked where a reading is due.
    pub(super) fn begin(&mut self, now: impl FnOnce() -> Reading) {
        if Anchor::now().monotonic().since_ns(self.latest.from) < EVERY_NS {
            return;
        }
        self.before = std::mem::replace(&mut self.latest, now());
        let oldest = self.before;
        self.known.retain(|close| !oldest.has(close));
    }

    /// A timer aborted a connection, or an attempt, at this time.
    pub(super) fn is_known(&mut self, at: Monotonic) {
        self.remember(Close { from: at, to: at });
    }

    /// A timer aborted a connection after `from`, and before its destroy event came: its application may have held the socket in
    /// between.
    pub(super) fn is_known_by_destroy_event(&mut self, from: Monotonic, at: Monotonic) {
        self.remember(Close { from, to: at });
    }

    fn remember(&mut self, close: Close) {
        if self.known.len() >= MOST {
            self.known.pop_front();
        }
        self.known.push_back(close);
    }

    /// Counts since before the close of `evidence`, which was just taken in. `read` makes a reading.
    pub(super) fn since(
        &mut self,
        evidence: &CloseEvidence,
        read: impl FnOnce() -> Reading,
    ) -> Since {
        let to = self.reading_after(evidence.at, read);
        let is_older = |reading: &&Reading| reading.to.0 + LAG_NS < evidence.at.0;
        let older = [&self.latest, &self.before].into_iter().filter(is_older);
        older
            .map(|from| self.between(from, &to))
            .find(|since| since.aborted_by_timer.is_some())
            .unwrap_or_default()
    }

    /// A reading that includes a close. One is enough for all closes that waited for it: with little CPU time they are many, and a reading
    /// takes longer than a record.
    fn reading_after(&mut self, at: Monotonic, read: impl FnOnce() -> Reading) -> Reading {
        let close = Close { from: at, to: at };
        // What is known is taken off, so it must be included, too.
        let mut all = self.known.iter().chain([&close]);
        if all.all(|close| self.after.has(close)) {
            return self.after;
        }
        let now = Anchor::now().monotonic();
        if now.since_ns(at) < LAG_NS {
            thread::sleep(Duration::from_nanos(LAG_NS));
        }
        self.after = read();
        self.after
    }

    /// Counts between two readings. Those of timers are not known if a close by a timer may or may not be among the counts of the first.
    pub(super) fn between(&self, from: &Reading, to: &Reading) -> Since {
        let (Some(before), Some(now)) = (from.counts, to.counts) else {
            return Since::default();
        };
        let counted = Since {
            aborted_by_timer: None,
            sent_no_reset: now.resets_sent == before.resets_sent,
            timewait_had_room: now.timewait_overflows == before.timewait_overflows,
        };
        let since = self.known.iter().filter(|close| !from.has(close));
        if since.clone().any(|close| from.may_have(close)) {
            return counted;
        }
        let known = since.count() as u64;
        let aborted_by_timer = now.aborted_by_timer.saturating_sub(before.aborted_by_timer);
        Since {
            aborted_by_timer: Some(aborted_by_timer.saturating_sub(known)),
            ..counted
        }
    }
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

impl Reading {
    /// When the read began.
    pub(super) const fn begun(&self) -> Monotonic {
        self.from
    }

    /// Whether its counts certainly include a close.
    const fn has(&self, close: &Close) -> bool {
        close.to.0 + LAG_NS < self.from.0
    }

    /// Whether its counts may or certainly include a close.
    const fn may_have(&self, close: &Close) -> bool {
        close.from.0 <= self.to.0
    }
}

#[cfg(test)]
mod tests {
    use super::{super::readings::Readings, *};

    const fn aborted_by_timer(count: u64) -> Since {
        Since {
            aborted_by_timer: Some(count),
            sent_no_reset: false,
            timewait_had_room: false,
        }
    }

    #[test]
    fn timer_counts_decide_unambiguous_closes() {
        use Timer::{Expired, NotExpired, Unknown};
        for (quiet, others, since, alone, expected) in [
            (1, 1, Since::default(), true, (Unknown, Unknown)),
            (1, 1, aborted_by_timer(0), false, (NotExpired, NotExpired)),
            (1, 1, aborted_by_timer(1), false, (Expired, NotExpired)),
            (2, 0, aborted_by_timer(1), true, (Unknown, Unknown)),
            (0, 1, aborted_by_timer(1), true, (Expired, Expired)),
            (0, 1, aborted_by_timer(1), false, (Expired, Unknown)),
            (1, 2, aborted_by_timer(2), true, (Expired, Unknown)),
            (1, 2, aborted_by_timer(3), true, (Expired, Expired)),
        ] {
            let candidates = Candidates { quiet, others };
            assert_eq!(
                candidates.judge(since, alone),
                expected,
                "{candidates:?} {since:?}"
            );
        }
    }

    #[test]
    fn closes_that_waited_share_a_reading() {
        let mut readings = Readings::new();
        let mut read = || Reading::from(readings.now());
        let mut timers = Timers::new(read());
        let at = Anchor::now().monotonic();
        let first = timers.reading_after(at, &mut read);
        assert!(first.from.since_ns(at) >= LAG_NS);
        let earlier = Monotonic(at.0 - LAG_NS);
        assert_eq!(timers.reading_after(earlier, &mut read).from, first.from);
        // One more is known by now, and the reading does not include it.
        timers.is_known(first.to);
        let second = timers.reading_after(earlier, &mut read);
        assert!(second.from > first.from);
        // Nor does it a close that is later.
        assert!(timers.reading_after(second.to, &mut read).from > second.from);
    }

    #[test]
    fn known_timeouts_explain_counts() {
        const MS: u64 = 1_000_000;
        let reading = |from_ms, to_ms, aborted_by_timer| Reading {
            from: Monotonic(from_ms * MS),
            to: Monotonic(to_ms * MS),
            counts: Some(Counts {
                aborted_by_timer,
                resets_sent: 4,
                timewait_overflows: 3,
            }),
        };
        // When others closed, by record, or between two times by destroy event, and how many are unexplained of two that were counted
        // since a reading that took from 1,000 to 1,050 ms.
        type Row = (&'static [u64], &'static [(u64, u64)], Option<u64>);
        let rows: [Row; 11] = [
            (&[], &[], Some(2)),
            (&[900], &[], Some(2)),
            (&[1_100], &[], Some(1)),
            (&[900, 1_100, 1_200], &[], Some(0)),
            // It may have been counted before the counts were read, or after.
            (&[1_020], &[], None),
            // It closed before, and may have been counted after.
            (&[999], &[], None),
            (&[900, 1_050], &[], None),
            // Its application may have held the socket: the timer was counted before the first reading, or after.
            (&[], &[(950, 1_200)], None),
            (&[], &[(900, 1_900)], None),
            (&[], &[(1_060, 1_900)], Some(1)),
            (&[], &[(650, 900), (1_150, 1_400)], Some(1)),
        ];
        for (closes, destroy_events, unexplained) in rows {
            let mut timers = Timers::new(reading(0, 0, 0));
            closes
                .iter()
                .for_each(|at| timers.is_known(Monotonic(at * MS)));
            destroy_events.iter().for_each(|(from, at)| {
                timers.is_known_by_destroy_event(Monotonic(from * MS), Monotonic(at * MS));
            });
            let since = timers.between(&reading(1_000, 1_050, 7), &reading(2_000, 2_050, 9));
            let expected = Since {
                aborted_by_timer: unexplained,
                sent_no_reset: true,
                timewait_had_room: true,
            };
            assert_eq!(since, expected, "{closes:?} {destroy_events:?}");
        }
    }
}
