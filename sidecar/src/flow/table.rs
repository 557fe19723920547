//! The open flows, and the books over all flows so far. Pure.
//!
//! [`Table::apply`] takes in what a source reports, one event at a time, and gives what the event changed. The parts of the table are in
//! modules of their own: the list of open flows, the accounting, the adoption of flows that no record reports, and details that wait for
//! the record of their flow.

mod accounting;
mod adoption;
mod end;
mod entry;
mod listing;
mod poll;
mod waiting;

use std::hash::BuildHasherDefault;

pub use adoption::Adoption;
use flowcar_shared::{counter::Counter, record::Kind};
pub use listing::{EstablishedFlow, Listing};
pub use poll::{ABSENT, Absent, Adopt, PollContext};

use self::{accounting::Accounting, end::Destroyed, entry::Entry, waiting::WaitingDetails};
use super::{
    Asked, Books, CloseEvent, CloseReason, Event, Exchanges, Flow, History, Lost, Monotonic,
    Record, SocketSnapshot,
    checkpoint::{CheckpointFlow, CheckpointFlows},
    shown::ShownAddresses,
};

type Hasher = BuildHasherDefault<std::hash::DefaultHasher>;

/// What a record, a poll or a destroy event changed.
#[derive(Debug)]
pub struct Change {
    /// The flow as it was before; `None` if it is new to the table.
    pub before: Option<Flow>,
    /// The flow as it is now.
    pub now: Flow,
    /// The flow that it replaced: the socket was connected again, and the close of the old flow was not reported.
    pub replaced: Option<Flow>,
    /// The checkpoint of a flow that is new to the table and was restored.
    pub restored: Option<CheckpointFlow>,
    /// Whether it stays in the table. A flow that is no longer listed and has no outcome is lost.
    pub listed: bool,
}

/// The open flows and the books.
#[derive(Debug)]
pub struct Table {
    listing: Listing,
    accounting: Accounting,
    adoption: Adoption,
    waiting: WaitingDetails,
    /// Local addresses of sockets that dumps have shown, or would have shown in time. A dump shows the sockets of flowcar's network
    /// namespace, and the followed cgroup may be in another.
    shown: ShownAddresses,
}

// === impl Table ===

impl Table {
    /// An empty table for at most `capacity` flows.
    pub fn new(capacity: usize) -> Self {
        Self {
            listing: Listing::new(capacity),
            accounting: Accounting::default(),
            adoption: Adoption::default(),
            waiting: WaitingDetails::default(),
            shown: ShownAddresses::default(),
        }
    }

    /// The listed flows.
    pub const fn listing(&self) -> &Listing {
        &self.listing
    }

    /// The listed flows, to change what is known of them.
    pub const fn listing_mut(&mut self) -> &mut Listing {
        &mut self.listing
    }

    /// Flows that no record reports, and those of the checkpoint.
    pub const fn adoption(&self) -> &Adoption {
        &self.adoption
    }

    /// The same, to restore and to settle a checkpoint.
    pub const fn adoption_mut(&mut self) -> &mut Adoption {
        &mut self.adoption
    }

    /// Takes in an event. Gives what it changed; `None` if it is of no listed flow and makes none.
    pub fn apply(&mut self, event: Event<'_>) -> Option<Change> {
        match event {
            Event::Record(record) => Some(self.record(record)),
            Event::Polled(observed, poll) => self.polled(observed, poll),
            Event::Reconnected(observed, poll) => self.reconnected(observed.cookie, poll.at),
            Event::Evicted(cookie, poll) => self.evict(cookie, poll),
            Event::Held(cookie) => self.close_held(cookie),
            Event::Destroyed(event, poll) => self.destroyed(event, poll),
        }
    }

    /// Takes in what `connect()` was asked for, for the flow whose records follow.
    pub fn asked(&mut self, asked: Asked) {
        self.waiting.keep_asked(asked, self.listing.capacity());
    }

    /// Addresses asked for that found no room, or whose flow's records were lost.
    pub const fn asked_dropped(&self) -> u64 {
        self.waiting.asked_dropped()
    }

    /// Takes in a flow's exchanges, for its record, which follows directly. Those whose flow's record was dropped wait for the next
    /// one.
    pub fn exchanges(&mut self, new: Exchanges) {
        self.waiting.keep_exchanges(new, self.listing.capacity());
    }

    /// Records of exchanges that found no room: as many others waited for records that were dropped.
    pub const fn exchanges_dropped(&self) -> u64 {
        self.waiting.exchanges_dropped()
    }

