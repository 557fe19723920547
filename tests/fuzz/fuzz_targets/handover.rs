//! What a flowcar finds as left by the one before it: read or refused, and each connection in it is decided once.

#![no_main]

use flowcar::flow::{
    Table,
    handover::{Most, decode, encode},
};
use libfuzzer_sys::fuzz_target;

const MOST: Most = Most { flows: 10_000 };

fuzz_target!(|bytes: &[u8]| {
    let Ok(handover) = decode(bytes, MOST) else {
        return;
    };
    let written = encode(&handover.place, handover.taken_unix_ns, &handover.leaving);
    assert_eq!(decode(&written, MOST).expect("our own"), handover);
    let mut table = Table::new(handover.leaving.flows.len());
    table.inherit(&handover.leaving);
    let connections = table.inherited();
    assert!(connections <= handover.leaving.flows.len() as u64);
    // Until it is settled, whoever comes next is left the same.
    let left = table.leave(0);
    assert_eq!(left.flows.len() as u64, connections);
    assert_eq!(left.unheard, handover.leaving.unheard);
    let ended = table.settle_inherited();
    assert_eq!(ended.lost + ended.lost_before, connections);
    assert_eq!(ended.lost_before, connections.min(left.unheard));
    let books = table.books(|_| 0);
    assert!(books.balance());
    assert_eq!(
        (books.opened, books.lost_total()),
        (ended.lost, ended.lost)
    );
});
