//! Which round trips a kernel reports: each one, or only their smoothed value.

use std::time::Duration;

use flowcar_tests::{
    flowcar::Pair,
    link::Plan,
    place::{kernel_release, lacks, require_cgroup2, require_root, require_tun},
};

const RTT: Duration = Duration::from_millis(20);

/// The first kernel that hands the measured round trip to the callback (net/ipv4/tcp_input.c, tcp_rtt_estimator).
const HANDS_OVER: (u32, u32) = (6, 10);

#[test]
fn rtts_are_measured_or_marked_as_smoothed() {
    if !require_root() || !require_cgroup2() || !require_tun() {
        return;
    }
    let pair = Pair::new(Plan::rtt(RTT)).unwrap();
    let exchanges = ["--exchanges", "20"];
    let called = pair.call(pair.link().b4(), 3, &exchanges).unwrap();
    let kind = if kernel_release() >= HANDS_OVER {
        "measured"
    } else {
        "smoothed"
    };
    for connection in &called.connections {
        for flow in [&connection.client_flow, &connection.server_flow] {
            assert_eq!(flow.rtt.kind, kind, "{flow:?}");
            assert!(flow.rtt.count >= 10, "{flow:?}");
            // The link holds each packet for at least its time, and a bucket is 9 % wide.
            let least = flow.rtt.min_s.unwrap();
            assert!(least >= RTT.as_secs_f64() * 0.91, "{flow:?}");
        }
    }
    if kind == "smoothed" {
        lacks("single round trips, RTTs are smoothed");
    }
}
