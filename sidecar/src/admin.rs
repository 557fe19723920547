//! How the sidecar answers whoever asks how it is: `flowcar probe`, for exec probes.
//!
//! By an abstract Unix socket (unix(7)), which needs neither a port in the pod's network nor a writable directory, and
//! goes away with the process, so that nothing stale can answer. Its name holds the id of the container's cgroup:
//! the probe runs in the same container, and two containers of a pod never meet. With `--cgroup`, on a host, where several run
//! in one cgroup, there is a second name that holds the followed cgroup's path.
//!
//! Everybody in the network namespace may take such a name. So the probe takes an answer only from a process of its own container
//! ([`peer`]), and a flowcar that finds its name taken answers under another one that nobody can know before ([`name`]).

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

/// How long nothing is accepted where that fails: the connection that cannot be taken stays, and would make it fail again at once.
const PAUSE: Duration = Duration::from_secs(1);

/// How the sidecar is, as far as its main loop knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// A receiver has taken a report, or none is to be sent.
    pub delivering: bool,
    /// How often somebody else detached the programs.
    pub detached: u64,
}

/// Where probes are answered.
#[derive(Debug)]
pub struct Desk {
    /// Whoever asks for the one that follows this cgroup.
    of_cgroup: Option<UnixListener>,
    /// Whoever asks for the one of this container.
    of_container: Option<UnixListener>,
    /// A descriptor to let go of where none is left, so that a probe is answered all the same.
    reserve: Mutex<Option<File>>,
}

// === impl Health ===

impl Health {
    /// One word for each question whose answer is yes, and a line for people. There is nobody to answer before the sidecar has
    /// attached.
    fn answer(self) -> String {
        let words = if self.delivering {
            "live started ready\n"
        } else {
            "live started\n"
        };
        match self.detached {
            0 => words.to_owned(),
            times => format!(
                "{words}somebody detached flowcar's programs, which are attached again; so far {times} times\n"
            ),
        }
    }
}

// === impl Desk ===

impl Desk {
    /// Opens it, for a flowcar that was told to follow this cgroup. Where that fails following goes on, and probes say that
    /// nobody answers. Of several in a container, each of a cgroup of its own, the first answers for the container.
    pub fn open(cgroup: Option<&Path>) -> Self {
        let mut suffix = None;
        let of_cgroup = cgroup.map(|path| bind(Name::of(Some(path)), &mut suffix));
        let of_container = bind(Name::of(None), &mut suffix);
        let answers = of_cgroup.as_ref().unwrap_or(&of_container);
        if let Err(error) = answers {
            tracing::warn!(%error, "probes cannot be answered; another flowcar here that follows the same answers them, perhaps");
        }
        Self {
            of_cgroup: of_cgroup.and_then(Result::ok),
            of_container: of_container.ok(),
            reserve: Mutex::new(reserve()),
        }
    }

    /// Waits for the next question.
    pub async fn asked(&self) -> Asked {
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

    /// Gives the descriptor in reserve back to the process. False where there was none.
    fn give_up_reserve(&self) -> bool {
        let mut held = self.reserve.lock().unwrap_or_else(PoisonError::into_inner);
        held.take().is_some()
    }

    async fn accept(&self, listener: &Option<UnixListener>) -> Asked {
        let Some(listener) = listener else {
            return std::future::pending().await;
        };
        loop {
            let error = match listener.accept().await {
                Ok((stream, _)) => return Asked(stream),
                Err(error) => error,
            };
            let none_left = matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE));
            if none_left && self.give_up_reserve() {
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

/// Binds the name; or, where somebody else has it who is no flowcar of this container, the name with a suffix, which the process's
/// own name tells to the probe.
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
            "the name under which flowcar answers probes was taken before by somebody else; probes are answered under another one"
        );
        Ok(bound)
    })?;
    bound.set_nonblocking(true)?;
    UnixListener::from_std(bound)
}

/// Who has the name, if that is no flowcar of this container.
fn taken_by(error: &io::Error, name: &Name) -> Option<peer::Stranger> {
    let taken = error.kind() == io::ErrorKind::AddrInUse;
    let stream = taken.then(|| peer::connect(name, None).ok())?;
    match stream {
        Some(stream) => peer::check(&stream).err(),
        // One that lets nobody in.
        None => Some(peer::Stranger::Silent),
    }
}

/// Somebody who waits for the answer.
#[derive(Debug)]
pub struct Asked(UnixStream);

impl Asked {
    /// Answers all questions at once. Whoever does not read it has gone.
    pub fn answer(self, health: Health) {
        // An empty socket buffer takes a line at once.
        let _ = self.0.try_write(health.answer().as_bytes());
    }
}
