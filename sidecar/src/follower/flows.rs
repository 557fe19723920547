//! The flow table and the series, and what each piece of news does to them.

use std::{collections::BTreeMap, sync::Arc};

use flowcar_shared::{
    counter::{COUNTERS, Counter},
    record::Kind,
};

use super::{Limits, inheritance::Inheritance, own::OwnFlows};
use crate::{
    clock::Anchor,
    flow::{
        self, Adopt, Afterlife, Books, Change, Ends, Exchanges, Flow, Looking, Malformed,
        Monotonic, Sight, Table, Told,
        handover::{Handover, Place},
    },
    series::{Remainder, SeriesSet},
    snapshot::{Own, Snapshot},
    source::{diag::DiagSource, ebpf::EbpfSource},
};

/// All flows, and all that is counted of them.
pub(super) struct Flows {
    pub(super) table: Table,
    pub(super) series: SeriesSet,
    pub(super) anchor: Anchor,
    pub(super) start_unix_ns: u64,
    pub(super) seed: u64,
    ends: Ends,
    records: BTreeMap<&'static str, u64>,
    malformed: u64,
    /// Records of flows that go on.
    heard: u64,
    inexact: u64,
    pub(super) own: OwnFlows,
    pub(super) remainder: Remainder,
    /// Whether reports tell what to leave for the flowcar after this one.
    pub(super) leaves: bool,
    pub(super) inheritance: Option<Inheritance>,
}

impl Flows {
    pub(super) fn new(limits: &Limits) -> Self {
        let anchor = Anchor::now();
        Self {
            table: Table::new(limits.flows),
            series: SeriesSet::new(limits.naming),
            anchor,
            start_unix_ns: anchor.unix_ns(anchor.monotonic()),
            seed: fastrand::u64(..),
            ends: Ends::default(),
            records: BTreeMap::new(),
            malformed: 0,
            heard: 0,
            inexact: 0,
            own: OwnFlows::default(),
            remainder: Remainder::default(),
            leaves: false,
            inheritance: None,
        }
    }

    /// Goes on from what the flowcar before this one left, to be settled after so many looks.
    pub(super) fn inherit(&mut self, handover: &Handover, here: &Place, looks: u8) {
        let since = self.start_unix_ns;
        let inheritance = Inheritance::begin(&mut self.table, handover, here, looks, since);
        self.inheritance = Some(inheritance);
    }

    /// A look is over, and the ends that were told by then are taken in.
    pub(super) fn look_is_over(&mut self) {
        if let Some(inheritance) = &mut self.inheritance {
            inheritance.look_is_over(&mut self.table);
        }
    }

    /// There will be no look.
    pub(super) fn settle(&mut self) {
        if let Some(inheritance) = &mut self.inheritance {
            inheritance.settle(&mut self.table);
        }
    }

    /// Takes in every record that waits in the ring.
    pub(super) fn records(
        &mut self,
        source: &mut EbpfSource,
        finished: &mut impl FnMut(&Flow, &Anchor),
    ) {
        source.drain(|bytes| {
            if let Err(error) = self.record(bytes, finished) {
                self.malformed += 1;
                tracing::error!(%error, "a kernel record was not understood: please report this");
            }
        });
    }

    fn record(
        &mut self,
        bytes: &[u8],
        finished: &mut impl FnMut(&Flow, &Anchor),
    ) -> Result<(), Malformed> {
        if Exchanges::are_in(bytes) {
            let exchanges = Exchanges::decode(bytes)?;
            *self.records.entry("exchange").or_default() += 1;
            if !self.own.has(exchanges.cookie) {
                self.table.exchanges(exchanges);
            }
            return Ok(());
        }
        let kind = flow::kind_of(bytes);
        self.heard += u64::from(matches!(kind, Some(Kind::Open | Kind::Sample)));
        let record = flow::decode(bytes, self.seed).inspect_err(|_| self.table.malformed(kind))?;
        *self.records.entry(kind_name(record.kind)).or_default() += 1;
        if !self.own.has_record(&record) {
            let change = self.table.apply(record);
            take(&mut self.series, &change, &self.anchor, finished);
        }
        Ok(())
    }

    /// Takes in one socket of a dump.
    pub(super) fn look(
        &mut self,
        sight: &Sight,
        looking: &Looking,
        finished: &mut impl FnMut(&Flow, &Anchor),
    ) {
        if self.own.is_looked_at(sight.cookie, looking) {
            return;
        }
        let Self {
            table,
            series,
            anchor,
            ..
        } = self;
        table.look(sight, looking, |change| {
            take(series, &change, anchor, finished)
        });
    }

