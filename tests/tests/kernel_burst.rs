//! Many connections at once, and none of them lost.

use std::time::Duration;

use flowcar_tests::{
    flowcar::Pair,
    link::Plan,
    place::{require_cgroup2, require_root, require_tun},
};

const CONNECTIONS: usize = 2_000;

#[test]
fn two_thousand_connections_in_a_burst_are_all_in_the_books() {
    if !require_root() || !require_cgroup2() || !require_tun() {
        return;
    }
    let pair = Pair::new(Plan::rtt(Duration::from_millis(1))).unwrap();
    let arguments = ["--concurrency", "200", "--response", "1-5000"];
    let called = pair
        .call(pair.link().b4(), CONNECTIONS, &arguments)
        .unwrap();
    for books in [&called.client, &called.server] {
        let all = CONNECTIONS as u64;
        assert_eq!((books.opened, books.closed), (all, all), "{books:?}");
        assert_eq!((books.live, books.failed, books.lost), (0, 0, 0));
    }
    for connection in &called.connections {
        connection.bytes_are_the_applications();
        let ids = (&connection.client_flow, &connection.server_flow);
        assert_eq!(ids.0.trace_id, ids.1.trace_id);
    }
}
