//! A checkpoint of an earlier flowcar: read or refused, and each connection in it is decided once.

#![no_main]

use flowcar::flow::{
    Table,
    checkpoint::{Most, decode, encode},
};
use libfuzzer_sys::fuzz_target;

const MOST: Most = Most { flows: 10_000 };

fuzz_target!(|bytes: &[u8]| {
    let Ok(checkpoint) = decode(bytes, MOST) else {
        return;
    };
    let written = encode(
        &checkpoint.instance,
        checkpoint.taken_unix_ns,
        &checkpoint.reported,
    );
    assert_eq!(decode(&written, MOST).expect("our own"), checkpoint);
    let mut table = Table::new(checkpoint.reported.flows.len());
    table.adoption_mut().restore(&checkpoint.reported);
    let connections = table.adoption().restored();
    assert!(connections <= checkpoint.reported.flows.len() as u64);
    // Until every connection is decided, the next checkpoint holds the same connections.
    let left = table.checkpoint(0);
    assert_eq!(left.flows.len() as u64, connections);
    assert_eq!(left.lost_closes, checkpoint.reported.lost_closes);
    let ended = table.adoption_mut().settle_restored();
    assert_eq!(ended.lost + ended.lost_before, connections);
    assert_eq!(ended.lost_before, connections.min(left.lost_closes));
    let books = table.books(|_| 0);
    assert!(books.balance());
    assert_eq!((books.opened, books.lost_total()), (ended.lost, ended.lost));
});
