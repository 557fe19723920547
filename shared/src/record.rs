//! What the kernel keeps for each socket, and, byte for byte, what it sends.
//!
//! A [`FlowRecord`] lives in socket storage. To emit a record the kernel stamps [`FlowRecord::kind`]
//! and [`FlowRecord::emitted_ns`] and copies the value into the ring buffer, cut behind the last
//! histogram slot in use ([`FlowRecord::slots_used`]). All counts are cumulative since the socket was
//! first seen, so a lost record costs nothing that the next one does not bring.
//!
//! Most connections are short. Making socket storage costs more than everything else that is done for one of them, so a flow gets
//! it only when it needs it: for more than [`INLINE_SAMPLES`] RTT samples, or a retransmission.
//! Until then its records are short ([`SHORT_LEN`], and [`OPEN_LEN`] when it opens): its first samples are in them one by one, and
//! stay there.
//!
//! Of what a short connection costs, the cache lines of the ring buffer are a third: userspace read them last, on another CPU. So what
//! nearly all short connections send has a form of its own, [`BriefOpen`] and [`BriefClose`].

use core::mem::{offset_of, size_of};

use crate::histogram::SLOTS;

/// Why a record was sent ([`FlowRecord::kind`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The connection was established.
    Open = 1,
    /// The connection is open; at most one for each flow and sample epoch.
    Sample = 2,
    /// The connection closed, or the attempt failed ([`FlowRecord::established_ns`] is 0).
    Close = 3,
}

impl Kind {
    /// The kind with this number.
    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            1 => Some(Self::Open),
            2 => Some(Self::Sample),
            3 => Some(Self::Close),
            _ => None,
        }
    }
}

/// Which end of the handshake the socket is ([`FlowRecord::role`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Role {
    /// The handshake was not seen.
    Unknown = 0,
    /// The socket called `connect()`.
    Client = 1,
    /// The socket came from a listener.
    Server = 2,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 3] = [Self::Client, Self::Server, Self::Unknown];

    /// The role with this number.
    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            0 => Some(Self::Unknown),
            1 => Some(Self::Client),
            2 => Some(Self::Server),
            _ => None,
        }
    }
}

/// Bits of [`FlowRecord::flags`].
pub mod flag {
    /// `BPF_SOCK_OPS_RTT_CB` had no arguments (kernels before 6.10), so the samples are the smoothed RTT.
    pub const RTT_SMOOTHED: u16 = 1 << 0;
    /// The peer's FIN was received in order: it is counted in [`super::FlowRecord::bytes_received`].
    pub const FIN_RECEIVED: u16 = 1 << 1;
    /// The peer acknowledged our FIN: it is counted in [`super::FlowRecord::bytes_acked`].
    pub const FIN_ACKED: u16 = 1 << 2;
    /// The peer's FIN came before this end sent one.
    pub const PEER_FIN_FIRST: u16 = 1 << 3;
    /// The retransmission timer aborted the connection (`BPF_SOCK_OPS_RTO_CB` with `args[2]` set).
    pub const TIMED_OUT: u16 = 1 << 4;
    /// The close was orderly: from LAST_ACK, CLOSING or FIN_WAIT2 after the FINs that those states wait for.
    pub const ORDERLY: u16 = 1 << 5;
    /// A client's connection was established whose SYN was not seen: the start is the time of establishment.
    pub const START_UNSEEN: u16 = 1 << 6;
    /// The application closed the socket before the connection was established.
    pub const ABANDONED: u16 = 1 << 7;
    /// Every segment since the handshake was inspected (`FLOWCAR_EXCHANGE=on`), so that a RST of the peer's was seen.
    pub const SEGMENTS_SEEN: u16 = 1 << 8;
    /// A segment with RST came from the peer.
    pub const RESET_RECEIVED: u16 = 1 << 9;
    /// No segment came since the mark ([`super::FlowRecord::marked_segs_in`]): no RST of the peer's closed the connection.
    pub const NOTHING_RECEIVED: u16 = 1 << 10;
    /// No segment without payload came since the mark, and a RST has none.
    pub const ONLY_DATA_RECEIVED: u16 = 1 << 11;
    /// FIN_WAIT2 ended after payload had come, and the headers did not show whether the peer's FIN is among the bytes received.
    pub const FIN_UNCERTAIN: u16 = 1 << 12;
    /// A segment with FIN came from the peer, which userspace believes only together with [`SEGMENTS_SEEN`]: it may have come before what
    /// precedes it.
    pub const FIN_SEEN: u16 = 1 << 13;
    /// Of a failed attempt: the socket is in userspace's network namespace. Set by the program that can read the namespace.
    pub const OWN_NETNS: u16 = 1 << 14;
    /// Of a failed attempt: its SYN was no longer queued when it failed (`tcp_sock.packets_out` is 0). A RST and, since Linux
    /// 6.10, ICMP errors and SOCK_DESTROY discard the queue before they end the attempt (net/ipv4/tcp.c,
    /// tcp_done_with_error); `close()`, `shutdown()` and `connect(AF_UNSPEC)` discard it afterwards (tcp_disconnect).
    pub const SYN_DISCARDED: u16 = 1 << 15;
}

