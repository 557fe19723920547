//! Reports, and the spans that belong to them.

use super::{
    Session,
    checkpoints::{Checkpoints, ReportCheckpoint},
};
use crate::{
    clock::Anchor,
    flow::{Flow, InterimSpans},
    follower::Follower,
    memory,
    otlp::exporter::Exporter,
    snapshot::Snapshot,
};

/// A series takes the memory of so many connections (`memory/budget.rs`).
const CONNECTIONS_OF_A_SERIES: usize = 19;

impl Session {
    /// Sends the spans of the open connections as of now: their interim spans name them as parents.
    pub(super) fn open_spans(&mut self) {
        let Some(exporter) = self.exporter.as_mut().filter(|_| self.interim.any()) else {
            return;
        };
        let anchor = *self.follower.anchor();
        let flows = self.follower.flows();
        for flow in flows.filter(|flow| flow.established.is_some()) {
            let seen = anchor.monotonic().max(flow.seen);
            let flow = Flow {
                seen,
                ..flow.clone()
            };
            offer(exporter, &self.interim, &flow, &anchor);
        }
    }

    pub(super) fn cut_interim_spans(&mut self) {
        let Some(exporter) = &mut self.exporter else {
            return;
        };
        let anchor = *self.follower.anchor();
        let flows = self.follower.flows();
        self.interim.cut(flows, &anchor.instant(), |flow, span| {
            exporter.interim(flow, span, &anchor)
        });
    }

    pub(super) fn report(&mut self) {
        if let Some(exporter) = &self.exporter {
            let snapshot = self.follower.snapshot(exporter.self_metrics());
            self.losses.report(&snapshot.books);
            send(
                exporter,
                self.checkpoints.as_ref(),
                &self.follower,
                snapshot,
            );
        }
        let (flows, series) = (self.follower.flows().len(), self.follower.series().len());
        if self
            .give_back
            .is_due(flows + CONNECTIONS_OF_A_SERIES * series)
        {
            memory::trim();
        }
        if self.give_back.start_is_over() {
            memory::release_startup_memory();
        }
    }
}

/// Sends a report, and keeps the checkpoint that belongs to it.
fn send(
    exporter: &Exporter,
    checkpoints: Option<&Checkpoints>,
    follower: &Follower,
    report: Snapshot,
) {
    let at_unix_ns = report.at_unix_ns;
    let flows = checkpoints.map(|_| follower.checkpoint(&report));
    let number = exporter.metrics(report);
    if let (Some(checkpoints), Some(number), Some(flows)) = (checkpoints, number, flows) {
        checkpoints.add(ReportCheckpoint {
            number,
            at_unix_ns,
            flows,
        });
    }
}

/// Offers a flow's own span.
pub(super) fn offer(exporter: &mut Exporter, interim: &InterimSpans, flow: &Flow, anchor: &Anchor) {
    match interim.time_of_parent(flow, anchor.suspended_ns()) {
        Some(time) => exporter.parent(flow, time, anchor),
        None => exporter.flow(flow, anchor),
    }
}
