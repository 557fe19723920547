//! What close records leave undecided, and what decides it: the state under the connection's addresses, and the kernel's counts of the
//! network namespace.

use super::{
    super::timers::{Candidates, Reading, Since},
    Flows, name_of, timed_out,
};
use crate::{
    clock::Anchor,
    flow::{self, Answers, EstablishedFlow, Flow, Monotonic, Outcome, PostCloseState, Timer},
    source::Sockets,
};

/// What a close record leaves undecided.
#[derive(Clone, Copy, Debug)]
pub(super) struct Doubts {
    at: Monotonic,
    pub(super) answers: Answers,
    /// No RST can have closed it.
    is_quiet: bool,
    /// Timers aborted connections in the meantime, and this may have been one: it is decided together with the others.
    pub(super) needs_the_others: bool,
    /// A timer of this network namespace may have aborted it.
    may_be_a_timer: bool,
}

/// Readings, at most, for the closes of one drain: while connections close every few milliseconds, a reading is made until none closed
/// while it was made.
const ROUNDS: u32 = 16;

/// The same while the ring is not empty: each takes as long as a turn may.
const ROUNDS_OF_MORE: u32 = 2;

/// By what closes of one drain are decided together.
#[derive(Clone, Copy, Debug)]
struct Judgement {
    /// The namespace's counts, which include all that are decided by it.
    counts: Reading,
    /// Closes that may be among its counts or not.
    uncertain: u64,
    /// The record of every close that is in its counts has been taken in.
    is_whole: bool,
    /// No other process has a socket here, and no socket that polls alone report has closed unseen.
    alone: bool,
}

impl Flows {
    /// Takes in what a drain left: records from the first close on that is decided together with others. `drain` takes in what has come
    /// since, and gives whether more waits.
    pub(super) fn held_back(
        &mut self,
        mut records: Vec<Box<[u8]>>,
        sockets: &mut Sockets,
        mut drain: impl FnMut(&mut Vec<Box<[u8]>>) -> bool,
    ) -> bool {
        let alone = sockets.are_shown() && {
            let polled = self.table.listing().established().filter(|of| of.is_polled);
            self.excluded.are_all_of(sockets.others()) && are_open(polled, sockets)
        };
        let (mut more, mut rounds, mut most, mut foreseen) = (false, 0, ROUNDS, 0);
        while !records.is_empty() {
            // Timers that have been counted by a reading have sent their records: those are taken in before the reading serves, so that
            // no other close is explained by their counts.
            let counts = self.reading_after_all(&records);
            let drained = records.len();
            more = rounds >= most || drain(&mut records);
            for bytes in records.split_off(drained) {
                self.learn_address(&bytes, sockets);
                if !self.take_origin(&bytes) {
                    records.push(bytes);
                }
            }
            self.foresee(&records[foreseen..]);
            foreseen = records.len();
            let closes = records
                .iter()
                .filter_map(|bytes| self.may_be_a_timer(bytes));
            let uncertain = closes.filter(|at| counts.is_uncertain(*at)).count() as u64;
            rounds += 1;
            if more {
                most = most.min(ROUNDS_OF_MORE);
            }
            if (more || uncertain > 0) && rounds < most {
                continue;
            }
            let judgement = Judgement {
                counts,
                uncertain,
                is_whole: !more,
                alone,
            };
            let decided = self.decide(&records, judgement, sockets);
            records.drain(..decided);
            foreseen -= decided;
        }
        more
    }

    /// Notes the timers that records show, before those records are taken in.
    fn foresee(&mut self, records: &[Box<[u8]>]) {
        for bytes in records {
            if let Ok(record) = flow::decode(bytes, self.seed)
                && timed_out(&record.flow)
            {
                let is_here = self.is_here(&record);
                self.timers.is_foreseen(record.flow.seen, is_here);
            }
        }
    }

    /// When a connection or an attempt closed, if a timer may have ended it.
    fn may_be_a_timer(&self, bytes: &[u8]) -> Option<Monotonic> {
        let flow = flow::decode(bytes, self.seed).ok()?.flow;
        let evidence = flow::evidence(bytes);
        let may = evidence.is_some_and(|of| of.wants_timer(PostCloseState::NotPolled));
        (may || timed_out(&flow)).then_some(flow.seen)
    }

    /// A reading of the namespace's counts that includes every close among these records that a timer may have ended.
    fn reading_after_all(&mut self, records: &[Box<[u8]>]) -> Reading {
        let closes = records
            .iter()
            .filter_map(|bytes| self.may_be_a_timer(bytes));
        let newest = closes.max();
        let at = newest.unwrap_or_else(|| Anchor::now().monotonic());
        self.timers.reading_after(at, || self.readings.now().into())
    }

