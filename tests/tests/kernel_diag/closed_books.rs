//! Flows whose close was not delivered are evicted, and are counted under the reason.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use flowcar_tests::{
    place::{TestPod, require_cgroup2, require_root},
    traffic::{CallPlan, Holding, ServePlan, Serving, call_in},
    watch::{Flow, Mode, Watch},
};
use nix::sys::signal::Signal;

/// A page of ring buffer holds a few dozen records, and they are drained ten times a second.
#[test]
fn flows_with_a_dropped_close_are_evicted() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    const CONNECTIONS: u64 = 3_000;
    let pod = TestPod::new("zombies").unwrap();
    let serving = Serving::start(&pod, &ServePlan::at("[::]:0".parse().unwrap())).unwrap();
    let target = ([127, 0, 0, 1], serving.address().port()).into();
    let mut watch = Watch::start(&pod, Mode::Both, &[("FLOWCAR_RING_BYTES", "4096")]);
    let calls = call_in(&pod, &CallPlan::to(target).connections(CONNECTIONS, 50)).unwrap();
    assert!(calls.iter().all(|call| call.failure.is_none()));
    serving
        .reports(CONNECTIONS as usize, Duration::from_secs(60))
        .unwrap();

    let (live, table) = ("flowcar.tcp.connection.live", "flowcar.self.flow.count");
    watch.reports(1);
    watch.until("an empty table", |seen| {
        seen.sum(table, &[]) == 0.0 && seen.sum(live, &[]) == 0.0
    });
    // Flows without a close need two polls to be evicted.
    watch.reports(3);
    let seen = watch.stop();
    let ring_full = seen.sum(
        "flowcar.tcp.connection.lost",
        &[("flowcar.tcp.lost.reason", "ring_full")],
    );
    println!(
        "{ring_full} of {} closes found the ring full",
        2 * CONNECTIONS
    );
    assert!(
        ring_full > 0.0,
        "the ring never overran, so this shows nothing"
    );
    assert_eq!(ring_full, seen.sum("flowcar.tcp.connection.lost", &[]));
    // A delivered close is closed; a dropped one is lost, to the last flow.
    let closed = seen.sum("flowcar.tcp.connection.closed", &[]);
    assert_eq!(closed + ring_full, (2 * CONNECTIONS) as f64);
    assert_eq!(closed, seen.flows.len() as f64);
    let opened = seen.began();
    assert_eq!(opened, (2 * CONNECTIONS) as f64);
}

/// The kernel sends destroy events from a work queue, perhaps much later: waits until some found no room, and
/// no more do.
fn all_closes_are_delivered(pod: &TestPod) {
    let drops = || pod.netns().run(netlink_drops).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let (mut before, mut equal) = (0, 0);
    loop {
        std::thread::sleep(Duration::from_millis(500));
        let now = drops();
        equal = if now > 0 && now == before {
            equal + 1
        } else {
            0
        };
        if equal == 4 {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{now} destroy events found no room"
        );
        before = now;
    }
}

/// Drops of the namespace's netlink sockets: the ninth column (net/netlink/af_netlink.c,
/// netlink_native_seq_show).
fn netlink_drops() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/netlink").unwrap();
    let drops = |line: &str| line.split_whitespace().nth(8)?.parse::<u64>().ok();
    text.lines().skip(1).filter_map(drops).sum()
}

/// A stopped flowcar gets no more destroy events than its socket has room for. Short connections fill it; those of the held
/// connections are dropped.
#[test]
fn flows_with_dropped_destroy_events_are_lost_exactly() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    const HELD: usize = 500;
    const SHORT: u64 = 15_000;
    let pod = TestPod::new("overrun").unwrap();
    let serving = Serving::start(&pod, &ServePlan::at("[::]:0".parse().unwrap())).unwrap();
    let target = ([127, 0, 0, 1], serving.address().port()).into();
    let plan = CallPlan::to(target).connections(HELD as u64, 20);
    let holding = Holding::start(&pod, &plan).unwrap();
    // A report that is on its way when flowcar is stopped must not time out: flowcar would connect again, and the destroy events
    // of its own connection would be among the dropped.
    let patient = ("OTEL_EXPORTER_OTLP_TIMEOUT", "0");
    let mut watch = Watch::start(&pod, Mode::Alone, &[patient]);
    let live = "flowcar.tcp.connection.live";
    let all = 2 * HELD;
    watch.until("all live", |seen| seen.sum(live, &[]) == all as f64);

    watch.signal(Signal::SIGSTOP);
    call_in(&pod, &CallPlan::to(target).connections(SHORT, 50)).unwrap();
    let clients = holding.close().unwrap();
    let ended = SHORT as usize + clients.len();
    let servers = serving.reports(ended, Duration::from_secs(60)).unwrap();
    all_closes_are_delivered(&pod);
    watch.signal(Signal::SIGCONT);
    watch.until("none left", |seen| seen.sum(live, &[]) == 0.0);
    // The kernel sends destroy events from a work queue, after the closes themselves.
    watch.until("every destroy event delivered or dropped", |seen| {
        let reported = seen.sum("flowcar.tcp.connection.closed", &[]);
        let dropped = seen.sum(
            "flowcar.self.record.dropped",
            &[("flowcar.self.record.kind", "destroy")],
        );
        reported + dropped >= 2.0 * servers.len() as f64
    });
    let seen = watch.stop();
    let ports: BTreeSet<u16> = clients
        .iter()
        .filter_map(|client| Some(client.local?.port()))
        .collect();
    let is_held =
        |flow: &&Flow| ports.contains(&flow.local.port()) || ports.contains(&flow.peer.port());
    let seen_flows = seen.flows.iter().filter(is_held).count();
    let lost = seen.sum(
        "flowcar.tcp.connection.lost",
        &[("flowcar.tcp.lost.reason", "destroy_overrun")],
    );
    let dropped = seen.sum(
        "flowcar.self.record.dropped",
        &[("flowcar.self.record.kind", "destroy")],
    );
    println!(
        "{dropped} of {} destroy events found no room, {lost} of {all} held are lost",
        2 * servers.len()
    );
    assert!(lost > 0.0, "there was room for all, so this shows nothing");
    assert_eq!(seen_flows as f64 + lost, all as f64);
    // Connections that flowcar never saw are no flows; a counter reports that there were more.
    let reported = seen.flows.len() as f64;
    assert_eq!(reported + dropped, 2.0 * servers.len() as f64);
    assert_eq!(seen.sum("flowcar.tcp.connection.closed", &[]), reported);
    assert_eq!(seen.began(), reported + lost);
}
