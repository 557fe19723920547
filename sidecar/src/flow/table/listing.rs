//! The listed flows. Pure.

use std::collections::HashMap;

use super::{
    Hasher,
    entry::Entry,
    poll::{ABSENT, Absent, PollContext},
};
use crate::flow::{
    Flow, History, Monotonic, PostCloseState, SocketName, SocketSnapshot, memory,
    shown::ShownAddresses,
};

/// How long a destroy event may take, which has the socket's last counts: the kernel sends it from a work queue, and dumps may come
/// often.
const DESTROY_WITHIN_NS: u64 = 1_000_000_000;

/// An established connection.
#[derive(Clone, Copy, Debug)]
pub struct EstablishedFlow {
    /// Its socket.
    pub name: SocketName,
    /// Polls alone report it.
    pub is_polled: bool,
    /// Segments of it were unanswered at the last poll.
    pub is_unanswered: bool,
}

/// The open flows, at most `capacity` of them. A flow over capacity is only not listed: its close record still has all its figures.
#[derive(Debug)]
pub struct Listing {
    /// Each in memory of its own: the map takes little, however much room it has, and a flow that closes gives its memory back.
    flows: HashMap<u64, Box<Entry>, Hasher>,
    capacity: usize,
    over_capacity: u64,
    /// Listed flows that polls alone report.
    adopted: usize,
}

// === impl Listing ===

