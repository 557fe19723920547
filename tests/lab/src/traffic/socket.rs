use std::{io, net::SocketAddr, os::fd::AsRawFd, time::Duration};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::options::{SocketOptions, StreamProtocol};

/// Fast Open requests that may wait for their handshake.
const FAST_OPEN_QUEUE: libc::c_int = 1024;

/// The address family of SMC's sockets (include/linux/socket.h), which libc does not name.
const AF_SMC: libc::c_int = 43;

/// A socket that is about to connect from `local` (any address if none).
pub(super) fn connecting(
    to: SocketAddr,
    local: Option<SocketAddr>,
    options: SocketOptions,
) -> io::Result<Socket> {
    let socket = new(to, options)?;
    if options.fast_open {
        set(&socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, 1)?;
    }
    if let Some(local) = local {
        if local.port() == 0 {
            // Else the kernel picks a port that no other peer uses, and few connections exhaust them.
            set(&socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
        } else {
            // Else a port is in use until its last connection has left TIME_WAIT.
            socket.set_reuse_address(true)?;
        }
        socket.bind(&local.into())?;
    }
    Ok(socket)
}

/// A listening socket, one of several on the same address if `shared`. `[::]` takes IPv4 too.
pub(super) fn listening(
    at: SocketAddr,
    shared: bool,
    backlog: i32,
    options: SocketOptions,
) -> io::Result<Socket> {
    let socket = new(at, options)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    if at.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&at.into())?;
    if options.fast_open {
        set(
            &socket,
            libc::IPPROTO_TCP,
            libc::TCP_FASTOPEN,
            FAST_OPEN_QUEUE,
        )?;
    }
    socket.listen(backlog)?;
    Ok(socket)
}

fn new(address: SocketAddr, options: SocketOptions) -> io::Result<Socket> {
    let (domain, protocol) = match options.protocol {
        StreamProtocol::Tcp => (Domain::for_address(address), Protocol::TCP),
        StreamProtocol::Mptcp => (Domain::for_address(address), Protocol::MPTCP),
        StreamProtocol::Smc => (Domain::from(AF_SMC), smc(address)),
    };
    let socket = Socket::new(domain, Type::STREAM, Some(protocol))?;
    // A request must not wait for the acknowledgement of the one before it.
    socket.set_tcp_nodelay(true)?;
    if let Some(bytes) = options.receive_buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    if let Some(bytes) = options.send_buffer {
        socket.set_send_buffer_size(bytes)?;
    }
    Ok(socket)
}

/// SMCPROTO_SMC or SMCPROTO_SMC6 (net/smc/smc.h): the version of IP that SMC's own TCP connection uses.
fn smc(address: SocketAddr) -> Protocol {
    Protocol::from(libc::c_int::from(address.is_ipv6()))
}

fn set(
    socket: &Socket,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the kernel reads an int of the given size during the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Makes the close that follows send a RST and forget what was not sent.
pub(super) fn reset_on_close(socket: SockRef<'_>) -> io::Result<()> {
    socket.set_linger(Some(Duration::ZERO))
}

/// Lets the process have as many sockets as it may.
pub(super) fn raise_open_files() -> io::Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, most, most)?)
}
