//! What live connections take of flowcar's memory, counted by the allocator.

use flowcar::flow::{self, Event, Instant, InterimSpans, Monotonic, Table};
use flowcar_shared::record::{FlowRecord, Kind};

use crate::{
    allocator,
    records::{blank, bytes},
};

/// Bytes that may stay when all connections are closed.
const MOST_LEFT: u64 = 64 << 10;

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
        let record = flow::decode(bytes(record), 7).expect("a record");
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
        self.interim
            .cut(self.table.listing().iter(), &now, |_, _| {});
        self.table.shrink();
    }
}

fn of(cookie: u64, kind: Kind, round_trips: u32) -> FlowRecord {
    let mut record = blank(cookie);
    record.kind = kind as u8;
    record.bytes_acked = 1_000;
    record.bytes_received = 100;
    // As the kernel sends the first ones.
    let samples = record.inline_samples.iter_mut().zip(0..round_trips);
    samples.for_each(|(sample, number)| *sample = 100 + 40 * number);
    record.inline_samples_used = round_trips;
    record
}

/// Bytes for each of so many connections, its part of the maps included.
fn each(count: u64, round_trips: u32) -> u64 {
    let mut followed = Followed::new();
    let before = allocator::live();
    (1..=count).for_each(|cookie| followed.open(cookie, round_trips));
    followed.report();
    let each = (allocator::live() - before) / count;
    for cookie in 1..=count {
        followed.take(&of(cookie, Kind::Close, round_trips));
    }
    followed.report();
    let left = allocator::live().saturating_sub(before);
    assert!(
        left <= MOST_LEFT,
        "{left} bytes stay when {count} connections with {round_trips} round trips are closed"
    );
    each
}

/// Prints the bytes of a connection: the most of several numbers of them, as maps grow in steps.
pub(crate) fn print() {
    for (name, round_trips) in [
        ("idle_connection", &[0, 1][..]),
        ("connection_with_round_trips", &[6]),
    ] {
        let all = round_trips
            .iter()
            .flat_map(|round_trips| [10_000, 65_536].map(|count| each(count, *round_trips)));
        println!("{name} {}", all.max().unwrap_or_default());
    }
}
