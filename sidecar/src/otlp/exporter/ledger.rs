//! Where the tasks write down what became of their exports: part of flowcar's own figures.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{config::Signal, snapshot::Own};

/// Shared by the tasks and the main loop.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger(Arc<Mutex<Own>>);

impl Ledger {
    /// Books an export.
    pub(super) fn export(
        &self,
        signal: &'static str,
        outcome: &'static str,
        rejected: u64,
        taken: u64,
        took: Duration,
    ) {
        let mut own = self.lock();
        *own.exports.entry((signal, outcome)).or_default() += 1;
        if rejected > 0 {
            *own.rejected.entry(signal).or_default() += rejected;
        }
        if taken > 0 {
            *own.exported.entry(signal).or_default() += taken;
        }
        own.export_duration
            .entry((signal, outcome))
            .or_default()
            .record(took.as_nanos().try_into().unwrap_or(u64::MAX));
    }

    /// Books that the receiver has all of the report that was made at this time.
    pub(super) fn taken(&self, at_unix_ns: u64) {
        self.lock().taken_unix_ns = at_unix_ns;
    }

    /// Books points or spans that a receiver refuses for their size though each was sent alone.
    pub(super) fn too_large(&self, signal: Signal, items: usize) {
        *self.lock().too_large.entry(signal.name()).or_default() += items as u64;
    }

    /// Books points or spans that a receiver will never have, though it took the rest.
    pub(super) fn rejected(&self, signal: Signal, items: usize) {
        if items > 0 {
            *self.lock().rejected.entry(signal.name()).or_default() += items as u64;
        }
    }

    /// Books spans that are not sent: `rate_limit`, `queue_full`, `expired`, `refused`, `too_large` or `shutdown`.
    pub(super) fn dropped(&self, reason: &'static str, spans: usize) {
        if spans > 0 {
            *self.lock().spans_dropped.entry(reason).or_default() += spans as u64;
        }
    }

    /// The figures that exports make up, and nothing else.
    pub(super) fn read(&self) -> Own {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Own> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
