use std::{
    io::{self, IoSlice, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use socket2::SockRef;

use super::{
    call_plan::CallPlan,
    kernel_tls,
    options::Close,
    protocol::{Header, Then},
    report::{ConnectionReport, Failure, Percentiles, Phase, Role, Stopwatch, nanoseconds},
    socket,
    tcp_info::TcpInfo,
};

/// Bytes read or written at once.
const CHUNK: usize = 32 * 1024;

static ZEROS: [u8; CHUNK] = [0; CHUNK];

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

/// Makes all connections of the plan, in the network namespace of the calling thread, and calls `on_report`
/// with each report. Failures of connections are in their reports.
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
        let connected = socket::connecting(plan.target, plan.local_address(), plan.socket)
            .and_then(|socket| {
                match plan.timeout {
                    None => socket.connect(&plan.target.into())?,
                    Some(timeout) => socket.connect_timeout(&plan.target.into(), timeout)?,
                }
                if plan.socket.kernel_tls {
                    kernel_tls::start(&socket)?;
                }
                let stream = TcpStream::from(socket);
                stream.set_read_timeout(plan.timeout)?;
                stream.set_write_timeout(plan.timeout)?;
                Ok((stream, Stopwatch::new()?))
            });
        let connect = started.elapsed();
        match connected {
            Ok((stream, watch)) => Ok(Self::new(plan, connection, stream, connect, watch)),
            Err(error) => Err(Box::new(failed_to_connect(plan, connect, &error))),
        }
    }

    /// Goes on with a connection that somebody else made.
    ///
    /// # Errors
    /// No memory is left.
    pub(super) fn over(plan: &CallPlan, stream: TcpStream) -> io::Result<Self> {
        let watch = Stopwatch::new()?;
        Ok(Self::new(plan, 0, stream, Duration::ZERO, watch))
    }

    fn new(
        plan: &CallPlan,
        connection: u64,
        stream: TcpStream,
        connect: Duration,
        watch: Stopwatch,
    ) -> Self {
        Self {
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
        }
    }

    /// Local address.
    pub fn local(&self) -> Option<SocketAddr> {
        self.local
    }

    /// The socket, for options that have no method here.
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

    /// The last exchange, in which the server learns how the connection is closed.
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

    /// Closes the connection by the plan and reports; `exchanged` is the result of the exchanges.
    pub fn finish(mut self, exchanged: io::Result<()>) -> ConnectionReport {
        let info = TcpInfo::of(&self.stream).ok();
        let failure = match exchanged {
            Err(error) => Some(Failure::new(Phase::Exchange, &error)),
            Ok(()) => self
                .close()
                .err()
                .map(|error| Failure::new(Phase::Close, &error)),
        };
        self.report(failure, info)
    }

    /// Reports, and drops the connection without closing it: another process has it, too.
    pub(super) fn leave(self) -> ConnectionReport {
        let info = TcpInfo::of(&self.stream).ok();
        self.report(None, info)
    }

    fn report(&self, failure: Option<Failure>, info: Option<TcpInfo>) -> ConnectionReport {
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

    /// All exchanges of the plan, the last one included.
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

    /// The ways to close in which the client's FIN leaves before the last response is read.
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
        // A server that has got no close command waits for the client.
        let reported = self.parting || self.plan.close == Close::ResetByClient;
        match if reported {
            self.plan.close
        } else {
            Close::Client
        } {
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
