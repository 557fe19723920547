//! The address that `connect()` was asked for, where the socket connects to another one.
//!
//! An [`AskedRecord`] is sent right before the SYN, and so before the first record of the flow. Most sockets connect where they were
//! asked to: those have none.

use core::mem::{offset_of, size_of};

use crate::record::FlowRecord;

/// [`AskedRecord::kind`]: differs from the kinds of other records, at the same offset.
pub const KIND: u8 = 5;

/// What `connect()` was asked for.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct AskedRecord {
    /// As in [`FlowRecord::cookie`].
    pub cookie: u64,
    /// As in [`FlowRecord::started_ns`]: distinguishes the attempt from others of the same socket.
    pub started_ns: u64,
    /// Zero: room for the id of the socket's cgroup.
    pub cgroup_id: u64,
    /// The address, network byte order; IPv4 as `::ffff:a.b.c.d`.
    pub address: [u32; 4],
    /// Zero: room for the process that called `connect()`, in the initial PID namespace.
    pub tgid: u32,
    /// The port, host byte order.
    pub port: u16,
    /// Unused.
    pub reserved: [u16; 15],
    /// [`KIND`].
    pub kind: u8,
    /// Unused.
    pub reserved_after: [u8; 3],
}

/// Bytes of a record.
pub const RECORD_LEN: usize = size_of::<AskedRecord>();

const _: () = assert!(offset_of!(AskedRecord, kind) == offset_of!(FlowRecord, kind));
const _: () = assert!(RECORD_LEN == 80 && align_of::<AskedRecord>() == 8);
const _: () = assert!(offset_of!(AskedRecord, address) == 24);
const _: () = assert!(offset_of!(AskedRecord, port) == 44);
