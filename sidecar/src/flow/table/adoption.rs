//! Flows whose handshake no record reported: which sockets become flows, and what is known of sockets that are in the table no more. Pure.
//!
//! A flow that no record reports is adopted: its handshake was not seen, and its socket's destroy event closes it.

use std::collections::{HashMap, HashSet};

use super::{
    Change, Entry, Hasher, Listing,
    entry::polled_flow,
    poll::{Adopt, PollContext},
};
use crate::flow::{
    AdoptedBy, Flow, History, Monotonic, Role, SocketSnapshot, State, TcpInfo,
    checkpoint::{CheckpointFlow, CheckpointFlows},
    memory,
    restored::{EndedWhileUnfollowed, Restored},
};

/// How many polls a socket of unknown role is left to later ones.
const POLLS_FOR_A_ROLE: u64 = 2;

/// Sockets that polls and destroy events alone report.
#[derive(Debug, Default)]
pub struct Adoption {
    /// Connections of the checkpoint.
    pub(super) restored: Restored,
    /// Sockets whose role is not known, and how many polls saw them.
    role_pending: HashMap<u64, u64>,
    /// Sockets counted as lost whose close may still be reported.
    evicted: HashSet<u64>,
    /// Connections that closed while their applications still held the sockets, as they were reported; the destroy events of those
    /// sockets have the rest of their counts.
    held: HashMap<u64, Box<Flow>, Hasher>,
    unadopted: u64,
}

// === impl Adoption ===

impl Adoption {
    /// Restores a checkpoint. Before the first poll.
    pub fn restore(&mut self, reported: &CheckpointFlows) {
        self.restored = Restored::new(reported);
    }

    /// No client's flow has a name in this flowcar, even where the previous one gave it one.
    pub fn restore_no_names(&mut self) {
        self.restored.remove_names();
    }

    /// How many connections of the checkpoint were not seen yet.
    pub fn restored(&self) -> u64 {
        self.restored.waiting().len() as u64
    }

    /// Whether the checkpoint has the connection of a socket, and it was not seen yet.
    pub fn restores(&self, cookie: u64) -> bool {
        self.restored.is_waiting(cookie)
    }

    /// The close of this socket will be taken in, though not at once.
    pub fn expect_close(&mut self, cookie: u64) {
        self.restored.mark_seen(cookie);
    }

    /// Polls and destroy events have had their time: connections of the checkpoint that were not seen closed while unfollowed.
    pub fn settle_restored(&mut self) -> EndedWhileUnfollowed {
        let lost_before = self.restored.settle();
        let lost = self.restored.lost();
        EndedWhileUnfollowed { lost, lost_before }
    }

    /// Sockets that may be older than the programs, and are not followed.
    pub const fn unadopted(&self) -> u64 {
        self.unadopted
    }

    /// Whether the connection of this socket is over while its application holds the socket: the socket's destroy event is still to come.
    pub fn holds(&self, cookie: u64) -> bool {
        self.held.contains_key(&cookie)
    }

    /// Whether there is such a connection.
    pub(super) fn holds_any(&self) -> bool {
        !self.held.is_empty()
    }

    /// Whether a connection is over since this time whose application holds its socket: its destroy event is still to come.
    pub fn holds_since(&self, at: Monotonic) -> bool {
        self.held.values().any(|closed| closed.seen >= at)
    }

    /// Gives back the memory of a load that has ended.
    pub(super) fn shrink(&mut self) {
        memory::shrink(&mut self.role_pending);
        memory::shrink(&mut self.held);
        memory::shrink_set(&mut self.evicted);
    }

