//! The open flows, and the books over all flows so far.

use std::{
    collections::{BTreeMap, HashMap, HashSet, hash_map::Entry as MapEntry},
    hash::BuildHasherDefault,
};

use flowcar_shared::{counter::Counter, record::Kind};

use super::{
    Asked, Books, Exchanges, Flow, History, Lost, Monotonic, Outcome, PayloadWatermark, Record,
    SocketName, asked::AskedAddresses, checkpoint::CheckpointFlow, memory, restored::Restored,
    shown::ShownAddresses,
};
use crate::histogram::Histogram;

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

    /// A listed flow that is closed and leaves the table.
    pub fn close(before: Flow, now: Flow) -> Self {
        Self {
            before: Some(before),
            ..Self::new(now, false)
        }
    }
}

/// A listed flow.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) flow: Flow,
    /// Of a flow that polls alone report; records report all others.
    pub(super) history: Option<History>,
    pub(super) watermark: PayloadWatermark,
    /// Segments that had come by its last poll.
    pub(super) polled_segs_in: Option<u32>,
    /// Dumps in a row that did not show it.
    pub(super) absent: u8,
    /// When the first of these dumps began.
    pub(super) absent_since: Monotonic,
    /// The dump that showed it last.
    pub(super) dump: u64,
    /// Destroy events dropped by then.
    pub(super) overruns: u64,
    /// The programs were detached since its last record, so that no further one may come.
    pub(super) detached: bool,
}

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
pub struct Table {
    /// Each in memory of its own: the map takes little, however much room it has, and a flow that closes gives its memory back.
    pub(super) flows: HashMap<u64, Box<Entry>, Hasher>,
    pub(super) capacity: usize,
    /// Exchanges whose flow's record has not come yet.
    exchanges: HashMap<u64, Histogram, Hasher>,
    exchanges_dropped: u64,
    /// Addresses asked for whose flow's record has not come yet.
    asked: AskedAddresses,
    pub(super) over_capacity: u64,
    pub(super) closed: u64,
    pub(super) failed: u64,
    malformed_closes: u64,
    /// Connections that polls, and not records, reported.
    pub(super) opened_by_polls: u64,
    /// Listed flows that polls alone report.
    pub(super) adopted: usize,
    pub(super) unadopted: u64,
    /// Flows of records that were evicted for a close that is known to be lost.
    pub(super) evicted_after_known_loss: u64,
    /// Those evicted beyond: no lost close is known, and none was reported.
    pub(super) lost_closes: u64,
    /// Those evicted that closed while the programs were detached.
    pub(super) detached: u64,
    pub(super) overrun: u64,
    pub(super) disconnected: u64,
    /// Sockets whose role is not known, and how many polls saw them.
    pub(super) role_pending: HashMap<u64, u64>,
    /// Sockets counted as lost whose close may still be reported.
    pub(super) evicted: HashSet<u64>,
    /// Connections that closed while their applications still held the sockets, as they were reported; the destroy events of those
    /// sockets have the rest of their counts.
    pub(super) held: HashMap<u64, Box<Flow>, Hasher>,
    /// Connections of the checkpoint.
    pub(super) restored: Restored,
    /// Local addresses of sockets that dumps have shown, or would have shown in time. A dump shows the sockets of flowcar's network
    /// namespace, and the followed cgroup may be in another.
    pub(super) shown: ShownAddresses,
}

impl Table {
    /// An empty table for at most `capacity` flows.
    pub fn new(capacity: usize) -> Self {
        Self {
            flows: HashMap::default(),
            capacity,
            exchanges: HashMap::default(),
            exchanges_dropped: 0,
            asked: AskedAddresses::default(),
            over_capacity: 0,
            closed: 0,
            failed: 0,
            malformed_closes: 0,
            opened_by_polls: 0,
            adopted: 0,
            unadopted: 0,
            evicted_after_known_loss: 0,
            lost_closes: 0,
            detached: 0,
            overrun: 0,
            disconnected: 0,
            role_pending: HashMap::new(),
            evicted: HashSet::new(),
            held: HashMap::default(),
            restored: Restored::default(),
            shown: ShownAddresses::default(),
        }
    }

    /// So many flows may be listed from now on; those already listed stay.
    pub const fn set_capacity(&mut self, capacity: usize) {
        self.capacity = capacity;
    }

    /// How many more flows may be listed.
    pub fn room(&self) -> usize {
        self.capacity.saturating_sub(self.flows.len())
    }

