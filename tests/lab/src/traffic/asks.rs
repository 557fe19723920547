//! A client of a resolver: sends a message, byte for byte, and takes what comes back.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

/// How it asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Asking {
    /// By a UDP socket that is connected to the resolver, as glibc and Go do.
    Connected,
    /// By a UDP socket that is not, as musl does.
    Unconnected,
    /// By TCP.
    Tcp,
}

/// A message to a resolver.
#[derive(Clone, Debug, Args)]
pub struct AskPlan {
    /// The resolver
    pub resolver: SocketAddr,
    /// The message, in hexadecimal digits
    pub message: String,
    /// How to ask
    #[arg(long, value_enum, default_value = "connected")]
    pub how: Asking,
    /// Whether IPv4 is by a socket of IPv6
    #[arg(long)]
    pub mapped: bool,
    /// How many messages to take
    #[arg(long, default_value_t = 1)]
    pub answers: usize,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// The messages.
    pub answers: Vec<Vec<u8>>,
}

/// Longer than any answer takes on a busy machine.
const WITHIN: Duration = Duration::from_secs(30);

/// Asks, and waits for the answers.
///
/// # Errors
/// None came.
pub fn ask(plan: &AskPlan) -> io::Result<Answered> {
    let digits = |at: usize| u8::from_str_radix(&plan.message[at..at + 2], 16);
    let message: Result<Vec<u8>, _> = (0..plan.message.len()).step_by(2).map(digits).collect();
    let message = message.map_err(io::Error::other)?;
    let resolver = match plan.resolver.ip() {
        IpAddr::V4(ip) if plan.mapped => (ip.to_ipv6_mapped(), plan.resolver.port()).into(),
        _ => plan.resolver,
    };
    let answers = if plan.how == Asking::Tcp {
        by_tcp(resolver, &message, plan.answers)?
    } else {
        by_udp(resolver, plan, &message)?
    };
    Ok(Answered { answers })
}

fn by_udp(resolver: SocketAddr, plan: &AskPlan, message: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let any: SocketAddr = if resolver.is_ipv6() {
        "[::]:0".parse().map_err(io::Error::other)?
    } else {
        "0.0.0.0:0".parse().map_err(io::Error::other)?
    };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(WITHIN))?;
    if plan.how == Asking::Connected {
        socket.connect(resolver)?;
        socket.send(message)?;
    } else {
        socket.send_to(message, resolver)?;
    }
    let mut answers = Vec::new();
    for _ in 0..plan.answers {
        let mut answer = vec![0; 65_536];
        let (length, _) = socket.recv_from(&mut answer)?;
        answer.truncate(length);
        answers.push(answer);
    }
    Ok(answers)
}

fn by_tcp(resolver: SocketAddr, message: &[u8], count: usize) -> io::Result<Vec<Vec<u8>>> {
    let mut stream = TcpStream::connect(resolver)?;
    stream.set_read_timeout(Some(WITHIN))?;
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), message].concat())?;
    let mut answers = Vec::new();
    for _ in 0..count {
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut answer)?;
        answers.push(answer);
    }
    Ok(answers)
}
