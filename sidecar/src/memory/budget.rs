//! The memory budget of everything that grows with the traffic.

use super::{limit, resident};

/// The most memory that a listed connection takes: its entry and what its interim spans need, 700 bytes (`MOST` in `tests/tests/costs`); two
/// histograms of some fifty buckets, 950; and its entry in the checkpoint.
const FLOW: u64 = 1_750;

/// The kernel's memory for a connection, charged to flowcar's container: a record of 1 KiB (`sidecar-ebpf/src/maps.rs`) and what the
/// allocator and the socket's list of records take beside it, 1,160 bytes as measured with 65,536; and another one if exchanges are measured.
const KERNEL: u64 = 1_200;

/// The memory of a series: its histograms, and those of the report in flight.
const SERIES: u64 = 33_500;

/// The percentage of the limit that is budgeted: the rest is for temporary memory, such as a report that is encoded.
const PLANNED: u64 = 85;

/// Maps and page tables, which are charged to the container and not part of the resident memory.
const MAPS: u64 = 3 << 20;

/// The share of what flowcar itself leaves of that, which waiting spans take at most: a receiver that is away takes no room of what
/// is counted.
const SPANS_SHARE: u64 = 4;

/// The minimum, however small the limit is.
const LEAST: usize = 64;

/// The minimum for waiting spans, bytes.
const LEAST_SPANS: u64 = 256 << 10;

/// The bounds of connections and series together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    room: u64,
    flow: u64,
    spans: u64,
}

impl Budget {
    /// The budget of this process's memory limit, taken before there are connections; `None` without a limit. Waiting spans
    /// are to take at most so many bytes.
    pub fn find(span_queue_bytes: usize, exchanges: bool) -> Option<Self> {
        limit::limit().map(|limit| Self::of(limit, resident(), span_queue_bytes as u64, exchanges))
    }

    fn of(limit: u64, resident: u64, span_queue_bytes: u64, exchanges: bool) -> Self {
        let planned = limit / 100 * PLANNED;
        let kernel = if exchanges { 2 * KERNEL } else { KERNEL };
        let left = planned.saturating_sub(resident + MAPS);
        let spans = span_queue_bytes.min(LEAST_SPANS.max(left / SPANS_SHARE));
        Self {
            room: left.saturating_sub(spans),
            flow: FLOW + kernel,
            spans,
        }
    }

    /// The most bytes of waiting spans.
    pub fn span_queue_bytes(&self) -> usize {
        usize::try_from(self.spans).unwrap_or(usize::MAX)
    }

    /// The most connections with so many series.
    pub fn flows(&self, series: usize) -> usize {
        share(self.room, series as u64 * SERIES, self.flow)
    }

    /// The most series with so many connections.
    pub fn series(&self, flows: usize) -> usize {
        share(self.room, flows as u64 * self.flow, SERIES)
    }
}

fn share(room: u64, taken: u64, each: u64) -> usize {
    let count = room.saturating_sub(taken) / each;
    usize::try_from(count).unwrap_or(usize::MAX).max(LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn connections_and_series_share_the_memory_limit() {
        let budget = Budget::of(128 * MIB, 10 * MIB, 8 * MIB, false);
        let all = budget.flows(0);
        assert!((30_000..35_000).contains(&all), "{all}");
        let beside = budget.flows(1_000);
        assert!(beside < all && beside > 10_000, "{beside}");
        assert!(budget.series(all) < 100);
        let with_exchanges = Budget::of(128 * MIB, 10 * MIB, 8 * MIB, true);
        assert!(with_exchanges.flows(0) < all);
        // The budget is within the limit.
        let planned = beside as u64 * budget.flow + 1_000 * SERIES;
        assert!(planned + 21 * MIB <= 128 * MIB * PLANNED / 100 + MIB);
    }

    #[test]
    fn waiting_spans_take_a_part_of_the_memory_limit() {
        for (limit, wanted, expected) in [
            (128, 8 * MIB, 8 * MIB),
            (128, 256 * MIB, (128 * MIB / 100 * PLANNED - 13 * MIB) / 4),
            (32, 8 * MIB, (32 * MIB / 100 * PLANNED - 13 * MIB) / 4),
            (16, 8 * MIB, LEAST_SPANS),
            (16, 1_000, 1_000),
        ] {
            let budget = Budget::of(limit * MIB, 10 * MIB, wanted, false);
            assert_eq!(budget.span_queue_bytes() as u64, expected, "{limit} MiB");
            let planned = budget.room + budget.spans + 13 * MIB;
            assert!(
                planned <= 13 * MIB + LEAST_SPANS || planned <= limit * MIB / 100 * PLANNED,
                "{limit} MiB: {planned}"
            );
        }
    }

    #[test]
    fn too_small_limit_gives_the_minimum() {
        let budget = Budget::of(8 * MIB, 10 * MIB, 8 * MIB, false);
        assert_eq!((budget.flows(0), budget.series(0)), (LEAST, LEAST));
    }
}
