//! Standard error, which may be full, closed or unread.
//!
//! A log line never blocks the one thread and never ends it: a line that standard error does not take at once is lost and
//! counted, and the next line that is taken reports how many were lost.

use std::{
    fs::{File, OpenOptions},
    io::{self, IsTerminal as _},
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd},
        unix::fs::OpenOptionsExt as _,
    },
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        socket::{MsgFlags, send},
        stat::{SFlag, fstat},
    },
    unistd::write,
};

/// `PIPE_BUF` (linux/limits.h): a pipe that poll(2) calls writable takes so many bytes without blocking, unless another process that has
/// the pipe, as the command of `flowcar run` has, fills it meanwhile.
const PIECE: usize = 4096;

/// The terminal or the pipe that standard error is, opened once more, so that its writes do not block. poll(2) calls a terminal writable
/// while there is room for one byte, and a write of more blocks until somebody reads. Of the file that was passed on, others have the
/// flags, too.
static REOPENED: OnceLock<Option<File>> = OnceLock::new();

/// Lines that this process has lost.
static LOST: AtomicU64 = AtomicU64::new(0);

/// Whether the last line was taken in part, as by a terminal that nobody reads fast enough.
static IS_TORN: AtomicBool = AtomicBool::new(false);

/// Whether a status line is on the terminal.
static HAS_STATUS: AtomicBool = AtomicBool::new(false);

/// How much of a line was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    Whole,
    Part,
    Nothing,
}

/// Erases the terminal from the cursor on: the status line, wherever the command's cursor went since.
const CLEAR: &str = "\x1b[J";

/// How many log lines standard error did not take since the process began.
pub fn lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// Opens what must be open before rights are dropped. What is written earlier opens it, too.
pub(super) fn prepare() {
    with(|_| ());
}

/// Standard error, such that a write does not block, as far as the kernel lets it be opened.
fn with<T>(write: impl FnOnce(BorrowedFd<'_>) -> T) -> T {
    let stderr = io::stderr();
    let reopened = REOPENED.get_or_init(|| nonblocking(stderr.as_fd()));
    match reopened {
        Some(reopened) => write(reopened.as_fd()),
        None => write(stderr.as_fd()),
    }
}

/// The same terminal or pipe with flags of its own. None of another user's pipe: the kernel does not open that again.
fn nonblocking(file: BorrowedFd<'_>) -> Option<File> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let open = || {
        OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)
    };
    let is_pipe = || {
        let kind = fstat(file).map(|of| SFlag::from_bits_truncate(of.st_mode) & SFlag::S_IFMT);
        kind == Ok(SFlag::S_IFIFO)
    };
    (file.is_terminal() || is_pipe()).then(open)?.ok()
}

/// Writes a line to standard error if it is taken at once; else counts it as lost. Returns whether it was taken.
pub(super) fn write_line(line: &[u8]) -> bool {
    clear_status();
    // What is left of a torn line stands alone.
    if IS_TORN.load(Ordering::Relaxed) {
        IS_TORN.store(
            with(|stderr| take(stderr, b"\n")) != Taken::Whole,
            Ordering::Relaxed,
        );
    }
    let taken = with(|stderr| take(stderr, line));
    if taken == Taken::Part {
        IS_TORN.store(true, Ordering::Relaxed);
    }
    if taken != Taken::Whole {
        LOST.fetch_add(1, Ordering::Relaxed);
    }
    taken == Taken::Whole
}

/// Draws a status line on the terminal that standard error is, in place of the last one. It is on the line below the cursor's: that one is
/// the command's, with a prompt, what is typed, or output without a line break. A terminal that takes nothing now has none.
pub fn draw_status(text: &str) {
    // A part of it is erased as the whole is.
    if with(|stderr| take(stderr, status(text).as_bytes())) != Taken::Nothing {
        HAS_STATUS.store(true, Ordering::Relaxed);
    }
}

/// Removes the status line, if there is one. Whatever else is written to the terminal comes after.
pub fn clear_status() {
    let has_status = HAS_STATUS.load(Ordering::Relaxed);
    if has_status && with(|stderr| take(stderr, CLEAR.as_bytes())) == Taken::Whole {
        HAS_STATUS.store(false, Ordering::Relaxed);
    }
}

/// VT goes a line down, and scrolls at the last one, as LF does; the kernel adds no CR to it, so that the column stays (DECSC, DECRC).
fn status(text: &str) -> String {
    format!("{CLEAR}\x0b\x1b7\x1b[m\r{text}\x1b8\x1b[A")
}

