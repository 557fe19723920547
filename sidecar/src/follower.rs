//! Flows followed: the sources, the flow table and the series, owned by one task without a lock.

use std::{collections::BTreeMap, time::Duration};

use flowcar_shared::{counter::Counter, record::Kind};

use crate::{
    clock::Anchor,
    flow::{
        self, Adopt, Afterlife, Books, Change, Ends, Flow, Looking, Monotonic, Sight, Table, Told,
    },
    series::{Naming, SeriesSet},
    snapshot::{Own, Snapshot},
    source::{
        Source,
        diag::{DiagError, DiagSource, Pace},
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
}

/// Follows flows.
pub struct Follower {
    source: Source,
    table: Table,
    series: SeriesSet,
    anchor: Anchor,
    start_unix_ns: u64,
    seed: u64,
    records: BTreeMap<&'static str, u64>,
    malformed: u64,
    inexact: u64,
    ends: Ends,
    dumps: u64,
    pace: Pace,
}

impl Follower {
    /// Follows the flows that `source` tells of from here on.
    pub fn new(source: Source, limits: &Limits) -> Self {
        let anchor = Anchor::now();
        Self {
            source,
            table: Table::new(limits.flows),
            series: SeriesSet::new(limits.naming),
            anchor,
            start_unix_ns: anchor.unix_ns(anchor.monotonic()),
            seed: fastrand::u64(..),
            records: BTreeMap::new(),
            malformed: 0,
            inexact: 0,
            ends: Ends::default(),
            dumps: 0,
            pace: Pace::new(limits.report),
        }
    }

    /// Where flows are learnt of.
    pub const fn source(&self) -> &Source {
        &self.source
    }

    /// Waits until the kernel wants to be heard before its time.
    pub async fn woken(&self) {
        self.source.woken().await;
    }

    /// Takes in all that waits; `finished` sees the flows that ended.
    pub fn drain(&mut self, mut finished: impl FnMut(&Flow, &Anchor)) {
        self.drain_records(&mut finished);
        self.drain_ends(&mut finished);
    }

    /// Looks at the sockets, if that is due. The first look adopts the connections that are open already; from then on it is
    /// repeated as often as its cost allows.
    pub fn look(&mut self, mut finished: impl FnMut(&Flow, &Anchor)) {
        if self.source.diag().is_none() || !self.pace.is_due() {
            return;
        }
        self.dumps += 1;
        match self.dump(&mut finished) {
            Ok(sockets) => self.pace.dumped(sockets),
            Err(error) => {
                tracing::warn!(%error, "the sockets cannot be looked at");
                self.pace.dumped(0);
            }
        }
    }

    /// Beside eBPF the first dump is kept until the ring is drained: what the table does not know then is older than the
    /// programs.
    fn dump(&mut self, finished: &mut impl FnMut(&Flow, &Anchor)) -> Result<u64, DiagError> {
        let mut first = Vec::new();
        let alone = self.source.ebpf().is_none();
        let looking = self.looking(self.adopts());
        let keep = self.dumps == 1 && !alone;
        let Self {
            source,
            table,
            series,
            anchor,
            ..
        } = self;
        let Some(diag) = source.diag_mut() else {
            return Ok(0);
        };
        if keep || alone {
            // Before the dump, so that no end falls between the two.
            diag.subscribe()?;
        }
        let sockets = diag.dump(|sight| {
            if keep {
                first.push(*sight);
            } else {
                table.look(sight, &looking, |change| {
                    take(series, &change, anchor, finished);
                });
            }
        })?;
        self.drain_records(finished);
        if keep {
            self.adopt(&first, finished);
        }
        self.missing(&looking, finished);
        self.drain_ends(finished);
        Ok(sockets)
    }

    fn adopt(&mut self, first: &[Sight], finished: &mut impl FnMut(&Flow, &Anchor)) {
        let dropped = self.kernel()[Counter::OpenDropped.index() as usize];
        if dropped > 0 {
            tracing::warn!(
                dropped,
                "the ring buffer overran at the start, so connections that were open before cannot be told from new ones and are not followed; raise FLOWCAR_RING_BYTES"
            );
            return;
        }
        let looking = self.looking(Adopt::Connected);
        let Self {
            table,
            series,
            anchor,
            ..
        } = self;
        for sight in first {
            table.look(sight, &looking, |change| {
                take(series, &change, anchor, finished)
            });
        }
        tracing::info!(
            adopted = table.adopted(),
            "connections that were open already"
        );
    }

    /// Gives up what dumps do not show any more, and looks what is left of it.
    fn missing(&mut self, looking: &Looking, finished: &mut impl FnMut(&Flow, &Anchor)) {
        let Self {
            source,
            table,
            series,
            anchor,
            ..
        } = self;
        let missing = table.looked(looking, |change| take(series, &change, anchor, finished));
        let Some(diag) = source.diag_mut() else {
            return;
        };
        for name in missing {
            table.remains(name.cookie, diag.find(&name, true));
        }
    }

    fn drain_ends(&mut self, finished: &mut impl FnMut(&Flow, &Anchor)) {
        let looking = self.looking(self.adopts());
        let Self {
            source,
            table,
            ends,
            ..
        } = self;
        let Some(diag) = source.diag_mut() else {
            return;
        };
        let others = looking.adopt == Adopt::All;
        let mut told = Vec::new();
        for sight in diag.ends(|sight| table.knows(sight.cookie), others) {
            ends.heard(&sight, looking.at);
            let found = if table.needs_a_look(&sight) {
                diag.find(&sight.name(), table.knows(sight.cookie))
            } else {
                Afterlife::NotLooked
            };
            if table.leaves_open(&sight, found) {
                ends.wait(sight, found, looking.at);
            } else {
                told.push(Told {
                    sight,
                    found,
                    peers_payload: None,
                });
            }
        }
        told.extend(ends.ready(looking.at));
        self.end(&told, &looking, finished);
    }

    fn end(&mut self, told: &[Told], looking: &Looking, finished: &mut impl FnMut(&Flow, &Anchor)) {
        let Self {
            table,
            series,
            anchor,
            inexact,
            source,
            ..
        } = self;
        for told in told {
            table.destroyed(told, looking, |change| {
                let exact = change.now.socket.is_none_or(|figures| figures.exact);
                *inexact += u64::from(!exact);
                take(series, &change, anchor, finished);
            });
        }
        if let Source::Both(_, diag) = source
            && diag.is_subscribed()
            && !table.has_adopted()
        {
            diag.unsubscribe();
        }
    }

    /// Takes in all that waits, for the last time.
    pub fn conclude(&mut self, mut finished: impl FnMut(&Flow, &Anchor)) {
        self.drain(&mut finished);
        let told = self.ends.ready(Monotonic(u64::MAX));
        let looking = self.looking(self.adopts());
        self.end(&told, &looking, &mut finished);
    }

    /// Records tell of what is new; without them everything is to be adopted.
    const fn adopts(&self) -> Adopt {
        match self.source {
            Source::Diag(_) => Adopt::All,
            Source::Ebpf(_) | Source::Both(..) => Adopt::Nothing,
        }
    }

    fn looking(&self, adopt: Adopt) -> Looking {
        Looking {
            at: Anchor::now().monotonic(),
            dump: self.dumps,
            adopt,
            overruns: self.source.diag().map_or(0, DiagSource::dropped),
            seed: self.seed,
        }
    }

    fn drain_records(&mut self, finished: &mut impl FnMut(&Flow, &Anchor)) {
        let Self {
            source,
            table,
            series,
            anchor,
            seed,
            records,
            malformed,
            ..
        } = self;
        let Some(source) = source.ebpf_mut() else {
            return;
        };
        source.drain(|bytes| match flow::decode(bytes, *seed) {
            Ok(record) => {
                *records.entry(kind_name(record.kind)).or_default() += 1;
                take(series, &table.apply(record), anchor, finished);
            }
            Err(error) => {
                *malformed += 1;
                table.malformed(flow::kind_of_malformed(bytes));
                tracing::error!(%error, "a kernel record was not understood: please report this");
            }
        });
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
        if let Some(step_ns) = self.anchor.refresh(Anchor::now()) {
            tracing::warn!(
                step_s = step_ns as f64 / 1e9,
                "the wall clock was stepped; flows that end from now on have the new time"
            );
        }
    }

    /// The flows that live.
    pub fn flows(&self) -> impl ExactSizeIterator<Item = &Flow> {
        self.table.iter()
    }

    /// The present anchor of the clocks.
    pub const fn anchor(&self) -> &Anchor {
        &self.anchor
    }

    /// The books as they stand. Drain first.
    pub fn books(&self) -> Books {
        let kernel = self.kernel();
        self.table.books(|counter| kernel[counter.index() as usize])
    }

    /// The report as it stands, with `own` completed by what is known here. Drain first.
    pub fn snapshot(&self, mut own: Own) -> Snapshot {
        let kernel = self.kernel();
        let count = |counter: Counter| kernel[counter.index() as usize];
        let books = self.table.books(count);
        own.records = self.records.clone();
        own.records_dropped = BTreeMap::from([
            ("open", count(Counter::OpenDropped)),
            ("sample", count(Counter::SampleDropped)),
            ("close", count(Counter::CloseDropped)),
            ("failed", count(Counter::FailedDropped)),
        ]);
        own.records_malformed = self.malformed;
        if let Some(diag) = self.source.diag() {
            let counts = diag.counts();
            own.records.insert("look", counts.looks);
            own.records.insert("end", counts.ends);
            own.records_dropped.insert("end", diag.dropped());
            own.records_malformed += counts.malformed;
            own.sockets = counts.sockets.clone();
            own.sockets_unscoped = counts.unscoped;
            own.dump_duration = counts.duration.clone();
        }
        own.flows_inexact = self.inexact;
        own.table_unlisted = self.table.unlisted();
        own.table_flows = self.table.len() as u64;
        own.series = self.series.all().len() as u64;
        Snapshot {
            start_unix_ns: self.start_unix_ns,
            at_unix_ns: self.anchor.unix_ns(Anchor::now().monotonic()),
            series: self.series.all().clone(),
            lost: books.lost.clone(),
            books,
            own,
        }
    }

    fn kernel(&self) -> [u64; flowcar_shared::counter::COUNTERS] {
        let none = [0; flowcar_shared::counter::COUNTERS];
        let Some(source) = self.source.ebpf() else {
            return none;
        };
        source.counters().unwrap_or_else(|error| {
            tracing::error!(%error, "the kernel's counters cannot be read");
            none
        })
    }
}

/// Adds a change to the series, and tells of a flow that ended.
fn take(
    series: &mut SeriesSet,
    change: &Change,
    anchor: &Anchor,
    finished: &mut impl FnMut(&Flow, &Anchor),
) {
    series.apply(change);
    if change.now.outcome.is_some() {
        finished(&change.now, anchor);
    }
}

const fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Open => "open",
        Kind::Sample => "sample",
        Kind::Close => "close",
    }
}
