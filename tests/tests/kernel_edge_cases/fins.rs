//! Both ends close at once.

use std::time::Duration;

use flowcar_tests::{
    flowcar::{Called, Pair},
    link::{
        Direction::{AtoB, BtoA},
        Only, PacketRecord, Plan, Trace, When,
    },
};

use crate::can_link;

const MS: Duration = Duration::from_millis(1);

/// The link holds both FINs until each end has sent its own.
#[test]
fn fins_that_cross() {
    if !can_link() {
        return;
    }
    let pair = Pair::new(Plan::rtt(MS * 20)).unwrap();
    // Less than the least retransmission time-out, so that nothing is sent twice.
    let held = Plan::rtt(MS * 20).hold(Only::Fin, When::First(1), MS * 100);
    let arguments = ["--close", "simultaneous"];
    // On a busy machine an end may be late by more than the link holds a FIN.
    let called = (0..10).map(|_| {
        pair.link().set_both(held.clone());
        pair.call(pair.link().b4(), 1, &arguments).unwrap()
    });
    let has_crossed = |called: &Called| {
        let port = called.connections[0].client_flow.local.port;
        let trace = pair.link().trace().of_port(port);
        let (there, back) = (fin(&trace, AtoB), fin(&trace, BtoA));
        let (arrived, came) = (there.left.unwrap(), back.left.unwrap());
        there.entered < came && back.entered < arrived
    };
    let called = called.into_iter().find(has_crossed);
    let called = called.expect("FINs that cross");
    let connection = &called.connections[0];
    // No FIN is payload.
    connection.bytes_are_the_applications();
    for flow in [&connection.client_flow, &connection.server_flow] {
        assert_eq!(flow.end, "local_fin", "each sent its FIN first");
    }
    for books in [&called.client, &called.server] {
        assert_eq!((books.opened, books.closed, books.live), (1, 1, 0));
        assert_eq!((books.failed, books.lost), (0, 0));
    }
}

/// The first FIN of this direction.
fn fin(trace: &Trace, direction: flowcar_tests::link::Direction) -> PacketRecord {
    let mut fins = trace
        .sent(direction)
        .filter(|record| record.is(|tcp| tcp.fin));
    *fins.next().expect("a FIN")
}
