//! Flows whose end was not delivered do not stay for ever, and are counted under what cost them.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use flowcar_tests::{
    place::{Place, require_cgroup2, require_root},
    traffic::{CallPlan, Holding, ServePlan, Serving, call_in},
    watch::{Flow, Mode, Watch},
};
use nix::sys::signal::Signal;

/// A page of ring buffer holds a few dozen records, and they are drained ten times a second.
#[test]
fn flows_whose_close_was_dropped_are_taken_off_the_list() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    const CONNECTIONS: u64 = 3_000;
    let place = Place::new("zombies").unwrap();
    let serving = Serving::start(&place, &ServePlan::at("[::]:0".parse().unwrap())).unwrap();
    let target = ([127, 0, 0, 1], serving.address().port()).into();
    let mut watch = Watch::start(&place, Mode::Both, &[("FLOWCAR_RING_BYTES", "4096")]);
    let calls = call_in(&place, &CallPlan::to(target).connections(CONNECTIONS, 50)).unwrap();
    assert!(calls.iter().all(|call| call.failure.is_none()));
    serving
        .reports(CONNECTIONS as usize, Duration::from_secs(60))
        .unwrap();

    let (live, table) = ("flowcar.tcp.connection.live", "flowcar.self.flow.count");
    watch.reports(1);
    watch.until("an empty table", |seen| {
        seen.sum(table, &[]) == 0.0 && seen.sum(live, &[]) == 0.0
    });
    // Of those that were never told of it takes two looks to be sure.
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
    // What was told of is closed; what was not is lost, to the last flow.
    let closed = seen.sum("flowcar.tcp.connection.closed", &[]);
    assert_eq!(closed + ring_full, (2 * CONNECTIONS) as f64);
    assert_eq!(closed, seen.flows.len() as f64);
    let opened = seen.began();
    assert_eq!(opened, (2 * CONNECTIONS) as f64);
}

/// The kernel tells of ends in a work queue, which may come to them long after: waits until some found no room, and
/// no more do.
fn all_ends_are_told(place: &Place) {
    let drops = || place.netns().run(netlink_drops).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut before = 0;
    loop {
        std::thread::sleep(Duration::from_millis(500));
        let now = drops();
        if now > 0 && now == before {
            return;
        }
        assert!(Instant::now() < deadline, "{now} ends found no room");
        before = now;
    }
}

/// What found no room in the namespace's netlink sockets: the ninth column (net/netlink/af_netlink.c,
/// netlink_native_seq_show).
fn netlink_drops() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/netlink").unwrap();
    let drops = |line: &str| line.split_whitespace().nth(8)?.parse::<u64>().ok();
    text.lines().skip(1).filter_map(drops).sum()
}

/// A stopped flowcar hears of no more ends than its socket has room for. Short connections fill it; of those that were held
/// nothing is heard then.
#[test]
fn ends_that_found_no_room_are_lost_to_the_last_flow() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    const HELD: usize = 500;
    const SHORT: u64 = 15_000;
    let place = Place::new("overrun").unwrap();
    let serving = Serving::start(&place, &ServePlan::at("[::]:0".parse().unwrap())).unwrap();
    let target = ([127, 0, 0, 1], serving.address().port()).into();
    let plan = CallPlan::to(target).connections(HELD as u64, 20);
    let holding = Holding::start(&place, &plan).unwrap();
    let mut watch = Watch::start(&place, Mode::Alone, &[]);
    let live = "flowcar.tcp.connection.live";
    let all = 2 * HELD;
    watch.until("all live", |seen| seen.sum(live, &[]) == all as f64);

    watch.signal(Signal::SIGSTOP);
    call_in(&place, &CallPlan::to(target).connections(SHORT, 50)).unwrap();
    let clients = holding.close().unwrap();
    let ended = SHORT as usize + clients.len();
    let servers = serving.reports(ended, Duration::from_secs(60)).unwrap();
    all_ends_are_told(&place);
    watch.signal(Signal::SIGCONT);
    watch.until("none left", |seen| seen.sum(live, &[]) == 0.0);
    // The kernel tells of ends in a work queue, behind the closes themselves.
    watch.until("every end told or dropped", |seen| {
        let told = seen.sum("flowcar.tcp.connection.closed", &[]);
        let dropped = seen.sum(
            "flowcar.self.record.dropped",
            &[("flowcar.self.record.kind", "end")],
        );
        told + dropped >= 2.0 * servers.len() as f64
    });
    let seen = watch.stop();
    let ports: BTreeSet<u16> = clients
        .iter()
        .filter_map(|client| Some(client.local?.port()))
        .collect();
    let is_held =
        |flow: &&Flow| ports.contains(&flow.local.port()) || ports.contains(&flow.peer.port());
    let heard_of = seen.flows.iter().filter(is_held).count();
    let lost = seen.sum(
        "flowcar.tcp.connection.lost",
        &[("flowcar.tcp.lost.reason", "destroy_overrun")],
    );
    let dropped = seen.sum(
        "flowcar.self.record.dropped",
        &[("flowcar.self.record.kind", "end")],
    );
    println!(
        "{dropped} of {} ends found no room, {lost} of {all} held",
        2 * servers.len()
    );
    assert!(lost > 0.0, "there was room for all, so this shows nothing");
    assert_eq!(heard_of as f64 + lost, all as f64);
    // What it never knew of it cannot count among the flows; that there was more, it says.
    let told = seen.flows.len() as f64;
    assert_eq!(told + dropped, 2.0 * servers.len() as f64);
    assert_eq!(seen.sum("flowcar.tcp.connection.closed", &[]), told);
    assert_eq!(seen.began(), told + lost);
}
