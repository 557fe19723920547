//! How the sidecar answers whoever asks how it is: `flowcar probe`, for exec probes.
//!
//! By an abstract Unix socket (unix(7)), which needs neither a port in the pod's network nor a writable directory, and
//! goes away with the process, so that nothing stale can answer. Its name holds the id of the container's cgroup:
//! the probe runs in the same container, and two containers of a pod never meet. With `--cgroup`, on a host, where several run
//! in one cgroup, there is a second name that holds the followed cgroup's path.

use std::{
    fs,
    io::{self, Read},
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            fs::MetadataExt,
            net::{SocketAddr, UnixListener as Bound, UnixStream},
        },
    },
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::net::UnixListener;
use uuid::Uuid;

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
    /// Ask the one that was started with this --cgroup
    #[arg(long, value_name = "PATH")]
    cgroup: Option<PathBuf>,
}

/// How the sidecar is, as far as its main loop knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// A receiver has taken a report, or none is to be sent.
    pub delivering: bool,
}

/// Where probes are answered.
#[derive(Debug)]
pub struct Desk {
    /// Whoever asks for the one that follows this cgroup.
    of_cgroup: Option<UnixListener>,
    /// Whoever asks for the one of this container.
    of_container: Option<UnixListener>,
}

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
    /// Opens it, for a flowcar that was told to follow this cgroup. Where that fails following goes on, and probes say that
    /// nobody answers. Of several in a container, each of a cgroup of its own, the first answers for the container.
    pub fn open(cgroup: Option<&Path>) -> Self {
        let of_cgroup = cgroup.map(|path| bind(Some(path)));
        let of_container = bind(None);
        let answers = of_cgroup.as_ref().unwrap_or(&of_container);
        if let Err(error) = answers {
            tracing::warn!(%error, "probes cannot be answered; another flowcar here that follows the same answers them, perhaps");
        }
        Self {
            of_cgroup: of_cgroup.and_then(Result::ok),
            of_container: of_container.ok(),
        }
    }

    /// Waits for the next question.
    pub async fn asked(&self) -> Asked {
        tokio::select! {
            asked = accept(&self.of_cgroup) => asked,
            asked = accept(&self.of_container) => asked,
        }
    }
}

async fn accept(listener: &Option<UnixListener>) -> Asked {
    match listener {
        Some(listener) => Asked(listener.accept().await.ok().map(|(stream, _)| stream)),
        None => std::future::pending().await,
    }
}

fn bind(cgroup: Option<&Path>) -> io::Result<UnixListener> {
    let bound = Bound::bind_addr(&address(cgroup)?)?;
    bound.set_nonblocking(true)?;
    UnixListener::from_std(bound)
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
    let answer = ask(args.cgroup.as_deref()).map_err(|error| {
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

fn ask(cgroup: Option<&Path>) -> io::Result<String> {
    // One that is not there any more has the path that it was given.
    let full = cgroup.map(|path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()));
    let mut stream = UnixStream::connect_addr(&address(full.as_deref())?)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// An abstract name has at most 107 bytes (unix(7)), and a path may have more: a number made from it serves.
fn address(cgroup: Option<&Path>) -> io::Result<SocketAddr> {
    let own = scope::own_cgroup().map_err(io::Error::other)?;
    let id = fs::metadata(own)?.ino();
    SocketAddr::from_abstract_name(match cgroup {
        Some(path) => format!(
            "flowcar.{id}.{}",
            Uuid::new_v5(&Uuid::NAMESPACE_URL, path.as_os_str().as_bytes()).simple()
        ),
        None => format!("flowcar.{id}"),
    })
}
