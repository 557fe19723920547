//! The work that is measured: a client and a server on loopback, as bare as they can be, so that what is added
//! to them shows.

use std::{
    io::{self, BufRead, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use flowcar_lab::place::{Cgroup, Netns};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::bulk::{self, Way};

/// Bytes of a request.
pub(crate) const REQUEST: usize = 100;
/// Bytes of a response.
pub(crate) const RESPONSE: usize = 1000;

/// Which end is in the followed cgroup, as one of the two is in a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum End {
    /// Whoever connects.
    Client,
    /// Whoever listens.
    Server,
}

/// The work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Workload {
    /// Exchanges on one connection, one after the other.
    RequestResponse,
    /// Each exchange on a connection of its own.
    ConnectPerRequest,
    /// Payload from the client to the server, on one connection.
    Upload,
    /// Payload from the server to the client, on one connection.
    Download,
}

/// What a worker is asked to do.
#[derive(Debug, Serialize, Deserialize)]
enum Order {
    /// Works for this long, and answers with a [`Run`].
    Work(Workload, Duration),
    /// Closes a connection that has had its exchange, and answers with a [`Closed`].
    Close,
}

/// What it did.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Run {
    /// How often the work was done: exchanges, or megabytes.
    pub(crate) units: u64,
    /// Segments with payload, where they were counted: of bulk.
    pub(crate) segments: u64,
    /// Wall time.
    pub(crate) elapsed: Duration,
    /// CPU time of client and server, the kernel's work for them included.
    pub(crate) cpu: Duration,
}

/// A connection that the client has closed.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Closed {
    /// The client's port.
    pub(crate) port: u16,
    /// When close() was called, by CLOCK_MONOTONIC.
    pub(crate) at: Duration,
}

/// Where a worker listens.
#[derive(Clone, Copy, Debug)]
struct Servers {
    exchanges: SocketAddr,
    bulk: SocketAddr,
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

    /// In words.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

// === impl Workload ===

impl Workload {
    /// Those that are made of exchanges.
    pub(crate) const EXCHANGES: [Self; 2] = [Self::RequestResponse, Self::ConnectPerRequest];
    /// Those that move payload one way.
    pub(crate) const BULK: [Self; 2] = [Self::Upload, Self::Download];

    /// In words.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::RequestResponse => "request-response",
            Self::ConnectPerRequest => "connect-per-request",
            Self::Upload => "upload",
            Self::Download => "download",
        }
    }

    /// What is counted as one.
    pub(crate) const fn unit(self) -> &'static str {
        match self {
            Self::RequestResponse => "exchange",
            Self::ConnectPerRequest => "connection",
            Self::Upload | Self::Download => "MB",
        }
    }

    /// Nanoseconds of a unit that flowcar's programs may take at each end, as they are by default.
    pub(crate) const fn goal_ns(self) -> Option<f64> {
        match self {
            Self::RequestResponse => Some(100.0),
            Self::ConnectPerRequest => Some(800.0),
            Self::Upload | Self::Download => None,
        }
    }

    /// Units that were done, and segments.
    fn run(self, servers: Servers, duration: Duration) -> io::Result<(u64, u64)> {
        let ends = Instant::now() + duration;
        let mut exchanges = 0;
        match self {
            Self::RequestResponse => {
                let mut stream = connect(servers.exchanges)?;
                // At least one, also where connecting took all of the time.
                loop {
                    exchange(&mut stream)?;
                    exchanges += 1;
                    if Instant::now() >= ends {
                        break;
                    }
                }
                finish(stream)?;
            }
            Self::ConnectPerRequest => loop {
                let mut stream = connect(servers.exchanges)?;
                exchange(&mut stream)?;
                finish(stream)?;
                exchanges += 1;
                if Instant::now() >= ends {
                    break;
                }
            },
            Self::Upload | Self::Download => {
                let way = if self == Self::Upload {
                    Way::Up
                } else {
                    Way::Down
                };
                let moved = way.move_for(servers.bulk, duration)?;
                return Ok((moved.megabytes, moved.segments));
            }
        }
        Ok((exchanges, 0))
    }
}

// === impl Run ===

impl Run {
    /// Units a second.
    pub(crate) fn throughput(&self) -> f64 {
        self.units as f64 / self.elapsed.as_secs_f64()
    }

    /// Wall nanoseconds of a unit.
    pub(crate) fn unit_ns(&self) -> f64 {
        self.elapsed.as_nanos() as f64 / self.units as f64
    }

    /// CPU nanoseconds of a unit, both ends.
    pub(crate) fn cpu_ns(&self) -> f64 {
        self.cpu.as_nanos() as f64 / self.units as f64
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
        self.obey(&Order::Work(workload, duration))
    }

    /// Has it close a connection that has had its exchange.
    pub(crate) fn close(&mut self) -> io::Result<Closed> {
        self.obey(&Order::Close)
    }

    fn obey<T: DeserializeOwned>(&mut self, order: &Order) -> io::Result<T> {
        writeln!(self.orders, "{}", serde_json::to_string(order)?)?;
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
    let servers = Servers::start()?;
    println!("listening");
    for line in io::stdin().lines() {
        let result = match serde_json::from_str(&line?)? {
            Order::Work(workload, duration) => {
                serde_json::to_string(&timed(workload, servers, duration)?)
            }
            Order::Close => serde_json::to_string(&close(servers.exchanges)?),
        };
        println!("{}", result?);
    }
    Ok(())
}

fn timed(workload: Workload, servers: Servers, duration: Duration) -> io::Result<Run> {
    let (started, used) = (Instant::now(), cpu()?);
    let (units, segments) = workload.run(servers, duration)?;
    Ok(Run {
        units,
        segments,
        elapsed: started.elapsed(),
        cpu: cpu()? - used,
    })
}

fn close(server: SocketAddr) -> io::Result<Closed> {
    let mut stream = connect(server)?;
    exchange(&mut stream)?;
    let port = stream.local_addr()?.port();
    let at = monotonic()?;
    drop(stream);
    Ok(Closed { port, at })
}

/// The clock that all processes share.
pub(crate) fn monotonic() -> io::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_MONOTONIC)?.into())
}

// === impl Servers ===

impl Servers {
    fn start() -> io::Result<Self> {
        let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let (exchanges, bulk) = (listen()?, listen()?);
        let servers = Self {
            exchanges: exchanges.local_addr()?,
            bulk: bulk.local_addr()?,
        };
        thread::spawn(move || serve(&exchanges));
        thread::spawn(move || bulk::serve(&bulk));
        Ok(servers)
    }
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
