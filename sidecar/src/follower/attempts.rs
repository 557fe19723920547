//! Attempts whose record does not show why they failed, until the network namespace's counters are read.

use super::readings::{EVERY_NS, Readings};
use crate::{
    clock::Anchor,
    flow::{AttemptJudge, Failure, NamespaceCounts, Outcome, Record, Unanswered},
    source::namespace::{discards_first, locate},
};

/// Attempts that wait at once.
const MOST: usize = 1024;

/// Attempts that wait, and what they are judged by.
#[derive(Debug)]
pub(super) struct Attempts {
    judge: AttemptJudge,
    waiting: Vec<(Record, Unanswered)>,
    /// Whether records show if they are of flowcar's network namespace.
    pub(super) knows_netns: bool,
}

impl Attempts {
    pub(super) fn new(readings: &mut Readings) -> Self {
        let mut attempts = Self {
            judge: AttemptJudge::default(),
            waiting: Vec::new(),
            knows_netns: false,
        };
        attempts.refresh(readings);
        attempts
    }

    /// Reads the counters, if that is due. Before the records that are to be judged by them.
    pub(super) fn refresh(&mut self, readings: &mut Readings) {
        let now = Anchor::now().monotonic();
        let last = self.judge.last_read();
        // An error that an attempt meets inside connect() is counted as it begins, and may be of any that began between two readings.
        let every = if self.judge.kept_lately(now) {
            0
        } else {
            EVERY_NS
        };
        if last.is_none_or(|last| now.since_ns(last) >= every)
            && let Some(counts) = readings.of_turn().of_attempts
        {
            self.judge.read(counts);
        }
    }

    /// Whether the waiting attempts must be settled before this record is taken in: one is an earlier connection of its socket, or too many
    /// wait.
    pub(super) fn must_settle_before(&self, record: &Record) -> bool {
        let cookie = record.flow.cookie;
        self.waiting.len() >= MOST
            || self
                .waiting
                .iter()
                .any(|(waiting, _)| waiting.flow.cookie == cookie)
    }

    /// Keeps a record that does not show why its attempt failed; returns every other. `is_shown`: the attempt is known to be in this network
    /// namespace.
    pub(super) fn sort(&mut self, record: Record, is_shown: bool) -> Option<Record> {
        let Some(failed) = record.failed else {
            return Some(record);
        };
        let is_here = failed.is_here.or(self.knows_netns.then_some(false));
        if let Some(unanswered) = failed.unanswered {
            let unanswered = Unanswered {
                is_here,
                ..unanswered
            };
            let unanswered = locate(unanswered, &record.flow);
            self.waiting.push((record, unanswered));
            return None;
        }
        let by_kernel = matches!(
            record.flow.outcome,
            Some(Outcome::Failed(
                Failure::Refused | Failure::Timeout | Failure::Reset
            ))
        );
        if by_kernel && is_here != Some(false) {
            let flow = &record.flow;
            self.judge.failed(flow.seen, is_shown);
            // A RST that answers the first SYN leaves no time for another answer.
            let again = flow.volume.retransmits.syn > 0;
            if again || flow.outcome == Some(Outcome::Failed(Failure::Timeout)) {
                let ipv6 = flow.peer.is_ipv6();
                self.judge.may_have_met(flow.started, flow.seen, ipv6);
            }
        }
        Some(record)
    }

    /// How many wait.
    pub(super) const fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether it depends on sockets that are in no record why those that wait failed. `now` was read after their records were sent.
    pub(super) fn ask_for_others(&self, now: Option<&NamespaceCounts>) -> bool {
        now.is_some_and(|now| self.judge.asks_for_others(&self.unanswered(), now))
    }

    /// Gives those that wait, each with its reason. `now` was read after their records were sent. `others`: whether a socket that is in none
    /// of the records may have met an ICMP error since.
    pub(super) fn settle(&mut self, now: Option<NamespaceCounts>, others: bool) -> Vec<Record> {
        let unanswered = self.unanswered();
        let waiting = std::mem::take(&mut self.waiting);
        let failures = self.judge.judge(&unanswered, now, others, discards_first);
        let settled = waiting.into_iter().zip(failures);
        settled
            .map(|((mut record, _), failure)| {
                record.flow.outcome = Some(Outcome::Failed(failure));
                record
            })
            .collect()
    }

    fn unanswered(&self) -> Vec<Unanswered> {
        let waiting = self.waiting.iter();
        waiting.map(|(_, unanswered)| *unanswered).collect()
    }
}
