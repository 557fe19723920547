//! One cgroup followed: the source, the flow table and the series, owned by one task without a lock.

use std::{collections::BTreeMap, path::Path};

use flowcar_shared::{counter::Counter, record::Kind};

use crate::{
    clock::Anchor,
    flow::{self, Books, Change, Flow, Table},
    series::{Naming, SeriesSet},
    snapshot::{Own, Snapshot},
    source::ebpf::{AttachError, EbpfSource},
};

/// Bounds and names.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Ring buffer size, bytes.
    pub ring_bytes: u32,
    /// Flows listed at once.
    pub flows: usize,
    /// What names a series.
    pub naming: Naming,
}

/// Follows the flows of one cgroup.
pub struct Follower {
    source: EbpfSource,
    table: Table,
    series: SeriesSet,
    anchor: Anchor,
    start_unix_ns: u64,
    seed: u64,
    records: BTreeMap<&'static str, u64>,
    malformed: u64,
}

impl Follower {
    /// Attaches to `cgroup`.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn attach(cgroup: &Path, limits: &Limits) -> Result<Self, AttachError> {
        let source = EbpfSource::attach(cgroup, limits.ring_bytes)?;
        let anchor = Anchor::now();
        Ok(Self {
            source,
            table: Table::new(limits.flows),
            series: SeriesSet::new(limits.naming),
            anchor,
            start_unix_ns: anchor.unix_ns(anchor.monotonic()),
            seed: fastrand::u64(..),
            records: BTreeMap::new(),
            malformed: 0,
        })
    }

    /// Waits until the kernel wants the ring drained before its time.
    pub async fn woken(&self) {
        self.source.woken().await;
    }

    /// Takes in every record that waits; `finished` sees the flows that ended.
    pub fn drain(&mut self, mut finished: impl FnMut(&Flow, &Anchor)) {
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
        source.drain(|bytes| match flow::decode(bytes, *seed) {
            Ok(record) => {
                *records.entry(kind_name(record.kind)).or_default() += 1;
                let change: Change = table.apply(record);
                series.apply(&change);
                if change.now.outcome.is_some() {
                    finished(&change.now, anchor);
                }
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
        if let Err(error) = self.source.ask_for_samples() {
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
            ("detail", count(Counter::DetailRefused)),
        ]);
        own.records_malformed = self.malformed;
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
        self.source.counters().unwrap_or_else(|error| {
            tracing::error!(%error, "the kernel's counters cannot be read");
            [0; flowcar_shared::counter::COUNTERS]
        })
    }
}

const fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Open => "open",
        Kind::Sample => "sample",
        Kind::Close => "close",
    }
}
