//! Standard error, which may be full, closed or unread.
//!
//! A log line never blocks the one thread and never ends it: a line that standard error does not take at once is lost and
//! counted, and the next line that is taken reports how many were lost.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::write,
};

/// `PIPE_BUF` (linux/limits.h): a pipe that poll(2) calls writable takes so many bytes without blocking. Unix sockets,
/// terminals and files take no less.
const PIECE: usize = 4096;

/// Lines that this process has lost.
static LOST: AtomicU64 = AtomicU64::new(0);

/// Whether a status line is on the terminal.
static HAS_STATUS: AtomicBool = AtomicBool::new(false);

/// Erases the terminal from the cursor on: the status line, wherever the command's cursor went since.
const CLEAR: &str = "\x1b[J";

/// How many log lines standard error did not take since the process began.
pub fn lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// Writes a line to standard error if it is taken at once; else counts it as lost. Returns whether it was taken.
pub(super) fn write_line(line: &[u8]) -> bool {
    clear_status();
    let taken = take(io::stderr().as_fd(), line);
    if !taken {
        LOST.fetch_add(1, Ordering::Relaxed);
    }
    taken
}

/// Draws a status line on the terminal that standard error is, in place of the last one. It is on the line below the cursor's: that one is
/// the command's, with a prompt, what is typed, or output without a line break. A terminal that takes nothing now has none.
pub fn draw_status(text: &str) {
    if take(io::stderr().as_fd(), status(text).as_bytes()) {
        HAS_STATUS.store(true, Ordering::Relaxed);
    }
}

/// Removes the status line, if there is one. Whatever else is written to the terminal comes after.
pub fn clear_status() {
    if HAS_STATUS.load(Ordering::Relaxed) && take(io::stderr().as_fd(), CLEAR.as_bytes()) {
        HAS_STATUS.store(false, Ordering::Relaxed);
    }
}

/// VT goes a line down, and scrolls at the last one, as LF does; the kernel adds no CR to it, so that the column stays (DECSC, DECRC).
fn status(text: &str) -> String {
    format!("{CLEAR}\x0b\x1b7\x1b[m\r{text}\x1b8\x1b[A")
}

/// Writes all of `line`, piece by piece, as long as `file` takes each at once.
fn take(file: BorrowedFd<'_>, line: &[u8]) -> bool {
    let mut rest = line;
    while !rest.is_empty() {
        if !is_writable(file) {
            return false;
        }
        match write(file, &rest[..rest.len().min(PIECE)]) {
            Ok(0) => return false,
            Ok(written) => rest = &rest[written..],
            Err(Errno::EINTR) => {}
            Err(_) => return false,
        }
    }
    true
}

fn is_writable(file: BorrowedFd<'_>) -> bool {
    let mut files = [PollFd::new(file, PollFlags::POLLOUT)];
    matches!(poll(&mut files, PollTimeout::ZERO), Ok(1))
        && files[0].revents() == Some(PollFlags::POLLOUT)
}

#[cfg(test)]
mod tests {
    use std::{fs::OpenOptions, io::Read as _, os::fd::OwnedFd};

    use super::*;

    fn pipe() -> (OwnedFd, OwnedFd) {
        nix::unistd::pipe().expect("a pipe")
    }

    #[test]
    fn line_is_written_whole_to_a_pipe_that_is_read() {
        let (reader, writer) = pipe();
        let line = [b'x'; 3 * PIECE + 7];
        assert!(take(writer.as_fd(), &line));
        drop(writer);
        let mut read = Vec::new();
        std::fs::File::from(reader)
            .read_to_end(&mut read)
            .expect("read");
        assert_eq!(read, line);
    }

    #[test]
    fn line_is_lost_without_blocking_when_nobody_reads() {
        let (_reader, writer) = pipe();
        let line = [b'x'; 100];
        let taken = (0..100_000)
            .take_while(|_| take(writer.as_fd(), &line))
            .count();
        // pipe(7): 16 pages, unless the user's pipes are many.
        assert!((1..100_000).contains(&taken), "{taken}");
    }

    #[test]
    fn line_is_lost_without_panic_on_closed_reader_or_full_disk() {
        let (reader, writer) = pipe();
        drop(reader);
        assert!(!take(writer.as_fd(), b"x\n"));
        let full = OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .expect("/dev/full");
        assert!(!take(full.as_fd(), b"x\n"));
    }
}
