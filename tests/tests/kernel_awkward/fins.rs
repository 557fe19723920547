//! Both ends close at once, and one end closes long before the other.

use std::{net::SocketAddr, thread, time::Duration};

use flowcar_tests::{
    flowcar::Pair,
    link::{
        Direction::{AtoB, BtoA},
        Only, PacketRecord, Plan, Trace, When,
    },
    place::Place,
    traffic::{CallPlan, Close, ServePlan, Serving, call_in},
    watch::{Mode, Seen, Watch, bytes_hold},
};

use crate::{can_link, can_run, states};

const MS: Duration = Duration::from_millis(1);

/// Half-closed for several reports, which come every 200 ms; on a busy machine, later.
const HALF_CLOSED: Duration = Duration::from_secs(10);

/// The link holds both FINs until each end has sent its own.
#[test]
fn fins_that_cross() {
    if !can_link() {
        return;
    }
    let pair = Pair::new(Plan::rtt(MS * 20)).unwrap();
    // Less than the least retransmission time-out, so that nothing is sent twice.
    let held = Plan::rtt(MS * 20).hold(Only::Fin, When::First(1), MS * 100);
    pair.link().set_both(held);
    let arguments = ["--close", "simultaneous"];
    let called = pair.call(pair.link().b4(), 1, &arguments).unwrap();
    let trace = pair.link().trace();
    let (there, back) = (fin(&trace, AtoB), fin(&trace, BtoA));
    assert!(
        there.entered < back.left.unwrap() && back.entered < there.left.unwrap(),
        "they crossed: {there:?} {back:?}"
    );
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

#[test]
fn half_closed_by_the_client() {
    in_each_mode(|mode| half_closed(mode, Close::HalfByClient, ("local_fin", "peer_fin")));
}

#[test]
fn half_closed_by_the_server() {
    in_each_mode(|mode| half_closed(mode, Close::HalfByServer, ("peer_fin", "local_fin")));
}

/// At the same time, because most of it is waiting.
fn in_each_mode(test: impl Fn(Mode) + Sync) {
    thread::scope(|scope| {
        for mode in [Mode::Both, Mode::Alone] {
            let test = &test;
            scope.spawn(move || test(mode));
        }
    });
}

/// It stays in the books for as long as it lives, and its FIN is not taken for payload at any time.
fn half_closed(mode: Mode, close: Close, ends: (&str, &str)) {
    if !can_run() {
        return;
    }
    let place = Place::new("half-closed").unwrap();
    let serving = Serving::start(&place, &ServePlan::at("0.0.0.0:0".parse().unwrap())).unwrap();
    let target: SocketAddr = ([127, 0, 0, 1], serving.address().port()).into();
    let mut watch = Watch::start(&place, mode, &[]);
    let mut plan = CallPlan::to(target).close(close);
    // One of them keeps the connection half-closed, by whichever end waits.
    (plan.delay, plan.pause) = match close {
        Close::HalfByClient => (HALF_CLOSED, Duration::ZERO),
        _ => (Duration::ZERO, HALF_CLOSED),
    };
    let received = if close == Close::HalfByClient {
        132.0
    } else {
        1132.0
    };
    let clients = thread::scope(|scope| {
        let calling = scope.spawn(|| call_in(&place, &plan).unwrap());
        let live = "flowcar.tcp.connections.live";
        let is_half_closed = || {
            let in_state = |state| states::count(&place, target.port(), state);
            (in_state(states::FIN_WAIT2), in_state(states::CLOSE_WAIT)) == (1, 1)
        };
        watch.until("it is half-closed", |seen| {
            seen.sum(live, &[]) == 2.0 && is_half_closed()
        });
        let io = |seen: &Seen| seen.sum("flowcar.tcp.io", &[("network.io.direction", "receive")]);
        watch.until("all that was received", |seen| io(seen) >= received);
        // Several looks at the sockets are among these.
        for _ in 0..3 {
            let seen = watch.reports(1);
            assert_eq!(io(seen), received, "{mode:?}: no FIN is payload");
            assert_eq!(seen.sum(live, &[]), 2.0);
            assert!(seen.flows.is_empty());
        }
        assert!(is_half_closed(), "it was all the time");
        calling.join().unwrap()
    });
    let servers = serving.reports(1, Duration::from_secs(30)).unwrap();
    watch.until("its close", |seen| seen.flows.len() >= 2);
    let seen = watch.stop();
    assert_eq!(seen.flows.len(), 2);
    for (report, end) in [(&clients[0], ends.0), (&servers[0], ends.1)] {
        assert_eq!(report.failure, None);
        let flow = seen.flow(report);
        bytes_hold(flow, report);
        assert_eq!(flow.end(), end, "{mode:?}");
    }
    assert_eq!(seen.sum("flowcar.tcp.connections.closed", &[]), 2.0);
}
