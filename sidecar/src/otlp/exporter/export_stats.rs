//! The results of exports, as self metrics.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{config::Signal, snapshot::SelfMetrics};

/// Shared by the tasks and the main loop.
#[derive(Clone, Debug, Default)]
pub(super) struct ExportStats(Arc<Mutex<SelfMetrics>>);

impl ExportStats {
    /// Counts an export.
    pub(super) fn export(
        &self,
        signal: &'static str,
        outcome: &'static str,
        rejected: u64,
        taken: u64,
        took: Duration,
    ) {
        let mut self_metrics = self.lock();
        *self_metrics.exports.entry((signal, outcome)).or_default() += 1;
        if rejected > 0 {
            *self_metrics.rejected.entry(signal).or_default() += rejected;
        }
        if taken > 0 {
            *self_metrics.exported.entry(signal).or_default() += taken;
        }
        self_metrics
            .export_duration
            .entry((signal, outcome))
            .or_default()
            .record(took.as_nanos().try_into().unwrap_or(u64::MAX));
    }

    /// Records that the receiver has all of the report that was made at this time.
    pub(super) fn taken(&self, at_unix_ns: u64) {
        self.lock().taken_unix_ns = at_unix_ns;
    }

    /// Counts points, spans or log records that a receiver refuses for their size, each sent alone.
    pub(super) fn too_large(&self, signal: Signal, items: usize) {
        *self.lock().too_large.entry(signal.name()).or_default() += items as u64;
    }

    /// Counts points or spans that a receiver will never have, though it took the rest.
    pub(super) fn rejected(&self, signal: Signal, items: usize) {
        if items > 0 {
            *self.lock().rejected.entry(signal.name()).or_default() += items as u64;
        }
    }

    /// Counts spans or log records that are not sent: `rate_limit`, `queue_full`, `expired`, `refused`, `too_large` or `shutdown`.
    pub(super) fn dropped(&self, signal: Signal, reason: &'static str, items: usize) {
        if items == 0 {
            return;
        }
        let mut self_metrics = self.lock();
        let dropped = match signal {
            Signal::Logs => &mut self_metrics.logs_dropped,
            Signal::Metrics | Signal::Traces => &mut self_metrics.spans_dropped,
        };
        *dropped.entry(reason).or_default() += items as u64;
    }

    /// The self metrics of exports only.
    pub(super) fn read(&self) -> SelfMetrics {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, SelfMetrics> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