/// Address family of [`FlowRecord::family`]: `AF_INET` (include/linux/socket.h).
pub const AF_INET: u8 = 2;
/// Address family of [`FlowRecord::family`]: `AF_INET6`.
pub const AF_INET6: u8 = 10;

/// One socket's state, as kept in the kernel and as sent. Times are `CLOCK_MONOTONIC` nanoseconds
/// (`bpf_ktime_get_ns`).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct FlowRecord {
    /// `bpf_get_socket_cookie`: unique among the network namespace's sockets, past and present.
    pub cookie: u64,
    /// The SYN was sent (client), or the connection was established.
    pub started_ns: u64,
    /// The connection was established; 0 while it is not.
    pub established_ns: u64,
    /// This record was sent.
    pub emitted_ns: u64,
    /// Local address, network byte order; IPv4 as `::ffff:a.b.c.d`.
    pub local_addr: [u32; 4],
    /// Peer address, network byte order; IPv4 as `::ffff:a.b.c.d`.
    pub peer_addr: [u32; 4],
    /// Local port, host byte order.
    pub local_port: u16,
    /// Peer port, host byte order.
    pub peer_port: u16,
    /// The client's initial sequence number; meaningful once established.
    pub client_isn: u32,
    /// The server's initial sequence number; meaningful once established.
    pub server_isn: u32,
    /// [`Kind`].
    pub kind: u8,
    /// [`Role`].
    pub role: u8,
    /// [`AF_INET`] or [`AF_INET6`]: the socket's, also where the addresses are v4-mapped.
    pub family: u8,
    /// The state before the close, `TCP_ESTABLISHED` = 1 and so on (include/net/tcp_states.h); 0 while open.
    pub last_state: u8,
    /// `tcp_sock.bytes_acked` (RFC 4898 tcpEStatsAppHCThruOctetsAcked): counts the active side's SYN and an acknowledged FIN.
    /// The open record of a flow without socket storage ends before this field ([`OpenRecord`]), so that it and all that follow decode
    /// as zero. What is counted by then is the handshake's, and the next record has it, too.
    pub bytes_acked: u64,
    /// `tcp_sock.bytes_received` (tcpEStatsAppHCThruOctetsReceived): counts a FIN received in order.
    pub bytes_received: u64,
    /// Segments sent, retransmissions and pure ACKs included.
    pub segs_out: u32,
    /// Segments received.
    pub segs_in: u32,
    /// Segments retransmitted, all causes (`tcp_sock.total_retrans`).
    pub total_retrans: u32,
    /// `tcp_sock.bytes_received` modulo 2^16 when FIN_WAIT2 was entered, or when the peer's FIN came after that.
    pub received_at_fin_wait2: u16,
    /// The state in which the application closed the socket (`sock_release`), as [`FlowRecord::last_state`]; 0 before.
    pub released_in: u16,
    /// Bits of [`flag`].
    pub flags: u16,
    /// Histogram slots up to the last one in use: how many follow in a sent record.
    pub slots_used: u16,
    /// How many inline RTT samples there are.
    pub inline_samples_used: u32,
    /// The first RTT samples, microseconds: they are not in the histogram. While there is none, a client's origin or a
    /// server's network namespace ([`crate::origin`]).
    pub inline_samples: [u32; INLINE_SAMPLES],
    /// Sum of the RTT samples in the histogram, microseconds. The records of a flow without socket
    /// storage end before this field, so that it and all that follow decode as zero.
    pub rtt_sum_us: u64,
    /// SYNs (client) or SYN-ACKs (server) retransmitted.
    pub retrans_handshake: u32,
    /// Segments that a fast recovery retransmitted.
    pub retrans_fast: u32,
    /// Segments retransmitted after the retransmission timer expired.
    pub retrans_timeout: u32,
    /// Segments that a tail loss probe retransmitted.
    pub retrans_probe: u32,
    /// Expiries of the retransmission timer after the handshake.
    pub timeouts: u32,
    /// `snd_nxt` when the retransmission timer last expired: retransmissions below it are due to that.
    pub timeout_high_seq: u32,
    /// The least RTT sample in the histogram, microseconds; `u32::MAX` while there is none.
    pub rtt_min_us: u32,
    /// The greatest RTT sample in the histogram, microseconds.
    pub rtt_max_us: u32,
    /// The sample epoch when the last record was sent.
    pub sample_epoch: u32,
    /// The slot of the newest sample. The verifier needs to see the index come out of memory.
    pub scratch: u32,
    /// `tcp_sock.segs_in` modulo 2^16 at the mark: the last callback that showed the connection alive.
    pub marked_segs_in: u16,
    /// `tcp_sock.data_segs_in` modulo 2^16 at the mark.
    pub marked_data_segs_in: u16,
    /// Zero.
    pub reserved: u32,
    /// RTT samples after the inline ones, by [`crate::histogram`] slot.
    pub rtt_slots: [u32; SLOTS],
}

