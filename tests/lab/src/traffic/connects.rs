//! Calls of `connect()` in every way in which applications make them.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, AsRawFd},
};

use clap::{Args, ValueEnum};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

use super::{attempt::disconnect, socket::raise_open_files};

/// How the application calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Calling {
    /// Once; the call returns when the connection is established.
    Blocking,
    /// Without blocking, and waits until the socket is writable.
    NonBlocking,
    /// Without blocking, again and again until the call answers EISCONN.
    Repeated,
    /// After `connect(AF_UNSPEC)`.
    AfterUnspec,
    /// Twice on the same socket, with `connect(AF_UNSPEC)` in between.
    Twice,
    /// After a UDP socket has connected to the same address.
    AfterUdp,
    /// `sendto(MSG_FASTOPEN)`
    FastOpen,
    /// With TCP_FASTOPEN_CONNECT, so that the first `write()` sends the SYN.
    Deferred,
    /// The same, and never writes.
    DeferredUnused,
}

/// Calls of `connect()`.
#[derive(Clone, Copy, Debug, Args)]
pub struct ConnectPlan {
    /// Whom to connect to
    pub target: SocketAddr,
    /// How to call it
    #[arg(long, value_enum, default_value = "blocking")]
    pub how: Calling,
    /// Whether IPv4 is by a socket of IPv6
    #[arg(long)]
    pub mapped: bool,
    /// How many sockets to make, one after the other
    #[arg(long, default_value_t = 1)]
    pub times: u32,
    /// How often each of them calls it
    #[arg(long, default_value_t = 1)]
    pub calls: u32,
    /// Whom to connect to before, on the same socket
    #[arg(long)]
    pub first: Option<SocketAddr>,
    /// Wait for a line of standard input behind that
    #[arg(long, requires = "first")]
    pub pause: bool,
    /// How many bytes each connection sends, each of which the server sends back before the next
    #[arg(long, default_value_t = 0)]
    pub echoes: u32,
    /// Keep every socket open until standard input ends
    #[arg(long)]
    pub hold: bool,
}

/// One call's result, by the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connected {
    /// What it asked for.
    pub asked: SocketAddr,
    /// The error of the call; `None` where it is connected.
    pub errno: Option<i32>,
    /// `getsockname()`, where it is connected.
    pub local: Option<SocketAddr>,
    /// `getpeername()`, where it is connected.
    pub peer: Option<SocketAddr>,
}

/// Makes the calls; `each` gets every result. Gives the sockets that are to be held.
///
/// # Errors
/// A socket cannot be made, or an echo does not come.
pub fn connect_each(
    plan: &ConnectPlan,
    mut each: impl FnMut(Connected) -> io::Result<()>,
) -> io::Result<Vec<Socket>> {
    if plan.hold {
        raise_open_files()?;
    }
    let mut held = Vec::new();
    for _ in 0..plan.times {
        let socket = new(plan, plan.target, Type::STREAM)?;
        if let Some(first) = plan.first {
            each(result(first, &socket, socket.connect(&first.into())))?;
        }
        if plan.pause {
            io::stdin().read_line(&mut String::new())?;
        }
        for _ in 0..plan.calls {
            call(plan, &socket, &mut each)?;
        }
        for _ in 0..plan.echoes {
            (&socket).write_all(b"x")?;
            (&socket).read_exact(&mut [0])?;
        }
        if plan.hold {
            held.push(socket);
        }
    }
    Ok(held)
}

fn call(
    plan: &ConnectPlan,
    socket: &Socket,
    each: &mut impl FnMut(Connected) -> io::Result<()>,
) -> io::Result<()> {
    let address = address(plan, plan.target);
    let target = &address.into();
    let connected = match plan.how {
        Calling::Blocking => socket.connect(target),
        Calling::NonBlocking => without_blocking(socket, target),
        Calling::Repeated => repeatedly(socket, target),
        Calling::AfterUnspec => disconnect(socket).and_then(|()| socket.connect(target)),
        Calling::Twice => {
            each(result(plan.target, socket, socket.connect(target)))?;
            disconnect(socket)?;
            socket.connect(target)
        }
        Calling::AfterUdp => {
            let udp = new(plan, plan.target, Type::DGRAM)?;
            // A policy may forbid that, too.
            let _ = udp.connect(target);
            socket.connect(target)
        }
        Calling::FastOpen => fast_open(socket, target),
        Calling::Deferred => deferred(socket, target)
            .and_then(|()| socket.send(b"x"))
            .and_then(|_| writable(socket)),
        Calling::DeferredUnused => deferred(socket, target),
    };
    each(result(plan.target, socket, connected))
}

fn without_blocking(socket: &Socket, target: &socket2::SockAddr) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    match socket.connect(target) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        other => return other,
    }
    writable(socket)?;
    socket.take_error()?.map_or(Ok(()), Err)
}

fn repeatedly(socket: &Socket, target: &socket2::SockAddr) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    loop {
        match socket.connect(target).map_err(|error| error.raw_os_error()) {
            Ok(()) | Err(Some(libc::EINPROGRESS | libc::EALREADY)) => {}
            Err(Some(libc::EISCONN)) => return Ok(()),
            Err(code) => return Err(io::Error::from_raw_os_error(code.unwrap_or_default())),
        }
    }
}

fn fast_open(socket: &Socket, target: &socket2::SockAddr) -> io::Result<()> {
    match socket.send_to_with_flags(b"x", target, libc::MSG_FASTOPEN) {
        Ok(_) => writable(socket),
        Err(error) => Err(error),
    }
}

fn deferred(socket: &Socket, target: &socket2::SockAddr) -> io::Result<()> {
    let one: libc::c_int = 1;
    // SAFETY: the kernel reads an int of the given size during the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_FASTOPEN_CONNECT,
            (&raw const one).cast(),
            size_of_val(&one) as libc::socklen_t,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    socket.connect(target)
}

fn writable(socket: &Socket) -> io::Result<()> {
    let mut sockets = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    poll(&mut sockets, PollTimeout::NONE)?;
    Ok(())
}

fn result(asked: SocketAddr, socket: &Socket, connected: io::Result<()>) -> Connected {
    let canonical = |at: io::Result<socket2::SockAddr>| {
        let at = at.ok()?.as_socket()?;
        Some(SocketAddr::new(at.ip().to_canonical(), at.port()))
    };
    let errno = connected.err().and_then(|error| error.raw_os_error());
    let is_connected = errno.is_none();
    Connected {
        asked,
        errno,
        local: is_connected
            .then(|| canonical(socket.local_addr()))
            .flatten(),
        peer: is_connected
            .then(|| canonical(socket.peer_addr()))
            .flatten(),
    }
}

fn new(plan: &ConnectPlan, target: SocketAddr, kind: Type) -> io::Result<Socket> {
    let domain = Domain::for_address(address(plan, target));
    let protocol = (kind == Type::STREAM).then_some(Protocol::TCP);
    Socket::new(domain, kind, protocol)
}

/// As it is given to the kernel.
fn address(plan: &ConnectPlan, target: SocketAddr) -> SocketAddr {
    match target.ip() {
        IpAddr::V4(ip) if plan.mapped => (ip.to_ipv6_mapped(), target.port()).into(),
        _ => target,
    }
}
