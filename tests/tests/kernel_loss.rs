//! Retransmits against the socket's own count and against the link, which carried each segment that came twice.

use std::time::Duration;

use flowcar_tests::{
    flowcar::{Called, Pair},
    link::{
        Direction::{AtoB, BtoA},
        Only, Plan, TcpSummary, Trace, When,
    },
    place::{require_cgroup2, require_root, require_tun},
};

const CONNECTIONS: usize = 10;

fn lossy(chance: f64, sizes: &[&str]) -> Option<(Called, Trace)> {
    if !require_root() || !require_cgroup2() || !require_tun() {
        return None;
    }
    let plan = Plan::rtt(Duration::from_millis(10)).drop(Only::Data, When::Chance(chance));
    let pair = Pair::new(plan.seed(11)).unwrap();
    let mut arguments = vec!["--concurrency", "5"];
    arguments.extend_from_slice(sizes);
    let called = pair
        .call(pair.link().b4(), CONNECTIONS, &arguments)
        .unwrap();
    let trace = pair.link().trace();
    let dropped: usize = [AtoB, BtoA]
        .map(|direction| trace.dropped(direction, TcpSummary::is_data))
        .iter()
        .sum();
    assert!(dropped > 5, "only {dropped} segments were dropped");
    Some((called, trace))
}

fn retransmits_are_the_sockets(called: &Called, trace: &Trace) {
    for connection in &called.connections {
        // Bytes that were sent again count once.
        connection.bytes_are_the_applications();
        let trace = trace.of_port(connection.client_flow.local.port);
        for (application, flow, direction) in [
            (&connection.client, &connection.client_flow, AtoB),
            (&connection.server, &connection.server_flow, BtoA),
        ] {
            let info = application.tcp_info.unwrap();
            assert_eq!(flow.retransmits, trace.sent_again(direction), "{flow:?}");
            // The application asked before its FIN, which may be sent again, too.
            let fins_again = trace.count(direction, |tcp| tcp.fin) as u64 - 1;
            let reported = u64::from(info.total_retrans);
            assert!(
                (reported..=reported + fins_again).contains(&flow.retransmits),
                "{info:?}: {flow:?}"
            );
        }
    }
    for books in [&called.client, &called.server] {
        assert_eq!((books.opened, books.closed), (10, 10));
        assert_eq!((books.failed, books.lost), (0, 0));
    }
}

#[test]
fn one_in_a_hundred() {
    let sizes = ["--request", "100000", "--response", "300000"];
    if let Some((called, trace)) = lossy(0.01, &sizes) {
        retransmits_are_the_sockets(&called, &trace);
    }
}

#[test]
fn one_in_twenty() {
    let sizes = ["--request", "50000", "--response", "100000"];
    if let Some((called, trace)) = lossy(0.05, &sizes) {
        retransmits_are_the_sockets(&called, &trace);
    }
}

/// Short exchanges lose their only segment: no duplicate acknowledgements, so probes and timers resend.
#[test]
fn one_in_twenty_of_short_exchanges() {
    let sizes = ["--exchanges", "20"];
    if let Some((called, trace)) = lossy(0.05, &sizes) {
        retransmits_are_the_sockets(&called, &trace);
    }
}
