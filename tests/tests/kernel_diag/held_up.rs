//! A flowcar that is held up while connections come and go, so that it hears of some that no look can show any more.

use std::{net::SocketAddr, time::Duration};

use flowcar_tests::{
    link::Plan,
    place::{Place, require_cgroup2, require_root, require_tun},
    traffic::{CallPlan, Holding, Pods, ServePlan, Serving, call_in},
    watch::{Mode, Watch},
};
use nix::sys::signal::Signal;

/// Of these the ring has the opening and no room for the end.
const HELD: u64 = 8;
/// What fills the ring meanwhile.
const FILL: u64 = 100;

const LIVE: &str = "flowcar.tcp.connection.live";

/// `ends` ends of each connection are in the place.
fn held_up(place: &Place, serving: &Serving, target: SocketAddr, ends: u64) {
    let settings = [("FLOWCAR_RING_BYTES", "4096")];
    let mut watch = Watch::start(place, Mode::Both, &settings);
    watch.reports(2);
    watch.signal(Signal::SIGSTOP);
    let plan = |connections| CallPlan::to(target).connections(connections, 1);
    let held = CallPlan::to(target).connections(HELD, HELD);
    let holding = Holding::start(place, &held).unwrap();
    call_in(place, &plan(FILL)).unwrap();
    holding.close().unwrap();
    let all = (HELD + FILL) as usize;
    serving.reports(all, Duration::from_secs(60)).unwrap();
    watch.signal(Signal::SIGCONT);
    watch.until("what it heard of", |seen| seen.began() > 0.0);
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
        "the end of all that it heard of came, so this shows nothing: {opens}, {closed}"
    );
}

/// Both ends, at an address that every network namespace has: the listener tells that they would be shown.
#[test]
fn over_loopback() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let place = Place::new("held-up").unwrap();
    let serving = Serving::start(&place, &ServePlan::at("[::]:0".parse().unwrap())).unwrap();
    let target = ([127, 0, 0, 1], serving.address().port()).into();
    held_up(&place, &serving, target, 2);
}

/// A client alone: its address tells.
#[test]
fn over_a_link() {
    if !require_root() || !require_cgroup2() || !require_tun() {
        return;
    }
    let pods = Pods::new(Plan::rtt(Duration::from_millis(1))).unwrap();
    for target in [pods.v4(), pods.v6()] {
        held_up(pods.client(), pods.serving(), target, 1);
    }
}

/// A sidecar's own connection to the receiver ends meanwhile. Nobody knows whose the lost ends were, so its own may be among
/// them, and then with those opened as well.
#[test]
fn its_own_connection_too() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let place = Place::new("held-up").unwrap();
    let serving = Serving::start(&place, &ServePlan::at("[::]:0".parse().unwrap())).unwrap();
    let target = ([127, 0, 0, 1], serving.address().port()).into();
    let mut watch = Watch::start(&place, Mode::Both, &[("FLOWCAR_RING_BYTES", "4096")]);
    watch.reports(1);
    watch.enter(&place);
    let call = |connections| {
        call_in(&place, &CallPlan::to(target).connections(connections, 1)).unwrap();
        let within = Duration::from_secs(60);
        serving.reports(connections as usize, within).unwrap();
    };
    call(1);
    // Its new connection is there when it tells of this one, and a look at the sockets comes with each report.
    watch.until("the first", |seen| {
        seen.sum("flowcar.tcp.connection.closed", &[]) == 2.0
    });
    watch.reports(3);
    watch.signal(Signal::SIGSTOP);
    call(FILL);
    watch.cut_off(&place);
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
