//! Connections of the checkpoint: each is counted on from there, once, or is counted as lost to the restart. Pure.

use std::collections::HashMap;

use super::{
    History, SocketSnapshot,
    checkpoint::{CheckpointFlow, CheckpointFlows, fingerprint_of},
};

/// Connections of the checkpoint, until it is known what became of each.
#[derive(Debug, Default)]
pub(super) struct Restored {
    waiting: HashMap<u64, Waiting>,
    /// Those counted as lost: what comes of them later is ignored.
    lost_fingerprints: HashMap<u64, u32>,
    /// Lost closes that the previous flowcar counted and that may belong to connections of the checkpoint.
    lost_closes: u64,
    lost: u64,
}

#[derive(Clone, Debug)]
struct Waiting {
    flow: CheckpointFlow,
    /// A dump or a destroy event showed it: it will be counted with its figures.
    seen: bool,
}

/// The connections of the checkpoint that were not seen again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndedWhileUnfollowed {
    /// Lost to the restart.
    pub lost: u64,
    /// Lost before, and counted then.
    pub lost_before: u64,
}

// === impl Restored ===

impl Restored {
    /// All connections of the checkpoint wait.
    pub(super) fn new(reported: &CheckpointFlows) -> Self {
        let waiting = |flow: &CheckpointFlow| {
            let (flow, seen) = (flow.clone(), false);
            (flow.cookie, Waiting { flow, seen })
        };
        Self {
            waiting: reported.flows.iter().map(waiting).collect(),
            lost_closes: reported.lost_closes,
            ..Self::default()
        }
    }

    /// Their clients' flows have no names in this flowcar.
    pub(super) fn remove_names(&mut self) {
        let waiting = self.waiting.values_mut();
        waiting.for_each(|waiting| waiting.flow.name = None);
    }

    /// Those that wait.
    pub(super) fn waiting(&self) -> impl ExactSizeIterator<Item = &CheckpointFlow> {
        self.waiting.values().map(|waiting| &waiting.flow)
    }

    /// Lost closes that the previous flowcar counted and that may belong to those that wait.
    pub(super) const fn lost_closes(&self) -> u64 {
        self.lost_closes
    }

    /// Those that are lost to the restart.
    pub(super) const fn lost(&self) -> u64 {
        self.lost
    }

    /// Whether the socket's connection waits.
    pub(super) fn is_waiting(&self, cookie: u64) -> bool {
        self.waiting.contains_key(&cookie)
    }

    /// The history of a socket whose connection waits.
    pub(super) fn history(&self, cookie: u64) -> Option<History> {
        self.waiting.get(&cookie)?.flow.history()
    }

    /// Whether the connection of a poll or destroy event was counted as lost.
    pub(super) fn is_lost(&self, observed: &SocketSnapshot) -> bool {
        let of = self.lost_fingerprints.get(&observed.cookie);
        of.is_some_and(|of| observed.is_disconnected() || *of == fingerprint_of(observed))
    }

    /// The waiting connection of the socket of a poll or destroy event. If the socket has another connection now, `None`, and the
    /// one that waited is lost.
    pub(super) fn find(&mut self, observed: &SocketSnapshot) -> Option<CheckpointFlow> {
        let Waiting { flow, .. } = self.waiting.get(&observed.cookie)?;
        if flow.is_of(observed) {
            return Some(flow.clone());
        }
        self.waiting.remove(&observed.cookie);
        self.lost += 1;
        None
    }

    /// Marks the connection of a socket as seen, so that it does not count as lost.
    pub(super) fn mark_seen(&mut self, cookie: u64) {
        if let Some(waiting) = self.waiting.get_mut(&cookie) {
            waiting.seen = true;
        }
    }

    /// Removes a connection that is counted with its figures from now on.
    pub(super) fn take(&mut self, cookie: u64) {
        self.waiting.remove(&cookie);
    }

    /// Counts a connection as lost, if it waits: its close was reported without any counts.
    pub(super) fn lose(&mut self, cookie: u64) -> bool {
        let waited = self.waiting.remove(&cookie).is_some();
        self.lost += u64::from(waited);
        waited
    }

    /// Counts all that were not seen as lost, except those that were lost before. Gives how many these are.
    pub(super) fn settle(&mut self) -> u64 {
        let Self {
            waiting,
            lost_fingerprints,
            ..
        } = self;
        let before = waiting.len();
        waiting.retain(|cookie, waiting| {
            if !waiting.seen {
                lost_fingerprints.insert(*cookie, waiting.flow.fingerprint);
            }
            waiting.seen
        });
        let ended = (before - waiting.len()) as u64;
        let lost_before = std::mem::take(&mut self.lost_closes).min(ended);
        self.lost += ended - lost_before;
        lost_before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Role, Table, Volume};

    fn flow(cookie: u64) -> CheckpointFlow {
        CheckpointFlow {
            cookie,
            fingerprint: 0,
            role: Role::Unknown,
            volume: Volume::default(),
            receive_window_limited_us: 0,
            send_buffer_limited_us: 0,
            name: None,
            asked: None,
        }
    }

    #[test]
    fn restored_flow_is_decided_once() {
        let flows = (1..=4).map(flow).collect();
        let mut restored = Restored::new(&CheckpointFlows {
            lost_closes: 0,
            flows,
        });
        restored.take(1);
        restored.mark_seen(2);
        assert!(restored.lose(3) && !restored.lose(3));
        assert_eq!(restored.settle(), 0);
        assert_eq!((restored.lost(), restored.waiting().len()), (2, 1));
        assert!(restored.lost_fingerprints.contains_key(&4));
        assert!(!restored.lost_fingerprints.contains_key(&2));
        restored.settle();
        restored.mark_seen(4);
        assert_eq!((restored.lost(), restored.is_waiting(2)), (2, true));
    }

    #[test]
    fn earlier_losses_are_not_counted_again_at_restart() {
        for (lost_closes, lost, lost_before) in [(0, 3, 0), (2, 1, 2), (3, 0, 3), (5, 0, 3)] {
            let flows: Vec<_> = (1..=4).map(flow).collect();
            let mut table = Table::new(10);
            table
                .adoption_mut()
                .restore(&CheckpointFlows { lost_closes, flows });
            table.adoption_mut().expect_close(4);
            assert_eq!(
                table.checkpoint(1).lost_closes,
                lost_closes + 1,
                "the next checkpoint needs it"
            );
            let ended = table.adoption_mut().settle_restored();
            assert_eq!(ended, EndedWhileUnfollowed { lost, lost_before });
            let books = table.books(|_| 0);
            assert_eq!((books.opened, books.lost_total()), (lost, lost));
            assert_eq!(table.checkpoint(0).lost_closes, 0, "it is settled");
        }
    }
}
