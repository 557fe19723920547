//! A program of somebody else's as a test's child: started and waited for, stopped, continued, killed, started
//! again on the same ports, and removed at the end of the test, whether it passes or panics.

use std::{
    ffi::OsString,
    fs::{self, OpenOptions},
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        mpsc::{Sender, channel},
    },
    time::{Duration, Instant},
};

use nix::{
    sys::{
        prctl::set_pdeathsig,
        signal::{Signal, kill},
        wait::{Id, WaitPidFlag, waitid},
    },
    unistd::Pid,
};
use tempfile::TempDir;

use super::{Net, POLL, START_LIMIT};

/// How much of a log a panic message shows.
const TAIL_LINES: usize = 30;

/// What is to be run: everything that stays the same when it is started again.
pub struct Program {
    /// What the program is called in messages.
    pub name: &'static str,
    /// The executable.
    pub path: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Where it runs.
    pub net: Net,
    /// Its own folder: working directory, HOME, TMPDIR and log, removed with the process.
    pub dir: TempDir,
}

/// Returns whether the program is ready, and if not, why.
type Probe = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// A running program. Dropping it kills it and removes its folder.
pub struct Process {
    program: Program,
    ready: Probe,
    child: Mutex<Option<Child>>,
}

/// What can be done to every peer.
pub trait Peer {
    /// The program behind the peer.
    fn process(&self) -> &Process;

    /// Stops it as it is (SIGSTOP): its connections stay open and nothing answers.
    fn pause(&self) {
        self.process().pause();
    }

    /// Lets it go on after [`pause`](Peer::pause) (SIGCONT).
    fn resume(&self) {
        self.process().resume();
    }

    /// Kills it (SIGKILL) and waits until it has exited: its ports refuse connections from now on.
    fn kill(&self) {
        self.process().kill();
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    fn stop(&self) -> ExitStatus {
        self.process().stop(START_LIMIT)
    }

    /// Starts it again with the same settings on the same ports and waits until it is ready. A running one is
    /// killed first.
    fn restart(&self) {
        self.process().restart();
    }

    /// Everything that it has written to its standard streams so far.
    fn log(&self) -> String {
        self.process().log()
    }
}

// === impl Program ===

impl Program {
    /// A program with an empty folder of its own.
    pub fn new(name: &'static str, net: Net) -> Self {
        let dir = tempfile::Builder::new()
            .prefix(&format!("flowcar-{name}-"))
            .tempdir()
            .expect("make the peer's temporary folder");
        Self {
            name,
            path: super::binary(name),
            args: Vec::new(),
            net,
            dir,
        }
    }

    /// Adds arguments.
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Writes a file into the program's folder and returns its path.
    pub fn write(&self, file: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir.path().join(file);
        fs::write(&path, content).expect("write into the peer's temporary folder");
        path
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    fn command(&self) -> io::Result<Command> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_path())?;
        let mut command = Command::new(&self.path);
        command
            .args(&self.args)
            .current_dir(self.dir.path())
            // Settings of the developer's shell (proxies, OTEL_*, KUBECONFIG) are no part of a test.
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("HOME", self.dir.path())
            .env("TMPDIR", self.dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        // SAFETY: between fork and exec the closure makes one system call.
        unsafe { command.pre_exec(|| Ok(set_pdeathsig(Signal::SIGKILL)?)) };
        self.net.enter(&mut command)?;
        Ok(command)
    }
}

// === impl Process ===

impl Process {
    /// Starts the program and waits until `ready` succeeds.
    ///
    /// # Panics
    /// When it does not start, ends, or is not ready within [`START_LIMIT`].
    pub fn start(
        program: Program,
        ready: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        let process = Self {
            program,
            ready: Box::new(ready),
            child: Mutex::new(None),
        };
        process.restart();
        process
    }

    /// The program's own folder.
    pub fn dir(&self) -> &Path {
        self.program.dir.path()
    }

    /// Where it runs.
    pub fn net(&self) -> &Net {
        &self.program.net
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child().as_ref().map(Child::id)
    }

