//! A packet capture at one end of a link, with the kernel's own timestamps: what that end's TCP sent and received, and
//! when, whatever the emulator and the programs were doing.

use std::{
    collections::HashSet,
    io::{self, IoSliceMut},
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

use nix::{
    cmsg_space,
    errno::Errno,
    net::if_::if_nametoindex,
    sys::{
        socket::{
            AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol,
            SockType, recvmsg, setsockopt, socket, sockopt,
        },
        time::TimeSpec,
    },
};

use super::{
    MTU,
    packet::TcpSummary,
    samples::{self, Seen},
};
use crate::place::Netns;

/// Buffer of packets that are not read yet, in bytes: tens of thousands of packets.
const ROOM: usize = 64 << 20;

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    socket: OwnedFd,
    interface: usize,
}

/// What was captured, in order.
#[derive(Clone, Debug)]
pub struct Captured {
    seen: Vec<Seen>,
}

// === impl Capture ===

impl Capture {
    /// Starts at a device of a namespace.
    ///
    /// # Errors
    /// There is no such device, or CAP_NET_RAW or CAP_NET_ADMIN is missing.
    pub fn start(netns: &Netns, device: &str) -> io::Result<Self> {
        netns.run(|| Self::here(device)).map_err(io::Error::other)?
    }

    fn here(device: &str) -> io::Result<Self> {
        // Without the link layer's header a packet starts at its IP header.
        let socket = socket(
            AddressFamily::Packet,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::EthAll,
        )?;
        setsockopt(&socket, sockopt::RcvBufForce, &ROOM)?;
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
        let interface = if_nametoindex(device)? as usize;
        Ok(Self { socket, interface })
    }

    /// What was captured since the last call.
    ///
    /// # Errors
    /// Packets found no room, or the socket cannot be read.
    pub fn take(&self) -> io::Result<Captured> {
        let mut seen = Vec::new();
        let mut buffer = vec![0; MTU as usize];
        let mut control = cmsg_space!(TimeSpec);
        while let Some((from, at, length)) = self.receive(&mut buffer, &mut control)? {
            if from.ifindex() == self.interface
                && let Some(tcp) = TcpSummary::parse(&buffer[..length])
            {
                let ours = from.pkttype() == libc::PACKET_OUTGOING;
                seen.push(Seen { at, ours, tcp });
            }
        }
        match self.drops()? {
            0 => Ok(Captured { seen }),
            drops => Err(io::Error::other(format!(
                "the capture dropped {drops} packets"
            ))),
        }
    }

    /// Packets that found no room since the last call (packet(7), PACKET_STATISTICS).
    fn drops(&self) -> io::Result<u32> {
        // SAFETY: tpacket_stats is plain data, for which zero is a value.
        let mut statistics: libc::tpacket_stats = unsafe { std::mem::zeroed() };
        let mut length = size_of_val(&statistics) as libc::socklen_t;
        // SAFETY: both outlive the call, and the kernel writes no more than the length.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut length,
            )
        };
        Errno::result(result)?;
        Ok(statistics.tp_drops)
    }

    fn receive(
        &self,
        buffer: &mut [u8],
        control: &mut [u8],
    ) -> io::Result<Option<(LinkAddr, Duration, usize)>> {
        let mut parts = [IoSliceMut::new(buffer)];
        let socket = self.socket.as_raw_fd();
        let received =
            match recvmsg::<LinkAddr>(socket, &mut parts, Some(control), MsgFlags::empty()) {
                Ok(received) => received,
                Err(Errno::EAGAIN) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
        let at = received.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::ScmTimestampns(at) => Some(Duration::from(at)),
            _ => None,
        });
        let (Some(from), Some(at)) = (received.address, at) else {
            return Err(io::Error::other("a packet without its device or its time"));
        };
        Ok(Some((from, at, received.bytes)))
    }
}

// === impl Captured ===

impl Captured {
    /// Only the segments of connections with this port at either end.
    pub fn of_port(&self, port: u16) -> Self {
        let of_port = |seen: &&Seen| seen.tcp.has_port(port);
        Self {
            seen: self.seen.iter().filter(of_port).copied().collect(),
        }
    }

    /// The round trips that this end's kernel can measure on open connections: from the oldest segment, with payload
    /// or a FIN, that an acknowledgement covers, to that acknowledgement. Nothing is taken from segments that were
    /// sent more than once (RFC 6298, 3).
    pub fn round_trips(&self) -> Vec<Duration> {
        samples::round_trips(&self.seen, |tcp| tcp.is_data() || tcp.fin)
    }

    /// The turns of one connection: from the last payload of a request to the first of its response, each by its first copy
    /// alone. `asks`: this end sends the requests.
    pub fn exchanges(&self, asks: bool) -> Vec<Duration> {
        let mut fresh = HashSet::new();
        let mut asked = None;
        let mut samples = Vec::new();
        for Seen { at, ours, tcp } in &self.seen {
            if !tcp.is_data() || !fresh.insert((ours, tcp.seq)) {
                continue;
            }
            if *ours == asks {
                asked = Some(*at);
            } else if let Some(asked) = asked.take() {
                samples.push(*at - asked);
            }
        }
        samples
    }

    /// For each connection that this end opened, the time from its first SYN to the first SYN-ACK.
    pub fn handshakes(&self) -> Vec<Duration> {
        samples::handshakes(&self.seen)
    }
}