    /// Gives back the memory of a load that has ended.
    pub fn shrink(&mut self) {
        memory::shrink(&mut self.flows);
        memory::shrink(&mut self.exchanges);
        memory::shrink(&mut self.role_pending);
        memory::shrink(&mut self.held);
        memory::shrink_set(&mut self.evicted);
        self.asked.shrink();
    }

    /// Counts sockets of a dump that were not even kept for adoption: the table had no room for them.
    pub const fn count_over_capacity(&mut self, sockets: u64) {
        self.over_capacity += sockets;
    }

    pub(super) fn record(&mut self, record: Record) -> Change {
        let Record { kind, mut flow, .. } = record;
        if let Some(exchanges) = self.exchanges.remove(&flow.cookie) {
            flow.exchanges = exchanges;
        }
        let asked = self.asked.give(&mut flow);
        match (kind, flow.outcome) {
            (Kind::Close, outcome) => self.close(flow, outcome),
            (Kind::Open | Kind::Sample, _) => {
                let change = self.update(flow);
                // Its next record needs it again.
                if let Some(asked) = asked.filter(|_| !change.listed) {
                    self.asked.insert(asked, self.capacity);
                }
                change
            }
        }
    }

    /// Takes in what `connect()` was asked for, for the flow whose records follow.
    pub fn asked(&mut self, asked: Asked) {
        self.asked.insert(asked, self.capacity);
    }

    /// Addresses asked for that found no room, or whose flow's records were lost.
    pub const fn asked_dropped(&self) -> u64 {
        self.asked.dropped()
    }

    /// Takes in a flow's exchanges, for its record, which follows directly. Those whose flow's record was dropped wait for the next
    /// one.
    pub fn exchanges(&mut self, new: Exchanges) {
        if self.exchanges.len() < self.capacity || self.exchanges.contains_key(&new.cookie) {
            self.exchanges.insert(new.cookie, new.durations);
        } else {
            self.exchanges_dropped += 1;
        }
    }

    /// Records of exchanges that found no room: as many others waited for records that were dropped.
    pub const fn exchanges_dropped(&self) -> u64 {
        self.exchanges_dropped
    }

    /// Counts a record that did not decode. The flow's next record repeats what an open or sample record had; one without a valid kind is
    /// taken for a close, the worst case.
    pub fn malformed(&mut self, kind: Option<Kind>) {
        if matches!(kind, Some(Kind::Close) | None) {
            self.malformed_closes += 1;
        }
    }

    /// When a poll last showed this flow, of those that polls alone report.
    pub fn last_shown(&self, cookie: u64) -> Option<Monotonic> {
        let entry = self.flows.get(&cookie)?;
        entry.history.is_some().then_some(entry.flow.seen)
    }

    /// The established connections.
    pub fn established(&self) -> impl Iterator<Item = EstablishedFlow> + Clone {
        self.flows.values().filter_map(|entry| {
            let flow = &entry.flow;
            let history = entry.history.as_ref();
            flow.established.map(|_| EstablishedFlow {
                name: SocketName {
                    cookie: flow.cookie,
                    local: flow.local,
                    peer: flow.peer,
                    interface: history.map_or(0, History::interface),
                },
                is_polled: history.is_some(),
                is_unanswered: history.is_some_and(History::was_unanswered),
            })
        })
    }

    /// Whether a connection is over since this time whose application holds its socket: its destroy event is still to come.
    pub fn holds_since(&self, at: Monotonic) -> bool {
        self.held.values().any(|closed| closed.seen >= at)
    }

    /// Segments that had come by the last poll of a flow's socket.
    pub fn polled_segs_in(&self, cookie: u64) -> Option<u32> {
        self.flows.get(&cookie)?.polled_segs_in
    }

    /// Whether dumps are known to show sockets of a flow's address.
    pub fn shows(&self, flow: &Flow) -> bool {
        let dumped = self.flows.get(&flow.cookie).is_some_and(|of| of.dump > 0);
        dumped || self.shown.has(flow.local.ip())
    }

