//! What a report has of the flows.

use std::{collections::BTreeMap, sync::Arc};

use flowcar_shared::counter::{COUNTERS, Counter};

use super::Flows;
use crate::{
    clock::Anchor,
    series::take_off_live,
    snapshot::{Own, Snapshot},
    source::diag::DiagSource,
};

impl Flows {
    /// The report as it stands, with `own` completed by what is known here.
    pub(in crate::follower) fn snapshot(
        &mut self,
        kernel: &[u64; COUNTERS],
        diag: Option<&DiagSource>,
        mut own: Own,
    ) -> Snapshot {
        let count = |counter: Counter| kernel[counter.index() as usize];
        let books = self.books(kernel);
        self.room.counted(books.live);
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
        own.series = self.series.len() as u64;
        own.unfollowed_ns = self.detached_ns + self.inheritance.map_or(0, |of| of.unfollowed_ns);
        if let Some(diag) = diag {
            diag.tell(&mut own);
        }
        let now_unix_ns = self.anchor.unix_ns(Anchor::now().monotonic());
        let at_unix_ns = self.clock.report(now_unix_ns);
        if let Some(idle_ns) = self.series_idle_ns {
            let since = at_unix_ns.saturating_sub(idle_ns);
            self.series.drop_idle(since.min(own.taken_unix_ns));
        }
        let mut series = self.series.report(at_unix_ns);
        take_off_live(&mut series, unseen.dead);
        Snapshot {
            start_unix_ns: self.start_unix_ns,
            at_unix_ns,
            series,
            dropped: self.series.dropped(),
            unseen,
            left: self
                .leaves
                .then(|| Arc::new(self.table.leave(unseen.pending))),
            lost: self.remainder.lost().clone(),
            listeners: diag.map_or_else(BTreeMap::new, |diag| {
                self.series.listeners(diag.listeners())
            }),
            books,
            own,
        }
    }
}
