//! The work that is measured: a client and a server on loopback, as bare as they can be, so that what is added
//! to them shows.

use std::{
    io::{self, BufRead, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use flowcar_tests::place::{Cgroup, Netns};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Bytes of a request.
pub(crate) const REQUEST: usize = 100;
/// Bytes of a response.
pub(crate) const RESPONSE: usize = 1000;

/// Which end is in the followed cgroup, as one of the two is in a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Whoever connects.
    Client,
    /// Whoever listens.
    Server,
}

/// How exchanges are put on connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Workload {
    /// All on one connection, one after the other.
    RequestResponse,
    /// Each on a connection of its own.
    ConnectPerRequest,
}

/// What a worker is asked to do.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    workload: Workload,
    duration: Duration,
}

/// What it did.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Run {
    /// Exchanges that were completed.
    pub(crate) exchanges: u64,
    /// Wall time.
    pub(crate) elapsed: Duration,
    /// CPU time of client and server, the kernel's work for them included.
    pub(crate) cpu: Duration,
}

/// A worker that waits for orders.
#[derive(Debug)]
pub(crate) struct Worker {
    child: Child,
    orders: ChildStdin,
    results: io::Lines<io::BufReader<ChildStdout>>,
}

// === impl End ===

impl End {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::Client, Self::Server];
}

// === impl Workload ===

impl Workload {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::RequestResponse, Self::ConnectPerRequest];

    fn run(self, server: SocketAddr, duration: Duration) -> io::Result<u64> {
        let ends = Instant::now() + duration;
        let mut exchanges = 0;
        match self {
            Self::RequestResponse => {
                let mut stream = connect(server)?;
                while Instant::now() < ends {
                    exchange(&mut stream)?;
                    exchanges += 1;
                }
                finish(stream)?;
            }
            Self::ConnectPerRequest => {
                while Instant::now() < ends {
                    let mut stream = connect(server)?;
                    exchange(&mut stream)?;
                    finish(stream)?;
                    exchanges += 1;
                }
            }
        }
        Ok(exchanges)
    }
}

// === impl Run ===

impl Run {
    /// Exchanges a second.
    pub(crate) fn throughput(&self) -> f64 {
        self.exchanges as f64 / self.elapsed.as_secs_f64()
    }

    /// Wall nanoseconds of an exchange.
    pub(crate) fn exchange_ns(&self) -> f64 {
        self.elapsed.as_nanos() as f64 / self.exchanges as f64
    }

    /// CPU nanoseconds of an exchange, both ends.
    pub(crate) fn cpu_ns(&self) -> f64 {
        self.cpu.as_nanos() as f64 / self.exchanges as f64
    }
}

// === impl Worker ===

impl Worker {
    /// Starts this program as a worker in `netns`, with the sockets of one end in `followed` and the other's beside it.
    ///
    /// A socket belongs to the cgroup that its maker was in, and an accepted one to its listener's, so the worker
    /// makes its listener in the one cgroup and is then moved to the other.
    pub(crate) fn start(
        netns: &Netns,
        end: End,
        followed: &Cgroup,
        beside: &Cgroup,
    ) -> io::Result<Self> {
        let (listens, connects) = match end {
            End::Client => (beside, followed),
            End::Server => (followed, beside),
        };
        let mut command = Command::new(std::env::current_exe()?);
        netns.enter(&mut command)?;
        listens.enter(&mut command)?;
        let mut child = command
            .arg("--worker")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let pipe = || io::Error::other("a child without the pipe that was asked for");
        let mut worker = Self {
            orders: child.stdin.take().ok_or_else(pipe)?,
            results: io::BufReader::new(child.stdout.take().ok_or_else(pipe)?).lines(),
            child,
        };
        worker.result()?;
        connects.adopt(worker.child.id())?;
        Ok(worker)
    }

    fn result(&mut self) -> io::Result<String> {
        let line = self.results.next().transpose()?;
        line.ok_or_else(|| io::Error::other("the worker ended"))
    }

    /// Has it work.
    pub(crate) fn run(&mut self, workload: Workload, duration: Duration) -> io::Result<Run> {
        let order = serde_json::to_string(&Order { workload, duration })?;
        writeln!(self.orders, "{order}")?;
        Ok(serde_json::from_str(&self.result()?)?)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended, or have been killed with its place.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Takes orders on standard input until it ends.
pub(crate) fn work() -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let server = listener.local_addr()?;
    println!("listening");
    thread::spawn(move || serve(&listener));
    for line in io::stdin().lines() {
        let Order { workload, duration } = serde_json::from_str(&line?)?;
        let (started, used) = (Instant::now(), cpu()?);
        let exchanges = workload.run(server, duration)?;
        let run = Run {
            exchanges,
            elapsed: started.elapsed(),
            cpu: cpu()? - used,
        };
        println!("{}", serde_json::to_string(&run)?);
    }
    Ok(())
}

fn cpu() -> io::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?.into())
}

/// One connection at a time: the client has no more.
fn serve(listener: &TcpListener) {
    for stream in listener.incoming() {
        // The client sees every failure, too, and reports it.
        let _ = stream.and_then(answer);
    }
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut request = [0; REQUEST];
    while stream.read(&mut request[..1])? == 1 {
        stream.read_exact(&mut request[1..])?;
        stream.write_all(&[0; RESPONSE])?;
    }
    Ok(())
}

fn connect(server: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(server)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn exchange(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(&[0; REQUEST])?;
    stream.read_exact(&mut [0; RESPONSE])
}

/// Closes, and waits until the server has, so that its work is part of this run.
fn finish(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown(Shutdown::Write)?;
    stream.read(&mut [0]).map(drop)
}
