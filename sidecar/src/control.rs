//! What another process may ask of a running flowcar: its health (`flowcar probe`, for exec probes), its books and its flows
//! (`flowcar flows`). [`protocol`] is the form of questions and answers.
//!
//! The sidecar listens on an abstract Unix socket (unix(7)), which needs neither a port in the pod's network nor a writable
//! directory, and closes with the process, so that nothing stale can answer. Its name holds the id of the container's cgroup:
//! the probe runs in the same container, and two containers of a pod have different names. With `--cgroup`, on a host, where
//! several flowcars run in one cgroup, a second name holds the followed cgroup's path.
//!
//! Every process in the network namespace may bind such a name, and may connect. So the probe accepts an answer only from a process of
//! its own container, flowcar answers only those of its container, on a host of its user and root ([`peer`]), and a flowcar that finds
//! its name taken answers under an unpredictable one ([`name`]).

mod ask;
mod client;
mod flows;
mod name;
mod peer;
mod probe;
pub mod protocol;
mod server;

use std::{
    fs::File,
    io,
    os::unix::net::UnixListener as Bound,
    path::Path,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    net::{UnixListener, UnixStream},
    sync::mpsc,
};

pub use self::{
    client::{NoAnswer, Running},
    flows::{FlowsArgs, flows},
    probe::{ProbeArgs, probe},
    protocol::{Listing, PeerListing, Question},
    server::ControlRequest,
};
use self::{
    name::{Name, Suffix},
    peer::Rule,
    server::Connections,
};

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

/// Answers other processes.
#[derive(Debug)]
pub struct ControlServer {
    listeners: Listeners,
    connections: Connections,
    questions: mpsc::Receiver<ControlRequest>,
}

#[derive(Debug)]
struct Listeners {
    /// For questions to the flowcar that follows this cgroup.
    of_cgroup: Option<UnixListener>,
    /// For questions to the flowcar of this container.
    of_container: Option<UnixListener>,
    /// A descriptor to close if none is left, so that a question is answered nevertheless.
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

// === impl ControlServer ===

impl ControlServer {
    /// Listens, for a flowcar with this `--cgroup`. If that fails, following continues, and probes report that nobody answers.
    /// Of several flowcars in a container, each of another cgroup, the first answers for the container.
    /// In a pod only flowcar's own container may ask.
    pub fn open(cgroup: Option<&Path>, in_pod: bool) -> Self {
        let mut suffix = None;
        let of_cgroup = cgroup.map(|path| bind(Name::of(Some(path)), &mut suffix));
        let of_container = bind(Name::of(None), &mut suffix);
        let answers = of_cgroup.as_ref().unwrap_or(&of_container);
        if let Err(error) = answers {
            tracing::warn!(%error, "probes cannot be answered; perhaps another flowcar here that follows the same cgroup answers them");
        }
        let rule = if in_pod {
            Rule::SameContainer
        } else {
            Rule::AnyCgroup
        };
        let (connections, questions) = Connections::new(rule);
        Self {
            listeners: Listeners {
                of_cgroup: of_cgroup.and_then(Result::ok),
                of_container: of_container.ok(),
                reserve: Mutex::new(reserve()),
            },
            connections,
            questions,
        }
    }

    /// Waits for the next question.
    pub async fn asked(&mut self) -> ControlRequest {
        loop {
            tokio::select! {
                stream = self.listeners.accepted() => self.connections.accept(stream),
                // `connections` holds a sender.
                Some(request) = self.questions.recv() => return request,
            }
        }
    }
}

// === impl Listeners ===

impl Listeners {
    /// Waits for the next connection.
    async fn accepted(&self) -> UnixStream {
        self.fill_reserve();
        tokio::select! {
            stream = self.accept(&self.of_cgroup) => stream,
            stream = self.accept(&self.of_container) => stream,
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

    async fn accept(&self, listener: &Option<UnixListener>) -> UnixStream {
        let Some(listener) = listener else {
            return std::future::pending().await;
        };
        loop {
            let error = match listener.accept().await {
                Ok((stream, _)) => return stream,
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
        Some(stream) => peer::check(&stream, Rule::SameContainer).err(),
        // A process that does not accept connections.
        None => Some(peer::Stranger::Silent),
    }
}
