//! A flowcar that is stopped while connections open and close: it gets records of connections that no poll shows any more.

use std::{net::SocketAddr, time::Duration};

use flowcar_tests::{
    link::Plan,
    place::{TestPod, require_cgroup2, require_root, require_tun},
    traffic::{CallPlan, Holding, Pods, ServePlan, Serving, call_in},
    watch::{Mode, Watch},
};
use nix::sys::signal::Signal;

/// Connections whose open record is in the ring and whose close record finds no room.
const HELD: u64 = 8;
/// Connections that fill the ring meanwhile.
const FILL: u64 = 100;

const LIVE: &str = "flowcar.tcp.connection.live";

/// `ends` ends of each connection are in the pod.
fn stalled(pod: &TestPod, serving: &Serving, target: SocketAddr, ends: u64) {
    let settings = [("FLOWCAR_RING_BYTES", "4096")];
    let mut watch = Watch::start(pod, Mode::Both, &settings);
    watch.reports(2);
    watch.signal(Signal::SIGSTOP);
    let plan = |connections| CallPlan::to(target).connections(connections, 1);
    let held = CallPlan::to(target).connections(HELD, HELD);
    let holding = Holding::start(pod, &held).unwrap();
    call_in(pod, &plan(FILL)).unwrap();
    holding.close().unwrap();
    let all = (HELD + FILL) as usize;
    serving.reports(all, Duration::from_secs(60)).unwrap();
    watch.signal(Signal::SIGCONT);
    watch.until("the open records", |seen| seen.began() > 0.0);
    watch.until("none left", |seen| {
        seen.sum("flowcar.self.flow.count", &[]) == 0.0 && seen.sum(LIVE, &[]) == 0.0
    });
    let seen = watch.stop();
    let sum = |name| seen.sum(name, &[]);
    let (opened, closed, lost) = (
        seen.began(),
        sum("flowcar.tcp.connection.closed"),
        sum("flowcar.tcp.connection.lost"),
    );
    assert_eq!(opened, (ends * (HELD + FILL)) as f64);
    assert_eq!(closed + lost, opened);
    let opens = seen.sum(
        "flowcar.self.record.decoded",
        &[("flowcar.self.record.kind", "open")],
    );
    assert!(
        opens > closed,
        "the closes of all opened connections were delivered, so this shows nothing: {opens}, {closed}"
    );
}

/// Both ends, at an address that every network namespace has: the listener proves that polls would show them.
#[test]
fn stalled_flowcar_counts_both_ends_over_loopback() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let pod = TestPod::new("held-up").unwrap();
    let serving = Serving::start(&pod, &ServePlan::at("[::]:0".parse().unwrap())).unwrap();
    let target = ([127, 0, 0, 1], serving.address().port()).into();
    stalled(&pod, &serving, target, 2);
}

/// A client alone: its address proves that polls would show it.
#[test]
fn stalled_flowcar_counts_a_client_over_a_link() {
    if !require_root() || !require_cgroup2() || !require_tun() {
        return;
    }
    let pods = Pods::new(Plan::rtt(Duration::from_millis(1))).unwrap();
    for target in [pods.v4(), pods.v6()] {
        stalled(pods.client(), pods.serving(), target, 1);
    }
}

/// A sidecar's own connection to the receiver closes meanwhile. The lost closes are unattributed, so its own may be among
/// them, and then with those opened as well.
#[test]
fn stalled_flowcar_counts_its_own_connection() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let pod = TestPod::new("held-up").unwrap();
    let serving = Serving::start(&pod, &ServePlan::at("[::]:0".parse().unwrap())).unwrap();
    let target = ([127, 0, 0, 1], serving.address().port()).into();
    let mut watch = Watch::start(&pod, Mode::Both, &[("FLOWCAR_RING_BYTES", "4096")]);
    watch.reports(1);
    watch.enter(&pod);
    let call = |connections| {
        call_in(&pod, &CallPlan::to(target).connections(connections, 1)).unwrap();
        let within = Duration::from_secs(60);
        serving.reports(connections as usize, within).unwrap();
    };
    call(1);
    // Its new connection is open when it reports this one, and a poll comes with each report.
    watch.until("the first", |seen| {
        seen.sum("flowcar.tcp.connection.closed", &[]) == 2.0
    });
    watch.reports(3);
    watch.signal(Signal::SIGSTOP);
    call(FILL);
    watch.cut_off(&pod);
    watch.signal(Signal::SIGCONT);
    watch.until("none left", |seen| {
        seen.began() > 2.0
            && seen.sum("flowcar.self.flow.count", &[]) == 0.0
            && seen.sum(LIVE, &[]) == 0.0
    });
    // Every report has asserted that the books balance.
    let seen = watch.stop();
    let sum = |what| seen.sum(&format!("flowcar.tcp.connection.{what}"), &[]);
    assert_eq!(sum("closed") + sum("lost"), sum("opened"));
    let own = sum("opened") - 2.0 * (1 + FILL) as f64;
    assert!((1.0..=2.0).contains(&own), "{own} of its own were lost");
}
