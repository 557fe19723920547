//! The product under test: `flowcar run` and `flowcar export` in a test pod, with the two capabilities that they may have.

mod flows;
mod pair;
mod report;

use std::{
    env,
    ffi::OsStr,
    fs,
    io::{self, BufRead, BufReader},
    net::SocketAddr,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
};

use serde::Deserialize;
use tempfile::NamedTempFile;

use self::report::parse;
pub use self::{
    flows::{flows, listing},
    pair::{Called, Connection, Pair},
    report::{Address, Exchanges, FlowLine, PeerLine, Report, Rtt, Summary, Times, both_ends},
};
use crate::{
    place::{Capability, OnlyCaps, TestPod},
    traffic::{self, ConnectionReport},
};

/// All capabilities that flowcar may need.
pub const CAPABILITIES: [Capability; 2] = [Capability::CAP_BPF, Capability::CAP_NET_ADMIN];

/// Where the binary `flowcar` is, as seen from a test or another binary of this crate.
///
/// # Errors
/// It was not built: `cargo build -p flowcar`.
pub fn program() -> io::Result<PathBuf> {
    let this = env::current_exe()?;
    // Binaries lie in target/PROFILE, tests in target/PROFILE/deps.
    this.ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join("flowcar"))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            let message =
                "the program flowcar is not beside this one; build it with: cargo build -p flowcar";
            io::Error::new(io::ErrorKind::NotFound, message)
        })
}

/// `flowcar`, to be given its arguments, where the tests are and with their rights.
///
/// It has no setting of the tests' own environment, as all that is started by this module.
///
/// # Errors
/// It was not built.
pub fn bare() -> io::Result<Command> {
    started_by(&[])
}

/// The same where another program starts it, by these words with flowcar's path behind them. The script of `["sh", "-c", SCRIPT]` has the path
/// as `$0`.
///
/// # Errors
/// It was not built.
pub fn started_by(words: &[&str]) -> io::Result<Command> {
    let program = program()?;
    let mut words = words.iter().map(OsStr::new).chain([program.as_os_str()]);
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words);
    without_settings(&mut command);
    Ok(command)
}

/// The same by an open descriptor, because its user may not be allowed to open every folder above the build. The
/// file is to be kept until it has been started.
///
/// # Errors
/// It was not built.
pub fn by_descriptor() -> io::Result<(fs::File, Command)> {
    let file = fs::File::open(program()?)?;
    let mut command = Command::new(format!("/proc/self/fd/{}", file.as_raw_fd()));
    without_settings(&mut command);
    Ok((file, command))
}

/// `flowcar` in a test pod, to be given its arguments, with [`CAPABILITIES`] alone.
///
/// # Errors
/// It was not built, or the pod cannot be entered.
pub fn command(pod: &TestPod) -> io::Result<Command> {
    let mut command = bare()?;
    pod.enter(&mut command)?;
    command.with_only_caps(&CAPABILITIES);
    Ok(command)
}

/// `flowcar top` over a test pod, from the test's own shell, as root's on a host.
///
/// # Errors
/// It was not built, or the pod's network namespace cannot be entered.
pub fn top(pod: &TestPod) -> io::Result<Command> {
    let mut command = bare()?;
    pod.netns().enter(&mut command)?;
    command.args(["top", "--cgroup"]).arg(pod.cgroup().path());
    Ok(command)
}

/// Keeps flowcar's settings in the tests' own environment from a command.
fn without_settings(command: &mut Command) {
    for (name, _) in env::vars_os() {
        let of = |prefix| name.to_string_lossy().starts_with(prefix);
        if of("FLOWCAR_") || of("OTEL_") {
            command.env_remove(name);
        }
    }
}

/// Names and values of flowcar's settings.
pub type Settings<'a> = &'a [(&'a str, &'a str)];

/// `flowcar run --format json -o FILE -- COMMAND` in a test pod. It is killed on drop; its command, with the
/// pod.
#[derive(Debug)]
pub struct Run {
    child: Child,
    report: NamedTempFile,
}

// === impl Run ===

impl Run {
    /// Starts it. The command's standard output can be taken by [`Run::stdout`].
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(pod: &TestPod, program: &Path, arguments: &[&str]) -> io::Result<Self> {
        Self::start_with(pod, &[], program, arguments)
    }

