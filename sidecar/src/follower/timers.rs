//! Which ends are a timer's, by the kernel's counts of the network namespace.
//!
//! A timer that gives a connection up counts that, and does so after it has told of the close: a count that was read before the
//! ring was drained is of closes that have been taken in by then, and one that was read a moment after a close has it.

use std::{collections::VecDeque, thread, time::Duration};

use crate::{
    clock::Anchor,
    flow::{Answers, CloseEvidence, Monotonic, Sight, Timer},
    source::given_up::Counts,
};

/// The least time between two readings while nothing asks for one.
const EVERY_NS: u64 = 1_000_000_000;

/// What the kernel may take from a close to its count.
const LAG_NS: u64 = 2_000_000;

/// What it may take from a close to the news of the socket's end, which are taken in ten times a second.
const NEWS_NS: u64 = 250_000_000;

/// Closes by a timer that are remembered, at most: more than are known in the time that is looked back.
const MOST: usize = 65_536;

/// Readings, and the closes by a timer that are known without.
#[derive(Debug)]
pub(super) struct Timers {
    /// Closes that have not been taken in came after it.
    before: Reading,
    latest: Reading,
    known: VecDeque<Close>,
}

/// The namespace's counts, read within a time: a busy machine may take its time for that, and what closes meanwhile is in the
/// counts or not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    from: Monotonic,
    to: Monotonic,
    counts: Option<Counts>,
}

/// A close by a timer, within a time.
#[derive(Clone, Copy, Debug)]
struct Close {
    from: Monotonic,
    to: Monotonic,
}

/// What was counted since a connection was seen alive, and is nobody's yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Since {
    /// Connections that the kernel gave up; `None` where that is not known.
    pub(super) given_up: Option<u64>,
    /// No RST was sent.
    pub(super) sent_no_reset: bool,
}

/// What these closes are, of which some, quiet ones, cannot have been ended by a RST.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Candidates {
    pub(super) quiet: u64,
    pub(super) others: u64,
}

impl Since {
    /// What is to be made of it for sockets whose end was told just now.
    pub(super) fn of_news(self, news: &[Sight], alone: bool) -> Answers {
        let may_have_expired = |sight: &&Sight| sight.info.is_some_and(|info| info.could_expire());
        let candidates = news.iter().filter(may_have_expired).count() as u64;
        let timer = match self.given_up {
            Some(0) => Timer::NotExpired,
            Some(count) if alone && count >= candidates => Timer::Expired,
            _ => Timer::Unknown,
        };
        Answers {
            timer,
            sent_no_reset: self.sent_no_reset,
            ..Answers::default()
        }
    }
}

