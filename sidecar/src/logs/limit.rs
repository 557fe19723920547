//! A rate limit of log lines: each call site writes so many lines in a time, and the rest is counted.

use std::{
    collections::HashMap,
    io::{self, Write},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tracing::{Metadata, callsite::Identifier};
use tracing_subscriber::fmt::MakeWriter;

use super::{one_line::one_line, stderr};
use crate::{clock, config::LogFormat};

/// The most lines of one call site in [`PERIOD`].
const MOST: u32 = 10;

/// The time in which lines are counted.
const PERIOD: Duration = Duration::from_secs(60);

/// The message about lines that the limit omitted.
const OMITTED: &str = "log lines like the next were omitted";

/// The message about lines that standard error did not take.
const LOST: &str = "log lines were lost: standard error took nothing";

/// Writes to standard error what the limits let through.
#[derive(Debug)]
pub(super) struct Limited {
    places: Mutex<HashMap<Identifier, CallSite>>,
    format: LogFormat,
    /// Lines that standard error did not take, as far as they were reported.
    lost_reported: AtomicU64,
}

/// The lines of one call site.
#[derive(Clone, Copy, Debug)]
struct CallSite {
    since: Instant,
    lines: u32,
    left_out: u64,
}

/// One line's way out.
pub(super) struct Line {
    /// Whether it is written; else it is omitted.
    admitted: bool,
}

// === impl Limited ===

impl Limited {
    pub(super) fn new(format: LogFormat) -> Self {
        Self {
            places: Mutex::default(),
            format,
            lost_reported: AtomicU64::new(0),
        }
    }

    /// A line with the number of lines that are missing before it.
    fn count_line(&self, what: &str, count: u64) -> String {
        match self.format {
            LogFormat::Text => format!(" WARN {what} count={count}\n"),
            LogFormat::Json => {
                let fields = serde_json::json!({"message": what, "count": count});
                format!(
                    "{}\n",
                    serde_json::json!({"level": "WARN", "fields": fields})
                )
            }
        }
    }

    /// Reports how many lines standard error did not take, once it takes one again.
    fn report_lost(&self) {
        let lost = stderr::lost();
        let unreported = lost - self.lost_reported.load(Ordering::Relaxed);
        if unreported > 0 && stderr::write_line(self.count_line(LOST, unreported).as_bytes()) {
            self.lost_reported.store(lost, Ordering::Relaxed);
        }
    }
}

impl<'a> MakeWriter<'a> for Limited {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { admitted: true }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Line {
        let now = clock::now();
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let place = places
            .entry(meta.callsite())
            .or_insert_with(|| CallSite::new(now));
        let Some(left_out) = place.admit(now) else {
            return Line { admitted: false };
        };
        self.report_lost();
        if left_out > 0 {
            stderr::write_line(self.count_line(OMITTED, left_out).as_bytes());
        }
        self.make_writer()
    }
}

// === impl CallSite ===

impl CallSite {
    const fn new(now: Instant) -> Self {
        Self {
            since: now,
            lines: 0,
            left_out: 0,
        }
    }

    /// Whether a line may be written now, and how many were omitted since the last one that was.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        if now.duration_since(self.since) >= PERIOD {
            (self.since, self.lines) = (now, 0);
        }
        if self.lines >= MOST {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

// === impl Line ===

impl Write for Line {
    /// Never fails: a line that is not taken is counted. The subscriber writes an event at once.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.admitted {
            stderr::write_line(&one_line(line));
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn call_site_is_limited_and_reports_the_omitted_count() {
        let start = clock::now();
        let mut place = CallSite::new(start);
        for _ in 0..MOST {
            assert_eq!(place.admit(start), Some(0));
        }
        for _ in 0..1_000 {
            assert_eq!(place.admit(start + PERIOD / 2), None);
        }
        assert_eq!(place.admit(start + PERIOD), Some(1_000));
        assert_eq!(place.admit(start + PERIOD), Some(0));
    }

    #[test]
    fn omitted_count_line_has_the_log_format() {
        let json = Limited::new(LogFormat::Json).count_line(OMITTED, 7);
        let line: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(line["fields"]["count"], 7);
        assert_eq!(line["level"], "WARN");
        let text = Limited::new(LogFormat::Text).count_line(OMITTED, 7);
        assert!(text.ends_with("count=7\n"), "{text}");
    }
}
