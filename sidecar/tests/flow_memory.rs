//! What a live connection takes of flowcar's memory, counted by the allocator.

#[expect(dead_code, reason = "other tests need more of it")]
mod common;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use flowcar::flow::{self, Event, Instant, InterimSpans, Monotonic, Table};
use flowcar_shared::record::{FlowRecord, Kind};

/// Bytes of an idle connection at most, its part of the maps included.
///
/// A change that needs more raises this on purpose, with `FLOW` in `memory/budget.rs`, which bounds connections by it, and with the figures
/// in docs/benchmarks.md and docs/limits.md.
const MOST: u64 = 700;

/// The same of one that had six round trips of different times.
const MOST_WITH_SAMPLES: u64 = 1_000;

thread_local! {
    /// Bytes that this thread took less those that it gave back.
    static LIVE: Cell<u64> = const { Cell::new(0) };
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

#[global_allocator]
static COUNTING: Counting = Counting;

struct Counting;

/// As glibc rounds: 8 bytes more, 32 at least, in units of 16.
fn taken(layout: Layout) -> u64 {
    ((layout.size() as u64 + 8).next_multiple_of(16)).max(32)
}

// SAFETY: the system's allocator does it all.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.set(LIVE.get().wrapping_add(taken(layout)));
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get().wrapping_sub(taken(layout)));
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }
}

/// Flows, and what grows with them.
struct Followed {
    table: Table,
    interim: InterimSpans,
}

impl Followed {
    fn new() -> Self {
        Self {
            table: Table::new(1 << 20),
            interim: InterimSpans::every(60_000_000_000),
        }
    }

    fn take(&mut self, record: &FlowRecord) {
        let record = flow::decode(common::bytes(record), 7).expect("a record");
        self.table.apply(Event::from(record));
    }

    fn open(&mut self, cookie: u64, round_trips: u32) {
        self.take(&of(cookie, Kind::Open, 0));
        self.take(&of(cookie, Kind::Sample, round_trips));
    }

    /// A report: interim spans are cut, and what closed is forgotten.
    fn report(&mut self) {
        let now = Instant {
            monotonic: Monotonic(1_000_000_000),
            suspended_ns: 0,
            unix_ns: 1 << 60,
        };
        self.interim.cut(self.table.iter(), &now, |_, _| {});
        self.table.shrink();
    }
}

fn of(cookie: u64, kind: Kind, round_trips: u32) -> FlowRecord {
    let mut record = common::blank(cookie);
    record.kind = kind as u8;
    record.bytes_acked = 1_000;
    record.bytes_received = 100;
    // As the kernel sends the first ones.
    let samples = record.inline_samples.iter_mut().zip(0..round_trips);
    samples.for_each(|(sample, number)| *sample = 100 + 40 * number);
    record.inline_samples_used = round_trips as _;
    record
}

/// Bytes for each of so many connections, and those that are left once all are closed.
fn measure(count: u64, round_trips: u32) -> (u64, u64) {
    let mut followed = Followed::new();
    let before = LIVE.get();
    (1..=count).for_each(|cookie| followed.open(cookie, round_trips));
    followed.report();
    let each = (LIVE.get() - before) / count;
    for cookie in 1..=count {
        followed.take(&of(cookie, Kind::Close, round_trips));
    }
    followed.report();
    (each, LIVE.get().saturating_sub(before))
}

#[test]
fn live_connection_takes_few_bytes_and_closed_connections_take_none() {
    for (round_trips, most) in [(0, MOST), (1, MOST), (6, MOST_WITH_SAMPLES)] {
        for count in [10_000, 65_536] {
            let (each, left) = measure(count, round_trips);
            println!("{count} with {round_trips} round trips: {each} bytes each, {left} left");
            assert!(
                each <= most,
                "{count} connections with {round_trips} round trips take {each} bytes each, more than {most}: move what is rare out of the flow, or raise the bound on purpose (see MOST)"
            );
            assert!(left <= 64 << 10, "{left} bytes stay when all are closed");
        }
    }
}

#[test]
fn records_of_open_connections_allocate_nothing() {
    let mut followed = Followed::new();
    (1..=1_000).for_each(|cookie| followed.open(cookie, 1));
    let before = ALLOCATIONS.get();
    for cookie in 1..=1_000 {
        followed.take(&of(cookie, Kind::Sample, 1));
    }
    let more = ALLOCATIONS.get() - before;
    assert_eq!(more, 0, "allocations for 1,000 records");
}
