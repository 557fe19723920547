//! The link's log is complete by the kernels' own counters, and the link adds nothing of its own.

use std::{
    thread,
    time::{Duration, Instant},
};

use flowcar_tests::{
    link::{
        Direction::{AtoB, BtoA},
        Fate, Link, MTU, Plan,
    },
    place::{Counters, Netns, require_cgroup2, require_root, require_tun},
    traffic::{CallPlan, Pods},
};

const MS: Duration = Duration::from_millis(1);

fn can_run() -> bool {
    require_root() && require_cgroup2() && require_tun()
}

/// Every segment that both kernels sent and received is in the log, and nothing else.
#[test]
fn the_log_is_complete_by_the_kernels_counters() {
    if !can_run() {
        return;
    }
    let pods = Pods::new(Plan::rtt(MS * 2)).unwrap();
    let read = || {
        (
            pods.client().netns().snmp().unwrap(),
            pods.server().netns().snmp().unwrap(),
        )
    };
    let before = read();
    for target in [pods.v4(), pods.v6(), pods.v4_mapped()] {
        let plan = CallPlan::to(target)
            .connections(20, 5)
            .exchanges(5)
            .sizes(1..=20_000, 1..=20_000);
        pods.call(&plan).unwrap();
    }
    // The last acknowledgement may still be on its way.
    let (client, server) = eventually(|| {
        let after = read();
        let grown = (after.0.since(&before.0), after.1.since(&before.1));
        let all = |from: &Counters, to: &Counters| sent(from) == to["Tcp.InSegs"];
        (all(&grown.0, &grown.1) && all(&grown.1, &grown.0)).then_some(grown)
    });
    let trace = pods.link().trace();
    assert_eq!(trace.unrecorded, 0);
    assert_eq!(trace.count(AtoB, |_| true) as i64, sent(&client));
    assert_eq!(trace.count(BtoA, |_| true) as i64, sent(&server));
    assert_eq!(
        (client["Tcp.ActiveOpens"], server["Tcp.PassiveOpens"]),
        (60, 60)
    );
    for fate in [
        Fate::Dropped,
        Fate::Reordered,
        Fate::Refused,
        Fate::InFlight,
    ] {
        assert_eq!(trace.fates(fate), 0, "{fate:?}");
    }
    for pod in [pods.client(), pods.server()] {
        assert_eq!(pod.netns().device_drops(&pods.link().device()).unwrap(), 0);
    }
}

/// A TUN device is given no segment larger than its MTU, whatever the stack offloads elsewhere.
#[test]
fn packets_are_those_of_a_wire() {
    if !can_run() {
        return;
    }
    let pods = Pods::new(Plan::rtt(MS)).unwrap();
    let (clients, servers) = pods
        .call(&CallPlan::to(pods.v4()).sizes(3_000_000..=3_000_000, 1..=1))
        .unwrap();
    assert_eq!(clients[0].failure, None);
    assert_eq!(servers[0].received, 3_000_032);
    let trace = pods.link().trace();
    assert_eq!(
        trace.records.iter().map(|record| record.length).max(),
        Some(MTU)
    );
    let payload: u64 = trace
        .sent(AtoB)
        .filter_map(|record| record.tcp)
        .map(|tcp| u64::from(tcp.payload))
        .sum();
    assert_eq!(
        payload,
        3_000_032 + clients[0].tcp_info.unwrap().bytes_retrans
    );
}

#[test]
fn a_dropped_link_takes_its_devices_away() {
    if !can_run() {
        return;
    }
    let one = Netns::new("one").unwrap();
    let other = Netns::new("other").unwrap();
    let link = Link::between(&one, &other, Plan::rtt(MS)).unwrap();
    let device = link.device();
    assert!(one.device_drops(&device).is_ok() && other.device_drops(&device).is_ok());
    drop(link);
    // A process that another test is just starting may hold the devices until it has started.
    eventually(|| {
        (one.device_drops(&device).is_err() && other.device_drops(&device).is_err()).then_some(())
    });
}

/// The kernel counts retransmits separately (RFC 4022, tcpOutSegs), and on a busy machine a round trip may
/// take longer than its time-out.
fn sent(counters: &Counters) -> i64 {
    counters["Tcp.OutSegs"] + counters["Tcp.RetransSegs"]
}

/// Asks again until there is an answer, for at most ten seconds.
fn eventually<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "it did not come to be");
        thread::sleep(MS);
    }
}
