//! How the sidecar answers whoever asks how it is: `flowcar probe`, for exec probes.
//!
//! By an abstract Unix socket (unix(7)), which needs neither a port in the pod's network nor a writable directory, and
//! goes away with the process, so that nothing stale can answer. Its name holds the id of the container's cgroup:
//! the probe runs in the same container, and two containers of a pod never meet.

use std::{
    io::{self, Read},
    os::unix::net::{SocketAddr, UnixListener as Bound, UnixStream},
    os::{linux::net::SocketAddrExt, unix::fs::MetadataExt},
    time::Duration,
};

use tokio::net::UnixListener;

use crate::{
    exit::{self, Failure},
    scope,
};

/// How long an answer may take: the main loop takes milliseconds, the rest is for a throttled container.
const PATIENCE: Duration = Duration::from_secs(4);

/// What is asked of a running sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Question {
    /// Does its main loop turn?
    Live,
    /// Does it follow flows, and has a receiver taken a report (or is none to be sent)?
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
}

/// How the sidecar is, as far as its main loop knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// A receiver has taken a report, or none is to be sent.
    pub delivering: bool,
}

/// Where probes are answered.
#[derive(Debug)]
pub struct Desk(Option<UnixListener>);

// === impl Health ===

impl Health {
    /// One word for each question whose answer is yes. There is nobody to answer before the sidecar has attached.
    const fn line(self) -> &'static str {
        if self.delivering {
            "live started ready\n"
        } else {
            "live started\n"
        }
    }
}

// === impl Desk ===

impl Desk {
    /// Opens it. Where that fails following goes on, and probes say that nobody answers.
    pub fn open() -> Self {
        let listener = address().and_then(|address| {
            let bound = Bound::bind_addr(&address)?;
            bound.set_nonblocking(true)?;
            UnixListener::from_std(bound)
        });
        Self(
            listener
                .inspect_err(|error| {
                    tracing::warn!(%error, "probes cannot be answered; another flowcar in this cgroup answers them, perhaps");
                })
                .ok(),
        )
    }

    /// Waits for the next question.
    pub async fn asked(&self) -> Asked {
        match &self.0 {
            Some(listener) => match listener.accept().await {
                Ok((stream, _)) => Asked(Some(stream)),
                Err(_) => Asked(None),
            },
            None => std::future::pending().await,
        }
    }
}

/// Somebody who waits for the answer.
#[derive(Debug)]
pub struct Asked(Option<tokio::net::UnixStream>);

impl Asked {
    /// Answers all questions at once. Whoever does not read it has gone.
    pub fn answer(self, health: Health) {
        if let Some(stream) = self.0 {
            // An empty socket buffer takes a line at once.
            let _ = stream.try_write(health.line().as_bytes());
        }
    }
}

/// Asks the sidecar of this container.
///
/// # Errors
/// [`Failure`] with status 1 if the answer is no, or if nobody answers.
pub fn probe(args: &ProbeArgs) -> Result<u8, Failure> {
    let no = |why: String| Failure::new(exit::NO, why);
    let answer = ask().map_err(|error| {
        no(format!(
            "nobody answers ({error}): flowcar export has not attached yet, or does not run in this container"
        ))
    })?;
    let wanted = match args.question {
        Question::Live => "live",
        Question::Ready => "ready",
        Question::Started => "started",
    };
    if answer.split_whitespace().any(|word| word == wanted) {
        return Ok(0);
    }
    Err(no(format!(
        "not {wanted}: flows are followed, but no receiver has taken a report yet"
    )))
}

fn ask() -> io::Result<String> {
    let mut stream = UnixStream::connect_addr(&address()?)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn address() -> io::Result<SocketAddr> {
    let own = scope::own_cgroup().map_err(io::Error::other)?;
    let id = std::fs::metadata(own)?.ino();
    SocketAddr::from_abstract_name(format!("flowcar.{id}"))
}
