//! A running `flowcar export`, by what it logs: also behind `flowcar_tests::watch::Watch`, which has all that it sends, and
//! [`Sidecar`](crate::sidecar::Sidecar), whose cost is measured.

use std::{
    io,
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::log_lines::LogLines;

/// The longest wait for a line or for the end, on a busy machine.
const WITHIN: Duration = Duration::from_secs(120);

/// A process that logs to its standard error. It is killed on drop, so that a panic leaves nothing running.
#[derive(Debug)]
pub struct Exporting {
    child: Child,
    log: LogLines,
}

// === impl Exporting ===

impl Exporting {
    /// Starts it.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn start(command: &mut Command) -> Self {
        Self::try_start(command).unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }

    /// Starts it.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn try_start(command: &mut Command) -> io::Result<Self> {
        let mut child = command.stderr(Stdio::piped()).spawn()?;
        let stderr = child.stderr.take().expect("a pipe, as asked for");
        Ok(Self {
            child,
            log: LogLines::of(stderr),
        })
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it logs, from what was taken last.
    pub const fn log(&self) -> &LogLines {
        &self.log
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It has exited.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill(Pid::from_raw(self.id().cast_signed()), signal)?)
    }

    /// Its standard output, if that was piped and not taken yet.
    pub fn stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Waits until it logs a line that contains `what`, and returns the line.
    ///
    /// # Panics
    /// It exits without that line, or does not log it in time.
    #[track_caller]
    pub fn reported(&mut self, what: &str) -> String {
        self.log.until(what, WITHIN, |_| ())
    }

    /// Waits until it logs a line that contains `what`, and returns all lines up to it.
    ///
    /// # Panics
    /// As [`Exporting::reported`].
    #[track_caller]
    pub fn lines_until(&mut self, what: &str) -> Vec<String> {
        let mut lines = Vec::new();
        self.log
            .until(what, WITHIN, |line| lines.push(line.to_owned()));
        lines
    }

    /// Waits until it exits, however long that takes.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn exit(&mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }

    /// Waits until it exits.
    ///
    /// # Panics
    /// It cannot be waited for, or does not exit in time.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + WITHIN;
        loop {
            let ended = self.child.try_wait().expect("a child can be waited for");
            if let Some(status) = ended {
                return status;
            }
            assert!(Instant::now() < deadline, "it did not exit");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops it by SIGTERM, and returns the line with its books.
    ///
    /// # Panics
    /// It logs no such line, or fails.
    #[track_caller]
    pub fn stop(mut self) -> String {
        self.signal(Signal::SIGTERM).expect("it runs");
        let last = self.reported("stopping");
        assert_eq!(self.wait().code(), Some(0), "{last}");
        last
    }
}

impl Drop for Exporting {
    fn drop(&mut self) {
        // It may have exited.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asserts that its last line has these books, with nothing live, lost or failed.
///
/// # Panics
/// It has other books.
#[track_caller]
pub fn has_books(last: &str, flows: u32) {
    let books = format!("opened={flows} closed={flows} live=0 lost=0 failed=0");
    assert!(last.contains(&books), "{books}: {last}");
}