    /// See [`Peer::pause`].
    pub fn pause(&self) {
        let pid = self.signal(Signal::SIGSTOP);
        // The signal is only sent: wait until the kernel reports that the process has stopped (or died), reaping nothing.
        let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        waitid(Id::Pid(pid), flags).expect("wait for the peer to stop");
    }

    /// See [`Peer::resume`].
    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// See [`Peer::kill`].
    pub fn kill(&self) {
        if let Some(mut child) = self.child().take() {
            // It may have ended by itself; waiting for it succeeds either way.
            let _ = child.kill();
            child.wait().expect("wait for a killed peer");
        }
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    ///
    /// # Panics
    /// When it does not run, or still runs after `limit`.
    pub fn stop(&self, limit: Duration) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        let deadline = Instant::now() + limit;
        loop {
            let ended = self
                .child()
                .as_mut()
                .and_then(|child| child.try_wait().expect("wait for the peer"));
            if let Some(status) = ended {
                self.child().take();
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "{}",
                self.failure_message(&format!("still runs {limit:?} after SIGTERM"))
            );
            std::thread::sleep(POLL);
        }
    }

    /// See [`Peer::restart`].
    pub fn restart(&self) {
        self.kill();
        let name = self.program.name;
        let command = self
            .program
            .command()
            .unwrap_or_else(|error| panic!("{name}: cannot be prepared: {error}"));
        let child = spawn(command).unwrap_or_else(|error| {
            panic!(
                "{name} at {} does not start: {error}",
                self.program.path.display()
            )
        });
        *self.child() = Some(child);
        self.await_ready();
    }

    fn await_ready(&self) {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let ended = self
                .child()
                .as_mut()
                .and_then(|child| child.try_wait().expect("wait for the peer"));
            if let Some(status) = ended {
                panic!(
                    "{}",
                    self.failure_message(&format!("ended with {status} before it was ready"))
                );
            }
            match (self.ready)() {
                Ok(()) => return,
                Err(why) if Instant::now() > deadline => {
                    panic!(
                        "{}",
                        self.failure_message(&format!("is not ready after {START_LIMIT:?}: {why}"))
                    )
                }
                Err(_) => std::thread::sleep(POLL),
            }
        }
    }

    /// See [`Peer::log`].
    pub fn log(&self) -> String {
        let bytes = fs::read(self.program.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// A message for a panic: the peer's failure, and the end of its log.
    pub fn failure_message(&self, what: &str) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
        format!("{} {what}. The end of its log:\n{tail}", self.program.name)
    }

    fn signal(&self, signal: Signal) -> Pid {
        let child = self.child();
        let child = child
            .as_ref()
            .unwrap_or_else(|| panic!("{} does not run: no {signal}", self.program.name));
        let pid = Pid::from_raw(child.id().cast_signed());
        kill(pid, signal)
            .unwrap_or_else(|error| panic!("{signal} to {}: {error}", self.program.name));
        pid
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        // A thread that panicked while it held the lock must not keep the others from cleaning up.
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.failure_message("was there when the test failed"));
        }
        self.kill();
    }
}

/// Starts a command from a thread that lives as long as the test process.
///
/// The kernel's parent-death signal, which ends the peers when a test process is killed, is sent when the *thread*
/// that started them ends; a test's thread may end long before a peer that several tests share.
fn spawn(command: Command) -> io::Result<Child> {
    type Order = (Command, Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<Sender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        std::thread::Builder::new()
            .name("peer-spawner".into())
            .spawn(move || {
                for (mut command, reply) in inbox {
                    // The requester waits for the reply, so it still exists.
                    let _ = reply.send(command.spawn());
                }
            })
            .expect("start a thread");
        orders
    });
    let (reply, answer) = channel();
    spawner
        .send((command, reply))
        .expect("the spawner thread never ends");
    answer.recv().expect("the spawner thread always answers")
}

/// Opens a TCP connection, as the simplest question to a program that listens.
pub(super) fn connects(net: &Net, port: &super::Port) -> Result<(), String> {
    let target = net.socket(port);
    net.within(|| std::net::TcpStream::connect_timeout(&target, Duration::from_secs(1)))
        .map(drop)
        .map_err(|error| format!("{target}: {error}"))
}
