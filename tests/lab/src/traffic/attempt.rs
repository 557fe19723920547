//! Attempts to connect, and every way in which an application can abort them.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use clap::{Args, ValueEnum};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};
use socket2::Socket;

use super::{options::SocketOptions, socket::connecting};

/// What the application does after its time-out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GiveUp {
    /// Nothing: it waits for the kernel's answer.
    Never,
    /// `close()`
    Close,
    /// `shutdown(SHUT_RDWR)`, and `close()` at the end.
    Shutdown,
    /// `connect(AF_UNSPEC)`, and `close()` at the end.
    Disconnect,
    /// The process exits.
    Exit,
}

/// One attempt.
#[derive(Clone, Copy, Debug, Args)]
pub struct AttemptPlan {
    /// Whom to connect to
    pub target: SocketAddr,
    /// What to do where there is no answer in time
    #[arg(long, value_enum, default_value = "never")]
    pub give_up: GiveUp,
    /// How long to wait for an answer, milliseconds
    #[arg(long, default_value_t = 100)]
    pub patience: u64,
    /// Wait in connect(), as a socket does that blocks
    #[arg(long)]
    pub block: bool,
    /// TCP_SYNCNT: how often to send the SYN again
    #[arg(long)]
    pub syn_retries: Option<libc::c_int>,
    /// TCP_USER_TIMEOUT, milliseconds
    #[arg(long)]
    pub user_timeout: Option<libc::c_int>,
}

/// The application's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempted {
    /// Its address.
    pub local: SocketAddr,
    /// SO_ERROR, where the kernel ended it: errno, or 0 where it was established.
    pub errno: Option<i32>,
}

/// Tries to connect without blocking; `connecting` gets the local address while the SYN is under way.
///
/// # Errors
/// The socket cannot be made or set up, or the attempt fails before a SYN is sent.
pub fn attempt(
    plan: &AttemptPlan,
    under_way: impl FnOnce(SocketAddr) -> io::Result<()>,
) -> io::Result<Attempted> {
    let socket = connecting(plan.target, None, SocketOptions::default())?;
    for (option, value) in [
        (libc::TCP_SYNCNT, plan.syn_retries),
        (libc::TCP_USER_TIMEOUT, plan.user_timeout),
    ] {
        if let Some(value) = value {
            set(&socket, option, value)?;
        }
    }
    if plan.block {
        return blocking(&socket, plan.target, under_way);
    }
    socket.set_nonblocking(true)?;
    match socket.connect(&plan.target.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        _ => {}
    }
    let local = local_addr(&socket)?;
    under_way(local)?;
    let patience = match plan.give_up {
        GiveUp::Never => None,
        _ => Some(Duration::from_millis(plan.patience)),
    };
    let errno = if answered(&socket, patience)? {
        let error = socket.take_error()?;
        Some(error.and_then(|error| error.raw_os_error()).unwrap_or(0))
    } else {
        give_up(&socket, plan.give_up)?;
        None
    };
    Ok(Attempted { local, errno })
}

/// The kernel chooses the port before `connect()`.
fn blocking(
    socket: &Socket,
    target: SocketAddr,
    under_way: impl FnOnce(SocketAddr) -> io::Result<()>,
) -> io::Result<Attempted> {
    let anywhere = match target {
        SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    socket.bind(&SocketAddr::new(anywhere, 0).into())?;
    let local = local_addr(socket)?;
    under_way(local)?;
    let error = socket.connect(&target.into()).err();
    Ok(Attempted {
        local,
        errno: Some(error.and_then(|error| error.raw_os_error()).unwrap_or(0)),
    })
}

fn local_addr(socket: &Socket) -> io::Result<SocketAddr> {
    let local = socket.local_addr()?.as_socket();
    local.ok_or_else(|| io::Error::other("no address of IP"))
}

fn answered(socket: &Socket, patience: Option<Duration>) -> io::Result<bool> {
    let timeout = match patience {
        Some(patience) => PollTimeout::try_from(patience).map_err(io::Error::other)?,
        None => PollTimeout::NONE,
    };
    let mut sockets = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    Ok(poll(&mut sockets, timeout)? > 0)
}

fn give_up(socket: &Socket, how: GiveUp) -> io::Result<()> {
    match how {
        // It is closed when it is dropped.
        GiveUp::Never | GiveUp::Close => Ok(()),
        GiveUp::Shutdown => match socket.shutdown(std::net::Shutdown::Both) {
            // The kernel aborts the attempt, and returns ENOTCONN.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            other => other,
        },
        GiveUp::Disconnect => disconnect(socket),
        GiveUp::Exit => std::process::exit(0),
    }
}

/// `connect(AF_UNSPEC)`
pub(super) fn disconnect(socket: &Socket) -> io::Result<()> {
    let nowhere = libc::sockaddr {
        sa_family: libc::AF_UNSPEC as libc::sa_family_t,
        sa_data: [0; 14],
    };
    let length = size_of_val(&nowhere) as libc::socklen_t;
    // SAFETY: the kernel reads an address of the given size during the call.
    check(unsafe { libc::connect(socket.as_raw_fd(), &raw const nowhere, length) })
}

fn set(socket: &Socket, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the kernel reads an int of the given size during the call.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            option,
            (&raw const value).cast(),
            length,
        )
    })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