impl Candidates {
    /// Whether the quiet ones were given up by timers, and whether the others were. `alone`: nobody else has sockets here.
    pub(super) fn judge(self, since: Since, alone: bool) -> (Timer, Timer) {
        match since.given_up {
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

// === impl Timers ===

impl Timers {
    pub(super) fn new() -> Self {
        let now = Reading::now();
        Self {
            before: now,
            latest: now,
            known: VecDeque::new(),
        }
    }

    /// What waits is about to be taken in.
    pub(super) fn begin(&mut self) {
        if Anchor::now().monotonic().since_ns(self.latest.from) < EVERY_NS {
            return;
        }
        self.before = std::mem::replace(&mut self.latest, Reading::now());
        let oldest = self.before;
        self.known.retain(|close| !oldest.has(close));
    }

    /// A connection, or an attempt, was given up by a timer at this time.
    pub(super) fn is_known(&mut self, at: Monotonic) {
        self.remember(Close { from: at, to: at });
    }

    /// A connection was given up by a timer a little before this time, when the news of it came.
    pub(super) fn is_known_by_news(&mut self, at: Monotonic) {
        let from = Monotonic(at.0.saturating_sub(NEWS_NS));
        self.remember(Close { from, to: at });
    }

    fn remember(&mut self, close: Close) {
        if self.known.len() >= MOST {
            self.known.pop_front();
        }
        self.known.push_back(close);
    }

    /// What was counted since before the close of `evidence`, which was just taken in.
    pub(super) fn since(&self, evidence: &CloseEvidence) -> Since {
        let now = Anchor::now().monotonic();
        if now.since_ns(evidence.at) < LAG_NS {
            thread::sleep(Duration::from_nanos(LAG_NS));
        }
        let is_older = |reading: &&Reading| reading.to.0 + LAG_NS < evidence.at.0;
        let older = [&self.latest, &self.before].into_iter().filter(is_older);
        let to = Reading::now();
        older
            .map(|from| self.between(from, &to))
            .find(|since| since.given_up.is_some())
            .unwrap_or_default()
    }

    /// What was counted between two readings. Nothing is known of it if a close by a timer may be among the counts of the first or
    /// not.
    fn between(&self, from: &Reading, to: &Reading) -> Since {
        let (Some(before), Some(now)) = (from.counts, to.counts) else {
            return Since::default();
        };
        let sent_no_reset = now.resets_sent == before.resets_sent;
        let since = self.known.iter().filter(|close| !from.has(close));
        if since.clone().any(|close| from.may_have(close)) {
            return Since {
                given_up: None,
                sent_no_reset,
            };
        }
        let known = since.count() as u64;
        let given_up = now.given_up.saturating_sub(before.given_up);
        Since {
            given_up: Some(given_up.saturating_sub(known)),
            sent_no_reset,
        }
    }

    /// The same since an earlier reading.
    pub(super) fn since_reading(&self, from: &Reading) -> Since {
        self.between(from, &Reading::now())
    }
}

impl Reading {
    pub(super) fn now() -> Self {
        let from = Anchor::now().monotonic();
        let counts = Counts::read();
        Self {
            from,
            to: Anchor::now().monotonic(),
            counts,
        }
    }

    /// Whether its counts have a close for certain.
    const fn has(&self, close: &Close) -> bool {
        close.to.0 + LAG_NS < self.from.0
    }

    /// Whether its counts may have a close, or for certain.
    const fn may_have(&self, close: &Close) -> bool {
        close.from.0 <= self.to.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn given_up(count: u64) -> Since {
        Since {
            given_up: Some(count),
            sent_no_reset: false,
        }
    }

    #[test]
    fn counts_decide_where_they_leave_no_choice() {
        use Timer::{Expired, NotExpired, Unknown};
        for (quiet, others, since, alone, told) in [
            (1, 1, Since::default(), true, (Unknown, Unknown)),
            (1, 1, given_up(0), false, (NotExpired, NotExpired)),
            (1, 1, given_up(1), false, (Expired, NotExpired)),
            (2, 0, given_up(1), true, (Unknown, Unknown)),
            (0, 1, given_up(1), true, (Expired, Expired)),
            (0, 1, given_up(1), false, (Expired, Unknown)),
            (1, 2, given_up(2), true, (Expired, Unknown)),
            (1, 2, given_up(3), true, (Expired, Expired)),
        ] {
            let candidates = Candidates { quiet, others };
            assert_eq!(
                candidates.judge(since, alone),
                told,
                "{candidates:?} {since:?}"
            );
        }
    }

    #[test]
    fn what_is_known_to_be_a_timers_explains_a_count() {
        const MS: u64 = 1_000_000;
        let reading = |from_ms, to_ms, given_up| Reading {
            from: Monotonic(from_ms * MS),
            to: Monotonic(to_ms * MS),
            counts: Some(Counts {
                given_up,
                resets_sent: 4,
            }),
        };
        // When others closed, and what is left of two that were counted since a reading that took from 1,000 to 1,050 ms.
        let rows: [(&[u64], &[u64], Option<u64>); 9] = [
            (&[], &[], Some(2)),
            (&[900], &[], Some(2)),
            (&[1_100], &[], Some(1)),
            (&[900, 1_100, 1_200], &[], Some(0)),
            // It may have been counted before the counts were read, or after.
            (&[1_020], &[], None),
            // It closed before, and may have been counted after.
            (&[999], &[], None),
            (&[900, 1_050], &[], None),
            // The news came then, and it closed a little before.
            (&[], &[1_200], None),
            (&[], &[900, 1_400], Some(1)),
        ];
        for (closes, news, left) in rows {
            let mut timers = Timers::new();
            closes
                .iter()
                .for_each(|at| timers.is_known(Monotonic(at * MS)));
            news.iter()
                .for_each(|at| timers.is_known_by_news(Monotonic(at * MS)));
            let since = timers.between(&reading(1_000, 1_050, 7), &reading(2_000, 2_050, 9));
            let expected = Since {
                given_up: left,
                sent_no_reset: true,
            };
            assert_eq!(since, expected, "{closes:?} {news:?}");
        }
    }
}
