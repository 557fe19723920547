//! What the memory limit has room for: one budget for all that grows with the traffic.

use super::{limit, resident};

/// What a listed connection takes of flowcar's memory at most: its entry, its histograms, and its place in the state file.
const FLOW: u64 = 2_200;

/// What the kernel keeps beside a connection, and charges to flowcar's container: a record, and another one where exchanges are
/// followed (`sidecar-ebpf/src/maps.rs`).
const KERNEL: u64 = 1_024;

/// What a series takes: its histograms, and those of the report that is on its way.
const SERIES: u64 = 33_500;

/// Of a hundred parts of the limit, those that are planned with: the rest is for what comes and goes, such as a report that is
/// encoded.
const PLANNED: u64 = 85;

/// Maps and page tables, charged to the container, that are no part of the resident memory.
const MAPS: u64 = 3 << 20;

/// However little memory there is.
const LEAST: usize = 64;

/// How many connections and series there may be, together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    room: u64,
    flow: u64,
}

impl Budget {
    /// That of this process's memory limit, as of now, that is before there are connections; `None` without a limit. Waiting spans
    /// take so many bytes at most.
    pub fn find(span_queue_bytes: usize, exchanges: bool) -> Option<Self> {
        limit::limit().map(|limit| Self::of(limit, resident(), span_queue_bytes as u64, exchanges))
    }

    fn of(limit: u64, resident: u64, span_queue_bytes: u64, exchanges: bool) -> Self {
        let planned = limit / 100 * PLANNED;
        let kernel = if exchanges { 2 * KERNEL } else { KERNEL };
        Self {
            room: planned.saturating_sub(resident + MAPS + span_queue_bytes),
            flow: FLOW + kernel,
        }
    }

    /// Connections at most, where there are so many series.
    pub fn flows(&self, series: usize) -> usize {
        share(self.room, series as u64 * SERIES, self.flow)
    }

    /// Series at most, where there are so many connections.
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
    fn connections_and_series_share_what_the_limit_has_room_for() {
        let budget = Budget::of(128 * MIB, 10 * MIB, 8 * MIB, false);
        let all = budget.flows(0);
        assert!((25_000..30_000).contains(&all), "{all}");
        let beside = budget.flows(1_000);
        assert!(beside < all && beside > 10_000, "{beside}");
        assert!(budget.series(all) < 100);
        let with_exchanges = Budget::of(128 * MIB, 10 * MIB, 8 * MIB, true);
        assert!(with_exchanges.flows(0) < all);
        // What is planned for is within the limit.
        let planned = beside as u64 * budget.flow + 1_000 * SERIES;
        assert!(planned + 21 * MIB <= 128 * MIB * PLANNED / 100 + MIB);
    }

    #[test]
    fn too_small_a_limit_leaves_the_least() {
        let budget = Budget::of(8 * MIB, 10 * MIB, 8 * MIB, false);
        assert_eq!((budget.flows(0), budget.series(0)), (LEAST, LEAST));
    }
}
