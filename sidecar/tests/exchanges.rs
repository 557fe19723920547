//! Exchange records, byte for byte in the record's layout, and the flows that get their samples.

mod common;

use common::{blank, bytes, sample};
use flowcar::flow::{Exchanges, Malformed, Table, decode};
use flowcar_shared::{
    exchange::{HEAD_LEN, INLINE_EXCHANGES, RECORD_LEN},
    histogram::{MICROS, SLOTS},
    record::{FlowRecord, Kind},
};
use proptest::prelude::*;

/// A record with these exchanges, microseconds: the first one by one, the others by slot.
fn record(cookie: u64, exchanges: &[u32]) -> Vec<u8> {
    let inline_samples = exchanges.len().min(INLINE_EXCHANGES);
    let (single, others) = exchanges.split_at(inline_samples);
    let mut slots = Vec::new();
    for duration_us in others {
        let slot = MICROS.slot((*duration_us).into());
        slots.resize(slots.len().max(slot + 1), 0_u32);
        slots[slot] += 1;
    }
    let sum: u64 = others.iter().copied().map(u64::from).sum();
    let mut bytes = vec![0; HEAD_LEN];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, &cookie.to_ne_bytes());
    put(16, &sum.to_ne_bytes());
    for (index, duration_us) in single.iter().enumerate() {
        put(24 + 4 * index, &duration_us.to_ne_bytes());
    }
    put(68, &others.iter().min().unwrap_or(&u32::MAX).to_ne_bytes());
    put(72, &others.iter().max().unwrap_or(&0).to_ne_bytes());
    put(76, &[4, 1, inline_samples as u8, 0]);
    put(88, &(slots.len() as u16).to_ne_bytes());
    bytes.extend(slots.iter().flat_map(|count| count.to_ne_bytes()));
    bytes
}

fn count_of(table: &Table, cookie: u64) -> Option<u64> {
    let flow = table.listing().iter().find(|flow| flow.cookie == cookie)?;
    Some(flow.exchanges.count())
}

fn of_kind(cookie: u64, kind: Kind) -> FlowRecord {
    let mut record = FlowRecord {
        kind: kind as u8,
        ..blank(cookie)
    };
    if kind != Kind::Open {
        sample(&mut record, 500);
    }
    record
}

proptest! {
    #[test]
    fn every_exchange_is_counted(exchanges in prop::collection::vec(0_u32..20_000_000, 0..60)) {
        let record = record(9, &exchanges);
        prop_assert!(Exchanges::are_in(&record));
        let Exchanges { cookie, durations } = Exchanges::decode(&record).unwrap();
        prop_assert_eq!(cookie, 9);
        prop_assert_eq!(durations.count(), exchanges.len() as u64);
        let sum: u128 = exchanges.iter().map(|us| u128::from(*us) * 1000).sum();
        prop_assert_eq!(durations.sum_ns(), sum);
        let ns = |us: &u32| u64::from(*us) * 1000;
        prop_assert_eq!(durations.min_ns(), exchanges.iter().min().map(ns));
        prop_assert_eq!(durations.max_ns(), exchanges.iter().max().map(ns));
    }

    #[test]
    fn any_bytes_are_a_record_or_an_error(mut bytes in prop::collection::vec(any::<u8>(), 77..RECORD_LEN + 9)) {
        bytes[76] = 4;
        prop_assert!(Exchanges::are_in(&bytes));
        let _ = Exchanges::decode(&bytes);
    }
}

#[test]
fn inconsistent_exchange_record_is_malformed() {
    let whole = record(1, &[500; 30]);
    assert!(Exchanges::decode(&whole).is_ok());
    let wrong = |bytes: &[u8]| {
        let len = bytes.len();
        assert_eq!(
            Exchanges::decode(bytes).map(drop),
            Err(Malformed::Exchanges { len })
        );
    };
    for length in [0, 76, HEAD_LEN - 1, HEAD_LEN, whole.len() - 4] {
        wrong(&whole[..length]);
    }
    let with = |at: usize, value: &[u8]| {
        let mut bytes = whole.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        bytes
    };
    wrong(&with(78, &[INLINE_EXCHANGES as u8 + 1]));
    wrong(&with(88, &(SLOTS as u16 + 1).to_ne_bytes()));
    // A minimum above the maximum has no quantiles.
    wrong(&with(68, &501_u32.to_ne_bytes()));
}

/// They come right before the flow's own record, and belong to the flow from then on.
#[test]
fn exchanges_belong_to_the_following_flow_record() {
    let mut table = Table::new(8);
    let apply = |table: &mut Table, cookie, kind| {
        let record = decode(bytes(&of_kind(cookie, kind)), 1).unwrap();
        table.apply(record.into()).unwrap()
    };
    apply(&mut table, 1, Kind::Open);
    apply(&mut table, 2, Kind::Open);
    table.exchanges(Exchanges::decode(&record(1, &[700; 3])).unwrap());
    // Another CPU's record between the two.
    apply(&mut table, 2, Kind::Sample);
    assert_eq!(count_of(&table, 2), Some(0));
    apply(&mut table, 1, Kind::Sample);
    assert_eq!(count_of(&table, 1), Some(3));
    // A record without new exchanges keeps the known ones.
    apply(&mut table, 1, Kind::Sample);
    assert_eq!(count_of(&table, 1), Some(3));
    table.exchanges(Exchanges::decode(&record(1, &[700; 20])).unwrap());
    let closed = apply(&mut table, 1, Kind::Close);
    assert_eq!(closed.now.exchanges.count(), 20);
    assert_eq!(closed.before.unwrap().exchanges.count(), 3);
    // Of a flow whose opening was lost.
    table.exchanges(Exchanges::decode(&record(7, &[900])).unwrap());
    assert_eq!(apply(&mut table, 7, Kind::Close).now.exchanges.count(), 1);
}

/// Exchanges whose flow's record never comes take bounded memory.
#[test]
fn pending_exchanges_are_bounded_and_counted() {
    let mut table = Table::new(2);
    for cookie in 1..=5 {
        table.exchanges(Exchanges::decode(&record(cookie, &[900])).unwrap());
    }
    assert_eq!(table.exchanges_dropped(), 3);
    table.exchanges(Exchanges::decode(&record(1, &[900; 2])).unwrap());
    assert_eq!(table.exchanges_dropped(), 3, "the newer replaces the older");
    let record = decode(bytes(&of_kind(1, Kind::Close)), 1).unwrap();
    let change = table.apply(record.into()).unwrap();
    assert_eq!(change.now.exchanges.count(), 2);
}
