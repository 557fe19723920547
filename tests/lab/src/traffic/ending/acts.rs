//! What an application, or an operator, does with one socket.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    os::fd::{AsRawFd, FromRawFd, IntoRawFd},
    thread,
    time::Duration,
};

use socket2::{SockRef, TcpKeepalive};

/// Longer than any timer here, also on an emulated machine, whose slow round trips make retransmission timers long.
pub(super) const PATIENCE: Duration = Duration::from_secs(150);

/// Sends so many bytes, and waits until the other end has read and acknowledged them.
pub(in crate::traffic) fn give(
    from: &mut TcpStream,
    to: &mut TcpStream,
    bytes: usize,
) -> io::Result<()> {
    from.write_all(&vec![0; bytes])?;
    to.read_exact(&mut vec![0; bytes])?;
    // Over a link the acknowledgement comes after the other application has read. Bytes that a reset overtakes are not counted as sent.
    while unacknowledged(from)? > 0 {
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Bytes sent and not acknowledged (tcp(7), SIOCOUTQ).
fn unacknowledged(socket: &TcpStream) -> io::Result<libc::c_int> {
    let mut bytes = 0;
    // SAFETY: the request writes one integer.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result == 0 {
        Ok(bytes)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Reads until the kernel reports that the connection is dead.
pub(super) fn dies(socket: &mut TcpStream) -> io::Result<()> {
    match socket.read(&mut [0; 4096]) {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Ok(()),
        other => Err(io::Error::other(format!("it did not die: {other:?}"))),
    }
}

/// The same of one whose peer has closed, or that has something to read: the error waits behind both.
pub(super) fn dies_by_write(socket: &TcpStream) -> io::Result<()> {
    let began = std::time::Instant::now();
    while began.elapsed() < PATIENCE {
        if SockRef::from(socket).take_error()?.is_some() {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Err(io::Error::other("it did not die"))
}

pub(super) fn reads_end(socket: &mut TcpStream) -> io::Result<()> {
    match socket.read(&mut [0; 1])? {
        0 => Ok(()),
        _ => Err(io::Error::other("there was something to read")),
    }
}

/// Closes the descriptor now, and puts an unconnected socket there.
pub(super) fn close(socket: &mut TcpStream) -> io::Result<()> {
    let none = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    // SAFETY: the descriptor is moved over.
    let none = unsafe { TcpStream::from_raw_fd(none.into_raw_fd()) };
    drop(std::mem::replace(socket, none));
    Ok(())
}

pub(in crate::traffic) fn reset(socket: &mut TcpStream) -> io::Result<()> {
    SockRef::from(&*socket).set_linger(Some(Duration::ZERO))?;
    close(socket)
}

/// Probes after an idle second, and every second.
pub(in crate::traffic) fn probe(socket: &TcpStream, probes: u32) -> io::Result<()> {
    let second = Duration::from_secs(1);
    let keepalive = TcpKeepalive::new().with_time(second).with_interval(second);
    SockRef::from(socket).set_tcp_keepalive(&keepalive.with_retries(probes))
}

/// Acknowledges the peer's FIN now: that may wait for what the socket sends next, and a RST overtakes it (net/ipv4/tcp_input.c, tcp_fin).
pub(super) fn acknowledge(socket: &TcpStream) -> io::Result<()> {
    set(socket, libc::IPPROTO_TCP, libc::TCP_QUICKACK, 1)
}

pub(super) fn user_timeout(socket: &TcpStream) -> io::Result<()> {
    SockRef::from(socket).set_tcp_user_timeout(Some(Duration::from_millis(2_000)))
}

pub(super) fn set(socket: &TcpStream, level: i32, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: the kernel reads an int of the given size during the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    check(result)
}

pub(super) fn disconnect(socket: &TcpStream) -> io::Result<()> {
    let address = libc::sockaddr {
        sa_family: libc::AF_UNSPEC as libc::sa_family_t,
        sa_data: [0; 14],
    };
    let length = size_of::<libc::sockaddr>() as libc::socklen_t;
    // SAFETY: the kernel reads the address during the call.
    check(unsafe { libc::connect(socket.as_raw_fd(), &raw const address, length) })
}

/// `tcpi_bytes_acked` (include/uapi/linux/tcp.h), without the SYN.
pub(super) fn acknowledged(socket: &TcpStream) -> io::Result<u64> {
    const AT: usize = 120;
    let mut info = [0_u8; AT + 8];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, all of them within `info`.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    })?;
    let bytes = *info[AT..].first_chunk().expect("eight bytes");
    Ok(u64::from_ne_bytes(bytes) - 1)
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
