//! Whether a receiver was ever there.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::time::{Duration, Instant, sleep};

/// How long the first connection may take that nobody waits for gladly: the kernel sends its SYN again after a second.
const FIRST: Duration = Duration::from_millis(1500);

/// What is known of a receiver's being there. Clones share it.
#[derive(Clone, Debug, Default)]
pub(in crate::otlp) struct Contact(Arc<Known>);

#[derive(Debug, Default)]
struct Known {
    reached: AtomicBool,
    failed: AtomicBool,
}

impl Contact {
    /// Notes how an attempt to connect ended.
    pub(super) fn note(&self, reached: bool) {
        let of = if reached {
            &self.0.reached
        } else {
            &self.0.failed
        };
        of.store(true, Ordering::Relaxed);
    }

    /// Waits until the receiver is found not to be there: no connection was ever made, though one was tried, or is not made
    /// in a time in which most are.
    pub(in crate::otlp) async fn absent(&self) {
        let late = Instant::now() + FIRST;
        loop {
            let reached = self.0.reached.load(Ordering::Relaxed);
            let failed = self.0.failed.load(Ordering::Relaxed);
            if !reached && (failed || Instant::now() >= late) {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}
