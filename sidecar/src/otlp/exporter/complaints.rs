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
    failing: bool,
}

impl Complaints {
    pub(super) fn failed(&mut self, error: &ExportError) {
        self.failing = true;
        let now = Instant::now();
        let code = match error.cause {
            Cause::Http { status, .. } => u32::from(status),
            Cause::Grpc { code, .. } => code as u32,
            _ => 0,
        };
        let known = self.causes.get_mut(&(discriminant(&error.cause), code));
        match known {
            Some((spoken, quiet)) if now.duration_since(*spoken) < QUIET => *quiet += 1,
            Some((spoken, quiet)) => {
                tracing::warn!(again = *quiet + 1, "{error}");
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
        if std::mem::take(&mut self.failing) {
            tracing::info!("{} are taken again", signal.name());
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
