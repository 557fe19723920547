//! The end that asks.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use super::{
    name::{Name, Suffix},
    peer::{self, Rule},
    protocol::{self, ProtocolError, Question},
};
use crate::clock;

/// The most bytes of an answer: that of all flows of one.
const MOST: usize = 16 << 20;

/// The pause before another try where flowcar is busy.
const PAUSE: Duration = Duration::from_millis(20);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// No flowcar runs in this container, or on this host, or none that has attached.
    #[error(
        "nobody answers ({0}): flowcar export has not attached yet, or none runs here with the same --cgroup"
    )]
    Nobody(#[from] io::Error),
    /// Another process has the name.
    #[error(
        "flowcar does not answer: its name is taken by {0}, whose answer does not count, and no flowcar of this container answers under another name"
    )]
    Taken(String),
    /// The answer is an error, or no answer of flowcar's.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
}

/// The flowcar that is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Whom<'a> {
    /// The one that was started with this --cgroup.
    pub(super) cgroup: Option<&'a Path>,
    /// Also one of another cgroup, as on a host, where flowcar is a service and a person asks.
    pub(super) elsewhere: bool,
}

/// Asks a running flowcar. Gives what follows the answer's first line.
///
/// # Errors
/// [`NoAnswer`].
pub(super) fn ask(
    question: Question,
    whom: Whom<'_>,
    deadline: Instant,
) -> Result<Vec<u8>, NoAnswer> {
    loop {
        let stream = find(whom, deadline)?;
        let answer = exchange(stream, &question.request(), deadline)?;
        match protocol::body(&answer) {
            Err(ProtocolError::Busy) if clock::now() < deadline => thread::sleep(PAUSE),
            body => return Ok(body?.to_vec()),
        }
    }
}

fn find(whom: Whom<'_>, deadline: Instant) -> Result<UnixStream, NoAnswer> {
    // A cgroup that was removed keeps the path as given.
    let full = whom.cgroup;
    let full = full.map(|path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()));
    let name = Name::of(full.as_deref())?;
    let nobody = match connect(|| peer::connect(&name, None), deadline) {
        Ok(stream) => match peer::check(&stream, Rule::SameContainer) {
            Ok(_) => return Ok(stream),
            Err(stranger) => NoAnswer::Taken(stranger.to_string()),
        },
        Err(error) => error.into(),
    };
    let renamed = renamed(&name, deadline);
    let elsewhere = || whom.elsewhere.then(|| elsewhere(full.as_deref(), deadline));
    renamed.or_else(|| elsewhere()?).ok_or(nobody)
}

/// The flowcar of this container that answers under another name, with a suffix in the name of its process.
fn renamed(name: &Name, deadline: Instant) -> Option<UnixStream> {
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut processes = processes.filter_map(|entry| {
        let process: i32 = entry.file_name().to_str()?.parse().ok()?;
        let comm = fs::read_to_string(entry.path().join("comm")).ok()?;
        Some((process, Suffix::of_process(&comm)?))
    });
    processes.find_map(|(process, suffix)| {
        let stream = connect(|| peer::connect(name, Some(&suffix)), deadline).ok()?;
        (peer::check(&stream, Rule::SameContainer) == Ok(process)).then_some(stream)
    })
}

/// A flowcar of this user or of root in another cgroup of the network namespace: the one that follows this cgroup, or the only one.
fn elsewhere(cgroup: Option<&Path>, deadline: Instant) -> Option<UnixStream> {
    let sockets = fs::read_to_string("/proc/net/unix").ok()?;
    let names: Vec<String> = Name::in_table(&sockets, cgroup).collect();
    let mut streams = names.iter().filter_map(|name| {
        let stream = connect(|| peer::connect_to_text(name), deadline).ok()?;
        peer::check(&stream, Rule::AnyCgroup).ok().map(|_| stream)
    });
    let first = streams.next()?;
    streams.next().is_none().then_some(first)
}

/// Connects, and retries until the deadline while the listener's queue is full.
fn connect(once: impl Fn() -> io::Result<UnixStream>, deadline: Instant) -> io::Result<UnixStream> {
    loop {
        match once() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && clock::now() < deadline => {
                thread::sleep(PAUSE);
            }
            done => return done,
        }
    }
}

/// Sends the request, and reads all bytes until the other end closes, within the time and the bound.
fn exchange(mut stream: UnixStream, request: &str, deadline: Instant) -> io::Result<Vec<u8>> {
    let left = || {
        let left = deadline.saturating_duration_since(clock::now());
        let is_over = left.is_zero();
        (!is_over).then_some(left).ok_or(io::ErrorKind::TimedOut)
    };
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(left()?))?;
    // A flowcar that refuses the question has closed by now, and its answer can be read.
    let _ = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let mut part = [0; 16_384];
    while answer.len() < MOST {
        stream.set_read_timeout(Some(left()?))?;
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(length) => answer.extend_from_slice(&part[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // A refused request may be unread when flowcar closes.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset && !answer.is_empty() => {
                break;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(answer)
}
