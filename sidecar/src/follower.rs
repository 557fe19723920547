//! The follower: the source, the flow table and the series, owned by one task without a lock.

mod attempts;
mod excluded;
mod flows;
mod links;
mod polls;
mod readings;
mod replay;
mod restore;
mod room;
mod timers;
mod unfinished;

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

pub use self::replay::Replay;
use self::{
    excluded::ExcludedFlows,
    flows::Flows,
    links::Links,
    unfinished::{Unfinished, Waiting},
};
use crate::{
    clock::{self, Anchor},
    config::Config,
    container_stats::ContainerStats,
    exporter_sockets::ExporterSockets,
    flow::{
        Books, Flow,
        checkpoint::{Checkpoint, CheckpointFlows, KernelInstance},
    },
    memory::Budget,
    origin::Origins,
    series::SeriesLabels,
    snapshot::{Listener, SelfMetrics, Series, SeriesKey, Snapshot},
    source::{More, Pace, Source, SourceError, Turn, Woken},
};

/// Limits and labels.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Time from one report to the next, and at least from one poll of the sockets to the next.
    pub report: Duration,
    /// Flows listed at once.
    pub flows: usize,
    /// The labels of a series.
    pub naming: SeriesLabels,
    /// How long a series may have no connection and nothing new; zero for ever.
    pub series_idle: Duration,
    /// Whether clients' flows are given the names that were asked for.
    pub names: bool,
    /// The memory budget, where there is a limit.
    pub budget: Option<Budget>,
}

impl From<&Config> for Limits {
    /// The limits as configured, without a memory budget.
    fn from(config: &Config) -> Self {
        Self {
            report: config.report_interval,
            flows: config.max_flows,
            naming: config.naming,
            series_idle: config.series_idle,
            names: config.names,
            budget: None,
        }
    }
}

/// Follows flows.
pub struct Follower {
    source: Source,
    flows: Flows,
    dumps: u64,
    links: Links,
    pace: Pace,
    unfinished: Option<Unfinished>,
}

impl Follower {
    /// Follows the flows that `source` reports from here on.
    pub fn new(source: Source, limits: &Limits) -> Self {
        let mut flows = Flows::new(limits);
        // The first dump finds connections that are open already.
        flows.bound_memory();
        Self {
            source,
            flows,
            dumps: 0,
            links: Links::default(),
            pace: Pace::new(limits.report),
            unfinished: None,
        }
    }

    /// Restores the checkpoint of the previous flowcar. Before the first poll.
    pub fn restore(&mut self, checkpoint: &Checkpoint, here: &KernelInstance) {
        // Beside the programs later polls adopt nothing. Without them one poll may miss a socket.
        let handshakes = self.source.capabilities().handshakes;
        let polls = if handshakes { 1 } else { 2 };
        self.flows.restore(checkpoint, here, polls);
    }

    /// Excludes the flows of these sockets from all figures. Before the first of them is connected.
    pub fn exclude(&mut self, sockets: ExporterSockets) {
        self.flows.excluded = ExcludedFlows::new(sockets);
    }

    /// Finds whose sockets the flows have. Before the first of them.
    pub fn find_origins(&mut self, origins: Origins) {
        self.flows.origins = origins;
    }

    /// Has reports carry the statistics of these containers.
    pub fn read_containers(&mut self, stats: ContainerStats) {
        self.flows.container_stats = Some(stats);
    }

    /// Whether names of processes are read.
    pub fn reads_names(&self) -> bool {
        self.flows.origins.reads_names()
    }

