//! The process at the other end of a socket: one of this container, or another one in its network namespace.

use std::{
    fmt, fs, io,
    os::{
        fd::{AsFd, AsRawFd as _},
        unix::net::UnixStream,
    },
    process,
};

use nix::{
    sys::socket::{
        AddressFamily, SockFlag, SockType, UnixAddr, connect as connect_to, getsockopt, socket,
        sockopt::PeerCredentials,
    },
    unistd::geteuid,
};

use super::name::{Name, Suffix};

/// A process that is no flowcar of this container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stranger {
    /// A process of another PID namespace.
    OtherPidNamespace,
    /// Another user's process.
    OtherUser { process: i32, user: u32 },
    /// A process of another container, or of none.
    OtherCgroup { process: i32 },
    /// A process that has exited, or passed its socket on.
    Exited { process: i32 },
    /// A process that does not accept connections.
    Silent,
}

impl fmt::Display for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherPidNamespace => f.write_str("a process of another container"),
            Self::OtherUser { process, user } => write!(f, "process {process} of user {user}"),
            Self::OtherCgroup { process } => write!(f, "process {process}, of another cgroup"),
            Self::Exited { process } => write!(f, "process {process}, which has exited"),
            Self::Silent => f.write_str("a process that does not accept connections"),
        }
    }
}

/// Connects to a name with its suffix, and does not wait if the listener's queue is full.
pub(super) fn connect(name: &Name, suffix: Option<&Suffix>) -> io::Result<UnixStream> {
    connect_to_text(&name.text(suffix))
}

/// Connects to an abstract name, and does not wait if the listener's queue is full.
pub(super) fn connect_to_text(name: &str) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    let address = UnixAddr::new_abstract(name.as_bytes())?;
    connect_to(socket.as_raw_fd(), &address)?;
    Ok(socket.into())
}

/// Which processes may be at the other end: those of the same user or root, and
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// of the same cgroups, and so of the same container.
    SameContainer,
    /// of any cgroup: a host.
    AnyCgroup,
}

/// Returns the process at the other end, if it may be there: as the kernel reports the one that called connect() or listen() (unix(7),
/// SO_PEERCRED).
///
/// # Errors
/// Who it is instead.
pub(super) fn check(stream: impl AsFd, rule: Rule) -> Result<i32, Stranger> {
    let credentials = getsockopt(&stream, PeerCredentials).map_err(|_| Stranger::Silent)?;
    let (process, user) = (credentials.pid(), credentials.uid());
    if process == 0 {
        return Err(Stranger::OtherPidNamespace);
    }
    // The number of a process that has exited is reused in time, for example by this process.
    if process.cast_unsigned() == process::id() {
        return Err(Stranger::Exited { process });
    }
    if user != geteuid().as_raw() && user != 0 {
        return Err(Stranger::OtherUser { process, user });
    }
    if rule == Rule::AnyCgroup {
        return Ok(process);
    }
    let cgroups = |process: &str| fs::read_to_string(format!("/proc/{process}/cgroup"));
    let Ok(theirs) = cgroups(&process.to_string()) else {
        return Err(Stranger::Exited { process });
    };
    if cgroups("self").is_ok_and(|ours| ours == theirs) {
        Ok(process)
    } else {
        Err(Stranger::OtherCgroup { process })
    }
}
