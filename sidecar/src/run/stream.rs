//! Where the report goes: a file, or a pipe or terminal whose reader may pause. What the reader does not take at once waits in memory, so
//! that records, exports and signals do not wait for the reader.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, BorrowedFd},
};

use flowcar_screen::terminal;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::write,
};

/// `PIPE_BUF` (linux/limits.h): a pipe that poll(2) calls writable takes so many bytes without blocking.
const PIECE: usize = 4096;

/// The most bytes that wait: some 10,000 connections in JSON.
const MOST: usize = 8 << 20;

/// The report's end of the file, the pipe or the terminal.
pub(super) struct Stream {
    file: Box<dyn AsFd>,
    waiting: VecDeque<u8>,
    most: usize,
    lost: u64,
}

// === impl Stream ===

impl Stream {
    pub(super) fn new(file: impl AsFd + 'static) -> Self {
        Self {
            file: Box::new(file),
            waiting: VecDeque::new(),
            most: MOST,
            lost: 0,
        }
    }

    /// The columns of a terminal.
    pub(super) fn columns(&self) -> Option<usize> {
        terminal::columns(&self.file)
    }

    /// The file.
    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Texts that found no room.
    pub(super) const fn lost(&self) -> u64 {
        self.lost
    }

    /// Whether all is written.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Writes the text, at once or later; if too much waits already, the text is lost and counted.
    ///
    /// # Errors
    /// It cannot be written to.
    pub(super) fn add(&mut self, text: &str) -> io::Result<()> {
        if self.waiting.len() + text.len() > self.most {
            self.lost += 1;
        } else {
            self.waiting.extend(text.as_bytes());
        }
        self.send()
    }

    /// The same, whatever waits: for the last text, of which there is one.
    ///
    /// # Errors
    /// It cannot be written to.
    pub(super) fn add_last(&mut self, text: &str) -> io::Result<()> {
        self.waiting.extend(text.as_bytes());
        self.send()
    }

    /// Writes what is taken at once.
    ///
    /// # Errors
    /// It cannot be written to.
    pub(super) fn send(&mut self) -> io::Result<()> {
        while !self.waiting.is_empty() && takes_some(self.file.as_fd()) {
            let (first, _) = self.waiting.as_slices();
            match write(&self.file, &first[..first.len().min(PIECE)]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => drop(self.waiting.drain(..written)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}

/// Whether write(2) returns at once, also with an error.
fn takes_some(file: BorrowedFd<'_>) -> bool {
    let mut files = [PollFd::new(file, PollFlags::POLLOUT)];
    matches!(poll(&mut files, PollTimeout::ZERO), Ok(1))
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Read as _};

    use nix::unistd::pipe;

    use super::*;

    #[test]
    fn text_waits_until_it_is_read() {
        let (reader, writer) = pipe().expect("a pipe");
        let mut stream = Stream::new(writer);
        let line = format!("{}\n", "x".repeat(999));
        // pipe(7): 16 pages, unless the user's pipes are many.
        for _ in 0..1_000 {
            stream.add(&line).expect("it waits");
        }
        assert!(!stream.is_empty());
        let reading = std::thread::spawn(move || {
            let mut text = String::new();
            File::from(reader).read_to_string(&mut text).map(|_| text)
        });
        while !stream.is_empty() {
            stream.send().expect("it is read");
        }
        assert_eq!(stream.lost(), 0);
        drop(stream);
        let text = reading.join().expect("a thread").expect("text");
        assert_eq!(text, line.repeat(1_000));
    }

    #[test]
    fn text_beyond_the_bound_is_lost_and_counted() {
        let (_reader, writer) = pipe().expect("a pipe");
        let mut stream = Stream::new(writer);
        stream.most = 100_000;
        let line = "x".repeat(1_000);
        for _ in 0..1_000 {
            stream.add(&line).expect("it waits, or is lost");
        }
        assert!((700..900).contains(&stream.lost()), "{}", stream.lost());
        assert!(stream.waiting.len() <= 100_000);
    }

    #[test]
    fn closed_reader_is_an_error() {
        let (reader, writer) = pipe().expect("a pipe");
        drop(reader);
        let error = Stream::new(writer).add("x").expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