    /// Counts a record that did not decode. The flow's next record repeats what an open or sample record had; one without a valid kind is
    /// taken for a close, the worst case.
    pub fn malformed(&mut self, kind: Option<Kind>) {
        if matches!(kind, Some(Kind::Close) | None) {
            self.accounting.lose(Lost::Malformed);
        }
    }

    /// Whether the close of this socket needs a query for its addresses.
    pub fn needs_poll(&self, observed: &SocketSnapshot) -> bool {
        !observed.is_disconnected() && self.history_of(observed.cookie).needs_poll(observed)
    }

    /// Whether the payload count of this closed socket is uncertain by the peer's FIN, which the other end's count would settle.
    pub fn fin_is_uncertain(&self, event: &CloseEvent) -> bool {
        let observed = &event.observed;
        let Some(info) = &observed.info else {
            return false;
        };
        info.was_established()
            && !observed.is_disconnected()
            && !self.history_of(observed.cookie).close(event, info).exact
    }

    /// Takes in that a dump is complete. Gives the flows that are to be evicted or closed (`is_here`: whether a flow's socket is in the
    /// network namespace that dumps show).
    pub fn finish_poll(&mut self, poll: &PollContext, is_here: impl Fn(&Flow) -> bool) -> Absent {
        let unaccounted = self.accounting.unaccounted(poll);
        self.listing
            .finish_poll(poll, unaccounted, &mut self.shown, is_here)
    }

    /// Whether dumps are known to show sockets of a flow's address.
    pub fn shows(&self, flow: &Flow) -> bool {
        self.listing.was_dumped(flow.cookie) || self.shown.has(flow.local.ip())
    }

    /// Whether dumps show sockets of a flow's address: one was shown, or `is_here` knows it.
    pub fn would_show(&mut self, flow: &Flow, is_here: impl FnOnce(&Flow) -> bool) -> bool {
        self.shows(flow) || self.shown.would_show(flow, is_here)
    }

    /// The flows of a checkpoint as of now: every live connection, and the restored ones that were not seen yet. `lost_closes` is how
    /// many closes of unknown connections are lost.
    pub fn checkpoint(&self, lost_closes: u64) -> CheckpointFlows {
        let listed = self.listing.iter().filter_map(CheckpointFlow::of);
        let waiting = self.adoption.restored.waiting().cloned();
        CheckpointFlows {
            lost_closes: lost_closes.saturating_add(self.adoption.restored.lost_closes()),
            flows: listed
                .chain(waiting)
                .take(self.listing.capacity().max(self.listing.len()))
                .collect(),
        }
    }

    /// The books, given the kernel's counters **read after** the last record was applied: then every flow
    /// of a record is among them.
    pub fn books(&self, kernel: impl Fn(Counter) -> u64) -> Books {
        self.accounting.books(kernel, self.adoption.restored.lost())
    }

    /// Whether destroy events have something to report besides what records do: the close of an adopted flow, or the last counts of one
    /// that closed while its application held the socket.
    pub fn needs_destroy_events(&self) -> bool {
        self.listing.adopted() > 0 || self.adoption.holds_any()
    }

    /// Gives back the memory of a load that has ended.
    pub fn shrink(&mut self) {
        self.listing.shrink();
        self.adoption.shrink();
        self.waiting.shrink();
    }

    fn record(&mut self, record: Record) -> Change {
        let Record { kind, mut flow, .. } = record;
        let asked = self.waiting.give(&mut flow);
        if kind == Kind::Close {
            return self.close(flow);
        }
        let change = self.update(flow);
        // Its next record needs it again.
        if let Some(asked) = asked.filter(|_| !change.listed) {
            self.asked(asked);
        }
        change
    }

    fn update(&mut self, mut flow: Flow) -> Change {
        if let Some(old) = self.listing.renew(&mut flow) {
            self.accounting.replaced(&old);
            return Change::after(Some(old.flow), flow, true);
        }
        let listed = self.listing.admits_one();
        if listed {
            self.listing.insert(Entry::of_record(flow.clone()));
        }
        Change::new(flow, listed)
    }

    fn close(&mut self, mut flow: Flow) -> Change {
        let old = self.listing.remove(flow.cookie);
        if let Some(old) = &old {
            self.accounting.replaced(old);
            if old.flow.started == flow.started {
                entry::carry_over(&mut flow, &old.flow);
            }
        }
        self.accounting.end(flow.outcome);
        Change::after(old.map(|entry| entry.flow), flow, false)
    }

