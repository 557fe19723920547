//! Flows whose end was not delivered do not stay for ever.

use flowcar_tests::{
    place::{Place, require_cgroup2, require_root},
    traffic::{CallPlan, ServePlan, Serving, call_in},
};

use crate::watch::{Mode, Watch};

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
        .reports(CONNECTIONS as usize, std::time::Duration::from_secs(60))
        .unwrap();

    let (live, table) = ("flowcar.tcp.connections.live", "flowcar.self.table.flows");
    watch.reports(1);
    watch.until("an empty table", |seen| {
        seen.sum(table, &[]) == 0.0 && seen.sum(live, &[]) == 0.0
    });
    let seen = watch.stop();
    let ring_full = seen.sum(
        "flowcar.tcp.connections.lost",
        &[("flowcar.lost", "ring_full")],
    );
    println!(
        "{ring_full} of {} closes found the ring full",
        2 * CONNECTIONS
    );
    assert!(
        ring_full > 0.0,
        "the ring never overran, so this shows nothing"
    );
    assert_eq!(ring_full, seen.sum("flowcar.tcp.connections.lost", &[]));
    // What was told of is closed; what was not is lost, to the last flow.
    let closed = seen.sum("flowcar.tcp.connections.closed", &[]);
    assert_eq!(closed + ring_full, (2 * CONNECTIONS) as f64);
    assert_eq!(closed, seen.flows.len() as f64);
}
