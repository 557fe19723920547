//! A connection's exchanges as the kernel keeps them and, byte for byte, sends them.
//!
//! An exchange is a request and its response: the time from the last byte of the request to the first byte of the response,
//! seen at this end. No protocol's framing is read: a request ends where payload goes the other way.
//!
//! An [`ExchangeRecord`] is sent right before the flow's own record (a sample or the close), if there are exchanges that
//! were not reported yet. Counts are cumulative since the connection was established.

use core::mem::{offset_of, size_of};

use crate::{histogram::SLOTS, record::FlowRecord};

/// [`ExchangeHead::kind`]: differs from the kinds of flow records, at the same offset.
pub const KIND: u8 = 4;

/// Exchanges that are kept one by one before a connection has a histogram of them.
pub const INLINE_EXCHANGES: usize = 11;

/// Bits of [`ExchangeHead::flags`].
pub mod flag {
    /// A segment with RST came from the peer.
    pub const RESET_RECEIVED: u8 = 1 << 0;
    /// A segment with FIN came from the peer.
    pub const FIN_RECEIVED: u8 = 1 << 1;
}

/// All but the histogram. Times are `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ExchangeHead {
    /// As in [`FlowRecord::cookie`].
    pub cookie: u64,
    /// When the newest byte of a request that waits for its response was sent (client) or received (server), nanoseconds; 0
    /// while none waits.
    pub asked_ns: u64,
    /// Sum of the exchanges in the histogram, microseconds.
    pub sum_us: u64,
    /// The first exchanges, microseconds: they are not in the histogram.
    pub inline_samples: [u32; INLINE_EXCHANGES],
    /// The shortest exchange in the histogram, microseconds; meaningless while there is none.
    pub min_us: u32,
    /// The longest exchange in the histogram, microseconds.
    pub max_us: u32,
    /// [`KIND`].
    pub kind: u8,
    /// [`crate::record::Role`].
    pub role: u8,
    /// How many inline samples there are.
    pub inline_samples_used: u8,
    /// Bits of [`flag`].
    pub flags: u8,
    /// The sequence number after the newest payload sent: a segment that ends no later is a retransmission.
    pub sent_end: u32,
    /// The sequence number after the newest payload received.
    pub received_end: u32,
    /// Histogram slots up to the last one in use: how many follow in a sent record.
    pub slots_used: u16,
    /// The sequence number of the peer's newest RST, modulo 2^16.
    pub reset_sequence: u16,
    /// Scratch memory: the verifier must see an index come out of memory.
    pub scratch: u32,
    /// Exchanges so far.
    pub count: u32,
    /// Exchanges reported to userspace.
    pub reported: u32,
}

/// One connection's exchanges, as kept in socket storage and as sent.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ExchangeRecord {
    /// All but the histogram.
    pub head: ExchangeHead,
    /// Exchanges after the inline samples, by [`crate::histogram`] slot.
    pub slots: [u32; SLOTS],
}

/// Bytes of a record before its histogram.
pub const HEAD_LEN: usize = size_of::<ExchangeHead>();

/// Bytes of a record with all slots.
pub const RECORD_LEN: usize = size_of::<ExchangeRecord>();

const _: () = assert!(offset_of!(ExchangeHead, kind) == offset_of!(FlowRecord, kind));
const _: () = assert!(HEAD_LEN == 104 && RECORD_LEN == HEAD_LEN + 4 * SLOTS);
// As for flow records: with the kernel's part it stays below 1024 bytes.
const _: () = assert!(RECORD_LEN <= 928 && RECORD_LEN.is_multiple_of(8));