/// The open record of a flow without socket storage.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct OpenRecord {
    /// A [`FlowRecord`] up to its counts.
    pub head: [u64; OPEN_HEAD / 8],
    /// The id of the cgroup that called `connect()`; of a server the cookie of its network namespace, 0 where the kernel does not return
    /// it.
    pub cgroup_id: u64,
    /// The process that called `connect()`. Of a server it means nothing.
    pub tgid: u32,
    /// Unused.
    pub reserved: u32,
}

/// Both ends of an IPv4 socket.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BriefEnds {
    /// Local address, network byte order.
    pub local_addr: u32,
    /// Peer address, network byte order.
    pub peer_addr: u32,
    /// Local port, host byte order.
    pub local_port: u16,
    /// Peer port, host byte order.
    pub peer_port: u16,
    /// As [`FlowRecord::client_isn`].
    pub client_isn: u32,
    /// As [`FlowRecord::server_isn`].
    pub server_isn: u32,
}

/// The open record of a flow over an IPv4 socket without socket storage.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BriefOpen {
    /// [`brief::pack`]; without samples.
    pub socket: u64,
    /// As [`FlowRecord::started_ns`].
    pub started_ns: u64,
    /// As [`FlowRecord::established_ns`]; the record was sent then, too.
    pub established_ns: u64,
    /// As [`OpenRecord::cgroup_id`].
    pub cgroup_id: u64,
    /// Both ends.
    pub ends: BriefEnds,
    /// As [`OpenRecord::tgid`].
    pub tgid: u32,
}

/// The close record of a flow over an IPv4 socket without socket storage that was established, has samples, of which all have room
/// here, no retransmission, and counts that have room here.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BriefClose {
    /// [`brief::pack`].
    pub socket: u64,
    /// As [`FlowRecord::started_ns`].
    pub started_ns: u64,
    /// As [`FlowRecord::established_ns`].
    pub established_ns: u64,
    /// As [`FlowRecord::emitted_ns`].
    pub emitted_ns: u64,
    /// Both ends.
    pub ends: BriefEnds,
    /// As [`FlowRecord::bytes_acked`].
    pub bytes_acked: u32,
    /// As [`FlowRecord::bytes_received`].
    pub bytes_received: u32,
    /// The RTT samples, microseconds.
    pub samples: [u32; BRIEF_SAMPLES],
    /// [`Kind::Close`], where other records have theirs.
    pub kind: u8,
    /// As [`FlowRecord::last_state`].
    pub last_state: u8,
    /// Bits of [`flag`].
    pub flags: u16,
    /// As [`FlowRecord::segs_out`].
    pub segs_out: u16,
    /// As [`FlowRecord::segs_in`].
    pub segs_in: u16,
    /// As [`FlowRecord::released_in`].
    pub released_in: u16,
    /// Unused.
    pub reserved: u16,
}

/// A socket's cookie, number of inline samples and role in one word: [`BriefOpen::socket`], [`BriefClose::socket`].
pub mod brief {
    use super::INLINE_SAMPLES;

    const ROLE: u64 = 3;
    const SAMPLES_SHIFT: u32 = 2;
    const SAMPLES: u64 = 0x3f;
    const COOKIE_SHIFT: u32 = 8;

    /// Bits of a cookie that has room; one more is free.
    pub const COOKIE_BITS: u32 = u64::BITS - COOKIE_SHIFT - 1;