    /// Takes in records up to the first close in doubt that came after the reading, and at least one. Gives how many.
    fn decide(&mut self, records: &[Box<[u8]>], by: Judgement, sockets: &mut Sockets) -> usize {
        let mut all = Vec::with_capacity(records.len());
        for bytes in records {
            let doubts = self.doubts(bytes, sockets, Some(&by.counts));
            let is_late = |of: &Doubts| of.needs_the_others && !by.counts.includes(of.at);
            if !all.is_empty() && doubts.as_ref().is_some_and(is_late) {
                break;
            }
            all.push(doubts);
        }
        let together = || all.iter().flatten().filter(|of| of.needs_the_others);
        let mut candidates = Candidates::default();
        for doubts in together() {
            if doubts.is_quiet {
                candidates.quiet += 1;
            } else {
                candidates.others += 1;
            }
        }
        // The first is the oldest, so its time covers all.
        let first = together().next();
        let since = first.map_or_else(Since::default, |of| self.timers.since(of.at, &by.counts));
        let (quiet, others) = if by.is_whole {
            candidates.judge(since, by.uncertain, by.alone)
        } else {
            candidates.judge(Since::default(), 0, false)
        };
        for (bytes, doubts) in records.iter().zip(&all) {
            let answers = doubts.map(|doubts| {
                let mut answers = doubts.answers;
                if doubts.needs_the_others {
                    answers.timer = if doubts.is_quiet { quiet } else { others };
                    if answers.timer == Timer::Expired {
                        self.timers.is_known(doubts.at);
                    }
                }
                self.keep_undecided(&doubts, answers.timer);
                answers
            });
            self.record(bytes, answers);
        }
        all.len()
    }

    /// What a close record leaves undecided, with what else is known of it; `None` where it leaves nothing undecided. `counts` include the
    /// close; where there are none, they are read.
    pub(super) fn doubts(
        &mut self,
        bytes: &[u8],
        sockets: &mut Sockets,
        counts: Option<&Reading>,
    ) -> Option<Doubts> {
        let evidence = flow::evidence(bytes)?;
        if evidence.timed_out() {
            return None;
        }
        let wants_post_close = evidence.wants_post_close();
        if !wants_post_close && !evidence.wants_timer(PostCloseState::NotPolled) {
            return None;
        }
        let flow = flow::decode(bytes, self.seed).ok()?.flow;
        if !sockets.are_shown() {
            return None;
        }
        let mut answers = Answers {
            polled_segs_in: self.table.listing().polled_segs_in(flow.cookie),
            ..Answers::default()
        };
        let mut doubts = Doubts {
            at: evidence.at,
            answers,
            is_quiet: false,
            needs_the_others: false,
            may_be_a_timer: false,
        };
        if !self.table.would_show(&flow, |flow| sockets.is_here(flow)) {
            return Some(doubts);
        }
        if wants_post_close {
            answers.post_close = sockets.find(&name_of(&flow), false);
        }
        if evidence.wants_timer(answers.post_close) {
            doubts.may_be_a_timer = true;
            let since = self.since(evidence.at, counts);
            answers.sent_no_reset = since.sent_no_reset;
            if since.aborted_by_timer == Some(0) {
                answers.timer = Timer::NotExpired;
            }
            doubts.needs_the_others = since.aborted_by_timer.is_some_and(|count| count > 0);
            doubts.is_quiet = evidence.is_quiet(&answers);
        }
        doubts.answers = answers;
        Some(doubts)
    }

    /// Notes a close whose reason is not known: its timer's count, if there was one, explains no other close.
    pub(super) fn keep_undecided(&mut self, doubts: &Doubts, timer: Timer) {
        if doubts.may_be_a_timer && timer == Timer::Unknown {
            self.timers.is_undecided(doubts.at);
        }
    }

    /// Counts from before a close to `counts`, or to a reading that is made now.
    fn since(&mut self, at: Monotonic, counts: Option<&Reading>) -> Since {
        let read = || self.readings.now().into();
        let to = match counts {
            Some(counts) if counts.includes(at) => *counts,
            _ => self.timers.reading_after(at, read),
        };
        self.timers.since(at, &to)
    }
}

/// Flows that are queried, at most, before a timer's count is taken for closes: some 10 us of CPU time each.
const QUERIES: usize = 256;

/// Whether these flows are all still open. Of many, those are queried whose segments were unanswered at the last poll: a timer that ends
/// the others within one interval is a short one.
pub(super) fn are_open(
    flows: impl Iterator<Item = EstablishedFlow> + Clone,
    sockets: &mut Sockets,
) -> bool {
    let is_few = flows.clone().nth(QUERIES).is_none();
    let mut queried = flows.filter(|of| is_few || of.is_unanswered);
    // What is open is reported as not polled.
    let mut is_open =
        |of: EstablishedFlow| sockets.find(&of.name, true) == PostCloseState::NotPolled;
    queried.by_ref().take(QUERIES).all(&mut is_open) && queried.next().is_none()
}

/// Sets the outcome of a closed flow from all that is known of it. Gives whether its payload counts are exact.
pub(super) fn settle(flow: &mut Flow, bytes: &[u8], answers: Option<Answers>) -> bool {
    let Some(evidence) = flow::evidence(bytes) else {
        return true;
    };
    let answers = answers.unwrap_or_default();
    let verdict = evidence.verdict(&answers);
    flow.outcome = Some(Outcome::Closed(verdict.reason));
    flow.reset_after_fin = evidence.reset_after_fin(&answers);
    // The record shows every other FIN, and decoding subtracts it.
    if evidence.fin_is_uncertain() && verdict.fin_received == Some(true) {
        flow.volume.bytes_received = flow.volume.bytes_received.saturating_sub(1);
    }
    verdict.fin_received.is_some()
}