    /// Makes a flow of a socket that a poll shows and the table does not have, if it is to become one.
    pub(super) fn adopt(
        &mut self,
        observed: &SocketSnapshot,
        info: &TcpInfo,
        poll: &PollContext,
        listing: &mut Listing,
    ) -> Option<Change> {
        if !self.wants(observed, poll) {
            return None;
        }
        // Without records a later poll, or the destroy event, reports a socket that this poll cannot take in.
        let again = poll.adopt == Adopt::All;
        let restored = self.restored.find(observed);
        if again {
            self.restored.mark_seen(observed.cookie);
        }
        if !listing.admits_one() {
            return None;
        }
        let mut history = History::new(observed);
        if let Some(known) = restored.as_ref().and_then(CheckpointFlow::history) {
            history = history.known_as(known.role());
        }
        // A flow stays in the series that it is first counted in, so an unknown role waits for later polls where there are any.
        if again && history.role() == Role::Unknown && self.waits_for_role(observed.cookie) {
            return None;
        }
        let waited = self.role_pending.remove(&observed.cookie);
        let first_dump = poll.dump - waited.unwrap_or(0);
        self.restored.take(observed.cookie);
        let mut flow = polled_flow(observed, history.role(), poll);
        if observed.state_of_counts().is_connected() {
            flow.established = Some(poll.at);
            // Without records, later dumps show connections that opened since the first.
            flow.adopted = match &restored {
                Some(_) => Some(AdoptedBy::Restart),
                None if again && first_dump > 1 => None,
                None => Some(AdoptedBy::Startup),
            };
        }
        let mut entry = Entry::adopted(flow, history);
        entry.first_polled(observed, info, poll);
        if let Some(reported) = &restored {
            entry.flow.volume = entry.flow.volume.max(&reported.volume_of_polls());
            reported.give_server(&mut entry.flow);
        }
        let now = entry.flow.clone();
        listing.insert(entry);
        Some(Change {
            restored,
            ..Change::new(now, true)
        })
    }

    /// Whether an unknown socket is to become a flow. Counts the one that may be older than the programs, and is not followed.
    fn wants(&mut self, observed: &SocketSnapshot, poll: &PollContext) -> bool {
        let state = observed.state_of_counts();
        let wanted = match poll.adopt {
            Adopt::Nothing => false,
            Adopt::Restored => state.is_connected() && self.restores(observed.cookie),
            Adopt::Connected => state.is_connected(),
            Adopt::All => state.is_connected() || state == State::SynSent,
        };
        let late = self.evicted.contains(&observed.cookie) || self.restored.is_lost(observed);
        let may_be_older = poll.adopt == Adopt::Restored && state.is_connected();
        self.unadopted += u64::from(may_be_older && !wanted && !late);
        wanted && !late
    }

    /// Whether a socket of unknown role is left to the next poll. Figures of a socket that sends without a pause contradict each other at
    /// many polls.
    fn waits_for_role(&mut self, cookie: u64) -> bool {
        let waited = self.role_pending.entry(cookie).or_default();
        *waited += 1;
        *waited <= POLLS_FOR_A_ROLE
    }

    /// A socket of unknown role is destroyed.
    pub(super) fn forget_role(&mut self, cookie: u64) {
        self.role_pending.remove(&cookie);
    }

    /// Keeps a connection that is over while its application holds the socket, for the destroy event of that socket.
    pub(super) fn hold(&mut self, closed: &Flow, capacity: usize) {
        if self.held.len() < capacity {
            self.held.insert(closed.cookie, Box::new(closed.clone()));
        } else {
            self.evicted.insert(closed.cookie);
        }
    }

    /// The connection of a socket that its application held after the connection was over.
    pub(super) fn release(&mut self, cookie: u64) -> Option<Flow> {
        self.held.remove(&cookie).map(|closed| *closed)
    }

    /// The flow of this socket is counted as lost: ignores what still comes of it.
    pub(super) fn ignore(&mut self, cookie: u64, capacity: usize) {
        if self.evicted.len() < capacity {
            self.evicted.insert(cookie);
        }
    }

    /// Whether the destroyed socket's connection was counted as lost.
    pub(super) fn is_ignored(&mut self, observed: &SocketSnapshot) -> bool {
        self.evicted.remove(&observed.cookie) || self.restored.is_lost(observed)
    }
}