    /// Takes in one socket of a dump. One without counts is a connection request or a timewait socket.
    fn polled(&mut self, observed: &SocketSnapshot, poll: &PollContext) -> Option<Change> {
        let info = observed.info.as_ref()?;
        self.shown.insert(observed.local.ip());
        let change = match self.listing.get_mut(observed.cookie) {
            Some(entry) => entry.polled(observed, info, poll),
            None => {
                let (adoption, listing) = (&mut self.adoption, &mut self.listing);
                adoption.adopt(observed, info, poll, listing)
            }
        };
        if let Some(change) = &change {
            self.accounting.count_opened(change);
        }
        change
    }

    fn destroyed(&mut self, event: &CloseEvent, poll: &PollContext) -> Option<Change> {
        let observed = &event.observed;
        let cookie = observed.cookie;
        self.adoption.forget_role(cookie);
        if let Some(closed) = self.adoption.release(cookie) {
            return end::rest_of_held(event, closed);
        }
        if self.adoption.is_ignored(observed) || self.listing.has_records_of(cookie) {
            return None;
        }
        let known = self.listing.remove(cookie);
        let restored = &mut self.adoption.restored;
        // A disconnected socket has neither counts nor addresses: only its close is known.
        if known.is_none() && observed.is_disconnected() && restored.lose(cookie) {
            return None;
        }
        let found = match &known {
            Some(_) => None,
            None => restored.find(observed),
        };
        if known.is_none() && found.is_none() && poll.adopt != Adopt::All {
            return None;
        }
        match Destroyed::of(event, known, found.as_ref(), poll) {
            Destroyed::Flow(change) => {
                restored.take(cookie);
                let change = Change {
                    restored: found,
                    ..*change
                };
                self.accounting.count_opened(&change);
                self.accounting.end(change.now.outcome);
                Some(change)
            }
            Destroyed::Unseen => {
                self.accounting.disconnected_unseen();
                None
            }
            Destroyed::Nothing => {
                restored.lose(cookie);
                None
            }
        }
    }

    /// Closes a flow of which no more will be reported: another has taken its socket.
    fn reconnected(&mut self, cookie: u64, at: Monotonic) -> Option<Change> {
        let entry = self.listing.remove(cookie)?;
        let change = end::without_counts(entry.flow, CloseReason::Unknown, at);
        self.accounting.end(change.now.outcome);
        Some(change)
    }

    /// Closes a connection that is over while its application still holds the socket. Its last counts come with the socket's destroy
    /// event, which may take long; until then they are those of the last poll.
    fn close_held(&mut self, cookie: u64) -> Option<Change> {
        let entry = self.listing.remove(cookie)?;
        let history = entry.history.unwrap_or(History::none());
        let at = entry.absent_since.max(entry.flow.seen);
        let change = end::without_counts(entry.flow, history.reason_while_held(), at);
        self.accounting.end(change.now.outcome);
        self.adoption.hold(&change.now, self.listing.capacity());
        Some(change)
    }

    /// Evicts a flow whose close was not delivered.
    fn evict(&mut self, cookie: u64, poll: &PollContext) -> Option<Change> {
        let entry = self.listing.remove(cookie)?;
        self.accounting.evicted(&entry, poll);
        if entry.history.is_some() {
            self.adoption.ignore(cookie, self.listing.capacity());
        }
        Some(Change::close(entry.flow.clone(), entry.flow))
    }

    /// The history of a socket before its close.
    fn history_of(&self, cookie: u64) -> History {
        let known = self.listing.history(cookie);
        let restored = || self.adoption.restored.history(cookie);
        known.or_else(restored).unwrap_or(History::none())
    }
}

// === impl Change ===

impl Change {
    /// A flow that is new to the table, and whether it stays there.
    pub const fn new(now: Flow, listed: bool) -> Self {
        Self {
            before: None,
            now,
            replaced: None,
            restored: None,
            listed,
        }
    }

    /// A flow as it was listed and as it is now.
    pub const fn update(before: Flow, now: Flow, listed: bool) -> Self {
        Self {
            before: Some(before),
            now,
            replaced: None,
            restored: None,
            listed,
        }
    }

    /// A listed flow that is closed and leaves the table.
    pub const fn close(before: Flow, now: Flow) -> Self {
        Self::update(before, now, false)
    }

    /// A record's flow, and the one that was listed of its socket: the same, or one that it replaces.
    fn after(old: Option<Flow>, now: Flow, listed: bool) -> Self {
        let (before, replaced) = match old {
            Some(old) if old.started == now.started => (Some(old), None),
            old => (None, old),
        };
        Self {
            before,
            now,
            replaced,
            restored: None,
            listed,
        }
    }

    /// The flow that closed or failed, if the change is its end.
    pub fn into_closed(self) -> Option<Flow> {
        self.now.outcome.is_some().then_some(self.now)
    }
}
