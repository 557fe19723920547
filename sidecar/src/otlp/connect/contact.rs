//! Whether a receiver was ever reached, ever sent anything, and speaks OTLP.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::time::{Duration, Instant, sleep};

use super::{super::error::Cause, FirstBytes};

/// The time for the first connection at shutdown: the kernel sends a SYN again after a second.
const FIRST: Duration = Duration::from_millis(1500);

/// The time for the first byte of a receiver that accepts connections: what accepts them and never answers is not an OTLP receiver.
const FIRST_BYTE: Duration = Duration::from_millis(2500);

/// Whether a receiver was reached, sent anything, and speaks OTLP. Clones share it.
#[derive(Clone, Debug, Default)]
pub(in crate::otlp) struct Contact {
    known: Arc<Known>,
    received: FirstBytes,
}

#[derive(Debug, Default)]
struct Known {
    reached: AtomicBool,
    failed: AtomicBool,
    /// Whether the last export failed because what is there is no receiver of it.
    foreign: AtomicBool,
    /// Whether an export was ever taken.
    taken: AtomicBool,
}

impl Contact {
    /// The contact of a connector that keeps what it receives first here.
    pub(super) fn new(received: FirstBytes) -> Self {
        Self {
            known: Arc::default(),
            received,
        }
    }

    /// Notes how an attempt to connect ended.
    pub(super) fn note(&self, reached: bool) {
        let of = if reached {
            &self.known.reached
        } else {
            &self.known.failed
        };
        of.store(true, Ordering::Relaxed);
    }

    /// Notes how an export ended: what speaks another protocol, or has only ever closed connections, takes no later one either.
    pub(in crate::otlp) fn judge(&self, failed: Option<&Cause>) {
        let foreign = match failed {
            Some(Cause::Mismatch(_) | Cause::NotOtlp(_) | Cause::NotHttp(_)) => true,
            Some(Cause::Silent(_)) => !self.received.ever(),
            _ => false,
        };
        if failed.is_none() {
            self.known.taken.store(true, Ordering::Relaxed);
        }
        self.known.foreign.store(foreign, Ordering::Relaxed);
    }

    /// Waits until the receiver counts as absent: every attempt to connect failed, the first connection or the first byte takes
    /// longer than most take, or what is there is no receiver of OTLP.
    pub(in crate::otlp) async fn absent(&self) {
        let began = Instant::now();
        loop {
            let reached = self.known.reached.load(Ordering::Relaxed);
            let failed = self.known.failed.load(Ordering::Relaxed);
            // A receiver that has taken an export is one, whatever answers in its place now.
            let foreign = self.known.foreign.load(Ordering::Relaxed)
                && !self.known.taken.load(Ordering::Relaxed);
            let absent = match reached {
                _ if foreign => true,
                false => failed || began.elapsed() >= FIRST,
                true => !self.received.ever() && began.elapsed() >= FIRST_BYTE,
            };
            if absent {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn receiver_that_took_an_export_is_waited_for() {
        for has_taken in [false, true] {
            let contact = Contact::default();
            contact.note(true);
            if has_taken {
                contact.judge(None);
            }
            contact.judge(Some(&Cause::NotOtlp("a page".to_owned())));
            let absent = timeout(Duration::from_secs(1), contact.absent()).await;
            assert_eq!(absent.is_err(), has_taken);
        }
    }
}
