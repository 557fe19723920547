//! Answers `flowcar probe`, for exec probes.
//!
//! The sidecar listens on an abstract Unix socket (unix(7)), which needs neither a port in the pod's network nor a writable
//! directory, and closes with the process, so that nothing stale can answer. Its name holds the id of the container's cgroup:
//! the probe runs in the same container, and two containers of a pod have different names. With `--cgroup`, on a host, where
//! several flowcars run in one cgroup, a second name holds the followed cgroup's path.
//!
//! Every process in the network namespace may bind such a name. So the probe accepts an answer only from a process of its own
//! container ([`peer`]), and a flowcar that finds its name taken answers under an unpredictable one ([`name`]).

mod ask;
mod name;
mod peer;

use std::{
    fs::File,
    io,
    os::unix::net::UnixListener as Bound,
    path::Path,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::net::{UnixListener, UnixStream};

pub use self::ask::{ProbeArgs, Question, probe};
use self::name::{Name, Suffix};

/// The pause after a failed accept: the connection stays in the queue, and would make accept fail again at once.
const PAUSE: Duration = Duration::from_secs(1);

/// The sidecar's health, as its main loop knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// A receiver has taken a report, or none is to be sent.
    pub delivering: bool,
    /// How often another process detached the programs.
    pub detached: u64,
}

/// Answers probes.
#[derive(Debug)]
pub struct ProbeServer {
    /// For probes of the flowcar that follows this cgroup.
    of_cgroup: Option<UnixListener>,
    /// For probes of the flowcar of this container.
    of_container: Option<UnixListener>,
    /// A descriptor to close if none is left, so that a probe is answered nevertheless.
    reserve: Mutex<Option<File>>,
}

// === impl Health ===

impl Health {
    /// One word for each question whose answer is yes, and a line for people. Before the sidecar has attached, no probe is
    /// answered.
    fn answer(self) -> String {
        let words = if self.delivering {
            "live started ready\n"
        } else {
            "live started\n"
        };
        match self.detached {
            0 => words.to_owned(),
            times => format!(
                "{words}another process detached flowcar's programs {times} times; they are attached again\n"
            ),
        }
    }
}

// === impl ProbeServer ===

impl ProbeServer {
    /// Listens, for a flowcar with this `--cgroup`. If that fails, following continues, and probes report that nobody answers.
    /// Of several flowcars in a container, each of another cgroup, the first answers for the container.
    pub fn open(cgroup: Option<&Path>) -> Self {
        let mut suffix = None;
        let of_cgroup = cgroup.map(|path| bind(Name::of(Some(path)), &mut suffix));
        let of_container = bind(Name::of(None), &mut suffix);
        let answers = of_cgroup.as_ref().unwrap_or(&of_container);
        if let Err(error) = answers {
            tracing::warn!(%error, "probes cannot be answered; perhaps another flowcar here that follows the same cgroup answers them");
        }
        Self {
            of_cgroup: of_cgroup.and_then(Result::ok),
            of_container: of_container.ok(),
            reserve: Mutex::new(reserve()),
        }
    }

    /// Waits for the next question.
    pub async fn asked(&self) -> ProbeRequest {
        self.fill_reserve();
        tokio::select! {
            asked = self.accept(&self.of_cgroup) => asked,
            asked = self.accept(&self.of_container) => asked,
        }
    }

    fn fill_reserve(&self) {
        let mut held = self.reserve.lock().unwrap_or_else(PoisonError::into_inner);
        *held = held.take().or_else(reserve);
    }

    /// Closes the descriptor in reserve. False if there was none.
    fn release_reserve(&self) -> bool {
        let mut held = self.reserve.lock().unwrap_or_else(PoisonError::into_inner);
        held.take().is_some()
    }

    async fn accept(&self, listener: &Option<UnixListener>) -> ProbeRequest {
        let Some(listener) = listener else {
            return std::future::pending().await;
        };
        loop {
            let error = match listener.accept().await {
                Ok((stream, _)) => return ProbeRequest(stream),
                Err(error) => error,
            };
            let none_left = matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE));
            if none_left && self.release_reserve() {
                continue;
            }
            tracing::warn!(%error, "a probe cannot be answered now");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn reserve() -> Option<File> {
    File::open("/dev/null").ok()
}

/// Binds the name; or, if a process that is no flowcar of this container has it, the name with a suffix, which the probe reads from
/// the name of this process.
fn bind(name: io::Result<Name>, suffix: &mut Option<Suffix>) -> io::Result<UnixListener> {
    let name = name?;
    let bound = Bound::bind_addr(&name.address(None)?).or_else(|error| {
        let Some(stranger) = taken_by(&error, &name) else {
            return Err(error);
        };
        let suffix = match suffix {
            Some(suffix) => suffix,
            none => none.insert(Suffix::take()?),
        };
        let bound = Bound::bind_addr(&name.address(Some(suffix))?)?;
        tracing::error!(
            %stranger,
            "another process has taken the name under which flowcar answers probes; probes are answered under another name"
        );
        Ok(bound)
    })?;
    bound.set_nonblocking(true)?;
    UnixListener::from_std(bound)
}

/// The process that has the name, if it is no flowcar of this container.
fn taken_by(error: &io::Error, name: &Name) -> Option<peer::Stranger> {
    let taken = error.kind() == io::ErrorKind::AddrInUse;
    let stream = taken.then(|| peer::connect(name, None).ok())?;
    match stream {
        Some(stream) => peer::check(&stream).err(),
        // A process that does not accept connections.
        None => Some(peer::Stranger::Silent),
    }
}

/// A probe that waits for the answer.
#[derive(Debug)]
pub struct ProbeRequest(UnixStream);

impl ProbeRequest {
    /// Answers all questions at once. A probe that does not read the answer has exited.
    pub fn answer(self, health: Health) {
        // An empty socket buffer takes a line at once.
        let _ = self.0.try_write(health.answer().as_bytes());
    }
}
