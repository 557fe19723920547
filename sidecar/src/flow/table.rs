//! The flows that live, and the books over all that ever did.

use std::{
    collections::{BTreeMap, HashMap, HashSet, hash_map::Entry as Place},
    hash::BuildHasherDefault,
    net::IpAddr,
};

use flowcar_shared::{counter::Counter, record::Kind};

use super::{
    Answers, Books, Exchanges, Flow, History, Looked, Lost, Monotonic, Outcome, Record,
    handover::Left, inherited::Inherited,
};
use crate::histogram::Histogram;

type Hasher = BuildHasherDefault<std::hash::DefaultHasher>;

/// What a record, a look or the end of a socket changed.
#[derive(Debug)]
pub struct Change {
    /// The flow as it was before; `None` if it is new to the table.
    pub before: Option<Flow>,
    /// The flow as it is now.
    pub now: Flow,
    /// The flow whose place it took: its socket was connected again, and its end was not told.
    pub replaced: Option<Flow>,
    /// What the flowcar before this one told of it, of a flow that is new to the table.
    pub inherited: Option<Left>,
    /// Whether it stays in the table. A listed flow that is not any more and has no outcome is lost.
    pub listed: bool,
}

impl Change {
    /// A flow that is new to the table, and whether it stays there.
    pub const fn new(now: Flow, listed: bool) -> Self {
        Self {
            before: None,
            now,
            replaced: None,
            inherited: None,
            listed,
        }
    }
}

/// A flow on the list.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) flow: Flow,
    /// Of a flow that is known by looks alone; records tell of all others.
    pub(super) history: Option<History>,
    pub(super) looked: Looked,
    /// Segments that had come by the last look at it.
    pub(super) polled_segs_in: Option<u32>,
    /// Dumps in a row that did not show it.
    pub(super) absent: u8,
    /// When the first of these dumps began.
    pub(super) absent_since: Monotonic,
    /// The dump that showed it last.
    pub(super) dump: u64,
    /// News of sockets' ends dropped by then.
    pub(super) overruns: u64,
    /// The programs were detached since its last record, which so may have been its last.
    pub(super) detached: bool,
}

/// The flows that live, at most `bound` of them. A flow past the bound costs nothing but its place on the
/// list: its close still carries all its figures.
#[derive(Debug)]
pub struct Table {
    pub(super) flows: HashMap<u64, Entry, Hasher>,
    pub(super) bound: usize,
    /// Exchanges whose flow's own record has not come yet.
    exchanges: HashMap<u64, Histogram, Hasher>,
    exchanges_dropped: u64,
    pub(super) unlisted: u64,
    pub(super) closed: u64,
    pub(super) failed: u64,
    malformed_closes: u64,
    /// Connections that looks, and not records, told of.
    pub(super) looked_up: u64,
    /// Listed flows that looks alone tell of.
    pub(super) adopted: usize,
    pub(super) unadopted: u64,
    /// Flows of records that were given up for an end that was lost.
    pub(super) forgone: u64,
    /// Those given up beyond: no end was lost, and none was told.
    pub(super) unheard: u64,
    /// Those given up that ended while the programs were detached.
    pub(super) detached: u64,
    pub(super) overrun: u64,
    pub(super) wiped: u64,
    /// Sockets seen once whose role could not be told.
    pub(super) undecided: HashSet<u64>,
    /// Sockets counted as lost whose end may still be told.
    pub(super) given_up: HashSet<u64>,
    /// Connections that were over while their applications still held the sockets, as they were told; the news of those
    /// sockets brings the rest of their counts.
    pub(super) held: HashMap<u64, Flow, Hasher>,
    /// What else is known of the ends that are told now.
    pub(super) answers: Answers,
    /// Connections that the flowcar before this one told of.
    pub(super) inherited: Inherited,
    /// Local addresses of sockets that dumps have shown, or would if they were asked in time. A dump shows the sockets of
    /// flowcar's own network namespace, and the followed cgroup may live in another.
    pub(super) shown: HashSet<IpAddr>,
}

impl Table {
    /// An empty table for at most `bound` flows.
    pub fn new(bound: usize) -> Self {
        Self {
            flows: HashMap::default(),
            bound,
            exchanges: HashMap::default(),
            exchanges_dropped: 0,
            unlisted: 0,
            closed: 0,
            failed: 0,
            malformed_closes: 0,
            looked_up: 0,
            adopted: 0,
            unadopted: 0,
            forgone: 0,
            unheard: 0,
            detached: 0,
            overrun: 0,
            wiped: 0,
            undecided: HashSet::new(),
            given_up: HashSet::new(),
            held: HashMap::default(),
            answers: Answers::default(),
            inherited: Inherited::default(),
            shown: HashSet::new(),
        }
    }

    /// So many flows may be listed from now on; those that are stay.
    pub const fn set_bound(&mut self, bound: usize) {
        self.bound = bound;
    }

    /// How many more flows may be listed.
    pub fn room(&self) -> usize {
        self.bound.saturating_sub(self.flows.len())
    }

    /// The kernel showed so many sockets that were not even kept to be looked at: the table had no room for them.
    pub const fn leave_out(&mut self, sockets: u64) {
        self.unlisted += sockets;
    }

