//! Ids of the counters that the kernel programs keep in a per-CPU array.
//!
//! They are the kernel's own side of the books: userspace balances what it heard in records against
//! what the kernel counted without the ring buffer.

/// One kernel counter. The discriminant is its index in the per-CPU array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Counter {
    /// Connections that were established under the programs' eyes, whether or not they could be followed.
    Established = 0,
    /// Connection attempts that ended before they were established.
    Failed = 1,
    /// Followed connections that were closed.
    Closed = 2,
    /// Established connections that cannot be followed because the kernel refused socket storage.
    StorageRefused = 3,
    /// Open records that found the ring buffer full. The connection is announced by a later record.
    OpenDropped = 4,
    /// Sample records that found the ring buffer full. Counts are cumulative: the next record has all.
    SampleDropped = 5,
    /// Close records of established connections that found the ring buffer full: the connection's end is lost.
    CloseDropped = 6,
    /// Records of failed attempts that found the ring buffer full.
    FailedDropped = 7,
    /// Established connections whose callbacks could not be armed, so that neither samples nor the end is seen.
    ArmRefused = 8,
}

impl Counter {
    /// All counters, in index order.
    pub const ALL: [Self; 9] = [
        Self::Established,
        Self::Failed,
        Self::Closed,
        Self::StorageRefused,
        Self::OpenDropped,
        Self::SampleDropped,
        Self::CloseDropped,
        Self::FailedDropped,
        Self::ArmRefused,
    ];

    /// The counter's index in the per-CPU array.
    pub const fn index(self) -> u32 {
        self as u32
    }
}

/// Length of the per-CPU array.
pub const COUNTERS: usize = Counter::ALL.len();
