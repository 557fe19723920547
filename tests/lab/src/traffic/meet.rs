//! Connections that nobody accepts: both ends call `connect()`, and their SYNs cross (RFC 9293 section 3.5).

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
};

use clap::Args;
use serde::{Deserialize, Serialize};

use super::{options::SocketOptions, socket::connecting};

/// What one end does.
#[derive(Clone, Copy, Debug, Args)]
pub struct MeetPlan {
    /// The other end, which does the same at the same time; or this end itself
    pub target: SocketAddr,
    /// Local address
    #[arg(long)]
    pub local: SocketAddr,
    /// Bytes to send
    #[arg(long, default_value_t = 100)]
    pub bytes: u64,
}

/// What one end did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Met {
    /// Bytes that the socket took.
    pub sent: u64,
    /// Bytes that were read until the other end closed.
    pub received: u64,
}

/// Connects to the end that connects at the same time, sends, closes its direction, and reads to the end.
///
/// # Errors
/// The other end did not connect in time, or failed.
pub fn meet(plan: &MeetPlan) -> io::Result<Met> {
    let socket = connecting(plan.target, Some(plan.local), SocketOptions::default())?;
    socket.connect(&plan.target.into())?;
    let mut stream = TcpStream::from(socket);
    let sent = io::copy(&mut io::repeat(7).take(plan.bytes), &mut stream)?;
    stream.flush()?;
    stream.shutdown(Shutdown::Write)?;
    let received = io::copy(&mut stream, &mut io::sink())?;
    Ok(Met { sent, received })
}
