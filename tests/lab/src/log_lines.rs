//! The lines that a running program logs.

use std::{
    io::{self, BufRead as _, BufReader, Read},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

/// How long the reader may take for what is in the pipe of a program that has ended. A child of it may hold the pipe open.
const AFTER_THE_END: Duration = Duration::from_secs(2);

/// The lines of a pipe, read by a thread of their own: a program that logs nothing more holds no test up for ever.
#[derive(Debug)]
pub struct LogLines {
    lines: mpsc::Receiver<String>,
}

impl LogLines {
    /// Reads them from now on, until the pipe is closed.
    pub fn of(pipe: impl Read + Send + 'static) -> Self {
        let (to, lines) = mpsc::channel();
        thread::spawn(move || {
            let read = BufReader::new(pipe).lines();
            // Lines of others than flowcar may be no text.
            read.map_while(Result::ok)
                .try_for_each(|line| to.send(line))
        });
        Self { lines }
    }

    /// The next line that contains `what`. Those up to it are passed on, too.
    ///
    /// # Panics
    /// As [`LogLines::find`] fails.
    #[track_caller]
    pub fn until(&self, what: &str, within: Duration, passed: impl FnMut(&str)) -> String {
        self.find(what, within, passed)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// The same.
    ///
    /// # Errors
    /// The pipe is closed first, or no such line comes in time; `passed` has been called with all that came.
    pub fn find(
        &self,
        what: &str,
        within: Duration,
        mut passed: impl FnMut(&str),
    ) -> io::Result<String> {
        let deadline = Instant::now() + within;
        let mut printed = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    passed(&line);
                    if line.contains(what) {
                        return Ok(line);
                    }
                    printed.push(line);
                }
                Err(RecvTimeoutError::Timeout) => {
                    let why =
                        format!("it did not log {what:?} within {within:?}, but: {printed:#?}");
                    return Err(io::Error::new(io::ErrorKind::TimedOut, why));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let why = format!("it never logged {what:?}, but: {printed:#?}");
                    return Err(io::Error::other(why));
                }
            }
        }
    }

    /// The lines that were not taken, of a program that has ended.
    pub fn rest(&self) -> Vec<String> {
        let deadline = Instant::now() + AFTER_THE_END;
        let next = || {
            let left = deadline.saturating_duration_since(Instant::now());
            self.lines.recv_timeout(left).ok()
        };
        std::iter::from_fn(next).collect()
    }
}
