//! What close records leave undecided, and what decides it: the state under the connection's addresses, and the kernel's counts of the
//! network namespace.

use super::{
    super::timers::{Candidates, Since},
    Flows, name_of,
};
use crate::{
    flow::{self, Answers, Flow, Monotonic, Outcome, PostCloseState, Timer},
    source::diag::DiagSource,
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
    since: Since,
}

impl Flows {
    /// Takes in records of which some are closes that are decided together. Where `more` wait, timers may have ended those.
    pub(super) fn held_back(
        &mut self,
        records: &[Box<[u8]>],
        more: bool,
        mut diag: Option<&mut DiagSource>,
    ) {
        let mut doubts = |bytes: &[u8]| self.doubts(bytes, diag.as_deref_mut());
        let all: Vec<_> = records.iter().map(|bytes| doubts(bytes)).collect();
        let mut candidates = Candidates::default();
        for doubts in all.iter().flatten().filter(|of| of.needs_the_others) {
            if doubts.is_quiet {
                candidates.quiet += 1;
            } else {
                candidates.others += 1;
            }
        }
        // The first is the oldest, so its time covers all.
        let first = all.iter().flatten().find(|of| of.needs_the_others);
        let since = first.map_or_else(Since::default, |of| of.since);
        let alone = diag.is_some_and(|diag| self.excluded.are_all_of(diag.others()));
        let (quiet, others) = candidates.judge(since, alone && !more);
        for (bytes, doubts) in records.iter().zip(all) {
            let answers = doubts.map(|doubts| {
                let mut answers = doubts.answers;
                if doubts.needs_the_others {
                    answers.timer = if doubts.is_quiet { quiet } else { others };
                    if answers.timer == Timer::Expired {
                        self.timers.is_known(doubts.at);
                    }
                }
                answers
            });
            self.record(bytes, answers);
        }
    }

    /// What a close record leaves undecided, with what else is known of it; `None` where it leaves nothing undecided.
    pub(super) fn doubts(&mut self, bytes: &[u8], diag: Option<&mut DiagSource>) -> Option<Doubts> {
        let evidence = flow::evidence(bytes)?;
        if evidence.timed_out() {
            return None;
        }
        let wants_post_close = evidence.wants_post_close();
        if !wants_post_close && !evidence.wants_timer(PostCloseState::NotPolled) {
            return None;
        }
        let flow = flow::decode(bytes, self.seed).ok()?.flow;
        let diag = diag?;
        let mut answers = Answers {
            polled_segs_in: self.table.polled_segs_in(flow.cookie),
            ..Answers::default()
        };
        let mut doubts = Doubts {
            at: evidence.at,
            answers,
            is_quiet: false,
            needs_the_others: false,
            since: Since::default(),
        };
        if !self.table.would_show(&flow, |flow| diag.is_here(flow)) {
            return Some(doubts);
        }
        if wants_post_close {
            answers.post_close = diag.find(&name_of(&flow), false);
        }
        if evidence.wants_timer(answers.post_close) {
            let since = self.timers.since(&evidence, || self.readings.now().into());
            doubts.since = since;
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
