//! What a flowcar finds as left by the one before it: read or refused, and each connection in it is decided once.

#![no_main]

use flowcar::flow::{
    Table,
    handover::{decode, encode},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(handover) = decode(bytes) else {
        return;
    };
    let written = encode(&handover.place, handover.taken_unix_ns, &handover.flows);
    assert_eq!(decode(&written).expect("our own"), handover);
    let mut table = Table::new(handover.flows.len());
    table.inherit(&handover.flows);
    let connections = table.inherited();
    assert!(connections <= handover.flows.len() as u64);
    // Until it is settled, whoever comes next is left the same.
    assert_eq!(table.leave().len() as u64, connections);
    assert_eq!(table.settle_inherited(), connections);
    let books = table.books(|_| 0);
    assert!(books.balance());
    assert_eq!(
        (books.opened, books.lost_total()),
        (connections, connections)
    );
});
