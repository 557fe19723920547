//! Logs failures and recoveries, rate limited.

use std::{
    collections::HashMap,
    mem::{Discriminant, discriminant},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    config::Signal,
    otlp::{
        error::{Accepted, Cause, ExportError},
        quote::{Quoted, ServerMessage},
    },
};

/// A cause is logged once in this time, and, while it lasts, at ever longer intervals.
const QUIET: Duration = Duration::from_secs(60);

/// The longest of these intervals.
const MOST_QUIET: Duration = Duration::from_secs(3_600);

/// The failure log of one signal.
#[derive(Debug, Default)]
pub(super) struct FailureLog {
    causes: HashMap<Kind, LoggedFailure>,
    last_logged: Option<Instant>,
    failing: Option<Failing>,
    /// Whether an export was ever taken as a whole.
    taken: bool,
}

/// A cause, its status, and whether a request that cannot be split is too large.
type Kind = (Discriminant<Cause>, u32, bool);

/// When a cause was logged.
#[derive(Debug)]
struct LoggedFailure {
    last: Instant,
    /// For how long it is not logged again.
    quiet_for: Duration,
    /// How often it was suppressed since.
    kept: u64,
}

/// A time without success.
#[derive(Debug)]
struct Failing {
    since: Instant,
    exports: u64,
    /// Whether it was logged.
    reported: bool,
}

impl FailureLog {
    pub(super) fn failed(&mut self, error: &ExportError) {
        let now = Instant::now();
        let again = self.again(error, now);
        let failing = self.failing.get_or_insert(Failing {
            since: now,
            exports: 0,
            reported: false,
        });
        failing.exports += 1;
        if let Some(again) = again {
            failing.reported = true;
            let failing_for_s = failing.since.elapsed().as_secs();
            tracing::warn!(again, failing_for_s, "{error}");
        }
    }

    /// How often the cause occurred since it was last logged, if it is to be logged now.
    fn again(&mut self, error: &ExportError, now: Instant) -> Option<u64> {
        let cause = &error.cause;
        let code = match cause {
            Cause::Http { status, .. } => u32::from(*status),
            Cause::Grpc { code, .. } => *code as u32,
            Cause::Redirect { status, .. } => u32::from(*status),
            _ => 0,
        };
        let is_lost = error.too_large() && error.is_alone();
        let key = (discriminant(cause), code, is_lost);
        let Some(logged) = self.causes.get_mut(&key) else {
            let logged = LoggedFailure {
                last: now,
                quiet_for: QUIET,
                kept: 0,
            };
            self.causes.insert(key, logged);
            return Some(0);
        };
        let passed = now.duration_since(logged.last);
        if passed < logged.quiet_for {
            logged.kept += 1;
            return None;
        }
        logged.quiet_for = if passed > 2 * logged.quiet_for {
            QUIET
        } else {
            (2 * logged.quiet_for).min(MOST_QUIET)
        };
        logged.last = now;
        Some(std::mem::take(&mut logged.kept) + 1)
    }

    pub(super) fn accepted(&mut self, signal: Signal, accepted: &Accepted) {
        if let Some(Failing {
            since,
            exports,
            reported: true,
        }) = self.failing.take()
        {
            let failed_for_s = since.elapsed().as_secs();
            tracing::info!(
                failed_exports = exports,
                failed_for_s,
                "{} are taken again",
                signal.name()
            );
        }
        // What a receiver rejects in whole or in part is not taken yet.
        if accepted.rejected == 0 && !std::mem::replace(&mut self.taken, true) {
            tracing::info!("the receiver accepted the first {}", signal.name());
        }
        self.warn_partial(signal, accepted, Instant::now());
    }

    /// Logs the message of a receiver with a success.
    fn warn_partial(&mut self, signal: Signal, accepted: &Accepted, now: Instant) {
        let Accepted { rejected, message } = accepted;
        let quiet = self
            .last_logged
            .is_some_and(|logged| now.duration_since(logged) < QUIET);
        if quiet || (*rejected == 0 && message.trim().is_empty()) {
            return;
        }
        self.last_logged = Some(now);
        let signal = signal.name();
        if *rejected > 0 {
            tracing::warn!(
                rejected,
                "the receiver took {signal} only in part{}; check its log",
                ServerMessage(message)
            );
        } else {
            tracing::warn!(
                "the receiver took all {signal}, and warns: {}",
                Quoted(message)
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::Lines, *};
    use crate::config::Config;

    #[tokio::test(start_paused = true)]
    async fn day_without_receiver_logs_thirty_lines_and_one_on_return() {
        let lines = Lines::default();
        let _logging = lines.logging();
        let vars = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317")];
        let vars = vars.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let config = Config::from_vars(vars).expect("good settings");
        let target = config.export.metrics.expect("a target");
        let away = || Cause::Unreachable("away".to_owned());
        let error = ExportError::new(Signal::Metrics, &target, away());
        let mut failure_log = FailureLog::default();
        for _ in 0..24 * 360 {
            failure_log.failed(&error);
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
        let rejected = |rejected| Accepted {
            rejected,
            ..Accepted::default()
        };
        failure_log.accepted(Signal::Metrics, &rejected(3));
        for _ in 0..100 {
            failure_log.accepted(Signal::Metrics, &rejected(0));
        }
        // A receiver that flaps is nothing new.
        for _ in 0..100 {
            failure_log.failed(&error);
            failure_log.accepted(Signal::Metrics, &Accepted::default());
        }
        let text = lines.text();
        let all: Vec<_> = text.lines().collect();
        assert!((20..=32).contains(&all.len()), "{text}");
        assert!(
            all[0].contains("cannot export metrics to http://collector:4317/"),
            "{text}"
        );
        let [.., again, partial, first] = all[..] else {
            panic!("{text}");
        };
        assert!(
            again.contains("metrics are taken again failed_exports=8640 failed_for_s=86400"),
            "{again}"
        );
        assert!(partial.contains("only in part"), "not accepted: {partial}");
        assert!(
            first.contains("the receiver accepted the first metrics"),
            "logged once, and last: {first}"
        );
    }
}
