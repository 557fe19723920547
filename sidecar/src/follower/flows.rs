//! The flow table and the series, and how records, polls and destroy events change them.

mod destroyed;
mod doubts;
mod dumps;
mod records;
mod report;

use std::{collections::BTreeMap, time::Instant};

use flowcar_shared::counter::{COUNTERS, Counter};

use super::{
    Limits,
    attempts::Attempts,
    excluded::ExcludedFlows,
    readings::Readings,
    restore::Restore,
    room::Room,
    timers::{Reading, Recent, Timers},
};
use crate::{
    clock::{Anchor, ReportClock},
    container_stats::ContainerStats,
    flow::{
        self, Books, CloseReason, Event, Failure, Flow, Outcome, PendingCloses, Role, SocketName,
        SocketNetns, Table,
        checkpoint::{Checkpoint, KernelInstance},
    },
    origin::Origins,
    peer::Resolved,
    series::{SeriesSet, Unattributed, count},
};

/// Address queries at most: enough for a pod with many addresses. Where the followed cgroup is in another network namespace, all fail.
const ADDRESS_QUERIES: u32 = 64;

/// Pairs of a name and an address at most, some 150 bytes each.
const MOST_NAMES: usize = 8_192;

/// A report of the previous flowcar that is further ahead of the wall clock came from a wrong clock.
const MOST_AHEAD_NS: u64 = 25 * 3_600 * 1_000_000_000;

/// All flows, and all that is counted of them.
pub(super) struct Flows {
    pub(super) table: Table,
    pub(super) series: SeriesSet,
    /// How long a series may be idle; for ever where there is none.
    series_idle_ns: Option<u64>,
    pub(super) anchor: Anchor,
    pub(super) start_unix_ns: u64,
    clock: ReportClock,
    pub(super) seed: u64,
    pending_closes: PendingCloses,
    readings: Readings,
    timers: Timers,
    /// The namespace's counts before the last dump, and before the previous one: a close after a dump that showed the connection, or that
    /// did not yet, was counted since.
    counted: [Reading; 2],
    recent: Recent,
    /// How many more queries may be made whether an address is in this network namespace.
    queries_left: u32,
    attempts: Attempts,
    records: BTreeMap<&'static str, u64>,
    malformed: u64,
    /// Open and sample records received.
    records_seen: u64,
    /// Whether records or destroy events of flows were taken in that are not excluded.
    is_active: bool,
    room: Room,
    inexact: u64,
    /// Whether clients' flows are given names.
    names: bool,
    resolved: Resolved,
    /// Clients' flows without a name, by reason.
    unnamed: BTreeMap<&'static str, u64>,
    pub(super) origins: Origins,
    /// None where nobody asks for statistics of containers.
    pub(super) container_stats: Option<ContainerStats>,
    /// When the listeners were dumped because two of one address may be open.
    listeners_dumped: Option<Instant>,
    /// Flows that closed or failed, until they are handed over.
    closed: Vec<Flow>,
    pub(super) excluded: ExcludedFlows,
    pub(super) unattributed: Unattributed,
    pub(super) restore: Option<Restore>,
    /// How long, at most, the programs were detached by another process.
    pub(super) detached_ns: u64,
}

impl Flows {
    pub(super) fn new(limits: &Limits) -> Self {
        let anchor = Anchor::now();
        let start_unix_ns = anchor.unix_ns(anchor.monotonic());
        let mut readings = Readings::new();
        let attempts = Attempts::new(&mut readings);
        let reading = Reading::from(readings.of_turn());
        Self {
            table: Table::new(limits.flows),
            series: SeriesSet::new(limits.naming),
            series_idle_ns: u64::try_from(limits.series_idle.as_nanos())
                .ok()
                .filter(|ns| *ns > 0),
            anchor,
            start_unix_ns,
            clock: ReportClock::after(start_unix_ns),
            seed: fastrand::u64(..),
            pending_closes: PendingCloses::default(),
            readings,
            timers: Timers::new(reading),
            counted: [reading; 2],
            recent: Recent::new(reading),
            queries_left: ADDRESS_QUERIES,
            attempts,
            records: BTreeMap::new(),
            malformed: 0,
            records_seen: 0,
            is_active: false,
            room: Room::new(limits),
            inexact: 0,
            names: limits.names,
            resolved: Resolved::new(MOST_NAMES),
            unnamed: BTreeMap::new(),
            origins: Origins::off(),
            container_stats: None,
            listeners_dumped: None,
            closed: Vec::new(),
            excluded: ExcludedFlows::default(),
            unattributed: Unattributed::default(),
            restore: None,
            detached_ns: 0,
        }
    }

