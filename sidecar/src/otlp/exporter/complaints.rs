//! Says what fails, and that it works again, without saying it all the time.

use std::{
    collections::HashMap,
    mem::{Discriminant, discriminant},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    config::Signal,
    otlp::error::{Accepted, Cause, ExportError},
};

/// A cause is spoken of once in this time.
const QUIET: Duration = Duration::from_secs(60);

/// One signal's.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    /// When each cause was spoken of last, and how often it was kept quiet since.
    causes: HashMap<(Discriminant<Cause>, u32), (Instant, u64)>,
    last_partial: Option<Instant>,
    failing: Option<Failing>,
}

/// A time without success.
#[derive(Debug)]
struct Failing {
    since: Instant,
    exports: u64,
}

impl Complaints {
    pub(super) fn failed(&mut self, error: &ExportError) {
        let now = Instant::now();
        let failing = self.failing.get_or_insert(Failing {
            since: now,
            exports: 0,
        });
        failing.exports += 1;
        let failing_for_s = failing.since.elapsed().as_secs();
        let code = match error.cause {
            Cause::Http { status, .. } => u32::from(status),
            Cause::Grpc { code, .. } => code as u32,
            _ => 0,
        };
        let known = self.causes.get_mut(&(discriminant(&error.cause), code));
        match known {
            Some((spoken, quiet)) if now.duration_since(*spoken) < QUIET => *quiet += 1,
            Some((spoken, quiet)) => {
                tracing::warn!(again = *quiet + 1, failing_for_s, "{error}");
                (*spoken, *quiet) = (now, 0);
            }
            None => {
                tracing::warn!("{error}");
                self.causes
                    .insert((discriminant(&error.cause), code), (now, 0));
            }
        }
    }

    pub(super) fn accepted(&mut self, signal: Signal, accepted: &Accepted) {
        if let Some(Failing { since, exports }) = self.failing.take() {
            let failed_for_s = since.elapsed().as_secs();
            tracing::info!(
                failed_exports = exports,
                failed_for_s,
                "{} are taken again",
                signal.name()
            );
        }
        let Accepted { rejected, message } = accepted;
        let now = Instant::now();
        let quiet = self
            .last_partial
            .is_some_and(|spoken| now.duration_since(spoken) < QUIET);
        if accepted.outcome() == "partial" && !quiet {
            self.last_partial = Some(now);
            let signal = signal.name();
            tracing::warn!(
                rejected,
                "the receiver took {signal} only in part: {message}; look at its log"
            );
        }
    }
}
