//! The follower: the sources, the flow table and the series, owned by one task without a lock.

mod attempts;
mod excluded;
mod flows;
mod links;
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

use flowcar_shared::counter::{COUNTERS, Counter};

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
        Adopt, Books, Flow, PollContext, SocketSnapshot,
        checkpoint::{Checkpoint, CheckpointFlows, KernelInstance},
    },
    memory::Budget,
    origin::Origins,
    series::{SeriesLabels, lost_closes},
    snapshot::{Listener, SelfMetrics, Series, SeriesKey, Snapshot},
    source::{
        More, Source, SourceError, Turn, Woken,
        diag::{DiagError, DiagSource, Dumping, Pace},
        ebpf::EbpfSource,
    },
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
        flows.origins.begin_turn();
        let mut more = More::default();
        match source {
            Source::Ebpf(ebpf) => more.records = flows.records(ebpf, None, turn),
            Source::Diag(diag) => {
                flows.turn_begins();
                more.events = flows.destroy_events(diag, turn, &poll, false);
            }
            Source::Both(ebpf, diag) => {
                more.records = flows.records(ebpf, Some(diag), turn);
                more.events = flows.destroy_events(diag, turn, &poll, more.records);
            }
        }
        self.finish_poll(turn, more);
        self.bound_memory();
        if self.flows.table.listing().adopted() == 0 {
            self.source.adopted_closed();
        }
        more
    }

    /// Finishes a poll once all that waited at its end is taken in: a closed socket has sent its last record by then.
    fn finish_poll(&mut self, turn: Turn, more: More) {
        let taken = self.source.taken();
        let over = self
            .unfinished
            .take_if(|unfinished| turn == Turn::Whole || unfinished.waiting.is_over(more, taken));
        let Some(Unfinished {
            poll,
            judges,
            shown,
            ..
        }) = over
        else {
            return;
        };
        let Self { source, flows, .. } = self;
        if judges && let Source::Both(ebpf, diag) = source {
            judge(ebpf, diag, flows, &poll);
        }
        if shown {
            flows.poll_finished();
        }
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

    /// Polls the sockets, if that is due, and takes in all that waits. The first poll adopts the connections that are open already; later
    /// polls come as often as their cost allows.
    pub fn poll_sockets(&mut self) {
        // The first poll takes in itself what waits, behind the dump: of a server's connection that opened before it, the listener may be
        // older than the programs, and only the dump shows it.
        if self.dumps > 0 || !self.source.capabilities().dumps {
            self.drain_all();
        }
        self.begin_poll();
        self.drain_all();
    }

    /// The same, but what waits is left to the next turns: the poll is over, and the next one may begin, once all is taken in that waited
    /// at its end.
    pub fn begin_poll(&mut self) {
        if !self.source.capabilities().dumps {
            return self.flows.settle();
        }
        if !self.pace.is_due() || self.unfinished.is_some() {
            return;
        }
        let dumping = Dumping::begin();
        self.dumps += 1;
        let poll = self.poll();
        let first = self.dumps == 1;
        let Self { source, flows, .. } = self;
        flows.dump_begins();
        let (polled, judges) = match source {
            Source::Ebpf(_) => return,
            Source::Diag(diag) => (alone(diag, flows, &poll).map(|()| poll), false),
            Source::Both(ebpf, diag) if first => {
                let adopted = adopt(ebpf, diag, flows, &poll, &[0; COUNTERS]);
                (adopted.map(|()| poll), false)
            }
            Source::Both(ebpf, diag) => (beside(ebpf, diag, flows, &poll), true),
        };
        let shown = polled.is_ok() || self.source.capabilities().handshakes;
        let judges = judges && polled.is_ok();
        let poll = *polled.as_ref().unwrap_or(&poll);
        self.dumped(polled.map(|_| ()), &dumping);
        self.unfinished = Some(Unfinished {
            poll,
            judges,
            shown,
            waiting: Waiting::upto(self.source.upto()),
        });
    }

    /// Follows the cgroup that is at this path now, beside the previous one, whose flows stay followed until they close. Connections that
    /// the new one has already are adopted. Gives its id.
    ///
    /// # Errors
    /// [`SourceError`]: then all is as it was.
    pub fn follow(&mut self, cgroup: &Path) -> Result<u64, SourceError> {
        self.attach(|source| source.follow(cgroup))
    }

    /// Attaches programs, and adopts the connections that are there already.
    fn attach(
        &mut self,
        attach: impl FnOnce(&mut Source) -> Result<u64, SourceError>,
    ) -> Result<u64, SourceError> {
        if self.dumps == 0 {
            self.poll_sockets();
        }
        self.drain_all();
        let before = self.source.counters();
        let id = attach(&mut self.source)?;
        self.flows.origins.root_changed();
        let dumping = Dumping::begin();
        self.dumps += 1;
        let poll = self.poll();
        let Self { source, flows, .. } = self;
        flows.dump_begins();
        let polled = match source {
            Source::Ebpf(_) => return Ok(id),
            Source::Diag(diag) => alone(diag, flows, &poll),
            Source::Both(ebpf, diag) => adopt(ebpf, diag, flows, &poll, &before),
        };
        self.dumped(polled, &dumping);
        self.drain_all();
        Ok(id)
    }

    /// The value of `flowcar.source`.
    pub const fn source(&self) -> &'static str {
        self.source.name()
    }

    /// The id of the cgroup that is followed, if one is.
    pub fn cgroup(&self) -> Option<u64> {
        self.source.cgroup()
    }

    fn dumped(&mut self, polled: Result<(), DiagError>, dumping: &Dumping) {
        if let Err(error) = polled {
            tracing::warn!(%error, "the sockets cannot be polled");
        }
        self.pace.dumped(dumping);
    }

    /// Polls the sockets whether that is due or not, so that connections since the last poll are not missed, and takes in what waits as
    /// long as there is time.
    pub fn poll_again(&mut self, deadline: Option<Instant>) {
        if !self.drain_until(deadline) {
            return;
        }
        self.pace.hurry();
        self.begin_poll();
        self.drain_until(deadline);
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
        self.source.diag().map(DiagSource::listeners)
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
            .snapshot(&kernel, self.source.diag(), self_metrics)
    }

    /// The checkpoint that belongs to `report`, the snapshot that was made last. Before anything else is taken in.
    pub fn checkpoint(&self, report: &Snapshot) -> CheckpointFlows {
        self.flows.table.checkpoint(report.unattributed.pending)
    }

    /// The circumstances of a poll now.
    fn poll(&self) -> PollContext {
        PollContext {
            at: Anchor::now().monotonic(),
            dump: self.dumps,
            // Records report what is new; without them everything is adopted.
            adopt: if self.source.capabilities().handshakes {
                Adopt::Nothing
            } else {
                Adopt::All
            },
            overruns: self.source.events_dropped(),
            lost_closes: 0,
            seed: self.flows.seed,
        }
    }
}

