//! Where `flowcar run` writes, and in which form.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, IsTerminal as _},
    path::Path,
    time::Duration,
};

use nix::{sys::stat::fstat, unistd::ftruncate};

use super::{
    page::{Following, Recording},
    stream::Stream,
};
use crate::{
    clock::Anchor,
    flow::{Flow, Listener},
    view::{
        Row, Sums,
        by_peer::ByPeer,
        json, longest_ns,
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

/// So many connections have a row each; of more, a table by peer says more than rows do.
const FEW: u64 = 20;

/// Rows of failures, and of slow connections, among those that have no row.
const OUTLIERS: usize = 5;

/// The connections without a row that somebody has to look at.
#[derive(Default)]
struct Outliers {
    /// The first ones.
    failed: Vec<Row>,
    /// By their longest time, nanoseconds, the slowest first.
    slowest: Vec<(u64, Row)>,
}

impl Outliers {
    fn add(&mut self, row: Row) {
        if row.is_failure {
            if self.failed.len() < OUTLIERS {
                self.failed.push(row);
            }
            return;
        }
        let longest = longest_ns(row.connect_ns, row.rtt(), row.exchanges());
        let at = self.slowest.partition_point(|(time, _)| *time >= longest);
        if at < OUTLIERS {
            self.slowest.insert(at, (longest, row));
            self.slowest.truncate(OUTLIERS);
        }
    }
}

/// How often a reader that has paused is tried again once the command has ended.
const AGAIN: Duration = Duration::from_millis(10);

/// Where something is written.
struct Output {
    stream: Stream,
    /// Whether it is a file that flowcar opened, with what it had before.
    is_opened: bool,
    /// A write failed: the rest would fail as well, and the command must not suffer for it.
    broken: Option<io::Error>,
}

/// The page in the making, and where it goes when it is complete.
struct Page {
    output: Output,
    recording: Option<Recording>,
}

/// Writes rows as flows end; on a terminal, a status line below them counts the open ones.
pub(super) struct Report {
    output: Output,
    format: Format,
    style: Style,
    /// The command's own process.
    own: Option<u32>,
    /// Whether there is a row for each connection, however many there are.
    all: bool,
    rows: u64,
    by_peer: ByPeer,
    outliers: Outliers,
    times: ConnectionTimes,
    closed: u64,
    failed: u64,
    status_shown: bool,
    page: Option<Page>,
}

// === impl Output ===

impl Output {
    /// Standard error; `-` is standard output; else a file, which keeps what it has until [`Self::empty`]. Gives also whether it is a
    /// terminal.
    fn open(path: Option<&Path>) -> io::Result<(Self, bool)> {
        let (stream, terminal) = match path {
            None => (Stream::new(io::stderr()), io::stderr().is_terminal()),
            Some(path) if path == Path::new("-") => {
                (Stream::new(io::stdout()), io::stdout().is_terminal())
            }
            Some(path) => {
                let mut options = File::options();
                let file = options
                    .write(true)
                    .create(true)
                    .truncate(false)
                    .open(path)?;
                (Stream::new(file), false)
            }
        };
        let output = Self {
            stream,
            is_opened: path.is_some_and(|path| path != Path::new("-")),
            broken: None,
        };
        Ok((output, terminal))
    }

    /// Removes what the file had. Pipes and devices have nothing.
    fn empty(&mut self) {
        if self.is_opened && self.file_number().is_some() {
            self.broken = ftruncate(self.stream.file(), 0).err().map(Into::into);
        }
    }

    /// The device and the inode of a regular file.
    fn file_number(&self) -> Option<(u64, u64)> {
        let found = fstat(self.stream.file()).ok()?;
        let is_regular = found.st_mode & libc::S_IFMT == libc::S_IFREG;
        is_regular.then_some((found.st_dev, found.st_ino))
    }

    fn add(&mut self, text: &str) {
        if self.broken.is_none() {
            self.broken = self.stream.add(text).err();
        }
    }

    /// What the reader has made room for.
    fn send(&mut self) {
        if self.broken.is_none() {
            self.broken = self.stream.send().err();
        }
    }

    fn is_written(&self) -> bool {
        self.broken.is_some() || self.stream.is_empty()
    }

    /// Gives the first error of all writes, or what is missing; that whoever read it has read enough is none.
    fn finish(self) -> io::Result<()> {
        match self.broken {
            Some(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Some(error) => Err(error),
            None if self.stream.lost() > 0 || !self.stream.is_empty() => {
                let lost = self.stream.lost();
                Err(io::Error::other(format!(
                    "its reader did not take all of it in time ({lost} rows found no room)"
                )))
            }
            None => Ok(()),
        }
    }
}

// === impl Report ===

impl Report {
    /// Standard error, or what `path` names.
    pub(super) fn to(path: Option<&Path>, format: Format, all: bool) -> io::Result<Self> {
        let (output, terminal) = Output::open(path)?;
        let style = if terminal && format == Format::Table {
            Style::Coloured
        } else {
            Style::Plain
        };
        Ok(Self {
            output,
            format,
            style,
            own: None,
            all: all || format == Format::Json,
            rows: 0,
            by_peer: ByPeer::default(),
            outliers: Outliers::default(),
            times: ConnectionTimes::default(),
            closed: 0,
            failed: 0,
            status_shown: false,
            page: None,
        })
    }

    /// Also makes a page of it. The file is opened at once: later flowcar may open none.
    pub(super) fn with_page(mut self, path: &Path, recording: Recording) -> io::Result<Self> {
        let (output, _) = Output::open(Some(path))?;
        let recording = Some(recording);
        self.page = Some(Page { output, recording });
        Ok(self)
    }

    /// Whether the report and the page are the same file, however it is called.
    pub(super) fn is_one_file(&self) -> bool {
        let of_page = self
            .page
            .as_ref()
            .and_then(|page| page.output.file_number());
        of_page.is_some() && of_page == self.output.file_number()
    }

    /// Whether sockets are polled for it as often as that costs little: only polls show accept queues, and what holds connections back.
    pub(super) const fn wants_polls(&self) -> bool {
        self.page.is_some()
    }

    /// The accept queues of the command's listening sockets, as of the last poll.
    pub(super) fn listeners(&mut self, listeners: &BTreeMap<Option<u16>, Listener>) {
        if let Some(recording) = self.recording() {
            recording.listeners(listeners);
        }
    }

    /// The command starts.
    pub(super) fn command_starts(&mut self) {
        if let Some(recording) = self.recording() {
            recording.starts();
        }
    }

    /// The command has ended.
    pub(super) fn command_ended(&mut self) {
        if let Some(recording) = self.recording() {
            recording.ended();
        }
    }

    fn recording(&mut self) -> Option<&mut Recording> {
        self.page.as_mut()?.recording.as_mut()
    }

    /// The command runs as this process: files lose what they had before, which a command that cannot be started leaves there. To be
    /// called before system calls are filtered.
    pub(super) fn command(&mut self, pid: Option<u32>) {
        self.own = pid;
        self.output.empty();
        if let Some(page) = &mut self.page {
            page.output.empty();
        }
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
        if let Some(recording) = self.recording() {
            recording.add(flow);
        }
        self.times.add(flow);
        self.by_peer.add(flow);
        self.rows += 1;
        let row = Row::of(flow, anchor);
        if self.rows > FEW && !self.all {
            return self.outliers.add(row);
        }
        let line = match self.format {
            Format::Json => json::line(&row),
            Format::Table => table::flow(&row, self.own, self.style),
        };
        self.clear_status();
        if self.rows == 1 && self.format == Format::Table {
            self.line(&table::head(self.style));
        }
        self.line(&line);
    }

    /// What stands for the connections without a row: those that somebody has to look at, and all of them by peer.
    fn instead_of_rows(&mut self) {
        let hidden = self.rows.saturating_sub(FEW);
        if self.all || hidden == 0 {
            return;
        }
        let outliers = std::mem::take(&mut self.outliers);
        let parts = [
            ("failed", outliers.failed),
            (
                "slowest",
                outliers.slowest.into_iter().map(|(_, row)| row).collect(),
            ),
        ];
        let more = format!("{hidden} more connections and attempts: --all has a row for each");
        self.line(&self.style.remark(&more));
        for (name, rows) in parts.iter().filter(|(_, rows)| !rows.is_empty()) {
            self.line(&self.style.remark(&format!("{name} among these:")));
            rows.iter()
                .for_each(|row| self.line(&table::flow(row, self.own, self.style)));
        }
        self.line(&self.style.remark("all of them by peer, times as p50/p99:"));
        let lines = self.by_peer.lines(self.style);
        lines.iter().for_each(|line| self.line(line));
    }

    /// What open connections have measured, for the page.
    pub(super) fn watch<'a>(&mut self, open: impl Iterator<Item = &'a Flow>) {
        if let Some(recording) = self.recording() {
            recording.watch(open);
        }
    }

    /// What is under way, where somebody watches.
    pub(super) fn status<'a>(&mut self, live: impl Iterator<Item = &'a Flow>) {
        // Without a reader the last one is enough.
        if self.style == Style::Coloured && self.output.is_written() {
            let text = table::status(live, self.closed, self.failed);
            self.write(format_args!("\r\x1b[K{text:.99}"));
            self.status_shown = true;
        }
    }

    /// The last line, or lines, and the page.
    pub(super) fn sum_up(&mut self, sums: &Sums, following: &Following) {
        if let Some(page) = &mut self.page
            && let Some(recording) = page.recording.take()
        {
            page.output.add(&recording.page(following, sums));
        }
        self.clear_status();
        match self.format {
            Format::Json => self.line(&json::summary(sums, Some(&self.times))),
            Format::Table => {
                self.instead_of_rows();
                if let Some(times) = table::times(&self.times, self.style) {
                    self.line(&times);
                }
                self.line(&table::summary(sums, self.style));
            }
        }
    }

    /// Waits until all is written.
    pub(super) async fn written(&mut self) {
        loop {
            self.send();
            let of_page = self.page.as_ref().map(|page| &page.output);
            if self.output.is_written() && of_page.is_none_or(Output::is_written) {
                return;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Gives the first error of all writes, or what is missing.
    pub(super) fn finish(self) -> io::Result<()> {
        self.output.finish()?;
        self.page.map_or(Ok(()), |page| page.output.finish())
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
        self.output.add(&text.to_string());
    }

    /// What readers have made room for.
    fn send(&mut self) {
        self.output.send();
        if let Some(page) = &mut self.page {
            page.output.send();
        }
    }
}
