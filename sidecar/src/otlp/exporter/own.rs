//! What became of the exports: part of flowcar's own figures.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{histogram::Histogram, snapshot::Own};

/// Exports, by how they ended, and spans that were not sent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OwnExports {
    /// Exports by signal and outcome.
    pub exports: BTreeMap<(&'static str, &'static str), u64>,
    /// Items refused in exports that were taken, by signal.
    pub rejected: BTreeMap<&'static str, u64>,
    /// Spans not sent, by reason: `rate_limit`, `queue_full`, `refused` or `shutdown`.
    pub spans_dropped: BTreeMap<&'static str, u64>,
    /// Spans waiting now, those of an export in flight included.
    pub span_queue: u64,
    /// How long exports took.
    pub export_duration: Histogram,
}

impl OwnExports {
    /// Takes its place among the figures of a report.
    pub fn copy_into(self, own: &mut Own) {
        own.exports = self.exports;
        own.rejected = self.rejected;
        own.spans_dropped = self.spans_dropped;
        own.span_queue = self.span_queue;
        own.export_duration = self.export_duration;
    }
}

/// Where the tasks write down what became of their exports.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger(Arc<Mutex<OwnExports>>);

impl Ledger {
    pub(super) fn export(
        &self,
        signal: &'static str,
        outcome: &'static str,
        rejected: u64,
        took: Duration,
    ) {
        let mut own = self.lock();
        *own.exports.entry((signal, outcome)).or_default() += 1;
        if rejected > 0 {
            *own.rejected.entry(signal).or_default() += rejected;
        }
        own.export_duration
            .record(took.as_nanos().try_into().unwrap_or(u64::MAX));
    }

    pub(super) fn dropped(&self, reason: &'static str, spans: usize) {
        if spans > 0 {
            *self.lock().spans_dropped.entry(reason).or_default() += spans as u64;
        }
    }

    pub(super) fn read(&self, span_queue: usize) -> OwnExports {
        OwnExports {
            span_queue: span_queue as u64,
            ..self.lock().clone()
        }
    }

    fn lock(&self) -> MutexGuard<'_, OwnExports> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