impl Listing {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            flows: HashMap::default(),
            capacity,
            over_capacity: 0,
            adopted: 0,
        }
    }

    /// So many flows may be listed from now on; those already listed stay.
    pub const fn set_capacity(&mut self, capacity: usize) {
        self.capacity = capacity;
    }

    /// How many flows may be listed.
    pub(super) const fn capacity(&self) -> usize {
        self.capacity
    }

    /// How many more flows may be listed.
    pub fn room(&self) -> usize {
        self.capacity.saturating_sub(self.flows.len())
    }

    /// Whether one more flow may be listed; counts the flow that may not.
    pub(super) fn admits_one(&mut self) -> bool {
        let admits = self.room() > 0;
        self.over_capacity += u64::from(!admits);
        admits
    }

    /// Counts sockets of a dump that were not even kept for adoption: the table had no room for them.
    pub const fn count_over_capacity(&mut self, sockets: u64) {
        self.over_capacity += sockets;
    }

    /// Records and polls of flows that found the table full.
    pub const fn over_capacity(&self) -> u64 {
        self.over_capacity
    }

    /// Gives back the memory of a load that has ended.
    pub(super) fn shrink(&mut self) {
        memory::shrink(&mut self.flows);
    }

    /// The open flows that are listed.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Flow> {
        self.flows.values().map(|entry| &entry.flow)
    }

    /// Listed flows.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether no flow is listed.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// Listed flows that polls alone report.
    pub const fn adopted(&self) -> usize {
        self.adopted
    }

    /// Whether polls alone report a listed flow with this cookie.
    pub fn knows(&self, cookie: u64) -> bool {
        self.history(cookie).is_some()
    }

    /// Whether records report the listed flow with this cookie.
    pub(super) fn has_records_of(&self, cookie: u64) -> bool {
        self.get(cookie)
            .is_some_and(|entry| entry.history.is_none())
    }

    /// When a poll last showed this flow, of those that polls alone report.
    pub fn last_shown(&self, cookie: u64) -> Option<Monotonic> {
        let entry = self.get(cookie)?;
        entry.history.is_some().then_some(entry.flow.seen)
    }

    /// Segments that had come by the last poll of a flow's socket.
    pub fn polled_segs_in(&self, cookie: u64) -> Option<u32> {
        self.get(cookie)?.polled_segs_in
    }

    /// Whether a dump has shown this flow.
    pub(super) fn was_dumped(&self, cookie: u64) -> bool {
        self.get(cookie).is_some_and(|entry| entry.dump > 0)
    }

    /// Whether the socket of a flow that polls alone report was disconnected and connected again since the last dump.
    pub fn is_reconnected(&self, observed: &SocketSnapshot) -> bool {
        let entry = self.get(observed.cookie);
        let adopted = entry.filter(|entry| entry.history.is_some() && observed.info.is_some());
        adopted.is_some_and(|entry| !entry.has_addresses_of(observed))
    }

    /// The established connections.
    pub fn established(&self) -> impl Iterator<Item = EstablishedFlow> + Clone {
        self.flows.values().filter_map(|entry| {
            entry.flow.established.map(|_| EstablishedFlow {
                name: entry.name(),
                is_polled: entry.history.is_some(),
                is_unanswered: entry.history.as_ref().is_some_and(History::was_unanswered),
            })
        })
    }

    /// Flows of records that the last dump did not show: they may have closed, and are still listed.
    pub fn absent(&self) -> u64 {
        let of_records = |entry: &Entry| entry.history.is_none() && entry.absent > 0;
        let absent = self.flows.values().filter(|entry| of_records(entry));
        absent.count() as u64
    }

    /// Keeps the series that a listed flow is counted in, its name and its origin.
    pub fn keep_identity(&mut self, flow: &Flow) {
        if let Some(entry) = self.get_mut(flow.cookie) {
            entry.flow.series = flow.series;
            entry.flow.name.clone_from(&flow.name);
            entry.flow.origin.clone_from(&flow.origin);
        }
    }

    /// Keeps the state found under the addresses of a flow that dumps do not show any more.
    pub fn set_post_close(&mut self, cookie: u64, found: PostCloseState) {
        let entry = self.get_mut(cookie);
        if let Some(history) = entry.and_then(|entry| entry.history.as_mut()) {
            history.set_post_close(found);
        }
    }

    /// Takes in that the programs were detached: a flow of records may have closed without a record. Until its next record, dumps that
    /// do not show it decide.
    pub fn detached(&mut self) {
        let of_records = self.flows.values_mut().filter(|of| of.history.is_none());
        of_records.for_each(|entry| entry.detached = true);
    }

    pub(super) fn get(&self, cookie: u64) -> Option<&Entry> {
        self.flows.get(&cookie).map(Box::as_ref)
    }

    pub(super) fn get_mut(&mut self, cookie: u64) -> Option<&mut Entry> {
        self.flows.get_mut(&cookie).map(Box::as_mut)
    }

    /// What polls showed of the socket of a flow that polls alone report.
    pub(super) fn history(&self, cookie: u64) -> Option<History> {
        self.get(cookie)?.history
    }

    /// Lists a flow that is new. The caller has asked whether there is room.
    pub(super) fn insert(&mut self, entry: Entry) {
        self.adopted += usize::from(entry.history.is_some());
        self.flows.insert(entry.flow.cookie, Box::new(entry));
    }

    /// A record takes the entry of its socket over. Gives the entry that was there.
    pub(super) fn renew(&mut self, flow: &mut Flow) -> Option<Entry> {
        let entry = self.flows.get_mut(&flow.cookie)?;
        let old = entry.renew(flow);
        self.adopted -= usize::from(old.history.is_some());
        Some(old)
    }

    pub(super) fn remove(&mut self, cookie: u64) -> Option<Entry> {
        let entry = *self.flows.remove(&cookie)?;
        self.adopted -= usize::from(entry.history.is_some());
        Some(entry)
    }

    /// Takes in that a dump is complete, with `unaccounted` lost closes of listed flows. Gives the flows that are to be evicted or closed:
    /// - A flow that a dump has shown before and that dumps do not show any more has closed.
    /// - A flow that no dump has shown may be in another network namespace. It is evicted only if a close was lost and dumps show
    ///   sockets of its address: a dump showed one, or a flow of it is known to be here (`is_here`), as short connections may open and
    ///   close between two dumps.
    /// - An adopted flow whose addresses were queried has closed while its application still holds the socket: else its destroy event
    ///   would have come.
    pub(super) fn finish_poll(
        &mut self,
        poll: &PollContext,
        mut unaccounted: u64,
        shown: &mut ShownAddresses,
        is_here: impl Fn(&Flow) -> bool,
    ) -> Absent {
        let mut absent = Absent::default();
        for (cookie, entry) in &mut self.flows {
            if entry.dump == poll.dump || entry.flow.seen > poll.at {
                continue;
            }
            if entry.absent == 0 {
                entry.absent_since = poll.at;
            }
            entry.absent = entry.absent.saturating_add(1);
            let was_shown = entry.dump > 0;
            let dropped = match entry.history {
                Some(_) => poll.overruns > entry.overruns,
                None if was_shown => true,
                None if entry.detached => shown.would_show(&entry.flow, &is_here),
                None => unaccounted > 0 && shown.would_show(&entry.flow, &is_here),
            };
            if entry.absent >= ABSENT && dropped {
                unaccounted = unaccounted.saturating_sub(u64::from(!entry.detached));
                absent.evicted.push(*cookie);
            } else if entry.absent >= ABSENT
                && entry.was_queried()
                && poll.at.since_ns(entry.absent_since) >= DESTROY_WITHIN_NS
            {
                absent.held.push(*cookie);
            } else if entry.history.is_some() && !entry.was_queried() {
                absent.unqueried.push(entry.name());
            }
        }
        absent
    }
}
