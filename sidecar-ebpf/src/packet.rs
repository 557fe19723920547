//! The cgroup_skb hooks (since 4.10; on a cgroup): every IP packet that a socket of the cgroup sends or receives.
//!
//! Attached only where exchanges are followed. A packet without payload costs one read of its headers; the rest goes to
//! [`exchange`]. All reads are by `bpf_skb_load_bytes`: direct access to a packet compares pointers, which verifiers before
//! 6.6 refuse without CAP_PERFMON.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::__sk_buff, helpers::bpf_skb_load_bytes, macros::cgroup_skb, programs::SkBuffContext,
};

use crate::exchange::{self, Way};

/// `IPPROTO_TCP` (RFC 9293).
const TCP: u8 = 6;

/// IPv6 extension headers that may stand before TCP and begin with the next header's number and their own length in units of
/// 8 bytes, the first not counted (RFC 8200 section 4): hop-by-hop options, routing, destination options.
const EXTENSIONS: [u8; 3] = [0, 43, 60];

/// Bytes of an IPv4 header without options, of a TCP header without options, and of an IPv6 header.
const IPV4_LEN: u32 = 20;
const TCP_LEN: u32 = 20;
const IPV6_LEN: u32 = 40;

/// The RST, SYN and FIN flags, in the byte after the data offset (RFC 9293 section 3.1).
const RST: u8 = 1 << 2;
const SYN: u8 = 1 << 1;
const FIN: u8 = 1 << 0;

type TcpHeader = [u8; TCP_LEN as usize];

/// A packet leaves. Always answers 1: let it pass.
#[cgroup_skb(egress)]
pub(crate) fn flowcar_egress(context: SkBuffContext) -> i32 {
    observe_packet(context.skb.skb, Way::Out);
    1
}

/// A packet has come. Always answers 1.
#[cgroup_skb(ingress)]
pub(crate) fn flowcar_ingress(context: SkBuffContext) -> i32 {
    observe_packet(context.skb.skb, Way::In);
    1
}

#[inline(always)]
fn observe_packet(skb: *mut __sk_buff, way: Way) {
    // An IPv4 and a TCP header without options, or an IPv6 header: whatever is shorter is no TCP segment.
    let Some(start) = load::<40>(skb, 0) else {
        return;
    };
    if start[0] >> 4 == 4 {
        if start[9] == TCP {
            ipv4(skb, way, &start);
        }
    } else if start[6] == TCP {
        at(skb, way, IPV6_LEN);
    } else if EXTENSIONS[0] == start[6] || EXTENSIONS[1] == start[6] || EXTENSIONS[2] == start[6] {
        extended(skb, way);
    }
}

#[inline(always)]
fn ipv4(skb: *mut __sk_buff, way: Way, start: &[u8; 40]) {
    let len = u32::from(start[0] & 0xf) * 4;
    if len != IPV4_LEN {
        return at(skb, way, len);
    }
    let sequence = u32::from_be_bytes([start[24], start[25], start[26], start[27]]);
    segment(skb, way, len, sequence, start[32], start[33]);
}

/// One extension header, as in packets of more than 64 KiB (RFC 2675); a longer chain is not followed.
#[inline(always)]
fn extended(skb: *mut __sk_buff, way: Way) {
    match load::<2>(skb, IPV6_LEN) {
        Some([TCP, length]) => at(skb, way, IPV6_LEN + (u32::from(length) + 1) * 8),
        Some([next, _])
            if EXTENSIONS[0] == next || EXTENSIONS[1] == next || EXTENSIONS[2] == next =>
        {
            exchange::unread(skb);
        }
        _ => {}
    }
}

/// A TCP header that has not been loaded.
#[inline(always)]
fn at(skb: *mut __sk_buff, way: Way, offset: u32) {
    let Some(tcp) = load::<{ TCP_LEN as usize }>(skb, offset) else {
        return;
    };
    let tcp: TcpHeader = tcp;
    let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
    segment(skb, way, offset, sequence, tcp[12], tcp[13]);
}

#[inline(always)]
fn segment(skb: *mut __sk_buff, way: Way, offset: u32, sequence: u32, data_offset: u8, flags: u8) {
    // SAFETY: the verifier has proven the context pointer; the field is UAPI.
    let len = unsafe { (&raw const (*skb).len).read_volatile() };
    let headers = offset + u32::from(data_offset >> 4) * 4;
    if flags & (RST | FIN) != 0 && matches!(way, Way::In) {
        exchange::last(skb, (flags & RST != 0).then_some(sequence));
    }
    if len > headers {
        // What travels with a SYN belongs to a connection that is not followed yet.
        if flags & SYN == 0 {
            exchange::payload(skb, way, sequence.wrapping_add(len - headers));
        }
    }
}

/// Bytes of a packet from its network header on; `None` where it is shorter.
#[inline(always)]
pub(crate) fn load<const N: usize>(skb: *mut __sk_buff, offset: u32) -> Option<[u8; N]> {
    let mut bytes = MaybeUninit::<[u8; N]>::uninit();
    // SAFETY: the helper fills the array, or returns an error.
    unsafe {
        match bpf_skb_load_bytes(skb.cast(), offset, bytes.as_mut_ptr().cast(), N as u32) {
            0 => Some(bytes.assume_init()),
            _ => None,
        }
    }
}