    /// As [`Run::start`], with these settings. Exchanges are measured only where they say so, as by `flowcar export`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_with(
        pod: &TestPod,
        settings: Settings,
        program: &Path,
        arguments: &[&str],
    ) -> io::Result<Self> {
        let report = NamedTempFile::new()?;
        let child = command(pod)?
            .env("FLOWCAR_EXCHANGE", "off")
            .envs(settings.iter().copied())
            .args(["run", "--format", "json", "-o"])
            .arg(report.path())
            .arg("--")
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Self { child, report })
    }

    /// flowcar's process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The standard output, which is the command's.
    ///
    /// # Errors
    /// It was taken before.
    pub fn stdout(&mut self) -> io::Result<BufReader<ChildStdout>> {
        let stdout = self.child.stdout.take();
        stdout
            .map(BufReader::new)
            .ok_or_else(|| io::Error::other("standard output was taken before"))
    }

    /// Waits until it ends, and reads its report.
    ///
    /// # Errors
    /// The report violates the telemetry contract.
    pub fn finish(mut self) -> io::Result<(ExitStatus, Report)> {
        let status = self.child.wait()?;
        let text = fs::read_to_string(self.report.path())?;
        let report = Report::parse(&text).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("flowcar: {status}; its report: {error}"),
            )
        })?;
        Ok((status, report))
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // It may have exited, or have been killed with its pod.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `traffic call TARGET ARGUMENTS` in a test pod, followed by a flowcar of its own.
///
/// # Errors
/// A program cannot be started or fails.
pub fn call(
    pod: &TestPod,
    target: SocketAddr,
    arguments: &[&str],
) -> io::Result<(Vec<ConnectionReport>, Report)> {
    call_with(pod, &[], target, arguments)
}

fn call_with(
    pod: &TestPod,
    settings: Settings,
    target: SocketAddr,
    arguments: &[&str],
) -> io::Result<(Vec<ConnectionReport>, Report)> {
    let target = target.to_string();
    let mut words = vec!["call", &target];
    words.extend_from_slice(arguments);
    let mut run = Run::start_with(pod, settings, &traffic::program()?, &words)?;
    let reports = lines(run.stdout()?)?;
    succeeded(reports, run)
}

/// `traffic serve` in a test pod, followed by a flowcar of its own, until so many connections are closed.
#[derive(Debug)]
pub struct Server {
    run: Run,
    stdout: BufReader<ChildStdout>,
    address: SocketAddr,
}

// === impl Server ===

impl Server {
    /// Starts it on all addresses and waits until it listens.
    ///
    /// # Errors
    /// It cannot be started, or cannot listen.
    pub fn start(pod: &TestPod, connections: usize) -> io::Result<Self> {
        Self::start_with(pod, &[], connections, &[])
    }

    fn start_with(
        pod: &TestPod,
        settings: Settings,
        connections: usize,
        sockets: &[&str],
    ) -> io::Result<Self> {
        #[derive(Deserialize)]
        struct Ready {
            listening: SocketAddr,
        }
        let until = connections.to_string();
        let mut words = vec!["serve", "--listen", "[::]:0", "--until", &until];
        words.extend_from_slice(sockets);
        let mut run = Run::start_with(pod, settings, &traffic::program()?, &words)?;
        let mut stdout = run.stdout()?;
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        let Ready { listening } = parse(&line)?;
        Ok(Self {
            run,
            stdout,
            address: listening,
        })
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Waits until its connections are closed.
    ///
    /// # Errors
    /// It failed.
    pub fn finish(self) -> io::Result<(Vec<ConnectionReport>, Report)> {
        let Self { run, stdout, .. } = self;
        succeeded(lines(stdout)?, run)
    }
}

fn lines(stdout: BufReader<ChildStdout>) -> io::Result<Vec<ConnectionReport>> {
    stdout.lines().map(|line| parse(&line?)).collect()
}

fn succeeded(
    reports: Vec<ConnectionReport>,
    run: Run,
) -> io::Result<(Vec<ConnectionReport>, Report)> {
    let (status, report) = run.finish()?;
    if status.success() {
        Ok((reports, report))
    } else {
        Err(io::Error::other(format!("flowcar run: {status}")))
    }
}
