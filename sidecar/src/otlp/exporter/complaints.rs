//! Says what fails, and that it works again, without saying it all the time.

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
        quote::{Quoted, Said},
    },
};

/// A cause is spoken of once in this time, and, while it lasts, after ever longer ones.
const QUIET: Duration = Duration::from_secs(60);

/// The longest of these.
const MOST_QUIET: Duration = Duration::from_secs(3_600);

/// One signal's.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    causes: HashMap<(Discriminant<Cause>, u32), Spoken>,
    last_said: Option<Instant>,
    failing: Option<Failing>,
    /// Whether an export was ever taken.
    taken: bool,
}

/// When a cause was spoken of.
#[derive(Debug)]
struct Spoken {
    last: Instant,
    /// For how long it is not spoken of again.
    quiet_for: Duration,
    /// How often it has been kept quiet since.
    kept: u64,
}

/// A time without success.
#[derive(Debug)]
struct Failing {
    since: Instant,
    exports: u64,
    /// Whether anything was said of it.
    told: bool,
}

impl Complaints {
    pub(super) fn failed(&mut self, error: &ExportError) {
        let now = Instant::now();
        let again = self.again(&error.cause, now);
        let failing = self.failing.get_or_insert(Failing {
            since: now,
            exports: 0,
            told: false,
        });
        failing.exports += 1;
        if let Some(again) = again {
            failing.told = true;
            let failing_for_s = failing.since.elapsed().as_secs();
            tracing::warn!(again, failing_for_s, "{error}");
        }
    }

    /// How often it came since it was spoken of last, if it is to be spoken of now.
    fn again(&mut self, cause: &Cause, now: Instant) -> Option<u64> {
        let code = match cause {
            Cause::Http { status, .. } => u32::from(*status),
            Cause::Grpc { code, .. } => *code as u32,
            Cause::Redirect { status, .. } => u32::from(*status),
            _ => 0,
        };
        let key = (discriminant(cause), code);
        let Some(spoken) = self.causes.get_mut(&key) else {
            let spoken = Spoken {
                last: now,
                quiet_for: QUIET,
                kept: 0,
            };
            self.causes.insert(key, spoken);
            return Some(0);
        };
        let passed = now.duration_since(spoken.last);
        if passed < spoken.quiet_for {
            spoken.kept += 1;
            return None;
        }
        spoken.quiet_for = if passed > 2 * spoken.quiet_for {
            QUIET
        } else {
            (2 * spoken.quiet_for).min(MOST_QUIET)
        };
        spoken.last = now;
        Some(std::mem::take(&mut spoken.kept) + 1)
    }

    pub(super) fn accepted(&mut self, signal: Signal, accepted: &Accepted) {
        if let Some(Failing {
            since,
            exports,
            told: true,
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
        if !std::mem::replace(&mut self.taken, true) {
            tracing::info!("the receiver accepted the first {}", signal.name());
        }
        self.said(signal, accepted, Instant::now());
    }

    /// Tells what a receiver says with a success.
    fn said(&mut self, signal: Signal, accepted: &Accepted, now: Instant) {
        let Accepted { rejected, message } = accepted;
        let quiet = self
            .last_said
            .is_some_and(|spoken| now.duration_since(spoken) < QUIET);
        if quiet || (*rejected == 0 && message.trim().is_empty()) {
            return;
        }
        self.last_said = Some(now);
        let signal = signal.name();
        if *rejected > 0 {
            tracing::warn!(
                rejected,
                "the receiver took {signal} only in part{}; look at its log",
                Said(message)
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
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use super::*;
    use crate::config::Config;

    /// Log lines.
    #[derive(Clone, Debug, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").write(line)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_day_without_a_receiver_is_some_thirty_lines_and_one_when_it_is_back() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .finish();
        let _logging = tracing::subscriber::set_default(subscriber);
        let vars = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317")];
        let vars = vars.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let config = Config::from_vars(vars).expect("good settings");
        let target = config.export.metrics.expect("a target");
        let away = || Cause::Unreachable("away".to_owned());
        let error = ExportError::new(Signal::Metrics, &target, away());
        let mut complaints = Complaints::default();
        for _ in 0..24 * 360 {
            complaints.failed(&error);
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
        for _ in 0..100 {
            complaints.accepted(Signal::Metrics, &Accepted::default());
        }
        // It flaps: there is nothing new in that.
        for _ in 0..100 {
            complaints.failed(&error);
            complaints.accepted(Signal::Metrics, &Accepted::default());
        }
        let text = String::from_utf8(lines.0.lock().expect("no panic").clone()).expect("text");
        let all: Vec<_> = text.lines().collect();
        assert!((20..=32).contains(&all.len()), "{text}");
        assert!(
            all[0].contains("cannot export metrics to http://collector:4317/"),
            "{text}"
        );
        let [.., again, first] = all[..] else {
            panic!("{text}");
        };
        assert!(
            again.contains("metrics are taken again failed_exports=8640 failed_for_s=86400"),
            "{again}"
        );
        assert!(
            first.contains("the receiver accepted the first metrics"),
            "said once, and last: {first}"
        );
    }
}
