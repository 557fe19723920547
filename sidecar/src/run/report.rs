//! Where `flowcar run` writes, and in which form.

use std::{
    fs::File,
    io::{self, IsTerminal as _},
    path::Path,
    time::Duration,
};

use super::stream::Stream;
use crate::{
    clock::Anchor,
    flow::Flow,
    view::{
        Row, Sums, json,
        table::{self, Style},
        times::ConnectionTimes,
    },
};

/// The form of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Rows for people
    Table,
    /// One JSON object a line
    Json,
}

/// How often a reader that has paused is tried again once the command has ended.
const AGAIN: Duration = Duration::from_millis(10);

/// Writes rows as flows end; on a terminal, a status line below them counts the open ones.
pub(super) struct Report {
    out: Stream,
    format: Format,
    style: Style,
    rows: u64,
    times: ConnectionTimes,
    closed: u64,
    failed: u64,
    status_shown: bool,
    /// A write failed: the rest would fail as well, and the command must not suffer for it.
    broken: Option<io::Error>,
}

impl Report {
    /// Standard error; `-` is standard output; else a file, which is emptied.
    pub(super) fn to(path: Option<&Path>, format: Format) -> io::Result<Self> {
        let (out, terminal) = match path {
            None => (Stream::new(io::stderr()), io::stderr().is_terminal()),
            Some(path) if path == Path::new("-") => {
                (Stream::new(io::stdout()), io::stdout().is_terminal())
            }
            Some(path) => (Stream::new(File::create(path)?), false),
        };
        let style = if terminal && format == Format::Table {
            Style::Coloured
        } else {
            Style::Plain
        };
        Ok(Self {
            out,
            format,
            style,
            rows: 0,
            times: ConnectionTimes::default(),
            closed: 0,
            failed: 0,
            status_shown: false,
            broken: None,
        })
    }

    /// These flows closed or failed.
    pub(super) fn closed(&mut self, flows: &[Flow], anchor: &Anchor) {
        self.send();
        for flow in flows {
            if flow.established.is_some() {
                self.closed += 1
            } else {
                self.failed += 1
            }
            self.row(flow, anchor);
        }
    }

    /// A connection that is still open when the report is.
    pub(super) fn open(&mut self, flow: &Flow, anchor: &Anchor) {
        self.row(flow, anchor);
    }

    fn row(&mut self, flow: &Flow, anchor: &Anchor) {
        let line = match self.format {
            Format::Json => json::line(&Row::of(flow, anchor)),
            Format::Table => table::flow(&Row::of(flow, anchor), self.style),
        };
        self.clear_status();
        if self.rows == 0 && self.format == Format::Table {
            self.line(&table::head(self.style));
        }
        self.rows += 1;
        self.times.add(flow);
        self.line(&line);
    }

    /// What is under way, where somebody watches.
    pub(super) fn status<'a>(&mut self, live: impl Iterator<Item = &'a Flow>) {
        // Without a reader the last one is enough.
        if self.style == Style::Coloured && self.out.is_empty() {
            let text = table::status(live, self.closed, self.failed);
            self.write(format_args!("\r\x1b[K{text:.99}"));
            self.status_shown = true;
        }
    }

    /// The last line, or lines.
    pub(super) fn sum_up(&mut self, sums: &Sums) {
        self.clear_status();
        match self.format {
            Format::Json => self.line(&json::summary(sums, Some(&self.times))),
            Format::Table => {
                if let Some(times) = table::times(&self.times, self.style) {
                    self.line(&times);
                }
                self.line(&table::summary(sums, self.style));
            }
        }
    }

    /// Waits until all is written.
    pub(super) async fn written(&mut self) {
        while self.broken.is_none() && !self.out.is_empty() {
            self.send();
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Gives the first error of all writes, or what is missing; that whoever read it has read enough is none.
    pub(super) fn finish(self) -> io::Result<()> {
        match self.broken {
            Some(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Some(error) => Err(error),
            None if self.out.lost() > 0 || !self.out.is_empty() => {
                let lost = self.out.lost();
                Err(io::Error::other(format!(
                    "its reader did not take all of it in time ({lost} rows found no room)"
                )))
            }
            None => Ok(()),
        }
    }

    fn clear_status(&mut self) {
        if std::mem::take(&mut self.status_shown) {
            self.write(format_args!("\r\x1b[K"));
        }
    }

    fn line(&mut self, text: &str) {
        self.write(format_args!("{text}\n"));
    }

    fn write(&mut self, text: std::fmt::Arguments<'_>) {
        if self.broken.is_none() {
            self.broken = self.out.add(&text.to_string()).err();
        }
    }

    /// What the reader has made room for.
    fn send(&mut self) {
        if self.broken.is_none() {
            self.broken = self.out.send().err();
        }
    }
}
