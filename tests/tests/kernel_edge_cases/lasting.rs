//! Connections that are idle for a long time.

use std::{collections::BTreeMap, net::SocketAddr};

use flowcar_tests::{
    place::TestPod,
    traffic::{CallPlan, Holding, ServePlan, Serving},
    watch::{Mode, Seen, Watch, bytes_hold},
};

use crate::can_run;

const LIVE: &str = "flowcar.tcp.connection.live";

/// Figures that only traffic may change.
fn figures(seen: &Seen) -> BTreeMap<&'static str, f64> {
    let names = [
        LIVE,
        "flowcar.tcp.connection.opened",
        "flowcar.tcp.connection.adopted",
        "flowcar.tcp.connection.closed",
        "flowcar.tcp.io",
        "flowcar.tcp.segments",
        "flowcar.tcp.retransmits",
    ];
    names.map(|name| (name, seen.sum(name, &[]))).into()
}

/// From report to report nothing is counted again, and nothing is taken for closed.
#[test]
fn idle_connection_changes_nothing_between_two_reports() {
    if !can_run() {
        return;
    }
    for mode in [Mode::Both, Mode::Alone] {
        let pod = TestPod::new("quiet").unwrap();
        let serving = Serving::start(&pod, &ServePlan::at("[::]:0".parse().unwrap())).unwrap();
        let target: SocketAddr = ([127, 0, 0, 1], serving.address().port()).into();
        let mut watch = Watch::start(&pod, mode, &[]);
        let mut holding = Holding::start(&pod, &CallPlan::to(target)).unwrap();
        watch.until("both ends", |seen| seen.sum(LIVE, &[]) == 2.0);
        // A delayed acknowledgement may still be on its way.
        watch.reports(2);
        let before = figures(watch.reports(1));
        for _ in 0..5 {
            assert_eq!(figures(watch.reports(1)), before, "{mode:?}");
        }
        // One exchange with its 132 and 1,000 bytes, at both ends.
        assert_eq!(before["flowcar.tcp.io"], 2.0 * 1132.0, "{mode:?}");
        assert_eq!(holding.exchange().unwrap(), 1);
        watch.until("the second exchange", |seen| {
            seen.sum("flowcar.tcp.io", &[]) == 4.0 * 1132.0
        });
        let clients = holding.close().unwrap();
        watch.until("its close", |seen| seen.flows.len() >= 2);
        let seen = watch.stop();
        assert_eq!(seen.flows.len(), 2);
        bytes_hold(seen.flow(&clients[0]), &clients[0]);
        let after = figures(&seen);
        assert_eq!(seen.began(), 2.0);
        assert_eq!(after["flowcar.tcp.connection.closed"], 2.0);
        assert_eq!(after["flowcar.tcp.io"], 6.0 * 1132.0, "three exchanges");
    }
}

/// Followed from another network namespace, where no poll shows it, a connection stays live while it is open, and is counted
/// once.
#[test]
fn connection_that_no_poll_shows_is_not_evicted() {
    if !can_run() {
        return;
    }
    let pod = TestPod::new("quiet").unwrap();
    let serving = Serving::start(&pod, &ServePlan::at("[::]:0".parse().unwrap())).unwrap();
    let target: SocketAddr = ([127, 0, 0, 1], serving.address().port()).into();
    let mut watch = Watch::start(&pod, Mode::Outside, &[]);
    let holding = Holding::start(&pod, &CallPlan::to(target)).unwrap();
    watch.until("both ends", |seen| seen.sum(LIVE, &[]) == 2.0);
    // Longer than the polls after which other flows are evicted.
    for _ in 0..15 {
        assert_eq!(watch.reports(1).sum(LIVE, &[]), 2.0);
    }
    let clients = holding.close().unwrap();
    watch.until("its close", |seen| seen.flows.len() >= 2);
    let seen = watch.stop();
    bytes_hold(seen.flow(&clients[0]), &clients[0]);
    for name in ["opened", "closed"] {
        let sum = seen.sum(&format!("flowcar.tcp.connection.{name}"), &[]);
        assert_eq!(sum, 2.0, "{name}");
    }
    assert_eq!(seen.sum(LIVE, &[]), 0.0);
}