    /// Takes in a record.
    pub fn apply(&mut self, record: Record) -> Change {
        let Record { kind, mut flow, .. } = record;
        if let Some(exchanges) = self.exchanges.remove(&flow.cookie) {
            flow.exchanges = exchanges;
        }
        match (kind, flow.outcome) {
            (Kind::Close, outcome) => self.close(flow, outcome),
            (Kind::Open | Kind::Sample, _) => self.update(flow),
        }
    }

    /// Takes in a flow's exchanges, for its own record, which comes right behind them. Those whose flow's record was dropped
    /// wait for the next one.
    pub fn exchanges(&mut self, news: Exchanges) {
        if self.exchanges.len() < self.bound || self.exchanges.contains_key(&news.cookie) {
            self.exchanges.insert(news.cookie, news.durations);
        } else {
            self.exchanges_dropped += 1;
        }
    }

    /// Records of exchanges that found no room: as many others waited for records that were dropped.
    pub const fn exchanges_dropped(&self) -> u64 {
        self.exchanges_dropped
    }

    /// Counts a record that did not decode. What an open or a sample said, the flow's next record says again; one that
    /// names no kind is taken for a close, the worst case.
    pub fn malformed(&mut self, kind: Option<Kind>) {
        if matches!(kind, Some(Kind::Close) | None) {
            self.malformed_closes += 1;
        }
    }

    /// What is known of the ends that are told from now on, besides the news of them.
    pub const fn answer(&mut self, answers: Answers) {
        self.answers = answers;
    }

    /// Segments that had come by the last look at a flow's socket.
    pub fn polled_segs_in(&self, cookie: u64) -> Option<u32> {
        self.flows.get(&cookie)?.polled_segs_in
    }

    /// Whether dumps show sockets of a flow's address: one was shown, or `is_here` knows it.
    pub fn would_show(&mut self, flow: &Flow, is_here: impl FnOnce(&Flow) -> bool) -> bool {
        let dumped = self.flows.get(&flow.cookie).is_some_and(|of| of.dump > 0);
        dumped || super::looks::would_be_shown(&mut self.shown, flow, is_here)
    }

    /// The flows that live and are listed.
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

    /// Records and looks of flows that found the table full.
    pub const fn unlisted(&self) -> u64 {
        self.unlisted
    }

    /// The books, given the kernel's counters **read after** the last record was applied: then every flow
    /// that a record told of is among them.
    pub fn books(&self, kernel: impl Fn(Counter) -> u64) -> Books {
        let opened = kernel(Counter::Established) + self.looked_up + self.inherited.lost();
        let lost: BTreeMap<Lost, u64> = [
            (Lost::Storage, kernel(Counter::StorageRefused)),
            (Lost::Callbacks, kernel(Counter::ArmRefused) + self.unheard),
            (Lost::RingFull, kernel(Counter::CloseDropped)),
            (Lost::Malformed, self.malformed_closes),
            (Lost::Overrun, self.overrun),
            (Lost::Wiped, self.wiped),
            (Lost::Detached, self.detached),
            (Lost::Restart, self.inherited.lost()),
        ]
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .collect();
        let gone = self.closed + lost.values().sum::<u64>();
        Books {
            opened,
            closed: self.closed,
            live: opened.saturating_sub(gone),
            failed: self.failed,
            lost,
        }
    }

    fn update(&mut self, mut flow: Flow) -> Change {
        let full = self.flows.len() >= self.bound;
        match self.flows.entry(flow.cookie) {
            Place::Occupied(mut place) => {
                let entry = place.get_mut();
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
                let old = std::mem::replace(entry, new);
                // The news of the socket's end cannot come before its new connection's, and tells of that one.
                if old.history.is_some() {
                    self.adopted -= 1;
                    self.wiped += u64::from(old.flow.established.is_some());
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
                    inherited: None,
                    listed: true,
                }
            }
            Place::Vacant(_) if full => {
                self.unlisted += 1;
                Change::new(flow, false)
            }
            Place::Vacant(place) => {
                place.insert(Entry::of_record(flow.clone()));
                Change::new(flow, true)
            }
        }
    }

    fn close(&mut self, mut flow: Flow, outcome: Option<Outcome>) -> Change {
        let old = self.flows.remove(&flow.cookie);
        if old.as_ref().is_some_and(|old| old.history.is_some()) {
            self.adopted -= 1;
            self.wiped += 1;
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
            inherited: None,
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

/// A look may have told of more already than a record that waited in the ring says.
fn follows(flow: &mut Flow, before: &Flow) {
    flow.volume = flow.volume.max(&before.volume);
    flow.seen = flow.seen.max(before.seen);
    flow.socket = before.socket;
    if flow.exchanges.count() < before.exchanges.count() {
        flow.exchanges = before.exchanges.clone();
    }
}

impl Entry {
    fn of_record(flow: Flow) -> Self {
        Self {
            flow,
            history: None,
            looked: Looked::default(),
            polled_segs_in: None,
            absent: 0,
            absent_since: Monotonic::default(),
            dump: 0,
            overruns: 0,
            detached: false,
        }
    }
}
