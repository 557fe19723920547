//! No place in the code fills the log: of each so many lines are written in a time, and the rest is counted.

use std::{
    collections::HashMap,
    io::{self, Write},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tracing::{Metadata, callsite::Identifier};
use tracing_subscriber::fmt::MakeWriter;

use crate::config::LogFormat;

/// Lines of one place in [`PERIOD`], at most.
const MOST: u32 = 10;

/// The time in which lines are counted.
const PERIOD: Duration = Duration::from_secs(60);

/// Writes to standard error what the limits let through.
#[derive(Debug)]
pub(super) struct Limited {
    places: Mutex<HashMap<Identifier, Place>>,
    format: LogFormat,
}

/// What came from one place.
#[derive(Clone, Copy, Debug)]
struct Place {
    since: Instant,
    lines: u32,
    left_out: u64,
}

/// One line's way out.
pub(super) struct Line {
    /// `None` for a line that is left out.
    out: Option<io::Stderr>,
}

// === impl Limited ===

impl Limited {
    pub(super) fn new(format: LogFormat) -> Self {
        Self {
            places: Mutex::default(),
            format,
        }
    }

    /// What is said of lines that were left out before this one.
    fn summary(&self, left_out: u64) -> String {
        const WHAT: &str = "log lines like the next were left out";
        match self.format {
            LogFormat::Text => format!(" WARN {WHAT} count={left_out}\n"),
            LogFormat::Json => {
                let fields = serde_json::json!({"message": WHAT, "count": left_out});
                format!(
                    "{}\n",
                    serde_json::json!({"level": "WARN", "fields": fields})
                )
            }
        }
    }
}

impl<'a> MakeWriter<'a> for Limited {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line {
            out: Some(io::stderr()),
        }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Line {
        let now = Instant::now();
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let place = places
            .entry(meta.callsite())
            .or_insert_with(|| Place::new(now));
        let Some(left_out) = place.admit(now) else {
            return Line { out: None };
        };
        let mut line = self.make_writer();
        if left_out > 0 {
            // Who cannot be told of this cannot be told of the line, either.
            let _ = line.write_all(self.summary(left_out).as_bytes());
        }
        line
    }
}

// === impl Place ===

impl Place {
    const fn new(now: Instant) -> Self {
        Self {
            since: now,
            lines: 0,
            left_out: 0,
        }
    }

    /// Whether a line may go out now, and how many did not since the last that did.
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
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match &mut self.out {
            Some(out) => out.write(line),
            None => Ok(line.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.as_mut().map_or(Ok(()), Write::flush)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_writes_so_many_lines_and_then_says_how_many_it_did_not() {
        let start = Instant::now();
        let mut place = Place::new(start);
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
    fn the_summary_is_a_line_of_the_log_in_its_form() {
        let json = Limited::new(LogFormat::Json).summary(7);
        let line: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(line["fields"]["count"], 7);
        assert_eq!(line["level"], "WARN");
        let text = Limited::new(LogFormat::Text).summary(7);
        assert!(text.ends_with("count=7\n"), "{text}");
    }
}