    /// A dump is over: gives up what dumps do not show any more, and looks what is left of it.
    pub(super) fn looked(
        &mut self,
        source: &mut DiagSource,
        looking: &Looking,
        finished: &mut impl FnMut(&Flow, &Anchor),
    ) {
        self.own.looked(looking);
        let Self {
            table,
            series,
            anchor,
            ..
        } = self;
        let is_here = |flow: &Flow| source.is_here(flow);
        let missing = table.looked(looking, is_here, |change| {
            take(series, &change, anchor, finished)
        });
        for name in missing {
            table.remains(name.cookie, source.find(&name, true));
        }
    }

    /// Takes in every socket whose end was told.
    pub(super) fn ends(
        &mut self,
        source: &mut DiagSource,
        looking: &Looking,
        finished: &mut impl FnMut(&Flow, &Anchor),
    ) {
        let Self {
            table, ends, own, ..
        } = self;
        let others = looking.adopt == Adopt::All;
        let mut told = Vec::new();
        let known = |table: &Table, sight: &Sight| {
            table.knows(sight.cookie) || table.inherits(sight.cookie)
        };
        for sight in source.ends(|sight| known(table, sight), others) {
            if own.has(sight.cookie) {
                continue;
            }
            ends.heard(&sight, looking.at);
            let found = if table.needs_a_look(&sight) {
                source.find(&sight.name(), known(table, &sight))
            } else {
                Afterlife::NotLooked
            };
            if table.leaves_open(&sight, found) {
                table.expect_end(sight.cookie);
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
        self.end(&told, looking, finished);
    }

    /// Ends what still waits for its other end.
    pub(super) fn conclude(
        &mut self,
        looking: &Looking,
        finished: &mut impl FnMut(&Flow, &Anchor),
    ) {
        let told = self.ends.ready(Monotonic(u64::MAX));
        self.end(&told, looking, finished);
    }

    fn end(&mut self, told: &[Told], looking: &Looking, finished: &mut impl FnMut(&Flow, &Anchor)) {
        let Self {
            table,
            series,
            anchor,
            inexact,
            ..
        } = self;
        for told in told {
            table.destroyed(told, looking, |change| {
                let exact = change.now.socket.is_none_or(|figures| figures.exact);
                *inexact += u64::from(!exact);
                take(series, &change, anchor, finished);
            });
        }
    }

    pub(super) fn books(&self, kernel: &[u64; COUNTERS]) -> Books {
        let without = |own: u64| {
            self.table.books(|counter| {
                let count = kernel[counter.index() as usize];
                match counter {
                    Counter::Established => count.saturating_sub(own),
                    _ => count,
                }
            })
        };
        let own = self.own.established();
        let books = without(own);
        // More have gone than were opened: among the ends that the ring lost are some of its own.
        match books.excess().min(self.own.may_be_lost(kernel)) {
            0 => books,
            lost => without(own - lost),
        }
    }

    /// Records of flows that go on and have not been heard.
    pub(super) fn waiting(&self, kernel: &[u64; COUNTERS]) -> u64 {
        flow::waiting(|counter| kernel[counter.index() as usize], self.heard)
    }

    /// The report as it stands, with `own` completed by what is known here.
    pub(super) fn snapshot(
        &mut self,
        kernel: &[u64; COUNTERS],
        diag: Option<&DiagSource>,
        mut own: Own,
    ) -> Snapshot {
        let count = |counter: Counter| kernel[counter.index() as usize];
        let books = self.books(kernel);
        let unseen = self
            .remainder
            .of(&books, self.waiting(kernel), &self.series);
        own.records = self.records.clone();
        own.records_dropped = BTreeMap::from([
            ("open", count(Counter::OpenDropped)),
            ("sample", count(Counter::SampleDropped)),
            ("close", count(Counter::CloseDropped)),
            ("failed", count(Counter::FailedDropped)),
            ("detail", count(Counter::DetailRefused)),
            (
                "exchange",
                count(Counter::ExchangeDropped) + self.table.exchanges_dropped(),
            ),
        ]);
        own.records_malformed = self.malformed;
        own.flows_inexact = self.inexact;
        own.table_unlisted = self.table.unlisted();
        own.sockets_unadopted = self.table.unadopted();
        own.table_flows = self.table.len() as u64;
        own.series = self.series.all().len() as u64;
        own.unfollowed_ns = self.inheritance.map_or(0, |of| of.unfollowed_ns);
        if let Some(diag) = diag {
            diag.tell(&mut own);
        }
        Snapshot {
            start_unix_ns: self.start_unix_ns,
            at_unix_ns: self.anchor.unix_ns(Anchor::now().monotonic()),
            series: self.series.all().clone(),
            unseen,
            left: self
                .leaves
                .then(|| Arc::new(self.table.leave(unseen.unheard()))),
            lost: books.lost.clone(),
            listeners: diag.map_or_else(BTreeMap::new, |diag| {
                self.series.listeners(diag.listeners())
            }),
            books,
            own,
        }
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
