//! Whose a socket is: the cgroup and the process that called `connect()` or `listen()`.
//!
//! Of a client both lie where its inline RTT samples will, until the first of them ([`CGROUP_LOW`], [`CGROUP_HIGH`], [`TGID`]), and at the
//! end of its open record. A server's socket comes out of an interrupt, in which nobody is the caller: its listener is reported once, in
//! an [`OriginRecord`]. In the place of its cgroup is its network namespace ([`NETNS_LOW`], [`NETNS_HIGH`]), as listeners of several
//! may have one address.

use core::mem::{offset_of, size_of};

use crate::record::{FlowRecord, INLINE_SAMPLES};

/// [`OriginRecord::kind`]: a socket listens, or was bound and may listen.
pub const LISTENER: u8 = 7;

/// [`OriginRecord::kind`]: a process called `connect()` that was not seen lately.
pub const CALLER: u8 = 8;

/// [`OriginRecord::kind`]: a listener is closed. The record has its cookie and the time.
pub const CLOSED_LISTENER: u8 = 9;

/// In a client's [`FlowRecord::inline_samples`] while there is no sample: the lower half of the cgroup's id.
pub const CGROUP_LOW: usize = 0;
/// The same: the upper half.
pub const CGROUP_HIGH: usize = 1;
/// The same: the process.
pub const TGID: usize = 5;

/// In a server's [`FlowRecord::inline_samples`] while there is no sample: the lower half of the cookie of its network namespace; 0 where
/// the kernel does not return it.
pub const NETNS_LOW: usize = CGROUP_LOW;
/// The same: the upper half.
pub const NETNS_HIGH: usize = CGROUP_HIGH;

const _: () = assert!(TGID < INLINE_SAMPLES);

/// Who called.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct OriginRecord {
    /// The listener's, as [`FlowRecord::cookie`]; 0 of a caller.
    pub cookie: u64,
    /// When, `CLOCK_MONOTONIC` nanoseconds.
    pub at_ns: u64,
    /// The id of the process's cgroup: the inode number of its directory.
    pub cgroup_id: u64,
    /// The cookie of the listener's network namespace; 0 where the kernel does not give it.
    pub netns: u64,
    /// The listener's address, network byte order; IPv4 as `::ffff:a.b.c.d`.
    pub address: [u32; 4],
    /// The process, in the initial PID namespace.
    pub tgid: u32,
    /// The listener's port, host byte order.
    pub port: u16,
    /// Unused.
    pub reserved: u16,
    /// The process in the PID namespace that userspace is in; 0 where the process is of another one, or userspace does not ask.
    pub own_tgid: u32,
    /// Unused.
    pub reserved_between: [u16; 8],
    /// [`LISTENER`], [`CALLER`] or [`CLOSED_LISTENER`].
    pub kind: u8,
    /// Unused.
    pub reserved_after: [u8; 3],
}

/// Bytes of a record.
pub const RECORD_LEN: usize = size_of::<OriginRecord>();

const _: () = assert!(offset_of!(OriginRecord, kind) == offset_of!(FlowRecord, kind));
const _: () = assert!(RECORD_LEN == 80 && align_of::<OriginRecord>() == 8);