    const _: () = assert!(has_room((1 << COOKIE_BITS) - 1) && !has_room(1 << COOKIE_BITS));
    // A cookie that counts down.
    const _: () = assert!(
        !has_room(u64::MAX) && cookie(pack((1 << COOKIE_BITS) - 1, 2)) == (1 << COOKIE_BITS) - 1
    );

    /// Whether a cookie has room.
    #[inline(always)]
    pub const fn has_room(cookie: u64) -> bool {
        cookie >> COOKIE_BITS == 0
    }

    /// One more sample.
    pub const ONE_SAMPLE: u64 = 1 << SAMPLES_SHIFT;

    const _: () = assert!(INLINE_SAMPLES as u64 <= SAMPLES && super::Role::Server as u64 <= ROLE);

    /// The word of a socket without samples, whose cookie has at most [`COOKIE_BITS`].
    #[inline(always)]
    pub const fn pack(cookie: u64, role: u8) -> u64 {
        cookie << COOKIE_SHIFT | role as u64
    }

    /// The cookie.
    #[inline(always)]
    pub const fn cookie(word: u64) -> u64 {
        word >> COOKIE_SHIFT
    }

    /// The role's number.
    #[inline(always)]
    pub const fn role(word: u64) -> u8 {
        (word & ROLE) as u8
    }

    /// How many inline samples there are.
    #[inline(always)]
    pub const fn samples(word: u64) -> u32 {
        (word >> SAMPLES_SHIFT & SAMPLES) as u32
    }
}

/// Bytes of [`OpenRecord::head`].
pub const OPEN_HEAD: usize = offset_of!(FlowRecord, bytes_acked);

/// Bytes of the open record of a flow without socket storage.
pub const OPEN_LEN: usize = size_of::<OpenRecord>();

/// Bytes of the other records of a flow without socket storage.
pub const SHORT_LEN: usize = offset_of!(FlowRecord, rtt_sum_us);

/// Bytes of a [`BriefOpen`]: no other record is as short.
pub const BRIEF_OPEN_LEN: usize = size_of::<BriefOpen>();

/// Bytes of a [`BriefClose`]: no other close record has as many.
pub const BRIEF_CLOSE_LEN: usize = size_of::<BriefClose>();

/// RTT samples that have room in a [`BriefClose`].
pub const BRIEF_SAMPLES: usize = 4;

/// Bytes of every other record before its histogram.
pub const HEADER_LEN: usize = offset_of!(FlowRecord, rtt_slots);

/// Bytes of a record with all slots.
pub const RECORD_LEN: usize = size_of::<FlowRecord>();

/// RTT samples that are kept one by one before a flow has a histogram.
pub const INLINE_SAMPLES: usize = 6;

// The kernel allocates a socket storage element as this value behind some 80 bytes of the kernel's
// (kernel/bpf/bpf_local_storage.c); past 1024 bytes together, every followed socket would cost 2048.
const _: () = assert!(RECORD_LEN <= 928);
const _: () = assert!(OPEN_HEAD == 80 && OPEN_LEN == 96 && SHORT_LEN == 144);
const _: () = assert!(offset_of!(OpenRecord, cgroup_id) == OPEN_HEAD);
// With the ring buffer's 8 bytes, 64 and 96: a connection takes two and a half cache lines.
const _: () = assert!(BRIEF_OPEN_LEN == 56 && BRIEF_CLOSE_LEN == 88);
const _: () = assert!(BRIEF_OPEN_LEN <= offset_of!(FlowRecord, kind));
const _: () = assert!(offset_of!(BriefClose, kind) == offset_of!(FlowRecord, kind));
const _: () = assert!(align_of::<BriefOpen>() == 8 && align_of::<BriefClose>() == 8);
const _: () = assert!(HEADER_LEN == 200 && RECORD_LEN == HEADER_LEN + 4 * SLOTS);
const _: () = assert!(align_of::<FlowRecord>() == 8 && RECORD_LEN.is_multiple_of(8));
const _: () = assert!(offset_of!(FlowRecord, local_addr) == 32);
const _: () = assert!(offset_of!(FlowRecord, local_port) == 64);
const _: () = assert!(offset_of!(FlowRecord, kind) == 76);
const _: () = assert!(offset_of!(FlowRecord, bytes_acked) == 80);
const _: () = assert!(offset_of!(FlowRecord, segs_out) == 96);
const _: () = assert!(offset_of!(FlowRecord, released_in) == 110);
const _: () = assert!(offset_of!(FlowRecord, flags) == 112);
