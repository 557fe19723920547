//! The flows that live, and the books over all that ever did.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    hash::BuildHasherDefault,
};

use flowcar_shared::{counter::Counter, record::Kind};

use super::{Flow, Outcome, Record};

/// What cost a connection its place in the figures (`flowcar.lost`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lost {
    /// The kernel refused socket storage.
    Storage,
    /// The kernel refused to arm the socket's callbacks.
    Callbacks,
    /// The ring buffer was full when the connection closed.
    RingFull,
    /// The record of its close did not decode.
    Malformed,
}

impl Lost {
    /// The value of `flowcar.lost`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Storage => "socket_storage",
            Self::Callbacks => "callbacks",
            Self::RingFull => "ring_full",
            Self::Malformed => "malformed_record",
        }
    }
}

/// Where every connection is: `opened = closed + live + lost`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Books {
    /// Established under our eyes: the kernel's own count.
    pub opened: u64,
    /// Reported closed, with everything that was to be known.
    pub closed: u64,
    /// Neither reported closed nor lost.
    pub live: u64,
    /// Attempts that were never established; not among the opened.
    pub failed: u64,
    /// Connections of which the end is not known, by what cost it.
    pub lost: BTreeMap<Lost, u64>,
}

impl Books {
    /// Connections lost for any reason.
    pub fn lost_total(&self) -> u64 {
        self.lost.values().sum()
    }

    /// Whether `opened = closed + live + lost`.
    pub fn balance(&self) -> bool {
        self.opened == self.closed + self.live + self.lost_total()
    }
}

/// What a record changed.
#[derive(Debug)]
pub struct Change {
    /// The flow as it was before; `None` if it is new to the table.
    pub before: Option<Flow>,
    /// The flow as it is now.
    pub now: Flow,
    /// Whether it stays in the table.
    pub listed: bool,
}

/// The flows that live, at most `bound` of them. A flow past the bound costs nothing but its place on the
/// list: its close record still carries all its figures.
#[derive(Debug)]
pub struct Table {
    flows: HashMap<u64, Flow, BuildHasherDefault<std::hash::DefaultHasher>>,
    bound: usize,
    unlisted: u64,
    closed: u64,
    failed: u64,
    malformed_closes: u64,
}

impl Table {
    /// An empty table for at most `bound` flows.
    pub fn new(bound: usize) -> Self {
        Self {
            flows: HashMap::default(),
            bound,
            unlisted: 0,
            closed: 0,
            failed: 0,
            malformed_closes: 0,
        }
    }

    /// Takes in a record.
    pub fn apply(&mut self, record: Record) -> Change {
        let Record { kind, flow } = record;
        match (kind, flow.outcome) {
            (Kind::Close, outcome) => self.close(flow, outcome),
            (Kind::Open | Kind::Sample, _) => self.update(flow),
        }
    }

    /// Counts a record that did not decode. What an open or a sample said, the flow's next record says again; one that
    /// names no kind is taken for a close, the worst case.
    pub fn malformed(&mut self, kind: Option<Kind>) {
        if matches!(kind, Some(Kind::Close) | None) {
            self.malformed_closes += 1;
        }
    }

    /// The flows that live and are listed.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Flow> {
        self.flows.values()
    }

    /// Listed flows.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether no flow is listed.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// Records of flows that found the table full.
    pub const fn unlisted(&self) -> u64 {
        self.unlisted
    }

    /// The books, given the kernel's counters **read after** the last record was applied: then every flow
    /// that a record told of is among them.
    pub fn books(&self, kernel: impl Fn(Counter) -> u64) -> Books {
        let opened = kernel(Counter::Established);
        let lost: BTreeMap<Lost, u64> = [
            (Lost::Storage, kernel(Counter::StorageRefused)),
            (Lost::Callbacks, kernel(Counter::ArmRefused)),
            (Lost::RingFull, kernel(Counter::CloseDropped)),
            (Lost::Malformed, self.malformed_closes),
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

    fn update(&mut self, flow: Flow) -> Change {
        let full = self.flows.len() >= self.bound;
        match self.flows.entry(flow.cookie) {
            // A socket that was disconnected and connected again is another flow under the same cookie.
            Entry::Occupied(mut entry) if entry.get().started == flow.started => {
                let before = entry.insert(flow.clone());
                Change {
                    before: Some(before),
                    now: flow,
                    listed: true,
                }
            }
            Entry::Occupied(mut entry) => {
                entry.insert(flow.clone());
                Change {
                    before: None,
                    now: flow,
                    listed: true,
                }
            }
            Entry::Vacant(_) if full => {
                self.unlisted += 1;
                Change {
                    before: None,
                    now: flow,
                    listed: false,
                }
            }
            Entry::Vacant(entry) => {
                entry.insert(flow.clone());
                Change {
                    before: None,
                    now: flow,
                    listed: true,
                }
            }
        }
    }

    fn close(&mut self, flow: Flow, outcome: Option<Outcome>) -> Change {
        let before = self
            .flows
            .remove(&flow.cookie)
            .filter(|before| before.started == flow.started);
        match outcome {
            Some(Outcome::Failed(_)) => self.failed += 1,
            _ => self.closed += 1,
        }
        Change {
            before,
            now: flow,
            listed: false,
        }
    }
}
