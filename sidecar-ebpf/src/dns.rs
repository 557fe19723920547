//! The cgroup_skb hooks of names (since 4.10; on a cgroup): DNS queries that a socket sends, and answers that it receives.
//!
//! Attached only where names are followed, beside the hooks of exchanges. Nearly every packet belongs to a socket that is connected to
//! another port than 53: it costs one load and one comparison. A socket that is not connected shows port 0, so its packets' headers are
//! read, too.
//!
//! A connected socket has the address that it asked. A packet that leaves may have another one, and another port: this hook sees it behind
//! the network namespace's own destination NAT (kube-proxy for a pod in the host's network, the resolver of Docker's networks).

use core::arch::asm;

use aya_ebpf::{
    bindings::__sk_buff, helpers::bpf_skb_load_bytes, macros::cgroup_skb, programs::SkBuffContext,
};
use flowcar_shared::{
    counter::Counter,
    dns::{DnsHead, DnsRecord, KIND, LARGE, SMALL, flag},
    record::AF_INET,
};

use crate::{
    ctx::now,
    maps::{AVAIL_DATA, FORCE_WAKEUP, NO_WAKEUP, RECORDS, count, wake_level},
    packet::load,
    verifier::{put, through_memory},
};

/// The port of resolvers (RFC 1035 section 4.2), in network byte order.
const PORT: [u8; 2] = 53_u16.to_be_bytes();

/// `::ffff:0:0`, the third word.
const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

/// Protocol numbers (RFC 768, RFC 9293).
const UDP: u8 = 17;
const TCP: u8 = 6;

/// The SYN flag (RFC 9293 section 3.1): what travels with it is sent again if the other end does not take it.
const SYN: u8 = 1 << 1;

/// A packet leaves. Always answers 1: let it pass.
#[cgroup_skb(egress)]
pub(crate) fn flowcar_dns_egress(context: SkBuffContext) -> i32 {
    observe::<true>(context.skb.skb);
    1
}

/// A packet has come. Always answers 1.
#[cgroup_skb(ingress)]
pub(crate) fn flowcar_dns_ingress(context: SkBuffContext) -> i32 {
    observe::<false>(context.skb.skb);
    1
}

macro_rules! field {
    ($skb:expr, $($field:tt)*) => {
        // SAFETY: the verifier has proven the context pointer; the field is UAPI. One load for each.
        unsafe { (&raw const (*$skb).$($field)*).read_volatile() }
    };
}

#[inline(always)]
fn observe<const SENT: bool>(skb: *mut __sk_buff) {
    // Network byte order in the upper half of a u32 (net/core/filter.c, bpf_convert_ctx_access).
    let remote_port = field!(skb, remote_port);
    if remote_port == u32::from_ne_bytes([0, 0, PORT[0], PORT[1]]) {
        packet::<SENT, true>(skb);
    } else if remote_port == 0 {
        packet::<SENT, false>(skb);
    }
}

/// The network header: where the next one begins, its protocol, and the other end's address.
struct Network {
    end: u32,
    protocol: u8,
    remote: [u32; 4],
}

/// Who asks whom.
struct Ends {
    resolver: [u32; 4],
    /// Host byte order.
    local_port: u16,
}

#[cold]
#[inline(never)]
fn packet<const SENT: bool, const CONNECTED: bool>(skb: *mut __sk_buff) {
    let Some(network) = network::<SENT>(skb) else {
        return;
    };
    match network.protocol {
        UDP => udp::<SENT, CONNECTED>(skb, &network),
        TCP => tcp::<SENT, CONNECTED>(skb, &network),
        _ => {}
    }
}

/// The ends by the socket if it is connected, else by the packet; `None` if the other end is no resolver.
#[inline(always)]
fn ends<const SENT: bool, const CONNECTED: bool>(
    skb: *mut __sk_buff,
    network: &Network,
    source: [u8; 2],
    target: [u8; 2],
) -> Option<Ends> {
    if CONNECTED {
        return Some(Ends {
            resolver: remote(skb),
            local_port: field!(skb, local_port) as u16,
        });
    }
    let (local, remote) = if SENT {
        (source, target)
    } else {
        (target, source)
    };
    (remote == PORT).then_some(Ends {
        resolver: network.remote,
        local_port: u16::from_be_bytes(local),
    })
}

/// The address that the socket is connected to.
#[inline(always)]
fn remote(skb: *mut __sk_buff) -> [u32; 4] {
    if field!(skb, family) == u32::from(AF_INET) {
        let address = field!(skb, remote_ip4);
        // As in `Ctx::addresses`.
        // SAFETY: no instruction at all.
        unsafe { asm!("", options(nostack)) };
        return [0, 0, MAPPED, address];
    }
    [
        field!(skb, remote_ip6[0]),
        field!(skb, remote_ip6[1]),
        field!(skb, remote_ip6[2]),
        field!(skb, remote_ip6[3]),
    ]
}

