//! Connections that close a few milliseconds apart.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use serde::{Deserialize, Serialize};
use socket2::SockRef;

use super::{
    ending::{FIRST, give, probe, reset},
    namespaces::Namespaces,
};

/// From connection to connection.
const APART: Duration = Duration::from_millis(6);

/// From the last payload of a connection until its client closes with SO_LINGER 0, where it does: when timers end its neighbours, whose
/// two probes after an idle second have had no answer.
const ABORTED_AFTER: Duration = Duration::from_millis(2_950);

/// How long the kernel may take to end all.
const PATIENCE: Duration = Duration::from_secs(20);

/// Connections whose timers end both ends.
#[derive(Clone, Debug, Args)]
pub struct CrowdPlan {
    /// How many.
    #[arg(long)]
    pub connections: u32,
    /// The client of every other one closes with SO_LINGER 0 when timers end the others
    #[arg(long)]
    pub aborts: bool,
}

/// Both ends of one.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct CrowdReport {
    /// The client's address.
    pub client: SocketAddr,
    /// The server's address.
    pub server: SocketAddr,
    /// The client closed it; else its timer did, as the server's in any case.
    pub is_aborted: bool,
}

struct Member {
    client: TcpStream,
    server: TcpStream,
    report: CrowdReport,
    at: Instant,
}

/// Opens the connections, exchanges payload, drops every further segment, and waits until all have closed.
///
/// # Errors
/// A system call fails that should not, or a connection does not time out.
pub fn crowd(plan: &CrowdPlan) -> io::Result<Vec<CrowdReport>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let open = |number| {
        thread::sleep(APART);
        Member::open(&listener, plan.aborts && number % 2 == 1)
    };
    let mut members = (0..plan.connections)
        .map(open)
        .collect::<io::Result<Vec<_>>>()?;
    Namespaces::with_client_in(None)?.cut(listener.local_addr()?, true)?;
    for member in members.iter_mut().filter(|of| of.report.is_aborted) {
        let until = member.at + ABORTED_AFTER;
        thread::sleep(until.saturating_duration_since(Instant::now()));
        reset(&mut member.client)?;
    }
    for member in &members {
        if !member.report.is_aborted {
            times_out(&member.client)?;
        }
        times_out(&member.server)?;
    }
    Ok(members.iter().map(|member| member.report).collect())
}

impl Member {
    fn open(listener: &TcpListener, is_aborted: bool) -> io::Result<Self> {
        let mut client = TcpStream::connect(listener.local_addr()?)?;
        let (mut server, _) = listener.accept()?;
        give(&mut client, &mut server, FIRST)?;
        give(&mut server, &mut client, FIRST)?;
        probe(&client, 2)?;
        probe(&server, 2)?;
        let report = CrowdReport {
            client: client.local_addr()?,
            server: server.local_addr()?,
            is_aborted,
        };
        Ok(Self {
            client,
            server,
            report,
            at: Instant::now(),
        })
    }
}

fn times_out(socket: &TcpStream) -> io::Result<()> {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        match SockRef::from(socket).take_error()? {
            Some(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(()),
            Some(error) => return Err(error),
            None => thread::sleep(Duration::from_millis(1)),
        }
    }
    Err(io::Error::other("it did not time out"))
}