/// Without the programs every dump may show what is new.
fn alone(diag: &mut DiagSource, flows: &mut Flows, poll: &PollContext) -> Result<(), DiagError> {
    diag.dump(|observed| flows.poll_sockets(observed, poll))?;
    flows.dumped_listeners(diag, poll.at);
    flows.finish_poll(diag, poll);
    Ok(())
}

/// Beside the programs the first dump after they were attached is kept until the ring is drained: sockets that the table does not
/// know then are older than the programs. `before` are the kernel's counters as of the attachment. Sockets of a cgroup that was followed
/// before are all known, or counted where they are not.
fn adopt(
    ebpf: &mut EbpfSource,
    diag: &mut DiagSource,
    flows: &mut Flows,
    poll: &PollContext,
    before: &[u64; COUNTERS],
) -> Result<(), DiagError> {
    // Before the dump, so that no close falls between the two.
    diag.subscribe()?;
    // What they take for a moment is less than the kernel's storage, which the budget counts for each flow and which adopted ones lack.
    let mut observed_sockets: Vec<SocketSnapshot> = Vec::new();
    let (room, mut left_out) = (flows.table.listing().room(), 0);
    diag.dump(|observed| {
        if observed_sockets.len() < room {
            observed_sockets.push(*observed);
        } else {
            left_out += 1;
        }
    })?;
    flows.table.listing_mut().count_over_capacity(left_out);
    flows.dumped_listeners(diag, poll.at);
    // Records have reported all of these.
    let closed = flows.closed();
    flows.records(ebpf, Some(&mut *diag), Turn::Whole);
    let over = flows.closed_from(closed);
    let open_dropped = Counter::OpenDropped.index() as usize;
    let dropped = ebpf.kernel_counters()[open_dropped] - before[open_dropped];
    let new = if dropped == 0 {
        Adopt::Connected
    } else {
        Adopt::Restored
    };
    let (adopted, unadopted) = (
        flows.table.listing().adopted(),
        flows.table.adoption().unadopted(),
    );
    for observed in observed_sockets
        .iter()
        .filter(|observed| !over.contains(&observed.cookie))
    {
        let adopt = match diag.is_newest(observed) {
            true => new,
            false => Adopt::Nothing,
        };
        let poll = PollContext { adopt, ..*poll };
        flows.poll_sockets(observed, &poll);
    }
    let unadopted = flows.table.adoption().unadopted() - unadopted;
    if unadopted > 0 {
        tracing::warn!(
            unadopted,
            dropped,
            "the ring buffer overran at the start, so connections that were open before cannot be distinguished from new ones and are not followed; raise FLOWCAR_RING_BYTES"
        );
    }
    let adopted = flows.table.listing().adopted().saturating_sub(adopted);
    tracing::info!(adopted, "connections that were open already");
    Ok(())
}

/// Beside the programs dumps update the flows that the table knows. The ring is drained during a dump, which may take longer than
/// the ring takes to fill. Gives the circumstances, with the closes that were lost by then.
fn beside(
    ebpf: &mut EbpfSource,
    diag: &mut DiagSource,
    flows: &mut Flows,
    poll: &PollContext,
) -> Result<PollContext, DiagError> {
    const DRAIN_EVERY: u32 = 4_096;
    let poll = PollContext {
        lost_closes: lost_closes(&flows.books(&ebpf.kernel_counters())),
        ..*poll
    };
    let mut count = 0;
    diag.dump(|observed| {
        flows.poll_sockets(observed, &poll);
        count += 1;
        if count % DRAIN_EVERY == 0 {
            flows.records(ebpf, None, Turn::Whole);
        }
    })?;
    flows.dumped_listeners(diag, poll.at);
    Ok(poll)
}

/// Evicts the flows that dumps do not show any more, once the records are taken in that were sent before this one was over.
fn judge(ebpf: &EbpfSource, diag: &mut DiagSource, flows: &mut Flows, poll: &PollContext) {
    flows.finish_poll(diag, poll);
    let absent = flows.table.listing().absent() + flows.excluded.absent();
    let waiting = flows.waiting(&ebpf.kernel_counters());
    flows
        .unattributed
        .finish_poll(poll.lost_closes, absent + waiting);
}

/// Whether there is no time left. Without a deadline there always is.
fn is_over(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| clock::now() >= deadline)
}