#[inline(always)]
fn network<const SENT: bool>(skb: *mut __sk_buff) -> Option<Network> {
    // An IPv4 header with a DNS header by UDP, or an IPv6 header: whatever is shorter is no query and no answer.
    let start = load::<40>(skb, 0)?;
    let word =
        |at: usize| u32::from_ne_bytes([start[at], start[at + 1], start[at + 2], start[at + 3]]);
    if start[0] >> 4 == 4 {
        let address = if SENT { word(16) } else { word(12) };
        return Some(Network {
            end: u32::from(start[0] & 0xf) * 4,
            protocol: start[9],
            remote: [0, 0, MAPPED, address],
        });
    }
    let remote = if SENT {
        [word(24), word(28), word(32), word(36)]
    } else {
        [word(8), word(12), word(16), word(20)]
    };
    Some(Network {
        end: 40,
        protocol: start[6],
        remote,
    })
}

#[inline(always)]
fn udp<const SENT: bool, const CONNECTED: bool>(skb: *mut __sk_buff, network: &Network) {
    let Some([source0, source1, target0, target1, ..]) = load::<8>(skb, network.end) else {
        return;
    };
    let (source, target) = ([source0, source1], [target0, target1]);
    if let Some(ends) = ends::<SENT, CONNECTED>(skb, network, source, target) {
        copy::<SENT>(skb, &ends, network.end + 8, None);
    }
}

#[inline(always)]
fn tcp<const SENT: bool, const CONNECTED: bool>(skb: *mut __sk_buff, network: &Network) {
    let Some(header) = load::<20>(skb, network.end) else {
        return;
    };
    let (source, target) = ([header[0], header[1]], [header[2], header[3]]);
    if let Some(ends) = ends::<SENT, CONNECTED>(skb, network, source, target)
        && header[13] & SYN == 0
    {
        let word = |at: usize| {
            u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let segment = Segment {
            sequence: word(4),
            acknowledged: word(8),
        };
        let payload = network.end + u32::from(header[12] >> 4) * 4;
        copy::<SENT>(skb, &ends, payload, Some(segment));
    }
}

#[inline(always)]
fn copy<const SENT: bool>(
    skb: *mut __sk_buff,
    ends: &Ends,
    payload: u32,
    segment: Option<Segment>,
) {
    let len = field!(skb, len);
    if len <= payload {
        return;
    }
    let head = Head {
        ends,
        len: len - payload,
        segment,
    };
    if head.len as usize <= SMALL {
        send::<SENT, SMALL>(skb, payload, &head);
    } else {
        send::<SENT, LARGE>(skb, payload, &head);
    }
}

/// Where a segment's payload is in its stream.
#[derive(Clone, Copy)]
struct Segment {
    sequence: u32,
    acknowledged: u32,
}

struct Head<'a> {
    ends: &'a Ends,
    len: u32,
    segment: Option<Segment>,
}

#[inline(always)]
fn send<const SENT: bool, const N: usize>(skb: *mut __sk_buff, payload: u32, head: &Head<'_>) {
    // Names leave half of the ring buffer to connections.
    let waiting = RECORDS.query(AVAIL_DATA);
    if waiting >= u64::from(wake_level()) * 2 {
        return count(Counter::DnsDropped);
    }
    let Some(mut entry) = RECORDS.reserve::<DnsRecord<N>>(0) else {
        return count(Counter::DnsDropped);
    };
    let record = entry.as_mut_ptr();
    let to: *mut DnsHead = record.cast();
    let wanted = if head.len as usize > N {
        N as u32
    } else {
        head.len
    };
    // The verifier must see both bounds, and the compiler knows them too well to leave them to it.
    // SAFETY: a field of the reserved record.
    let last = unsafe { through_memory(&raw mut (*to).copied, wanted - 1) } & (N - 1);
    let copied = last as u32 + 1;
    // SAFETY: the helper fills so many bytes, for which the record has room, or returns an error.
    let result = unsafe {
        let into = (&raw mut (*record).payload).cast();
        bpf_skb_load_bytes(skb.cast(), payload, into, copied)
    };
    if result != 0 {
        entry.discard(NO_WAKEUP);
        return count(Counter::DnsDropped);
    }
    let sent = if SENT { flag::SENT } else { 0 };
    let by_tcp = if head.segment.is_some() { flag::TCP } else { 0 };
    let segment = head.segment.unwrap_or(Segment {
        sequence: 0,
        acknowledged: 0,
    });
    put! { to,
        at_ns: now(),
        resolver[0]: head.ends.resolver[0],
        resolver[1]: head.ends.resolver[1],
        resolver[2]: head.ends.resolver[2],
        resolver[3]: head.ends.resolver[3],
        sequence: segment.sequence,
        acknowledged: segment.acknowledged,
        len: head.len,
        copied: copied,
        local_port: head.ends.local_port,
        kind: KIND,
        flags: sent | by_tcp,
    }
    entry.submit(if waiting >= u64::from(wake_level()) {
        FORCE_WAKEUP
    } else {
        NO_WAKEUP
    });
}
