//! Passes exemplars from delivered spans to reports.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;

use super::queue::Entry;
use crate::{
    otlp::{exemplars::Exemplars, points},
    snapshot::Snapshot,
};

/// The exemplars of delivered spans; shared by the lanes.
#[derive(Clone, Debug, Default)]
pub(super) struct Exemplary(Arc<Mutex<Exemplars>>);

/// Exemplars that no acknowledged report has.
#[derive(Debug, Default)]
pub(super) struct PendingExemplars {
    delivered: Exemplary,
    /// Added since the last acknowledged report.
    new: Exemplars,
    /// Those without a point in that report: they get one more report.
    left: Exemplars,
}

// === impl Exemplary ===

impl Exemplary {
    /// Adds the durations of delivered spans.
    pub(super) fn offer(&self, batch: Vec<Entry>) {
        let mut exemplars = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for candidates in batch.into_iter().filter_map(|entry| entry.candidates) {
            exemplars.offer(candidates);
        }
    }

    fn take(&self) -> Exemplars {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

// === impl PendingExemplars ===

impl PendingExemplars {
    pub(super) fn new(delivered: Exemplary) -> Self {
        Self {
            delivered,
            ..Self::default()
        }
    }

    /// All exemplars for this report.
    pub(super) fn of(&mut self, report: &Snapshot) -> Exemplars {
        self.new
            .absorb(self.delivered.take().reported_in(&report.series));
        self.new.clone().or(&self.left)
    }

    /// A receiver took a report that names these spans.
    pub(super) fn reported(&mut self, spans: &HashSet<u64>) {
        self.left = std::mem::take(&mut self.new).without(spans);
    }
}

/// The spans that the exemplars of a request name.
pub(super) fn spans(request: &ExportMetricsServiceRequest) -> HashSet<u64> {
    let resources = request.resource_metrics.iter();
    let scopes = resources.flat_map(|resource| &resource.scope_metrics);
    let metrics = scopes.flat_map(|scope| &scope.metrics);
    metrics.flat_map(points::exemplar_spans).collect()
}
