//! Connections that close a few milliseconds apart.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use socket2::SockRef;

use super::{
    ending::{FIRST, give, probe, reset},
    namespaces::Namespaces,
};

/// From connection to connection.
const APART: Duration = Duration::from_millis(6);

/// From the last payload of a connection until one of its ends resets it, where it does: when timers end its neighbours, whose two probes
/// after an idle second have had no answer.
const RESET_AFTER: Duration = Duration::from_millis(2_950);

/// How long the kernel may take to end all.
const PATIENCE: Duration = Duration::from_secs(20);

/// What ends every other connection of a crowd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Among {
    /// Timers, as they do the others.
    Timeouts,
    /// The client closes with SO_LINGER 0, and its RST is dropped: a timer ends the server.
    Aborts,
    /// The server closes with SO_LINGER 0, and its RST comes.
    Resets,
}

/// Connections whose timers end both ends, and others among them.
#[derive(Clone, Debug, Args)]
pub struct CrowdPlan {
    /// How many.
    #[arg(long)]
    pub connections: u32,
    /// What ends every other one.
    #[arg(long, value_enum)]
    pub among: Among,
}

/// Both ends of one.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct CrowdReport {
    /// The client's address.
    pub client: SocketAddr,
    /// The server's address.
    pub server: SocketAddr,
    /// What ended it.
    pub ended: Among,
}

struct Member {
    client: TcpStream,
    server: TcpStream,
    report: CrowdReport,
    /// Its last payload.
    at: Instant,
    /// A timer ended the client before it could be reset.
    has_timed_out: bool,
}

/// Opens the connections, calls `opened`, exchanges payload, drops what comes for all that no RST ends, and waits until all have closed.
///
/// # Errors
/// A system call fails that should not, or a connection does not time out.
pub fn crowd(
    plan: &CrowdPlan,
    opened: impl FnOnce() -> io::Result<()>,
) -> io::Result<Vec<CrowdReport>> {
    let (cut, whole) = (
        TcpListener::bind("127.0.0.1:0")?,
        TcpListener::bind("127.0.0.1:0")?,
    );
    let open = |number| {
        let ended = if number % 2 == 1 {
            plan.among
        } else {
            Among::Timeouts
        };
        let listener = if ended == Among::Resets { &whole } else { &cut };
        Member::open(listener, ended)
    };
    let mut members = (0..plan.connections)
        .map(open)
        .collect::<io::Result<Vec<_>>>()?;
    opened()?;
    for member in &mut members {
        thread::sleep(APART);
        member.exchange()?;
    }
    Namespaces::with_client_in(None)?.cut(cut.local_addr()?, true)?;
    for member in &mut members {
        let end = match member.report.ended {
            Among::Timeouts => continue,
            Among::Aborts => &mut member.client,
            Among::Resets => &mut member.server,
        };
        let until = member.at + RESET_AFTER;
        thread::sleep(until.saturating_duration_since(Instant::now()));
        match SockRef::from(&*end).take_error()? {
            None => reset(end)?,
            // On a busy machine a timer may have been faster.
            Some(error) if error.kind() == io::ErrorKind::TimedOut => {
                member.report.ended = Among::Timeouts;
                member.has_timed_out = true;
            }
            Some(error) => return Err(error),
        }
    }
    for member in &members {
        match member.report.ended {
            Among::Timeouts => {
                if !member.has_timed_out {
                    ends_by(&member.client, io::ErrorKind::TimedOut)?;
                }
                ends_by(&member.server, io::ErrorKind::TimedOut)?;
            }
            Among::Aborts => ends_by(&member.server, io::ErrorKind::TimedOut)?,
            Among::Resets => ends_by(&member.client, io::ErrorKind::ConnectionReset)?,
        }
    }
    Ok(members.iter().map(|member| member.report).collect())
}

impl Member {
    fn open(listener: &TcpListener, ended: Among) -> io::Result<Self> {
        let client = TcpStream::connect(listener.local_addr()?)?;
        let (server, _) = listener.accept()?;
        let report = CrowdReport {
            client: client.local_addr()?,
            server: server.local_addr()?,
            ended,
        };
        Ok(Self {
            client,
            server,
            report,
            at: Instant::now(),
            has_timed_out: false,
        })
    }

    fn exchange(&mut self) -> io::Result<()> {
        give(&mut self.client, &mut self.server, FIRST)?;
        give(&mut self.server, &mut self.client, FIRST)?;
        probe(&self.client, 2)?;
        probe(&self.server, 2)?;
        self.at = Instant::now();
        Ok(())
    }
}

/// Waits until the kernel gives this error.
fn ends_by(socket: &TcpStream, expected: io::ErrorKind) -> io::Result<()> {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        match SockRef::from(socket).take_error()? {
            Some(error) if error.kind() == expected => return Ok(()),
            Some(error) => return Err(error),
            None => thread::sleep(Duration::from_millis(1)),
        }
    }
    Err(io::Error::other(format!("it did not end by {expected:?}")))
}
