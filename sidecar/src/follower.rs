//! Flows followed: the sources, the flow table and the series, owned by one task without a lock.

mod attempts;
mod flows;
mod inheritance;
mod links;
mod own;
mod room;
mod timers;

use std::{collections::HashSet, path::Path, time::Duration};

use flowcar_shared::counter::{COUNTERS, Counter};

use self::{flows::Flows, links::Links, own::OwnFlows};
use crate::{
    clock::Anchor,
    flow::{
        Adopt, Books, Flow, Looking, Sight,
        handover::{Handover, Place},
    },
    memory::Budget,
    otlp::own::OwnSockets,
    series::{Naming, unheard},
    snapshot::{Own, Snapshot},
    source::{
        Source, SourceError, Turn,
        diag::{DiagError, DiagSource, Dumping, Pace},
        ebpf::EbpfSource,
    },
};

/// Bounds and names.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Time from one report to the next, and at least from one look at the sockets to the next.
    pub report: Duration,
    /// Flows listed at once.
    pub flows: usize,
    /// What names a series.
    pub naming: Naming,
    /// How long a series may have no connection and nothing new; zero for ever.
    pub series_idle: Duration,
    /// What the memory limit has room for, where there is one.
    pub budget: Option<Budget>,
}

/// Follows flows.
pub struct Follower {
    source: Source,
    flows: Flows,
    dumps: u64,
    links: Links,
    pace: Pace,
}

impl Follower {
    /// Follows the flows that `source` tells of from here on.
    pub fn new(source: Source, limits: &Limits) -> Self {
        Self {
            source,
            flows: Flows::new(limits),
            dumps: 0,
            links: Links::default(),
            pace: Pace::new(limits.report),
        }
    }

    /// Has reports tell what to leave for the flowcar after this one, and goes on from what the one before it left. Before
    /// the first look.
    pub fn hand_over(&mut self, before: Option<&Handover>, here: &Place) {
        self.flows.leaves = true;
        if let Some(handover) = before {
            // Beside the programs nothing is adopted by later looks. Alone, one look may miss a socket.
            let looks = if self.source.ebpf().is_some() { 1 } else { 2 };
            self.flows.inherit(handover, here, looks);
        }
    }

    /// Leaves the flows of these sockets out of all figures. Before the first of them is connected.
    pub fn leave_out(&mut self, sockets: OwnSockets) {
        self.flows.own = OwnFlows::new(sockets);
    }

    /// Waits until the kernel wants to be heard before its time.
    pub async fn woken(&self) {
        self.source.woken().await;
    }

    /// Takes in what waits, but no more than one turn of the main loop may take; `finished` sees the flows that ended. Gives
    /// whether more waits.
    pub fn drain(&mut self, finished: impl FnMut(&Flow, &Anchor)) -> bool {
        self.drain_at_most(Turn::Short, finished)
    }

    /// Takes in all that waits now.
    pub fn drain_all(&mut self, finished: impl FnMut(&Flow, &Anchor)) {
        self.drain_at_most(Turn::Whole, finished);
    }

    fn drain_at_most(&mut self, turn: Turn, mut finished: impl FnMut(&Flow, &Anchor)) -> bool {
        let looking = self.looking();
        let Self { source, flows, .. } = self;
        let more = match source {
            Source::Ebpf(ebpf) => flows.records(ebpf, None, turn, &mut finished),
            Source::Diag(diag) => flows.ends(diag, turn, &looking, &mut finished),
            Source::Both(ebpf, diag) => {
                let records = flows.records(ebpf, Some(diag), turn, &mut finished);
                let ends = flows.ends(diag, turn, &looking, &mut finished);
                records || ends
            }
        };
        self.bound_memory();
        self.leave();
        more
    }

    /// Has the table, the series and the kernel take no more memory than there is.
    fn bound_memory(&mut self) {
        let is_full = self.flows.bound_memory();
        let Some(ebpf) = self.source.ebpf_mut() else {
            return;
        };
        if let Err(error) = ebpf.set_full(is_full) {
            tracing::warn!(%error, "the kernel may keep more than the memory limit has room for");
        }
    }

    /// Takes in all that waits, for the last time.
    pub fn conclude(&mut self, mut finished: impl FnMut(&Flow, &Anchor)) {
        self.drain_all(&mut finished);
        let looking = self.looking();
        self.flows.conclude(&looking, &mut finished);
    }

