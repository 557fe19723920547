//! inet_diag's messages (include/uapi/linux/inet_diag.h, sock_diag.h): requests out, socket snapshots in.
//!
//! netlink-packet-sock-diag reads the headers. It does not know the cgroup's id, and wants a `tcp_info` as short as it
//! was years ago, so the three attributes that are used are read here.

use std::net::{IpAddr, SocketAddr};

use netlink_packet_core::{
    Emitable as _, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR,
    NetlinkBuffer, NetlinkHeader, NlasIterator, Parseable as _,
};
use netlink_packet_sock_diag::{
    AF_INET, AF_INET6, IPPROTO_TCP, SOCK_DIAG_BY_FAMILY,
    inet::{ExtensionFlags, InetRequest, InetResponseHeader, SocketId, StateFlags},
};

use super::tcp_info;
use crate::flow::{SocketName, SocketSnapshot, State, TcpInfo};

/// `INET_DIAG_INFO`: a `struct tcp_info`.
const INET_DIAG_INFO: u16 = 2;
/// `INET_DIAG_SKMEMINFO`: u32 by `SK_MEMINFO_*`.
const INET_DIAG_SKMEMINFO: u16 = 7;
/// `SK_MEMINFO_DROPS` (include/uapi/linux/sock_diag.h).
const SK_MEMINFO_DROPS: usize = 8;
/// `INET_DIAG_CGROUP_ID`: a u64, the inode number of the cgroup's directory (Linux 5.9 and later).
const INET_DIAG_CGROUP_ID: u16 = 21;
/// Bytes of `struct nlmsghdr` and of `struct inet_diag_msg`.
const NETLINK_HEADER: usize = 16;
const DIAG_HEADER: usize = 72;

/// One message of an answer, or a destroy event.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are sockets, handed over on the stack"
)]
#[derive(Debug, PartialEq)]
pub(super) enum Message {
    /// A socket.
    Socket(SocketSnapshot),
    /// The end of a dump.
    Done,
    /// A refusal, by its errno.
    Refused(i32),
    /// It does not parse.
    Malformed,
}

/// `TCPDIAG_GETSOCK` (include/uapi/linux/inet_diag.h): the older form of a request, with `struct inet_diag_req`. It has no protocol, and a
/// dump by it is of both address families.
const TCPDIAG_GETSOCK: u16 = 18;

/// Both address families' numbers.
pub(super) const FAMILIES: [u8; 2] = [AF_INET, AF_INET6];

/// States of connections. Not TIME_WAIT, which is not a socket any more and has no counts.
pub(super) fn connections() -> StateFlags {
    StateFlags::all() - StateFlags::LISTEN - StateFlags::TIME_WAIT - StateFlags::CLOSE
}

/// Requests all sockets of both families in these states; of listeners, also their drops. The kernel walks its table of connections, which is
/// that of all network namespaces, once; for each family alone it would walk it twice.
pub(super) fn dump_both(states: &StateFlags, sequence: u32) -> Vec<u8> {
    const LENGTH: usize = NETLINK_HEADER + 60;
    // Behind the extensions there are a socket's id and, last of all, a field without use.
    const EXTENSIONS: usize = NETLINK_HEADER + 3;
    const STATES: usize = EXTENSIONS + 1 + 48;
    let mut bytes = vec![0; LENGTH];
    let mut header = NetlinkHeader::default();
    header.length = LENGTH as u32;
    header.message_type = TCPDIAG_GETSOCK;
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    header.sequence_number = sequence;
    header.emit(&mut bytes);
    bytes[EXTENSIONS] = extensions(states).bits();
    bytes[STATES..STATES + 4].copy_from_slice(&states.bits().to_ne_bytes());
    bytes
}

fn extensions(states: &StateFlags) -> ExtensionFlags {
    if *states == StateFlags::LISTEN {
        ExtensionFlags::INFO | ExtensionFlags::SKMEMINFO
    } else {
        ExtensionFlags::INFO
    }
}

/// Requests those of one family.
pub(super) fn dump(family: u8, states: StateFlags, sequence: u32) -> Vec<u8> {
    let socket_id = if family == AF_INET {
        SocketId::new_v4()
    } else {
        SocketId::new_v6()
    };
    let body = InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: extensions(&states),
        states,
        socket_id,
    };
    request(&body, NLM_F_REQUEST | NLM_F_DUMP, sequence)
}

