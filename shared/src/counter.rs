//! Ids of the counters that the kernel programs keep in a per-CPU array.
//!
//! Userspace balances the records that it received against these counts, which do not pass through the ring buffer.

/// One kernel counter. The discriminant is its index in the per-CPU array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Counter {
    /// Connections established while the programs were attached, followed or not.
    Established = 0,
    /// Sample records that were due: each is in the ring buffer, dropped, or about to be either. Userspace reads the counters from
    /// the last to the first, so it reads the dropped ones before this one.
    Sampled = 1,
    /// Established connections that cannot be followed because the kernel refused socket storage, or because userspace's memory
    /// limit has no room for it.
    StorageRefused = 2,
    /// Open records that found the ring buffer full. The connection is announced by a later record.
    OpenDropped = 3,
    /// Sample records that found the ring buffer full. Counts are cumulative: the next record has all.
    SampleDropped = 4,
    /// Close records of established connections that found the ring buffer full: the close is lost.
    CloseDropped = 5,
    /// Records of failed attempts that found the ring buffer full.
    FailedDropped = 6,
    /// Established connections whose callbacks could not be armed, so that neither samples nor the close are seen.
    ArmRefused = 7,
    /// RTT samples, retransmissions and exchanges that were not counted, because the kernel refused their flow socket
    /// storage or because a packet's headers cannot be read. The flow's bytes, segments and close are reported all the same.
    DetailRefused = 8,
    /// Exchange records that found the ring buffer full. Counts are cumulative: the flow's next record has all, but that of
    /// its close has no next.
    ExchangeDropped = 9,
    /// Addresses that `connect()` was asked for and that were lost: the kernel refused the memory to keep them until the SYN, or their
    /// record found the ring buffer full. Such an attempt is not counted if it fails before its SYN.
    AskedDropped = 10,
    /// DNS messages that were not copied, because the ring buffer was half full.
    DnsDropped = 11,
    /// Records of listeners and of processes that found the ring buffer full: the origin of some flows is not known.
    OriginDropped = 12,
}

impl Counter {
    /// All counters, in index order.
    pub const ALL: [Self; 13] = [
        Self::Established,
        Self::Sampled,
        Self::StorageRefused,
        Self::OpenDropped,
        Self::SampleDropped,
        Self::CloseDropped,
        Self::FailedDropped,
        Self::ArmRefused,
        Self::DetailRefused,
        Self::ExchangeDropped,
        Self::AskedDropped,
        Self::DnsDropped,
        Self::OriginDropped,
    ];

    /// The counter's index in the per-CPU array.
    pub const fn index(self) -> u32 {
        self as u32
    }
}

const _: () = {
    assert!((Counter::Sampled as u32) < Counter::SampleDropped as u32);
    assert!((Counter::Sampled as u32) < Counter::CloseDropped as u32);
};

/// Length of the per-CPU array.
pub const COUNTERS: usize = Counter::ALL.len();