    /// Waits until the kernel wakes flowcar before the next drain is due. Gives what for.
    pub async fn woken(&self) -> Woken {
        let containers = async {
            match &self.flows.origins.containers {
                Some(containers) => containers.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            woken = self.source.woken() => woken,
            () = containers => Woken::ByDirectories,
        }
    }

    /// Reads the directories of containers that were made.
    pub fn take_notices(&mut self) {
        self.flows.origins.take_notices();
    }

    /// Has the next record wake flowcar. Gives whether it will.
    pub fn sleep(&mut self) -> bool {
        self.source.sleep()
    }

    /// Flowcar is awake.
    pub const fn awake(&mut self) {
        self.source.awake();
    }

    /// Whether anything of followed flows was taken in since this was last called, or something waits for a later drain: a close for its
    /// other end, or a poll for what came by its end.
    pub fn take_activity(&mut self) -> bool {
        self.flows.take_activity() || self.unfinished.is_some()
    }

    /// Whether nothing by which closes are judged is counted in the network namespace: a reading of its counts serves for longer.
    pub const fn is_namespace_quiet(&self) -> bool {
        self.flows.is_namespace_quiet()
    }

    /// The flows that closed or failed since this was last called, in the order in which that was reported.
    pub fn take_closed(&mut self) -> Vec<Flow> {
        self.flows.take_closed()
    }

    /// Takes in what waits, but no more than one turn of the main loop may take. Gives whether more waits.
    pub fn drain(&mut self) -> bool {
        self.drain_at_most(Turn::Short).any()
    }

    /// Takes in all that waits now, or as much as there is time for. Gives whether that was all.
    fn drain_until(&mut self, deadline: Option<Instant>) -> bool {
        let mut waiting = Waiting::upto(self.source.upto());
        loop {
            let more = self.drain_at_most(Turn::Short);
            if waiting.is_over(more, self.source.taken()) {
                return true;
            }
            if is_over(deadline) {
                return false;
            }
        }
    }

    /// Takes in all that waits now.
    pub fn drain_all(&mut self) {
        self.drain_at_most(Turn::Whole);
    }

    fn drain_at_most(&mut self, turn: Turn) -> More {
        let poll = self.poll();
        let Self { source, flows, .. } = self;
        let (records, sockets) = source.parts();
        flows.origins.begin_turn();
        let records_wait = flows.records(records, sockets, turn);
        let more = More {
            records: records_wait,
            events: flows.destroy_events(sockets, turn, &poll, records_wait),
        };
        self.finish_poll(turn, more);
        self.bound_memory();
        if !self.flows.table.needs_destroy_events() {
            self.source.adopted_closed();
        }
        more
    }

    /// Limits the table, the series and the kernel's storage by the memory budget.
    fn bound_memory(&mut self) {
        let is_full = self.flows.bound_memory();
        self.source.set_full(is_full);
    }

    /// Takes in all that waits, or as much as there is time for, for the last time.
    pub fn conclude(&mut self, deadline: Option<Instant>) {
        if !self.drain_until(deadline) {
            tracing::warn!(
                "flowcar had too little CPU time to take in all that the kernel reported: connections that closed last count as live or, without eBPF, are missing"
            );
        }
        let poll = self.poll();
        self.flows.conclude(&poll);
    }

    /// Follows the cgroup that is at this path now, beside the previous one, whose flows stay followed until they close. Connections that
    /// the new one has already are adopted. Gives its id.
    ///
    /// # Errors
    /// [`SourceError`]: then all is as it was.
    pub fn follow(&mut self, cgroup: &Path) -> Result<u64, SourceError> {
        self.adopt(|source| source.follow(cgroup))
    }

    /// The value of `flowcar.source`.
    pub const fn source(&self) -> &'static str {
        self.source.name()
    }

    /// The id of the cgroup that is followed, if one is.
    pub fn cgroup(&self) -> Option<u64> {
        self.source.cgroup()
    }

    /// Requests one sample of every flow with its next round trip.
    pub fn ask_for_samples(&mut self) {
        self.source.ask_for_samples();
    }

    /// Has the figures of live flows be newer in a moment: samples are requested, and without the programs the sockets are polled where
    /// that is due.
    pub fn refresh_live(&mut self) {
        if self.source.capabilities().handshakes {
            self.source.ask_for_samples();
        } else {
            self.begin_poll();
        }
    }

    /// Every series, by what names it.
    pub fn series(&self) -> impl ExactSizeIterator<Item = (&SeriesKey, &Series)> {
        self.flows.series.all()
    }

    /// The followed listeners by port, as of the last poll; `None` where nothing polls.
    pub fn listeners(&self) -> Option<&BTreeMap<Option<u16>, Listener>> {
        self.source.sockets().listeners()
    }

    /// Reads the clocks again, and logs it when the wall clock was stepped.
    pub fn anchor_again(&mut self) {
        if let Some(step_ns) = self.flows.anchor.refresh(Anchor::now()) {
            tracing::warn!(
                step_s = step_ns as f64 / 1e9,
                "the wall clock was stepped; flows that close from now on have the new time, except those that have sent interim spans, and so have reports once it is later than the last report's"
            );
        }
    }

    /// The open flows.
    pub fn flows(&self) -> impl ExactSizeIterator<Item = &Flow> {
        self.flows.table.listing().iter()
    }

    /// The present anchor of the clocks.
    pub const fn anchor(&self) -> &Anchor {
        &self.flows.anchor
    }

    /// The books as they stand. Drain first.
    pub fn books(&self) -> Books {
        self.flows.books(&self.source.counters())
    }

    /// Closed sockets of the network namespace that may or may not have been in the cgroup; `None` with the programs, which see the
    /// cgroup's alone.
    pub fn unscoped(&self) -> Option<u64> {
        self.source.unscoped()
    }

    /// The report as it stands, with `self_metrics` completed by what is known here. Drain first.
    pub fn snapshot(&mut self, self_metrics: SelfMetrics) -> Snapshot {
        let kernel = self.source.counters();
        self.flows
            .snapshot(&kernel, self.source.sockets(), self_metrics)
    }

    /// The checkpoint that belongs to `report`, the snapshot that was made last. Before anything else is taken in.
    pub fn checkpoint(&self, report: &Snapshot) -> CheckpointFlows {
        self.flows.table.checkpoint(report.unattributed.pending)
    }
}

/// Whether there is no time left. Without a deadline there always is.
fn is_over(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| clock::now() >= deadline)
}