/// Writes all of `line`, piece by piece, as long as `file` takes each at once.
fn take(file: BorrowedFd<'_>, line: &[u8]) -> Taken {
    let mut rest = line;
    while !rest.is_empty() && is_writable(file) {
        match put(file, &rest[..rest.len().min(PIECE)]) {
            Ok(0) => break,
            Ok(written) => rest = &rest[written..],
            Err(Errno::EINTR) => {}
            Err(_) => break,
        }
    }
    match rest.len() {
        0 => Taken::Whole,
        left if left < line.len() => Taken::Part,
        _ => Taken::Nothing,
    }
}

/// Writes a piece. A socket, as systemd's journal gives one, takes it without blocking.
fn put(file: BorrowedFd<'_>, piece: &[u8]) -> nix::Result<usize> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    match send(file.as_raw_fd(), piece, flags) {
        Err(Errno::ENOTSOCK) => write(file, piece),
        sent => sent,
    }
}

fn is_writable(file: BorrowedFd<'_>) -> bool {
    let mut files = [PollFd::new(file, PollFlags::POLLOUT)];
    matches!(poll(&mut files, PollTimeout::ZERO), Ok(1))
        && files[0].revents() == Some(PollFlags::POLLOUT)
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read as _,
        os::{fd::OwnedFd, unix::net::UnixStream},
        sync::mpsc,
        thread,
        time::Duration,
    };

    use super::*;

    fn pipe() -> (OwnedFd, OwnedFd) {
        nix::unistd::pipe().expect("a pipe")
    }

    #[test]
    fn line_is_written_whole_to_a_pipe_that_is_read() {
        let (reader, writer) = pipe();
        let line = [b'x'; 3 * PIECE + 7];
        assert_eq!(take(writer.as_fd(), &line), Taken::Whole);
        drop(writer);
        let mut read = Vec::new();
        File::from(reader).read_to_end(&mut read).expect("read");
        assert_eq!(read, line);
    }

    #[test]
    fn line_is_lost_without_blocking_when_nobody_reads() {
        let (_reader, writer) = pipe();
        let line = [b'x'; 100];
        let taken = (0..100_000)
            .take_while(|_| take(writer.as_fd(), &line) == Taken::Whole)
            .count();
        // pipe(7): 16 pages, unless the user's pipes are many.
        assert!((1..100_000).contains(&taken), "{taken}");
    }

    #[test]
    fn line_is_lost_without_blocking_on_a_terminal_that_nobody_reads() {
        let terminal = nix::pty::openpty(None, None).expect("a terminal");
        let own = nonblocking(terminal.slave.as_fd()).expect("it is this process's");
        let (done, is_done) = mpsc::channel();
        thread::spawn(move || {
            let line = [b'x'; 300];
            let taken = (0..100_000).take_while(|_| take(own.as_fd(), &line) == Taken::Whole);
            done.send(taken.count())
        });
        // One that blocked would do so for ever.
        let taken = is_done.recv_timeout(Duration::from_secs(60));
        let taken = taken.expect("it does not block");
        assert!((1..100_000).contains(&taken), "{taken}");
        drop(terminal);
    }

    /// Between the question whether there is room and the write another process may fill it.
    #[test]
    fn write_to_what_another_process_has_filled_does_not_block() {
        let (reader, writer) = pipe();
        let pipe = nonblocking(writer.as_fd()).expect("it is this user's");
        let (stream, other) = UnixStream::pair().expect("a pair of sockets");
        let (done, is_done) = mpsc::channel();
        thread::spawn(move || {
            for file in [pipe.as_fd(), stream.as_fd()] {
                let line = [b'x'; PIECE];
                let last = (0..100_000).find_map(|_| put(file, &line).err());
                done.send(last).expect("the test waits");
            }
        });
        for what in ["a pipe", "a socket"] {
            // One that blocked would do so for ever.
            let last = is_done.recv_timeout(Duration::from_secs(60));
            assert_eq!(last.expect(what), Some(Errno::EAGAIN), "{what}");
        }
        drop((reader, writer, other));
    }

    #[test]
    fn line_is_lost_without_panic_on_closed_reader_or_full_disk() {
        let (reader, writer) = pipe();
        drop(reader);
        assert_eq!(take(writer.as_fd(), b"x\n"), Taken::Nothing);
        let full = OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .expect("/dev/full");
        assert_eq!(take(full.as_fd(), b"x\n"), Taken::Nothing);
    }
}
