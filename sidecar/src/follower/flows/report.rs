//! The report of the flows.

use std::collections::BTreeMap;

use flowcar_shared::counter::{COUNTERS, Counter};

use super::Flows;
use crate::{
    clock::Anchor,
    container_stats::ContainerStats,
    series::take_off_live,
    snapshot::{SelfMetrics, Snapshot},
    source::Sockets,
};

impl Flows {
    /// The report as it stands, with `self_metrics` completed by what is known here.
    pub(in crate::follower) fn snapshot(
        &mut self,
        kernel: &[u64; COUNTERS],
        sockets: &Sockets,
        mut self_metrics: SelfMetrics,
    ) -> Snapshot {
        let count = |counter: Counter| kernel[counter.index() as usize];
        let books = self.books(kernel);
        self.room.counted(books.live);
        let unattributed = self
            .unattributed
            .of(&books, self.waiting(kernel), &self.series);
        self_metrics.records = self.records.clone();
        self_metrics.records_dropped = BTreeMap::from([
            ("open", count(Counter::OpenDropped)),
            ("sample", count(Counter::SampleDropped)),
            ("close", count(Counter::CloseDropped)),
            ("failed", count(Counter::FailedDropped)),
            ("detail", count(Counter::DetailRefused)),
            ("dns", count(Counter::DnsDropped)),
            ("origin", count(Counter::OriginDropped)),
            (
                "asked",
                count(Counter::AskedDropped) + self.table.asked_dropped(),
            ),
            (
                "exchange",
                count(Counter::ExchangeDropped) + self.table.exchanges_dropped(),
            ),
        ]);
        self_metrics.dns_dropped = self
            .resolved
            .unused_messages()
            .iter()
            .map(|(reason, count)| (reason.name(), *count))
            .collect();
        self_metrics.unnamed = self.unnamed.clone();
        if let Some(containers) = &self.origins.containers {
            self_metrics.unresolved_containers = containers.unresolved().clone();
        }
        self_metrics.records_malformed = self.malformed;
        self_metrics.flows_inexact = self.inexact;
        self_metrics.table_over_capacity = self.table.listing().over_capacity();
        self_metrics.sockets_unadopted = self.table.adoption().unadopted();
        self_metrics.table_flows = self.table.listing().len() as u64;
        self_metrics.series = self.series.len() as u64;
        self_metrics.unfollowed_ns =
            self.detached_ns + self.restore.map_or(0, |of| of.unfollowed_ns);
        add_counts(&mut self_metrics, sockets);
        self.table.shrink();
        let now_unix_ns = self.anchor.unix_ns(Anchor::now().monotonic());
        let at_unix_ns = self.clock.report(now_unix_ns);
        if let Some(idle_ns) = self.series_idle_ns {
            let since = at_unix_ns.saturating_sub(idle_ns);
            self.series.drop_idle(since.min(self_metrics.taken_unix_ns));
        }
        let mut series = self.series.report(at_unix_ns);
        take_off_live(&mut series, unattributed.dead);
        let containers = match &mut self.container_stats {
            Some(stats) => stats.report(at_unix_ns),
            None => BTreeMap::new(),
        };
        let stats = self.container_stats.as_ref();
        self_metrics.malformed_statistics = stats.map_or(0, ContainerStats::malformed);
        Snapshot {
            start_unix_ns: self.start_unix_ns,
            at_unix_ns,
            series,
            dropped: self.series.dropped(),
            unattributed,
            lost: self.unattributed.lost().clone(),
            listeners: sockets
                .listeners()
                .map_or_else(BTreeMap::new, |ports| self.series.listeners(ports)),
            containers,
            books,
            self_metrics,
        }
    }
}

/// Adds what is counted of dumps and of destroy events.
fn add_counts(self_metrics: &mut SelfMetrics, sockets: &Sockets) {
    let Some(counts) = sockets.counts() else {
        return;
    };
    self_metrics
        .records
        .extend([("poll", counts.polls), ("destroy", counts.closes)]);
    self_metrics
        .records_dropped
        .insert("destroy", sockets.events_dropped());
    self_metrics.records_malformed += counts.malformed;
    self_metrics.sockets = counts.sockets.clone();
    self_metrics.sockets_unscoped = counts.unscoped;
    self_metrics.dump_duration = counts.duration.clone();
}
