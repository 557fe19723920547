//! Attempts whose record does not show why they failed, until the network namespace's counters are read.

use crate::{
    clock::Anchor,
    flow::{AttemptJudge, Failure, Outcome, Record, Unanswered},
    source::namespace::{NamespaceCounters, discards_first, locate},
};

/// How often the counters are read while no attempt needs it: the older a reading, the more unrelated counts lie between it and an
/// attempt.
const READ_EVERY_NS: u64 = 1_000_000_000;

/// Attempts that wait at once.
const MOST: usize = 1024;

/// Attempts that wait, and what they are judged by.
#[derive(Debug)]
pub(super) struct Attempts {
    /// None where `/proc` does not show them.
    counters: Option<NamespaceCounters>,
    judge: AttemptJudge,
    waiting: Vec<(Record, Unanswered)>,
    /// Whether records show if they are of flowcar's network namespace.
    pub(super) knows_netns: bool,
}

impl Attempts {
    pub(super) fn new() -> Self {
        let counters = NamespaceCounters::open();
        if let Err(error) = &counters {
            tracing::debug!(%error, "ICMP errors are not counted here");
        }
        let mut attempts = Self {
            counters: counters.ok(),
            judge: AttemptJudge::default(),
            waiting: Vec::new(),
            knows_netns: false,
        };
        attempts.refresh();
        attempts
    }

    /// Reads the counters, if that is due. Before the records that are to be judged by them.
    pub(super) fn refresh(&mut self) {
        let now = Anchor::now().monotonic();
        let last = self.judge.last_read();
        if last.is_none_or(|last| now.since_ns(last) >= READ_EVERY_NS)
            && let Some(counts) = self.counters.as_ref().and_then(NamespaceCounters::read)
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

    /// Keeps a record that does not show why its attempt failed; returns every other.
    pub(super) fn sort(&mut self, record: Record) -> Option<Record> {
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
            self.judge.failed(record.flow.seen);
        }
        Some(record)
    }

    /// Gives those that wait, each with its reason.
    pub(super) fn settle(&mut self) -> Vec<Record> {
        if self.waiting.is_empty() {
            return Vec::new();
        }
        let waiting = std::mem::take(&mut self.waiting);
        let unanswered: Vec<_> = waiting.iter().map(|(_, unanswered)| *unanswered).collect();
        let now = self.counters.as_ref().and_then(NamespaceCounters::read);
        let failures = self.judge.judge(&unanswered, now, discards_first);
        let settled = waiting.into_iter().zip(failures);
        settled
            .map(|((mut record, _), failure)| {
                record.flow.outcome = Some(Outcome::Failed(failure));
                record
            })
            .collect()
    }
}