    /// Restores a checkpoint, to be settled after so many polls. The previous flowcar's reports are of the same series, so that this
    /// one's must be later.
    pub(super) fn restore(&mut self, checkpoint: &Checkpoint, here: &KernelInstance, polls: u8) {
        let ahead = checkpoint.taken_unix_ns.saturating_sub(self.start_unix_ns);
        if (1..=MOST_AHEAD_NS).contains(&ahead) {
            tracing::warn!(
                ahead_s = ahead as f64 / 1e9,
                "the wall clock is behind the last report of the previous flowcar; reports keep that time until it has caught up"
            );
            self.start_unix_ns = checkpoint.taken_unix_ns;
            self.clock = ReportClock::after(self.start_unix_ns);
        }
        let since = self.start_unix_ns;
        let restore = Restore::begin(&mut self.table, checkpoint, here, polls, since);
        self.restore = Some(restore);
        if !self.names {
            self.table.adoption_mut().restore_no_names();
        }
    }

    /// A poll is over, and the closes that came by then are taken in.
    pub(super) fn poll_finished(&mut self) {
        if let Some(restore) = &mut self.restore {
            restore.poll_finished(&mut self.table);
        }
    }

    /// There will be no poll.
    pub(super) fn settle(&mut self) {
        if let Some(restore) = &mut self.restore {
            restore.settle(&mut self.table);
        }
    }

    /// Takes in an event: its change goes into the series, and a flow that closed waits to be handed over.
    fn apply(&mut self, event: Event<'_>) {
        self.is_active |= !matches!(event, Event::Polled(..));
        let netns = self.netns_of(&event);
        let Some(mut change) = self.table.apply(event) else {
            return;
        };
        if change.before.is_none() && self.names {
            self.give_name(&mut change.now);
        }
        if change.before.is_none() {
            self.origins.resolve(&mut change.now, netns);
        }
        count(&mut self.table, &mut self.series, &mut change);
        // One dump or one turn may bring more flows, and more series, than both have room for.
        if change.before.is_none() && change.listed {
            self.room.bound(&mut self.table, &mut self.series);
        }
        if let Some(closed) = change.into_closed() {
            let exact = closed.socket.is_none_or(|figures| figures.exact);
            self.inexact += u64::from(!exact);
            self.closed.push(closed);
        }
    }

    /// The network namespace of the socket that an event is of.
    fn netns_of(&self, event: &Event<'_>) -> SocketNetns {
        match event {
            Event::Record(record) => match record.netns {
                Some(netns) => SocketNetns::Of(netns),
                None if self.attempts.knows_netns => SocketNetns::Lost,
                None => SocketNetns::Unread,
            },
            _ => SocketNetns::Dumped,
        }
    }

    /// Gives a client's flow the name that its application asked for, or counts why it has none.
    fn give_name(&mut self, flow: &mut Flow) {
        if flow.role != Role::Client || flow.polled {
            return;
        }
        let asked = flow.asked();
        match self.resolved.name_of(asked.ip(), flow.started) {
            Ok(name) => flow.name = Some(name),
            Err(reason) => *self.unnamed.entry(reason.name()).or_default() += 1,
        }
    }

    /// The flows that closed or failed since this was last called, in the order in which that was reported.
    pub(super) fn take_closed(&mut self) -> Vec<Flow> {
        std::mem::take(&mut self.closed)
    }

    /// Limits the table and the series by the memory budget. Gives whether the kernel must not allocate storage for one more socket.
    pub(super) fn bound_memory(&mut self) -> bool {
        let most = self.room.bound(&mut self.table, &mut self.series);
        most.is_some_and(|most| self.room.is_full(most))
    }

    /// Whether nothing by which closes are judged is counted in the network namespace.
    pub(super) const fn is_namespace_quiet(&self) -> bool {
        self.readings.is_quiet()
    }

    /// Whether records or events were taken in since this was last called, but for those of excluded flows, or a close waits for its other
    /// end.
    pub(super) fn take_activity(&mut self) -> bool {
        std::mem::take(&mut self.is_active) || !self.pending_closes.is_empty()
    }

    pub(super) fn books(&self, kernel: &[u64; COUNTERS]) -> Books {
        let without = |excluded: u64| {
            self.table.books(|counter| {
                let count = kernel[counter.index() as usize];
                match counter {
                    Counter::Established => count.saturating_sub(excluded),
                    _ => count,
                }
            })
        };
        let excluded = self.excluded.established();
        let books = without(excluded);
        // More were closed or lost than opened: some of the closes that the ring lost are of excluded flows.
        match books.excess().min(self.excluded.may_be_lost(kernel)) {
            0 => books,
            lost => without(excluded - lost),
        }
    }

    /// Open and sample records that were sent and not received yet.
    pub(super) fn waiting(&self, kernel: &[u64; COUNTERS]) -> u64 {
        flow::waiting(
            |counter| kernel[counter.index() as usize],
            self.records_seen,
        )
    }
}

const fn name_of(flow: &Flow) -> SocketName {
    SocketName {
        cookie: flow.cookie,
        local: flow.local,
        peer: flow.peer,
        interface: 0,
    }
}

/// Whether a timer ended it.
const fn timed_out(flow: &Flow) -> bool {
    matches!(
        flow.outcome,
        Some(Outcome::Closed(CloseReason::Timeout) | Outcome::Failed(Failure::Timeout))
    )
}

#[cfg(test)]
mod tests;
