//! The netlink sockets.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use netlink_sys::{Socket, protocols::NETLINK_SOCK_DIAG};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    super::turn::{Allowance, Turn},
    wire::{self, Message},
};

/// Larger than any datagram that the kernel makes of a dump (net/netlink/af_netlink.c, netlink_recvmsg: 32 KiB).
const DATAGRAM: usize = 64 << 10;

/// Receive buffer for destroy events. The kernel halves what it counts against it, and limits it to `net.core.rmem_max` where
/// CAP_NET_ADMIN is missing.
const EVENT_BYTES: usize = 16 << 20;

/// What a destroy event takes of that at least: a header, a `struct inet_diag_msg` and a `tcp_info`.
const LEAST_EVENT: usize = 256;

/// Destroy events that a short turn takes in, at two microseconds or three each. What they mean is worked out together behind that, when the
/// turn's clock is not asked any more.
const SHORT_TURN: usize = 1_500;

/// The bytes of records that take as long as one event.
pub(super) const EVENT_COST: usize = 128;

/// Destroy events that wait at most, each in a datagram of its own.
pub(super) const MOST_EVENTS: usize = EVENT_BYTES / LEAST_EVENT;

/// `SKNLGRP_INET_TCP_DESTROY` and `SKNLGRP_INET6_TCP_DESTROY` (include/uapi/linux/sock_diag.h).
const GROUPS: [u32; 2] = [1, 3];

/// The socket for requests.
pub(super) struct Requests {
    socket: Socket,
    buffer: Vec<u8>,
    sequence: u32,
}

/// The socket for destroy events.
pub(super) struct DestroyEvents {
    socket: AsyncFd<Socket>,
    buffer: Vec<u8>,
}

impl Requests {
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self {
            socket: open()?,
            buffer: vec![0; DATAGRAM],
            sequence: 0,
        })
    }

    pub(super) fn next(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// Sends a request and hands over the messages of its answer until `each` returns that it is complete. The kernel makes the answer
    /// while it is read, so there is never anything to wait for. `between` is called after every datagram. Gives whether the dump was
    /// interrupted by a change.
    pub(super) fn ask(
        &mut self,
        request: &[u8],
        sequence: u32,
        mut each: impl FnMut(Message) -> bool,
        mut between: impl FnMut() -> io::Result<()>,
    ) -> io::Result<bool> {
        self.socket.send(request, 0)?;
        let (mut whole, mut interrupted) = (false, false);
        while !whole {
            if let Received::Kernel(length) = receive(&self.socket, &mut self.buffer)? {
                interrupted |= wire::parse(&self.buffer[..length], |of, message| {
                    // The rest of an earlier answer that failed half way is dropped.
                    if of == sequence {
                        whole |= each(message);
                    }
                });
            }
            between()?;
        }
        Ok(interrupted)
    }
}

impl DestroyEvents {
    pub(super) fn subscribe() -> io::Result<Self> {
        let socket = open()?;
        // SAFETY: the descriptor is the socket's, which outlives the borrow.
        let fd = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
        if setsockopt(&fd, sockopt::RcvBufForce, &EVENT_BYTES).is_err() {
            setsockopt(&fd, sockopt::RcvBuf, &EVENT_BYTES)?;
        }
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        Ok(Self {
            // SAFETY: the socket owns its descriptor, and the AsyncFd owns the socket for as long as it is registered.
            socket: unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }
                .map_err(io::Error::from)?,
            buffer: vec![0; DATAGRAM],
        })
    }

    /// Waits until there are events.
    pub(super) async fn readable(&self) {
        if let Ok(mut ready) = self.socket.readable().await {
            ready.clear_ready();
        }
    }

    /// Hands over the events that wait, for one turn. Gives whether more may wait.
    pub(super) fn drain(&mut self, turn: Turn, mut each: impl FnMut(Message)) -> io::Result<bool> {
        let most = match turn {
            Turn::Short => SHORT_TURN,
            Turn::Whole => MOST_EVENTS,
        };
        let mut allowance = Allowance::of(turn);
        for _ in 0..most {
            if allowance.is_spent(EVENT_COST) {
                break;
            }
            match receive(self.socket.get_ref(), &mut self.buffer) {
                Ok(Received::Kernel(length)) => {
                    wire::parse(&self.buffer[..length], |_, message| each(message));
                }
                Ok(Received::Process) => each(Message::Malformed),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                // Some were dropped, which the kernel counts; the rest is still there.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// How many events found no room, ever: `SK_MEMINFO_DROPS` of `SO_MEMINFO` (include/uapi/linux/sock_diag.h).
    pub(super) fn dropped(&self) -> io::Result<u64> {
        const DROPS: usize = 8;
        let mut values = [0_u32; DROPS + 1];
        let mut length = size_of_val(&values) as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes, all of them within `values`.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_MEMINFO,
                values.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(values[DROPS].into())
        }
    }
}

/// A datagram, by who sent it.
enum Received {
    /// The kernel, so many bytes.
    Kernel(usize),
    /// A process: one with CAP_NET_ADMIN in the network namespace may send one to any netlink socket (netlink(7)).
    Process,
}

/// Reads the next datagram. Only the kernel's are trusted: its port number is 0 (netlink(7)).
fn receive(socket: &Socket, buffer: &mut [u8]) -> io::Result<Received> {
    let (length, sender) = socket.recv_from(&mut &mut buffer[..], 0)?;
    Ok(match sender.port_number() {
        0 => Received::Kernel(length),
        _ => Received::Process,
    })
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.set_non_blocking(true)?;
    socket.bind_auto()?;
    Ok(socket)
}
