//! A packet to or from port 53 with payload, as the kernel programs copy it: a DNS message, or a segment of a stream of them (RFC 1035
//! section 4.2).

use core::mem::{offset_of, size_of};

use crate::record::FlowRecord;

/// [`DnsHead::kind`]: differs from the kinds of other records, at the same offset.
pub const KIND: u8 = 6;

/// Payload bytes in the smaller record: all of nearly every message.
pub const SMALL: usize = 512;

/// Payload bytes in the larger record. What a resolver's client takes by UDP is 4,096 bytes at most as a rule (RFC 6891 section 6.2.5).
pub const LARGE: usize = 4_096;

/// Bits of [`DnsHead::flags`].
pub mod flag {
    /// The socket sent it; else it has come.
    pub const SENT: u8 = 1 << 0;
    /// By TCP; else by UDP.
    pub const TCP: u8 = 1 << 1;
}

/// What is known of the packet.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct DnsHead {
    /// `CLOCK_MONOTONIC` nanoseconds.
    pub at_ns: u64,
    /// The resolver's address, network byte order; IPv4 as `::ffff:a.b.c.d`.
    pub resolver: [u32; 4],
    /// The sequence number of the payload's first byte (TCP).
    pub sequence: u32,
    /// The sequence number of the other end's next byte (TCP).
    pub acknowledged: u32,
    /// Payload bytes of the packet.
    pub len: u32,
    /// How many of them follow.
    pub copied: u32,
    /// The socket's port, host byte order.
    pub local_port: u16,
    /// Unused.
    pub reserved: [u16; 17],
    /// [`KIND`].
    pub kind: u8,
    /// Bits of [`flag`].
    pub flags: u8,
    /// Unused.
    pub reserved_after: [u8; 2],
}

/// A record; what stands behind the copied bytes means nothing.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct DnsRecord<const N: usize> {
    /// What is known of the packet.
    pub head: DnsHead,
    /// The beginning of its payload.
    pub payload: [u8; N],
}

/// Bytes of the head.
pub const HEAD_LEN: usize = size_of::<DnsHead>();

const _: () = assert!(offset_of!(DnsHead, kind) == offset_of!(FlowRecord, kind));
const _: () = assert!(HEAD_LEN == 80 && align_of::<DnsHead>() == 8);
const _: () = assert!(offset_of!(DnsHead, local_port) == 40);
const _: () = assert!(size_of::<DnsRecord<SMALL>>() == HEAD_LEN + SMALL);
const _: () = assert!(size_of::<DnsRecord<LARGE>>() == HEAD_LEN + LARGE);
const _: () = assert!(SMALL.is_power_of_two() && LARGE.is_power_of_two());
