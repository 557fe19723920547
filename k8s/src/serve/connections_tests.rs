use std::{net::IpAddr, sync::Arc};

use futures_util::FutureExt;

use super::{ConnectionPermit, Connections, Limits};
use crate::client::Source;

const LIMITS: Limits = Limits {
    total: 12,
    per_source: 6,
    memory: 1000,
};

fn source(address: &str) -> Source {
    Source::of(address.parse::<IpAddr>().expect("an address"))
}

/// Opens connections from one source, one after the other.
fn open(connections: &Connections, from: &str, count: usize) -> Vec<Arc<ConnectionPermit>> {
    let mut permits = Vec::new();
    for _ in 0..count {
        permits.push(Arc::new(connections.admit(source(from))));
    }
    permits
}

fn is_evicted(permit: &ConnectionPermit) -> bool {
    permit.evicted().now_or_never().is_some()
}

fn prove(permit: &Arc<ConnectionPermit>) {
    permit.proven();
}

#[test]
fn a_source_is_an_ipv4_address_or_an_ipv6_network() {
    assert_eq!(source("::ffff:10.0.0.1"), source("10.0.0.1"));
    assert_eq!(source("2001:db8::1"), source("2001:db8::2:3"));
    assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
    assert_ne!(source("10.0.0.1"), source("10.0.0.2"));
}

#[test]
fn full_source_loses_its_oldest_idle_connection() {
    let connections = Connections::new(LIMITS);
    let server = open(&connections, "10.0.0.1", 1);
    let mut crowd = open(&connections, "10.0.0.66", 6);
    let busy = crowd[0].begin();
    crowd.extend(open(&connections, "10.0.0.66", 2));
    let evicted: Vec<_> = crowd.iter().map(|permit| is_evicted(permit)).collect();
    let expected = [false, true, true, false, false, false, false, false];
    assert_eq!(evicted, expected);
    assert!(!is_evicted(&server[0]));
    drop(busy);
}

#[test]
fn full_table_evicts_from_the_largest_source() {
    let connections = Connections::new(LIMITS);
    let server = open(&connections, "10.0.0.1", 1);
    let one = open(&connections, "10.0.0.66", 6);
    let two = open(&connections, "10.0.0.67", 5);
    let newcomer = open(&connections, "10.0.0.2", 1);
    assert!(is_evicted(&one[0]) && one[1..].iter().all(|permit| !is_evicted(permit)));
    for kept in server.iter().chain(&two).chain(&newcomer) {
        assert!(!is_evicted(kept));
    }
}

#[test]
fn connections_with_reviews_are_evicted_last_up_to_half() {
    let connections = Connections::new(LIMITS);
    let server = open(&connections, "10.0.0.1", 1);
    prove(&server[0]);
    let crowd = open(&connections, "10.0.0.1", 20);
    assert!(!is_evicted(&server[0]), "behind the crowd's own address");
    assert_eq!(crowd.iter().filter(|permit| is_evicted(permit)).count(), 15);

    // All of them post reviews: a new connection still lives until two more have come.
    let connections = Connections::new(LIMITS);
    let crowd = open(&connections, "10.0.0.1", 6);
    crowd.iter().for_each(prove);
    let server = open(&connections, "10.0.0.1", 1);
    let more = open(&connections, "10.0.0.1", 1);
    assert!(!is_evicted(&server[0]) && !is_evicted(&more[0]));
    assert!(is_evicted(&crowd[0]) && is_evicted(&crowd[1]));
}

#[test]
fn verified_connections_are_not_evicted() {
    let connections = Connections::new(LIMITS);
    let server = open(&connections, "10.0.0.1", 1);
    server[0].verified();
    let crowd = open(&connections, "10.0.0.1", 30);
    crowd.iter().for_each(prove);
    assert!(!is_evicted(&server[0]));
    assert!(server[0].idle().is_some());
}

#[test]
fn closed_connection_frees_its_permit_and_memory() {
    let connections = Connections::new(LIMITS);
    for _ in 0..100 {
        let permit = open(&connections, "10.0.0.1", 1).remove(0);
        let charge = permit.charge(900).expect("room");
        assert!(charge.grow(100));
        drop(permit);
        drop(charge);
    }
    assert!(connections.table().entries.is_empty());
    assert_eq!(connections.table().held, 0);
}

#[test]
fn memory_shortage_evicts_the_slowest_connection() {
    let connections = Connections::new(LIMITS);
    let permits = open(&connections, "10.0.0.66", 3);
    let mut charges = Vec::new();
    for permit in &permits {
        charges.push(permit.charge(300).expect("room"));
    }
    let server = open(&connections, "10.0.0.1", 1);
    let own = server[0].charge(500).expect("room is made");
    assert!(is_evicted(&permits[0]) && is_evicted(&permits[1]) && !is_evicted(&permits[2]));
    assert!(!charges[0].grow(1), "it was evicted");
    drop(charges);
    assert_eq!(connections.table().held, 500);
    assert!(!own.grow(600), "more than there is");
    assert!(own.grow(500));
}