    /// Looks at the sockets, if that is due. The first look adopts the connections that are open already; from then on it is
    /// repeated as often as its cost allows.
    pub fn look(&mut self, mut finished: impl FnMut(&Flow, &Anchor)) {
        if self.source.diag().is_none() {
            return self.flows.settle();
        }
        if !self.pace.is_due() {
            return;
        }
        let dumping = Dumping::begin();
        self.dumps += 1;
        let looking = self.looking();
        let first = self.dumps == 1;
        let Self { source, flows, .. } = self;
        flows.dump_begins();
        let looked = match source {
            Source::Ebpf(_) => return,
            Source::Diag(diag) => alone(diag, flows, &looking, &mut finished),
            Source::Both(ebpf, diag) if first => {
                adopt(ebpf, diag, flows, &looking, &[0; COUNTERS], &mut finished)
            }
            Source::Both(ebpf, diag) => beside(ebpf, diag, flows, &looking, &mut finished),
        };
        let shown = looked.is_ok() || self.source.ebpf().is_some();
        self.dumped(looked, &dumping);
        self.drain_all(finished);
        if shown {
            self.flows.look_is_over();
        }
    }

    /// Follows the cgroup that is at this path now, besides what is left of the one that was there before: its flows end as they
    /// would have. Connections that the new one has already are adopted. Gives its id.
    ///
    /// # Errors
    /// [`SourceError`]: then all is as it was.
    pub fn follow(
        &mut self,
        cgroup: &Path,
        finished: impl FnMut(&Flow, &Anchor),
    ) -> Result<u64, SourceError> {
        self.attach(|source| source.follow(cgroup), finished)
    }

    /// Attaches programs, and adopts the connections that are there already.
    fn attach(
        &mut self,
        attach: impl FnOnce(&mut Source) -> Result<u64, SourceError>,
        mut finished: impl FnMut(&Flow, &Anchor),
    ) -> Result<u64, SourceError> {
        if self.dumps == 0 {
            self.look(&mut finished);
        }
        self.drain_all(&mut finished);
        let before = self.kernel();
        let id = attach(&mut self.source)?;
        let dumping = Dumping::begin();
        self.dumps += 1;
        let looking = self.looking();
        let Self { source, flows, .. } = self;
        flows.dump_begins();
        let looked = match source {
            Source::Ebpf(_) => return Ok(id),
            Source::Diag(diag) => alone(diag, flows, &looking, &mut finished),
            Source::Both(ebpf, diag) => adopt(ebpf, diag, flows, &looking, &before, &mut finished),
        };
        self.dumped(looked, &dumping);
        self.drain_all(finished);
        Ok(id)
    }

    /// The id of the cgroup that is followed, if one is.
    pub fn cgroup(&self) -> Option<u64> {
        self.source.cgroup()
    }

    fn dumped(&mut self, looked: Result<(), DiagError>, dumping: &Dumping) {
        if let Err(error) = looked {
            tracing::warn!(%error, "the sockets cannot be looked at");
        }
        self.pace.dumped(dumping);
    }

    /// Looks at the sockets whether that is due or not: what began since the last look is not to be missed.
    pub fn look_again(&mut self, finished: impl FnMut(&Flow, &Anchor)) {
        self.pace.hurry();
        self.look(finished);
    }

    /// Asks every flow for one sample with its next round trip.
    pub fn ask_for_samples(&mut self) {
        let Some(source) = self.source.ebpf_mut() else {
            return;
        };
        if let Err(error) = source.ask_for_samples() {
            tracing::warn!(%error, "flows that live are not sampled");
        }
    }

    /// Reads the clocks again, and says so when the wall clock was stepped.
    pub fn anchor_again(&mut self) {
        if let Some(step_ns) = self.flows.anchor.refresh(Anchor::now()) {
            tracing::warn!(
                step_s = step_ns as f64 / 1e9,
                "the wall clock was stepped; flows that end from now on have the new time, and so have reports once it is later than the last one's"
            );
        }
    }

    /// The flows that live.
    pub fn flows(&self) -> impl ExactSizeIterator<Item = &Flow> {
        self.flows.table.iter()
    }

    /// The present anchor of the clocks.
    pub const fn anchor(&self) -> &Anchor {
        &self.flows.anchor
    }

    /// The books as they stand. Drain first.
    pub fn books(&self) -> Books {
        self.flows.books(&self.kernel())
    }

    /// Sockets of the network namespace that ended and may have been of the cgroup or not; `None` where the programs tell, which
    /// see none but the cgroup's.
    pub fn unscoped(&self) -> Option<u64> {
        match &self.source {
            Source::Diag(diag) => Some(diag.unscoped()),
            Source::Ebpf(_) | Source::Both(..) => None,
        }
    }

    /// The report as it stands, with `own` completed by what is known here. Drain first.
    pub fn snapshot(&mut self, own: Own) -> Snapshot {
        let kernel = self.kernel();
        self.flows.snapshot(&kernel, self.source.diag(), own)
    }

    fn kernel(&self) -> [u64; COUNTERS] {
        self.source.ebpf().map_or([0; COUNTERS], kernel)
    }

