use std::{
    ffi::OsString,
    io::{self, IoSlice, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpStream},
    ops::RangeInclusive,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use socket2::SockRef;

use super::{
    options::{Close, CommandLine, SocketOptions, milliseconds, range},
    protocol::{Header, Then},
    report::{ConnectionReport, Failure, Percentiles, Phase, Role, Stopwatch, nanoseconds},
    socket,
    tcp_info::TcpInfo,
};

/// Bytes read or written at once.
const CHUNK: usize = 32 * 1024;

static ZEROS: [u8; CHUNK] = [0; CHUNK];

/// What to do on each of a number of connections.
#[derive(Clone, Debug, PartialEq, Args)]
pub struct CallPlan {
    /// The server
    pub target: SocketAddr,
    /// Own address, if not the one that the kernel chooses
    #[arg(long)]
    pub local: Option<IpAddr>,
    /// Connections to make
    #[arg(long, default_value_t = 1)]
    pub connections: u64,
    /// Connections open at a time
    #[arg(long, default_value_t = 1)]
    pub concurrency: u64,
    /// Exchanges on each connection: a number, or MIN-MAX
    #[arg(long, default_value = "1", value_parser = range)]
    pub exchanges: RangeInclusive<u64>,
    /// Bytes of each request besides its header of 32: a number, or MIN-MAX
    #[arg(long, default_value = "100", value_parser = range)]
    pub request: RangeInclusive<u64>,
    /// Bytes of each response: a number, or MIN-MAX
    #[arg(long, default_value = "1000", value_parser = range)]
    pub response: RangeInclusive<u64>,
    /// How long the server waits before each response
    #[arg(long, default_value = "0", value_parser = milliseconds, value_name = "MS")]
    pub delay: Duration,
    /// How long the server stops reading in the middle of each request
    #[arg(long, default_value = "0", value_parser = milliseconds, value_name = "MS")]
    pub stall: Duration,
    /// How long the client waits between exchanges
    #[arg(long, default_value = "0", value_parser = milliseconds, value_name = "MS")]
    pub pause: Duration,
    /// How each connection ends
    #[arg(long, value_enum, default_value_t)]
    pub close: Close,
    /// Gives up connecting, and each read and write, after this long
    #[arg(long, value_parser = milliseconds, value_name = "MS")]
    pub timeout: Option<Duration>,
    /// Decides the random sizes and numbers
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Socket options.
    #[command(flatten)]
    pub socket: SocketOptions,
}

/// A client's connection, one step at a time.
#[derive(Debug)]
pub struct Caller {
    plan: CallPlan,
    stream: TcpStream,
    random: fastrand::Rng,
    local: Option<SocketAddr>,
    connect: Duration,
    sent: u64,
    received: u64,
    exchanges: u64,
    /// The last exchange has begun.
    parting: bool,
    watch: Stopwatch,
}

// === impl CallPlan ===

impl CallPlan {
    /// The plan, if its intervals hold at least one number.
    pub(super) fn checked(&self) -> io::Result<&Self> {
        let empty = [&self.exchanges, &self.request, &self.response]
            .iter()
            .any(|range| range.is_empty());
        match empty {
            true => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "an interval of a call plan is empty",
            )),
            false => Ok(self),
        }
    }

    /// One connection with one exchange of 100 and 1,000 bytes, closed by the client.
    pub fn to(target: SocketAddr) -> Self {
        Self {
            target,
            local: None,
            connections: 1,
            concurrency: 1,
            exchanges: 1..=1,
            request: 100..=100,
            response: 1000..=1000,
            delay: Duration::ZERO,
            stall: Duration::ZERO,
            pause: Duration::ZERO,
            close: Close::Client,
            timeout: None,
            seed: 0,
            socket: SocketOptions::default(),
        }
    }

    /// This many connections, of which `concurrency` are open at a time.
    pub fn connections(self, connections: u64, concurrency: u64) -> Self {
        Self {
            connections,
            concurrency,
            ..self
        }
    }

    /// This many exchanges on each connection.
    pub fn exchanges(self, exchanges: u64) -> Self {
        Self {
            exchanges: exchanges..=exchanges,
            ..self
        }
    }

    /// Sizes of each request (besides its header) and response, uniform in these intervals.
    pub fn sizes(self, request: RangeInclusive<u64>, response: RangeInclusive<u64>) -> Self {
        Self {
            request,
            response,
            ..self
        }
    }

    /// How each connection ends.
    pub fn close(self, close: Close) -> Self {
        Self { close, ..self }
    }

    /// The arguments of `traffic call` that read as this plan.
    pub(super) fn arguments(&self) -> Vec<OsString> {
        self.command_line().into_arguments()
    }

    pub(super) fn command_line(&self) -> CommandLine {
        let line = CommandLine::default()
            .word(self.target)
            .maybe("--local", self.local)
            .option("--connections", self.connections)
            .option("--concurrency", self.concurrency)
            .interval("--exchanges", &self.exchanges)
            .interval("--request", &self.request)
            .interval("--response", &self.response)
            .milliseconds("--delay", self.delay)
            .milliseconds("--stall", self.stall)
            .milliseconds("--pause", self.pause)
            .option("--seed", self.seed)
            .maybe(
                "--close",
                self.close
                    .to_possible_value()
                    .map(|value| value.get_name().to_owned()),
            )
            .and(self.socket.arguments());
        match self.timeout {
            Some(timeout) => line.milliseconds("--timeout", timeout),
            None => line,
        }
    }

    fn random(&self, connection: u64) -> fastrand::Rng {
        // Any odd factor gives every connection another seed.
        fastrand::Rng::with_seed(self.seed ^ (connection + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}

/// Makes all connections of the plan, in the network namespace of the calling thread, and calls `on_report`
/// with each that ended. Failures of connections are in their reports.
///
/// # Errors
/// An interval of the plan is empty, or threads cannot be started.
pub fn call(plan: &CallPlan, on_report: impl FnMut(ConnectionReport) + Send) -> io::Result<()> {
    let plan = plan.checked()?;
    socket::raise_open_files()?;
    let next = AtomicU64::new(0);
    let on_report = Mutex::new(on_report);
    let work = || {
        loop {
            let connection = next.fetch_add(1, Ordering::Relaxed);
            if connection >= plan.connections {
                return;
            }
            let report = one_call(plan, connection);
            on_report.lock().unwrap_or_else(PoisonError::into_inner)(report);
        }
    };
    thread::scope(|scope| {
        for _ in 0..plan.concurrency.min(plan.connections).max(1) {
            thread::Builder::new()
                .name("call".to_owned())
                .stack_size(256 * 1024)
                .spawn_scoped(scope, work)?;
        }
        Ok(())
    })
}

fn one_call(plan: &CallPlan, connection: u64) -> ConnectionReport {
    let mut caller = match Caller::connect(plan, connection) {
        Ok(caller) => caller,
        Err(report) => return *report,
    };
    let exchanged = caller.all_exchanges();
    caller.finish(exchanged)
}

// === impl Caller ===

impl Caller {
    /// Connects; `connection` is its number in the plan, which decides its sizes.
    ///
    /// # Errors
    /// The report of the connection that failed.
    pub fn connect(plan: &CallPlan, connection: u64) -> Result<Self, Box<ConnectionReport>> {
        let started = Instant::now();
        let connected =
            socket::connecting(plan.target, plan.local, plan.socket).and_then(|socket| {
                match plan.timeout {
                    None => socket.connect(&plan.target.into())?,
                    Some(timeout) => socket.connect_timeout(&plan.target.into(), timeout)?,
                }
                let stream = TcpStream::from(socket);
                stream.set_read_timeout(plan.timeout)?;
                stream.set_write_timeout(plan.timeout)?;
                Ok((stream, Stopwatch::new()?))
            });
        let connect = started.elapsed();
        match connected {
            Ok((stream, watch)) => Ok(Self {
                local: stream.local_addr().ok(),
                random: plan.random(connection),
                plan: plan.clone(),
                stream,
                connect,
                sent: 0,
                received: 0,
                exchanges: 0,
                parting: false,
                watch,
            }),
            Err(error) => Err(Box::new(failed_to_connect(plan, connect, &error))),
        }
    }

    /// Own address.
    pub fn local(&self) -> Option<SocketAddr> {
        self.local
    }

    /// The socket, for what is not foreseen here.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// One exchange with the sizes that are next; the connection stays open.
    ///
    /// # Errors
    /// The operating system's.
    pub fn exchange(&mut self) -> io::Result<()> {
        self.exchange_then(Then::Continue)
    }

    /// The last exchange, in which the server learns how the connection is to end.
    ///
    /// # Errors
    /// The operating system's.
    pub fn last_exchange(&mut self) -> io::Result<()> {
        self.parting = true;
        self.exchange_then(match self.plan.close {
            Close::Client | Close::ResetByClient | Close::HalfByClient => Then::Continue,
            Close::Server | Close::Simultaneous => Then::Close,
            Close::ResetByServer => Then::Reset,
            Close::HalfByServer => Then::CloseOwnSide,
        })
    }

    /// Ends the connection as the plan says and reports; `exchanged` is how the exchanges went.
    pub fn finish(mut self, exchanged: io::Result<()>) -> ConnectionReport {
        let info = TcpInfo::of(&self.stream).ok();
        let failure = match exchanged {
            Err(error) => Some(Failure::new(Phase::Exchange, &error)),
            Ok(()) => self
                .close()
                .err()
                .map(|error| Failure::new(Phase::Close, &error)),
        };
        ConnectionReport {
            role: Role::Client,
            local: self.local,
            peer: self.plan.target,
            sent: self.sent,
            received: self.received,
            exchanges: self.exchanges,
            connect_ns: Some(nanoseconds(self.connect)),
            exchange: self.watch.percentiles(),
            close: Some(self.plan.close),
            failure,
            tcp_info: info,
        }
    }

    /// As many exchanges as the plan wants, the last one included.
    pub(super) fn all_exchanges(&mut self) -> io::Result<()> {
        let count = self.random.u64(self.plan.exchanges.clone());
        for number in 1..=count {
            if number > 1 {
                thread::sleep(self.plan.pause);
            }
            if number == count {
                self.last_exchange()?
            } else {
                self.exchange()?
            }
        }
        Ok(())
    }

    /// What its exchanges took.
    pub(super) fn stopwatch(&self) -> &Stopwatch {
        &self.watch
    }

    fn exchange_then(&mut self, then: Then) -> io::Result<()> {
        let header = Header {
            request: self.random.u64(self.plan.request.clone()),
            response: self.random.u64(self.plan.response.clone()),
            delay: self.plan.delay,
            stall: self.plan.stall,
            then,
        };
        let started = Instant::now();
        self.write(&header)?;
        if self.parting {
            self.close_while_waiting()?;
        }
        self.read(header.response)?;
        self.watch.record(started.elapsed());
        self.exchanges += 1;
        Ok(())
    }

    /// Header and payload leave in one segment where they fit.
    fn write(&mut self, header: &Header) -> io::Result<()> {
        let encoded = header.encode();
        let mut head: &[u8] = &encoded;
        let mut left = header.request;
        while !head.is_empty() || left > 0 {
            let body = &ZEROS[..left.min(CHUNK as u64) as usize];
            let written = self
                .stream
                .write_vectored(&[IoSlice::new(head), IoSlice::new(body)])?;
            self.sent += written as u64;
            let of_head = written.min(head.len());
            head = &head[of_head..];
            left -= (written - of_head) as u64;
        }
        Ok(())
    }

    fn read(&mut self, mut left: u64) -> io::Result<()> {
        let mut chunk = [0; CHUNK];
        while left > 0 {
            let most = left.min(CHUNK as u64) as usize;
            let read = self.stream.read(&mut chunk[..most])?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left -= read as u64;
            self.received += read as u64;
        }
        Ok(())
    }

    /// The endings in which the client's FIN leaves before the last response is read.
    fn close_while_waiting(&self) -> io::Result<()> {
        match self.plan.close {
            Close::HalfByClient => self.stream.shutdown(Shutdown::Write),
            Close::Simultaneous => {
                let rtt = Duration::from_micros(TcpInfo::of(&self.stream)?.rtt.into());
                thread::sleep(rtt / 2);
                self.stream.shutdown(Shutdown::Write)
            }
            _ => Ok(()),
        }
    }

    fn close(&mut self) -> io::Result<()> {
        // A server that was not told how to end waits for the client.
        let told = self.parting || self.plan.close == Close::ResetByClient;
        match if told { self.plan.close } else { Close::Client } {
            Close::Client => {
                self.stream.shutdown(Shutdown::Write)?;
                self.await_end()
            }
            Close::Server | Close::Simultaneous | Close::HalfByClient => self.await_end(),
            Close::HalfByServer => {
                self.await_end()?;
                thread::sleep(self.plan.pause);
                Ok(())
            }
            Close::ResetByClient => socket::reset_on_close(SockRef::from(&self.stream)),
            Close::ResetByServer => match self.await_end() {
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
                Err(error) => Err(error),
                Ok(()) => Err(io::Error::other("the server sent a FIN, not a RST")),
            },
        }
    }

    /// Reads the server's FIN.
    fn await_end(&mut self) -> io::Result<()> {
        match self.stream.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(io::Error::other("the server sent more than was asked")),
        }
    }
}

fn failed_to_connect(plan: &CallPlan, connect: Duration, error: &io::Error) -> ConnectionReport {
    ConnectionReport {
        role: Role::Client,
        local: None,
        peer: plan.target,
        sent: 0,
        received: 0,
        exchanges: 0,
        connect_ns: Some(nanoseconds(connect)),
        exchange: Percentiles::default(),
        close: None,
        failure: Some(Failure::new(Phase::Connect, error)),
        tcp_info: None,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Reader {
        #[command(flatten)]
        plan: CallPlan,
    }

    #[test]
    fn a_plan_survives_the_command_line() {
        let plan = CallPlan {
            local: Some("10.1.2.3".parse().unwrap()),
            exchanges: 2..=5,
            delay: Duration::from_micros(1500),
            stall: Duration::from_secs(100),
            pause: Duration::from_millis(7),
            close: Close::HalfByServer,
            timeout: Some(Duration::from_millis(250)),
            seed: u64::MAX,
            socket: SocketOptions {
                receive_buffer: Some(4096),
                send_buffer: Some(8192),
                fast_open: true,
                mptcp: true,
            },
            ..CallPlan::to("[fd77::1]:80".parse().unwrap())
        };
        let plan = plan.connections(9, 3).sizes(0..=u64::MAX, 1..=2);
        let program = std::iter::once(OsString::from("traffic"));
        let read = Reader::try_parse_from(program.chain(plan.arguments())).unwrap();
        assert_eq!(read.plan, plan);
    }
}
