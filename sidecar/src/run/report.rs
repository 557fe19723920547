//! Where `flowcar run` writes, and in which form.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, IsTerminal},
    os::fd::AsFd,
    path::Path,
    time::Duration,
};

use flowcar_screen::terminal::has_cursor;
use nix::{sys::stat::fstat, unistd::ftruncate};

use super::{
    page::{Following, Recording},
    rows::{Rows, Shown},
    status::Status,
    stream::Stream,
};
use crate::{
    clock::Anchor,
    flow::{Flow, Listener},
    logs,
    view::{
        Row, Sums,
        by_peer::ByPeer,
        json,
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

/// What a report is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) format: Format,
    /// Whether there is a row for each connection, however many there are.
    pub(super) all: bool,
    /// Whether there is a status line in any case.
    pub(super) status: bool,
}

/// Where something is written.
struct Output {
    stream: Stream,
    /// Colours, or none.
    style: Style,
    /// It is a terminal with a cursor.
    has_cursor: bool,
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

/// Adds flows up as they end, by peer, and writes that once the command has ended. Rows of JSON, and of `--all`, are written at once.
pub(super) struct Report {
    output: Output,
    wanted: Wanted,
    /// The command's own process.
    own: Option<u32>,
    count: u64,
    rows: Rows,
    by_peer: ByPeer,
    times: ConnectionTimes,
    closed: u64,
    failed: u64,
    status: Option<Status>,
    page: Option<Page>,
}

// === impl Output ===

impl Output {
    /// Standard error; `-` is standard output; else a file, which keeps what it has until [`Self::empty`].
    fn open(path: Option<&Path>) -> io::Result<Self> {
        Ok(match path {
            None => Self::to(io::stderr()),
            Some(path) if path == Path::new("-") => Self::to(io::stdout()),
            Some(path) => {
                let mut options = File::options();
                let file = options
                    .write(true)
                    .create(true)
                    .truncate(false)
                    .open(path)?;
                Self {
                    is_opened: true,
                    ..Self::to(file)
                }
            }
        })
    }

    fn to(file: impl AsFd + IsTerminal + 'static) -> Self {
        Self {
            style: Style::of(&file),
            has_cursor: has_cursor(&file),
            stream: Stream::new(file),
            is_opened: false,
            broken: None,
        }
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

    /// The same for the last text, for which there is always room.
    fn add_last(&mut self, text: &str) {
        if self.broken.is_none() {
            self.broken = self.stream.add_last(text).err();
        }
    }

    /// Begins a new line on a terminal whose cursor is not at the beginning of one, as the command wrote no line break.
    fn begin_line(&mut self) {
        if let Some(columns) = self.stream.columns().filter(|_| self.has_cursor) {
            self.add(&new_line(columns));
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

/// Blanks for a whole line. From a line's beginning they stay on it, as a terminal wraps only with the next character; else they end on the
/// next line.
fn new_line(columns: usize) -> String {
    format!("{:columns$}\r\x1b[K", "")
}

// === impl Report ===

impl Report {
    /// Standard error, or what `path` names.
    pub(super) fn to(path: Option<&Path>, wanted: Wanted) -> io::Result<Self> {
        let has_json = path.is_none() && wanted.format == Format::Json;
        Ok(Self {
            output: Output::open(path)?,
            wanted,
            own: None,
            count: 0,
            rows: Rows::default(),
            by_peer: ByPeer::default(),
            times: ConnectionTimes::default(),
            closed: 0,
            failed: 0,
            status: Status::new(wanted.status, has_json),
            page: None,
        })
    }

    /// Also makes a page of it. The file is opened at once: later flowcar may open none.
    pub(super) fn with_page(mut self, path: &Path, recording: Recording) -> io::Result<Self> {
        let output = Output::open(Some(path))?;
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
        self.count += 1;
        let row = Row::of(flow, anchor);
        match self.wanted.format {
            Format::Json => self.lines([json::line(&row)]),
            Format::Table if self.wanted.all => {
                let head = (self.count == 1).then(|| table::head(self.output.style));
                let row = table::flow(&row, self.own, self.output.style);
                self.lines(head.into_iter().chain([row]));
            }
            Format::Table => self.rows.add(row),
        }
    }

    /// The report for people, without rows that were written before: what comes first is what most want to know.
    fn table(&self, sums: &Sums) -> Vec<String> {
        let mut lines = Vec::new();
        // The row of a single connection has all that the peer's would have.
        if self.count > 1 {
            if self.wanted.all {
                lines.push(String::new());
            }
            lines.push(self.output.style.remark("by peer, times as p50/p99:"));
            lines.extend(self.by_peer.lines(self.output.style));
            lines.push(String::new());
        }
        if self.count > 0 && !self.wanted.all {
            lines.extend(self.kept_rows());
        }
        lines.extend(table::times(&self.times, self.output.style));
        lines.push(table::summary(sums, self.output.style));
        lines
    }

    /// All rows, or those that stand out.
    fn kept_rows(&self) -> Vec<String> {
        let row = |row: &Row| table::flow(row, self.own, self.output.style);
        let mut lines = vec![table::head(self.output.style)];
        match self.rows.shown() {
            Shown::All(rows) => lines.extend(rows.iter().map(row)),
            Shown::Outliers {
                failures,
                failed,
                slowest,
            } => {
                if failures > 0 {
                    let of = match failed.len() as u64 {
                        shown if shown < failures => format!(", {shown} of {failures}"),
                        _ => String::new(),
                    };
                    let title = format!("failed or cut off{of}:");
                    lines.push(self.output.style.remark(&title));
                    lines.extend(failed.iter().map(row));
                }
                if !slowest.is_empty() {
                    lines.push(self.output.style.remark("slowest of the others:"));
                    lines.extend(slowest.into_iter().map(row));
                }
                let count = self.count;
                let all = format!("{count} connections and attempts: --all has a row for each");
                lines.push(self.output.style.remark(&all));
                lines.push(String::new());
            }
        }
        lines
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
        if let Some(status) = &self.status
            && self.output.is_written()
        {
            status.draw(|| table::status(live, self.closed, self.failed));
        }
    }

    /// The last line, or lines, and the page.
    pub(super) fn sum_up(&mut self, sums: &Sums, following: &Following) {
        if let Some(page) = &mut self.page
            && let Some(recording) = page.recording.take()
        {
            page.output.add(&recording.page(following, sums));
        }
        logs::clear_status();
        let lines = match self.wanted.format {
            Format::Json => vec![json::summary(
                sums,
                Some((&self.times, self.by_peer.figures())),
            )],
            Format::Table => self.table(sums),
        };
        self.begin_lines();
        self.output.add_last(&format!("{}\n", lines.join("\n")));
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

    /// Lines of their own, whatever is on the terminal.
    fn lines(&mut self, lines: impl IntoIterator<Item = String>) {
        self.begin_lines();
        for line in lines {
            self.output.add(&format!("{line}\n"));
        }
    }

    fn begin_lines(&mut self) {
        if self.output.has_cursor {
            logs::clear_status();
        }
        if self.wanted.format == Format::Table {
            self.output.begin_line();
        }
    }

    /// What readers have made room for.
    fn send(&mut self) {
        self.output.send();
        if let Some(page) = &mut self.page {
            page.output.send();
        }
    }
}
