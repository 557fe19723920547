//! `flowcar probe`.

use std::{
    fs,
    io::{self, Read as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use super::{
    name::{Name, Suffix},
    peer::{self, Stranger},
};
use crate::exit::{self, Failure};

/// How long an answer may take: the main loop takes milliseconds, the rest is for a throttled container.
const PATIENCE: Duration = Duration::from_secs(4);

/// The most bytes of an answer.
const MOST: usize = 4_096;

/// A question to a running sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Question {
    /// Does its main loop run?
    Live,
    /// Does it follow flows, and has a receiver taken a report (if one is to be sent)?
    Ready,
    /// Does it follow flows?
    Started,
}

/// What to ask.
#[derive(Debug, clap::Args)]
pub struct ProbeArgs {
    /// What is asked
    #[arg(value_enum)]
    question: Question,
    /// Ask the one that was started with this --cgroup
    #[arg(long, value_name = "PATH")]
    cgroup: Option<PathBuf>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum NoAnswer {
    #[error(
        "nobody answers ({0}): flowcar export has not attached yet, or does not run in this container"
    )]
    Nobody(#[from] io::Error),
    #[error(
        "flowcar does not answer: its name is taken by {0}, whose answer does not count, and no flowcar of this container answers under another name"
    )]
    Taken(Stranger),
}

/// Asks the sidecar of this container.
///
/// # Errors
/// [`Failure`] with status 1 if the answer is no, or if nobody answers.
pub fn probe(args: &ProbeArgs) -> Result<u8, Failure> {
    let answer = ask(args.cgroup.as_deref(), Instant::now() + PATIENCE)
        .map_err(|error| Failure::new(exit::NO, error))?;
    let (words, note) = answer.split_once('\n').unwrap_or((&answer, ""));
    if !note.is_empty() {
        // The kubelet shows what a probe prints when it fails; people see it in any case.
        println!("{}", note.trim_end());
    }
    let wanted = match args.question {
        Question::Live => "live",
        Question::Ready => "ready",
        Question::Started => "started",
    };
    if words.split_whitespace().any(|word| word == wanted) {
        return Ok(0);
    }
    Err(Failure::new(
        exit::NO,
        format_args!("not {wanted}: flows are followed, but no receiver has taken a report yet"),
    ))
}

fn ask(cgroup: Option<&Path>, deadline: Instant) -> Result<String, NoAnswer> {
    // A cgroup that was removed keeps the path as given.
    let full = cgroup.map(|path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()));
    let name = Name::of(full.as_deref())?;
    let nobody = match connect(&name, None, deadline) {
        Ok(stream) => match peer::check(&stream) {
            Ok(_) => return Ok(read(stream, deadline)?),
            Err(stranger) => NoAnswer::Taken(stranger),
        },
        Err(error) => error.into(),
    };
    let stream = renamed(&name, deadline).ok_or(nobody)?;
    Ok(read(stream, deadline)?)
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
        let stream = connect(name, Some(&suffix), deadline).ok()?;
        (peer::check(&stream) == Ok(process)).then_some(stream)
    })
}

/// Connects, and retries until the deadline while the listener's queue is full.
fn connect(name: &Name, suffix: Option<&Suffix>, deadline: Instant) -> io::Result<UnixStream> {
    loop {
        match peer::connect(name, suffix) {
            Err(error)
                if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline =>
            {
                thread::sleep(Duration::from_millis(20));
            }
            done => return done,
        }
    }
}

/// All bytes until the other end closes, within the time and the bound.
fn read(mut stream: UnixStream, deadline: Instant) -> io::Result<String> {
    stream.set_nonblocking(false)?;
    let mut answer = Vec::new();
    let mut part = [0; 512];
    while answer.len() < MOST {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(length) => answer.extend_from_slice(&part[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    String::from_utf8(answer).map_err(io::Error::other)
}