/// Requests the socket under a connection's addresses: it, its timewait socket, or the listener that it came from.
pub(super) fn find(name: &SocketName, sequence: u32) -> Vec<u8> {
    let family = match name.local {
        SocketAddr::V4(_) => AF_INET,
        SocketAddr::V6(_) => AF_INET6,
    };
    let socket_id = SocketId {
        source_port: name.local.port(),
        destination_port: name.peer.port(),
        source_address: name.local.ip(),
        destination_address: name.peer.ip(),
        interface_id: name.interface,
        // INET_DIAG_NOCOOKIE: any socket.
        cookie: [0xff; 8],
    };
    let body = InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::INFO,
        states: StateFlags::all(),
        socket_id,
    };
    request(&body, NLM_F_REQUEST, sequence)
}

fn request(body: &InetRequest, flags: u16, sequence: u32) -> Vec<u8> {
    let length = NETLINK_HEADER + body.buffer_len();
    let mut header = NetlinkHeader::default();
    header.length = length as u32;
    header.message_type = SOCK_DIAG_BY_FAMILY;
    header.flags = flags;
    header.sequence_number = sequence;
    let mut bytes = vec![0; length];
    header.emit(&mut bytes);
    body.emit(&mut bytes[NETLINK_HEADER..]);
    bytes
}

/// Reads the messages of one datagram. Gives whether any has the flag of an interrupted dump (`NLM_F_DUMP_INTR`).
pub(super) fn parse(mut datagram: &[u8], mut each: impl FnMut(u32, Message)) -> bool {
    let mut interrupted = false;
    while !datagram.is_empty() {
        let Ok(message) = NetlinkBuffer::new_checked(datagram) else {
            each(0, Message::Malformed);
            break;
        };
        interrupted |= message.flags() & NLM_F_DUMP_INTR != 0;
        let (length, sequence) = (message.length() as usize, message.sequence_number());
        let read = match message.message_type() {
            NLMSG_DONE => Message::Done,
            NLMSG_ERROR => Message::Refused(errno(message.payload())),
            SOCK_DIAG_BY_FAMILY | TCPDIAG_GETSOCK => {
                socket(message.payload()).map_or(Message::Malformed, Message::Socket)
            }
            _ => Message::Malformed,
        };
        each(sequence, read);
        datagram = datagram
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
    }
    interrupted
}

/// `struct nlmsgerr` begins with the negative errno.
fn errno(payload: &[u8]) -> i32 {
    payload
        .first_chunk()
        .map_or(0, |code| -i32::from_ne_bytes(*code))
}

fn socket(payload: &[u8]) -> Option<SocketSnapshot> {
    let header = InetResponseHeader::parse(payload).ok()?;
    let SocketId {
        source_port,
        destination_port,
        source_address,
        destination_address,
        interface_id,
        cookie: [a, b, c, d, e, f, g, h],
    } = header.socket_id;
    let Attributes {
        info,
        cgroup,
        drops,
    } = attributes(payload.get(DIAG_HEADER..)?)?;
    let address = |ip: IpAddr, port| SocketAddr::new(ip.to_canonical(), port);
    // Two u32 of this machine's byte order, the lower half first.
    let half = |bytes| u64::from(u32::from_ne_bytes(bytes));
    Some(SocketSnapshot {
        cookie: half([a, b, c, d]) | half([e, f, g, h]) << 32,
        local: address(source_address, source_port),
        peer: address(destination_address, destination_port),
        interface: interface_id,
        state: State::from_u8(header.state)?,
        unread: header.recv_queue,
        unacknowledged: header.send_queue,
        cgroup,
        info,
        drops,
    })
}

#[derive(Default)]
struct Attributes {
    info: Option<TcpInfo>,
    cgroup: Option<u64>,
    drops: Option<u32>,
}

/// The attributes of a socket; `None` if they do not parse.
fn attributes(bytes: &[u8]) -> Option<Attributes> {
    let mut all = Attributes::default();
    for attribute in NlasIterator::new(bytes) {
        let attribute = attribute.ok()?;
        match attribute.kind() {
            // A listener's counts mean something else, but parse.
            INET_DIAG_INFO => all.info = Some(tcp_info::parse(attribute.value())?),
            INET_DIAG_CGROUP_ID => {
                all.cgroup = Some(u64::from_ne_bytes(*attribute.value().first_chunk()?));
            }
            INET_DIAG_SKMEMINFO => {
                let drops = attribute.value().get(4 * SK_MEMINFO_DROPS..)?;
                all.drops = Some(u32::from_ne_bytes(*drops.first_chunk()?));
            }
            _ => {}
        }
    }
    Some(all)
}

#[cfg(test)]
mod tests;
