use std::{
    ffi::OsString,
    io::{self, BufRead, BufReader, Write},
    net::{IpAddr, SocketAddr},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use clap::ValueEnum as _;
use serde::de::DeserializeOwned;

use super::{
    asks::Answered,
    call_plan::CallPlan,
    connects::Connected,
    ending::{Ended, Way},
    load::{LoadPlan, LoadReport},
    program,
    report::ConnectionReport,
    serve::ServePlan,
};
use crate::place::TestPod;

/// `traffic serve` in a test pod. It is killed on drop.
#[derive(Debug)]
pub struct Serving {
    child: Running,
    address: SocketAddr,
    reports: Receiver<io::Result<ConnectionReport>>,
}

/// `traffic hold` in a test pod: connections that stay open until [`Holding::close`]. It is killed on drop.
#[derive(Debug)]
pub struct Holding {
    child: Running,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    open: usize,
}

/// `traffic end` in a test pod: a connection that is open until [`Teardown::go_on`]. It is killed on drop.
#[derive(Debug)]
pub struct Teardown {
    child: Running,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

/// `traffic connect` in a test pod. It is killed on drop.
#[derive(Debug)]
pub struct Connecting {
    child: Running,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

#[derive(Debug)]
struct Running(Child);

/// Runs `traffic call` in a test pod until it is done.
///
/// # Errors
/// The program cannot be started, or fails.
pub fn call_in(pod: &TestPod, plan: &CallPlan) -> io::Result<Vec<ConnectionReport>> {
    let (mut child, stdout) = start(pod, "call", plan.arguments())?;
    let reports = BufReader::new(stdout)
        .lines()
        .map(|line| parse(&line?))
        .collect::<io::Result<_>>()?;
    child.succeed()?;
    Ok(reports)
}

/// Runs `traffic load` in a test pod until it is done.
///
/// # Errors
/// The program cannot be started, or fails.
pub fn load_in(pod: &TestPod, plan: &LoadPlan) -> io::Result<LoadReport> {
    let (mut child, stdout) = start(pod, "load", plan.arguments())?;
    let report = read_line(&mut BufReader::new(stdout))?;
    child.succeed()?;
    Ok(report)
}

/// Runs `traffic ask` in a test pod until it is done.
///
/// # Errors
/// The program cannot be started, or fails.
pub fn ask_in(
    pod: &TestPod,
    resolver: SocketAddr,
    message: &[u8],
    arguments: &[&str],
) -> io::Result<Answered> {
    let message: String = message.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut all = vec![resolver.to_string().into(), message.into()];
    all.extend(arguments.iter().map(OsString::from));
    let (mut child, stdout) = start(pod, "ask", all)?;
    let answered = read_line(&mut BufReader::new(stdout))?;
    child.succeed()?;
    Ok(answered)
}

fn start(
    pod: &TestPod,
    command: &str,
    arguments: Vec<OsString>,
) -> io::Result<(Running, ChildStdout)> {
    let mut running = Running(prepare(pod, command, arguments)?.spawn()?);
    let stdout = running.0.stdout.take().ok_or_else(no_pipe)?;
    Ok((running, stdout))
}

fn prepare(pod: &TestPod, command: &str, arguments: Vec<OsString>) -> io::Result<Command> {
    let mut prepared = Command::new(program()?);
    pod.enter(&mut prepared)?;
    prepared
        .arg(command)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    Ok(prepared)
}

// === impl Connecting ===

impl Connecting {
    /// Starts it with these arguments.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(pod: &TestPod, target: SocketAddr, arguments: &[&str]) -> io::Result<Self> {
        let mut all = vec![target.to_string().into()];
        all.extend(arguments.iter().map(OsString::from));
        let mut child = Running(
            prepare(pod, "connect", all)?
                .stdin(Stdio::piped())
                .spawn()?,
        );
        let stdin = child.0.stdin.take().ok_or_else(no_pipe)?;
        let stdout = child.0.stdout.take().ok_or_else(no_pipe)?;
        Ok(Self {
            child,
            stdin,
            stdout: BufReader::new(stdout),
        })
    }

    /// The next call's result.
    ///
    /// # Errors
    /// There is none.
    pub fn next_result(&mut self) -> io::Result<Connected> {
        read_line(&mut self.stdout)
    }

    /// Ends its pause.
    ///
    /// # Errors
    /// It has exited.
    pub fn go_on(&mut self) -> io::Result<()> {
        self.stdin.write_all(b"\n")
    }

    /// Kills it with its sockets open.
    ///
    /// # Errors
    /// It has exited.
    pub fn kill(mut self) -> io::Result<()> {
        self.child.0.kill()
    }

    /// The results that are left, once all sockets are closed.
    ///
    /// # Errors
    /// The program fails.
    pub fn finish(self) -> io::Result<Vec<Connected>> {
        let Self {
            child,
            stdin,
            stdout,
        } = self;
        rest(child, stdin, stdout)
    }
}

// === impl Serving ===

impl Serving {
    /// Starts it and waits until it listens.
    ///
    /// # Errors
    /// The program cannot be started, or cannot listen.
    pub fn start(pod: &TestPod, plan: &ServePlan) -> io::Result<Self> {
        #[derive(serde::Deserialize)]
        struct Ready {
            listening: SocketAddr,
        }
        let (child, stdout) = start(pod, "serve", plan.arguments())?;
        let mut stdout = BufReader::new(stdout);
        let Ready { listening } = read_line(&mut stdout)?;
        let (to, reports) = mpsc::channel();
        thread::spawn(move || {
            for line in stdout.lines() {
                let report = line.and_then(|line| parse(&line));
                if to.send(report).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            child,
            address: listening,
            reports,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.0.id()
    }

    /// The next so many reports of closed connections, in the order in which they closed.
    ///
    /// # Errors
    /// There were fewer when `within` ran out, or the program exited.
    pub fn reports(&self, count: usize, within: Duration) -> io::Result<Vec<ConnectionReport>> {
        let deadline = Instant::now() + within;
        let mut reports = Vec::with_capacity(count);
        while reports.len() < count {
            let left = deadline.saturating_duration_since(Instant::now());
            let report = self.reports.recv_timeout(left).map_err(|error| {
                io::Error::other(format!(
                    "{} of {count} connections closed at the server: {error}",
                    reports.len()
                ))
            })?;
            reports.push(report?);
        }
        Ok(reports)
    }
}

// === impl Holding ===

impl Holding {
    /// Starts it and waits until its connections are open.
    ///
    /// # Errors
    /// The program cannot be started, or fails.
    pub fn start(pod: &TestPod, plan: &CallPlan) -> io::Result<Self> {
        #[derive(serde::Deserialize)]
        struct Ready {
            open: usize,
        }
        let mut child = Running(
            prepare(pod, "hold", plan.arguments())?
                .stdin(Stdio::piped())
                .spawn()?,
        );
        let stdin = child.0.stdin.take().ok_or_else(no_pipe)?;
        let mut stdout = BufReader::new(child.0.stdout.take().ok_or_else(no_pipe)?);
        let Ready { open } = read_line(&mut stdout)?;
        Ok(Self {
            child,
            stdin,
            stdout,
            open,
        })
    }

    /// How many connections are open.
    pub fn open(&self) -> usize {
        self.open
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.0.id()
    }

    /// Makes one more exchange on each connection and gives how many are still open.
    ///
    /// # Errors
    /// The program exited.
    pub fn exchange(&mut self) -> io::Result<usize> {
        #[derive(serde::Deserialize)]
        struct Done {
            exchanged: usize,
        }
        self.stdin.write_all(b"\n")?;
        let Done { exchanged } = read_line(&mut self.stdout)?;
        self.open = exchanged;
        Ok(exchanged)
    }

    /// Closes the connections by the plan and returns the reports of all connections.
    ///
    /// # Errors
    /// The program failed.
    pub fn close(self) -> io::Result<Vec<ConnectionReport>> {
        let Self {
            child,
            stdin,
            stdout,
            ..
        } = self;
        rest(child, stdin, stdout)
    }
}

// === impl Ending ===

impl Teardown {
    /// Starts it, with both ends of its connection in the pod, and waits until that is open.
    ///
    /// # Errors
    /// The program cannot be started, or fails.
    pub fn start(pod: &TestPod, way: Way, v6: bool) -> io::Result<Self> {
        let at = if v6 { "::1" } else { "127.0.0.1" };
        Self::start_with(pod, way, vec!["--at".into(), at.into()])
    }

    /// The same between two pods, from the client's to an address of the server's.
    ///
    /// # Errors
    /// As [`Teardown::start`].
    pub fn between(client: &TestPod, server: &TestPod, at: IpAddr, way: Way) -> io::Result<Self> {
        let arguments = [
            OsString::from("--at"),
            at.to_string().into(),
            "--client-cgroup".into(),
            client.cgroup().path().into(),
            "--client-netns".into(),
            client.netns().path().into(),
        ];
        Self::start_with(server, way, arguments.into())
    }

    fn start_with(pod: &TestPod, way: Way, mut arguments: Vec<OsString>) -> io::Result<Self> {
        let name = way.to_possible_value().ok_or_else(no_pipe)?;
        arguments.insert(0, name.get_name().into());
        let mut child = Running(
            prepare(pod, "end", arguments)?
                .stdin(Stdio::piped())
                .spawn()?,
        );
        let stdin = child.0.stdin.take().ok_or_else(no_pipe)?;
        let mut stdout = BufReader::new(child.0.stdout.take().ok_or_else(no_pipe)?);
        read_line::<serde_json::Value>(&mut stdout)?;
        Ok(Self {
            child,
            stdin,
            stdout,
        })
    }

    /// Lets it continue: it closes the connection, or, where the socket is held, the socket.
    ///
    /// # Errors
    /// The program exited.
    pub fn go_on(&mut self) -> io::Result<()> {
        self.stdin.write_all(b"\n")
    }

    /// The report of both ends, once the connection is closed.
    ///
    /// # Errors
    /// The program failed.
    pub fn ended(mut self) -> io::Result<Ended> {
        let ended = read_line(&mut self.stdout)?;
        self.child.succeed()?;
        Ok(ended)
    }
}

// === impl Running ===

impl Running {
    fn succeed(&mut self) -> io::Result<()> {
        let status = self.0.wait()?;
        if status.success() {
            Ok(())
        } else {
            Err(io::Error::other(format!("traffic: {status}")))
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have exited, or have been killed with its pod.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn read_line<T: DeserializeOwned>(stdout: &mut impl BufRead) -> io::Result<T> {
    let mut line = String::new();
    if stdout.read_line(&mut line)? == 0 {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "traffic exited; its reason is on standard error",
        ));
    }
    parse(&line)
}

/// Ends a program's input, and gives the lines that it prints until it exits.
fn rest<T: DeserializeOwned>(
    mut child: Running,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
) -> io::Result<Vec<T>> {
    drop(stdin);
    let lines = stdout.lines().map(|line| parse(&line?));
    let all = lines.collect::<io::Result<_>>()?;
    child.succeed()?;
    Ok(all)
}

fn parse<T: DeserializeOwned>(line: &str) -> io::Result<T> {
    serde_json::from_str(line)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("{error}: {line}")))
}

fn no_pipe() -> io::Error {
    io::Error::other("a child without the pipe that was asked for")
}
