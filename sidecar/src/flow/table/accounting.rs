//! What became of every connection that a source reported, by number. Pure.

use std::collections::BTreeMap;

use flowcar_shared::counter::Counter;

use super::{Change, Entry};
use crate::flow::{Books, Lost, Outcome, PollContext};

/// Counts of connections by what became of them. The kernel counts the rest.
#[derive(Debug, Default)]
pub(super) struct Accounting {
    closed: u64,
    failed: u64,
    /// Connections that polls, and not records, reported.
    opened_by_polls: u64,
    /// Those that userspace knows to be lost. The kernel counts the records that it dropped, and `Restored` what was lost to the restart.
    lost: BTreeMap<Lost, u64>,
    /// Flows of records that were evicted for a close that is known to be lost.
    evicted_after_known_loss: u64,
}

// === impl Accounting ===

impl Accounting {
    /// A flow has ended.
    pub(super) const fn end(&mut self, outcome: Option<Outcome>) {
        match outcome {
            Some(Outcome::Failed(_)) => self.failed += 1,
            _ => self.closed += 1,
        }
    }

    /// A connection was lost.
    pub(super) fn lose(&mut self, why: Lost) {
        *self.lost.entry(why).or_default() += 1;
    }

    /// A poll or a destroy event changed a flow: the connection may be new.
    pub(super) fn count_opened(&mut self, change: &Change) {
        let before = change.before.as_ref();
        let was_open = before.is_some_and(|flow| flow.established.is_some());
        self.opened_by_polls += u64::from(change.now.established.is_some() && !was_open);
    }

    /// A destroy event reported a connection of which nothing else is known.
    pub(super) fn disconnected_unseen(&mut self) {
        self.opened_by_polls += 1;
        self.lose(Lost::Disconnected);
    }

    /// A record took an entry over. The destroy event of the socket comes only after its new connection, and reports that one.
    pub(super) fn replaced(&mut self, old: &Entry) {
        if old.history.is_some() && old.flow.established.is_some() {
            self.lose(Lost::Disconnected);
        }
    }

    /// A flow was evicted. The kernel has counted the close record that it dropped; a dropped destroy event is counted here, and so is a
    /// close without a record.
    pub(super) fn evicted(&mut self, entry: &Entry, poll: &PollContext) {
        if entry.history.is_some() {
            if entry.flow.established.is_some() {
                self.lose(Lost::Overrun);
            }
        } else if entry.detached {
            self.lose(Lost::Detached);
        } else if self.unaccounted(poll) > 0 {
            self.evicted_after_known_loss += 1;
        } else {
            self.lose(Lost::Callbacks);
        }
    }

    /// Close records that are known to be lost, and whose flows are listed yet.
    pub(super) const fn unaccounted(&self, poll: &PollContext) -> u64 {
        poll.lost_closes
            .saturating_sub(self.evicted_after_known_loss)
    }

    /// The books, given the kernel's counters and the connections that were lost to the restart.
    pub(super) fn books(&self, kernel: impl Fn(Counter) -> u64, lost_to_restart: u64) -> Books {
        let opened = kernel(Counter::Established) + self.opened_by_polls + lost_to_restart;
        let mut lost = self.lost.clone();
        for (why, count) in [
            (Lost::Storage, kernel(Counter::StorageRefused)),
            (Lost::Callbacks, kernel(Counter::ArmRefused)),
            (Lost::RingFull, kernel(Counter::CloseDropped)),
            (Lost::Restart, lost_to_restart),
        ] {
            if count > 0 {
                *lost.entry(why).or_default() += count;
            }
        }
        let not_live = self.closed + lost.values().sum::<u64>();
        Books {
            opened,
            closed: self.closed,
            live: opened.saturating_sub(not_live),
            failed: self.failed,
            lost,
        }
    }
}