    /// Whether dumps show sockets of a flow's address: one was shown, or `is_here` knows it.
    pub fn would_show(&mut self, flow: &Flow, is_here: impl FnOnce(&Flow) -> bool) -> bool {
        self.shows(flow) || self.shown.would_show(flow, is_here)
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

    /// Records and polls of flows that found the table full.
    pub const fn over_capacity(&self) -> u64 {
        self.over_capacity
    }

    /// The books, given the kernel's counters **read after** the last record was applied: then every flow
    /// of a record is among them.
    pub fn books(&self, kernel: impl Fn(Counter) -> u64) -> Books {
        let opened = kernel(Counter::Established) + self.opened_by_polls + self.restored.lost();
        let lost: BTreeMap<Lost, u64> = [
            (Lost::Storage, kernel(Counter::StorageRefused)),
            (
                Lost::Callbacks,
                kernel(Counter::ArmRefused) + self.lost_closes,
            ),
            (Lost::RingFull, kernel(Counter::CloseDropped)),
            (Lost::Malformed, self.malformed_closes),
            (Lost::Overrun, self.overrun),
            (Lost::Disconnected, self.disconnected),
            (Lost::Detached, self.detached),
            (Lost::Restart, self.restored.lost()),
        ]
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .collect();
        let not_live = self.closed + lost.values().sum::<u64>();
        Books {
            opened,
            closed: self.closed,
            live: opened.saturating_sub(not_live),
            failed: self.failed,
            lost,
        }
    }

    fn update(&mut self, mut flow: Flow) -> Change {
        let full = self.flows.len() >= self.capacity;
        match self.flows.entry(flow.cookie) {
            MapEntry::Occupied(mut occupied) => {
                let entry = occupied.get_mut();
                // A socket that was disconnected and connected again is another flow under the same cookie.
                let same = entry.flow.started == flow.started;
                if same {
                    follows(&mut flow, &entry.flow);
                }
                let (dump, polled_segs_in) = if same {
                    (entry.dump, entry.polled_segs_in)
                } else {
                    (0, None)
                };
                let new = Entry {
                    dump,
                    polled_segs_in,
                    ..Entry::of_record(flow.clone())
                };
                let old = std::mem::replace(&mut **entry, new);
                // The socket's destroy event comes only after its new connection, and reports that one.
                if old.history.is_some() {
                    self.adopted -= 1;
                    self.disconnected += u64::from(old.flow.established.is_some());
                }
                let (before, replaced) = if same {
                    (Some(old.flow), None)
                } else {
                    (None, Some(old.flow))
                };
                Change {
                    before,
                    now: flow,
                    replaced,
                    restored: None,
                    listed: true,
                }
            }
            MapEntry::Vacant(_) if full => {
                self.over_capacity += 1;
                Change::new(flow, false)
            }
            MapEntry::Vacant(vacant) => {
                vacant.insert(Box::new(Entry::of_record(flow.clone())));
                Change::new(flow, true)
            }
        }
    }

    fn close(&mut self, mut flow: Flow, outcome: Option<Outcome>) -> Change {
        let old = self.flows.remove(&flow.cookie);
        if old.as_ref().is_some_and(|old| old.history.is_some()) {
            self.adopted -= 1;
            self.disconnected += 1;
        }
        let old = old.map(|entry| entry.flow);
        let same = |old: &Flow| old.started == flow.started;
        let (before, replaced) = match old {
            Some(old) if same(&old) => (Some(old), None),
            old => (None, old),
        };
        if let Some(before) = &before {
            follows(&mut flow, before);
        }
        self.count(outcome);
        Change {
            before,
            now: flow,
            replaced,
            restored: None,
            listed: false,
        }
    }

    pub(super) fn count(&mut self, outcome: Option<Outcome>) {
        match outcome {
            Some(Outcome::Failed(_)) => self.failed += 1,
            _ => self.closed += 1,
        }
    }
}

/// A poll may have shown more already than a record that waited in the ring has.
fn follows(flow: &mut Flow, before: &Flow) {
    flow.series = before.series;
    flow.name.clone_from(&before.name);
    if !before.origin.is_unknown() {
        flow.origin.clone_from(&before.origin);
    }
    flow.volume = flow.volume.max(&before.volume);
    flow.seen = flow.seen.max(before.seen);
    flow.socket = before.socket;
    if flow.asked.is_none() {
        flow.asked.clone_from(&before.asked);
    }
    if flow.exchanges.count() < before.exchanges.count() {
        flow.exchanges = before.exchanges.clone();
    }
}

impl Entry {
    fn of_record(flow: Flow) -> Self {
        Self {
            flow,
            history: None,
            watermark: PayloadWatermark::default(),
            polled_segs_in: None,
            absent: 0,
            absent_since: Monotonic::default(),
            dump: 0,
            overruns: 0,
            detached: false,
        }
    }
}