    /// Beside the programs the end of sockets is of no interest once the last adopted flow is gone.
    fn leave(&mut self) {
        if let Source::Both(_, diag) = &mut self.source
            && diag.is_subscribed()
            && !self.flows.table.has_adopted()
        {
            diag.unsubscribe();
        }
    }

    /// The circumstances of a look now.
    fn looking(&self) -> Looking {
        Looking {
            at: Anchor::now().monotonic(),
            dump: self.dumps,
            // Records tell of what is new; without them everything is to be adopted.
            adopt: match self.source {
                Source::Diag(_) => Adopt::All,
                Source::Ebpf(_) | Source::Both(..) => Adopt::Nothing,
            },
            overruns: self.source.diag().map_or(0, DiagSource::dropped),
            unheard: 0,
            seed: self.flows.seed,
        }
    }
}

/// Without the programs every dump may show what is new.
fn alone(
    diag: &mut DiagSource,
    flows: &mut Flows,
    looking: &Looking,
    finished: &mut impl FnMut(&Flow, &Anchor),
) -> Result<(), DiagError> {
    diag.dump(|sight| flows.look(sight, looking, finished))?;
    flows.looked(diag, looking, finished);
    Ok(())
}

/// Beside the programs the first dump after they were attached is kept until the ring is drained: what the table does not know
/// then is older than they are. `before` are the kernel's counters as of the attachment. Sockets of a cgroup that was followed
/// before are all known, or counted where they are not.
fn adopt(
    ebpf: &mut EbpfSource,
    diag: &mut DiagSource,
    flows: &mut Flows,
    looking: &Looking,
    before: &[u64; COUNTERS],
    finished: &mut impl FnMut(&Flow, &Anchor),
) -> Result<(), DiagError> {
    // Before the dump, so that no end falls between the two.
    diag.subscribe()?;
    let mut sights: Vec<Sight> = Vec::new();
    let (room, mut left_out) = (flows.table.room(), 0);
    diag.dump(|sight| {
        if sights.len() < room {
            sights.push(*sight);
        } else {
            left_out += 1;
        }
    })?;
    flows.table.leave_out(left_out);
    // Their records have told of all of them.
    let mut over = HashSet::new();
    flows.records(
        ebpf,
        Some(&mut *diag),
        Turn::Whole,
        &mut |flow: &Flow, anchor: &Anchor| {
            over.insert(flow.cookie);
            finished(flow, anchor);
        },
    );
    let open_dropped = Counter::OpenDropped.index() as usize;
    let dropped = kernel(ebpf)[open_dropped] - before[open_dropped];
    let new = if dropped == 0 {
        Adopt::Connected
    } else {
        Adopt::Inherited
    };
    let (adopted, unadopted) = (flows.table.adopted(), flows.table.unadopted());
    for sight in sights.iter().filter(|sight| !over.contains(&sight.cookie)) {
        let adopt = match diag.is_newest(sight) {
            true => new,
            false => Adopt::Nothing,
        };
        let looking = Looking { adopt, ..*looking };
        flows.look(sight, &looking, finished);
    }
    let unadopted = flows.table.unadopted() - unadopted;
    if unadopted > 0 {
        tracing::warn!(
            unadopted,
            dropped,
            "the ring buffer overran at the start, so connections that were open before cannot be told from new ones and are not followed; raise FLOWCAR_RING_BYTES"
        );
    }
    let adopted = flows.table.adopted().saturating_sub(adopted);
    tracing::info!(adopted, "connections that were open already");
    Ok(())
}

/// Beside the programs dumps feed the flows that the table knows. The ring goes on being drained in the middle of one, for
/// it may take longer than the ring lasts.
fn beside(
    ebpf: &mut EbpfSource,
    diag: &mut DiagSource,
    flows: &mut Flows,
    looking: &Looking,
    finished: &mut impl FnMut(&Flow, &Anchor),
) -> Result<(), DiagError> {
    const DRAIN_EVERY: u32 = 4_096;
    let looking = &Looking {
        unheard: unheard(&flows.books(&kernel(ebpf))),
        ..*looking
    };
    let mut count = 0;
    diag.dump(|sight| {
        flows.look(sight, looking, finished);
        count += 1;
        if count % DRAIN_EVERY == 0 {
            flows.records(ebpf, None, Turn::Whole, finished);
        }
    })?;
    // A socket that is not there any more has sent its last record.
    flows.records(ebpf, Some(diag), Turn::Whole, finished);
    flows.looked(diag, looking, finished);
    let absent = flows.table.absent() + flows.own.absent();
    let waiting = flows.waiting(&kernel(ebpf));
    flows.remainder.looked(looking.unheard, absent + waiting);
    Ok(())
}

fn kernel(source: &EbpfSource) -> [u64; COUNTERS] {
    source.counters().unwrap_or_else(|error| {
        tracing::error!(%error, "the kernel's counters cannot be read");
        [0; COUNTERS]
    })
}
