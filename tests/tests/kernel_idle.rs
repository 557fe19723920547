//! Very many connections that do nothing.

use std::{net::SocketAddr, time::Duration};

use flowcar_tests::{
    place::{Place, require_cgroup2, require_root},
    traffic::{CallPlan, Holding, ServePlan, Serving},
    watch::{Mode, Watch},
};

const LIVE: &str = "flowcar.tcp.connection.live";

#[test]
fn ten_thousand_idle_connections() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    const OPEN: u64 = 10_000;
    const FLOWS: f64 = 2.0 * OPEN as f64;
    let place = Place::new("idle").unwrap();
    let serving = Serving::start(&place, &ServePlan::at("[::]:0".parse().unwrap())).unwrap();
    let target: SocketAddr = ([127, 0, 0, 1], serving.address().port()).into();
    // Their books are of interest here, and a sample of their spans.
    let few = [("FLOWCAR_SPANS_PER_SECOND", "100")];
    let mut watch = Watch::start(&place, Mode::Both, &few);
    let plan = CallPlan::to(target).connections(OPEN, 200);
    let holding = Holding::start(&place, &plan).unwrap();
    assert_eq!(holding.open() as u64, OPEN);
    watch.until("all live", |seen| seen.sum(LIVE, &[]) == FLOWS);
    for _ in 0..5 {
        let seen = watch.reports(1);
        assert_eq!(seen.sum(LIVE, &[]), FLOWS);
        assert!(seen.flows.is_empty());
    }
    let clients = holding.close().unwrap();
    let servers = serving
        .reports(OPEN as usize, Duration::from_secs(60))
        .unwrap();
    watch.until("their close", |seen| seen.sum(LIVE, &[]) == 0.0);
    let seen = watch.stop();
    let (opened, closed) = (seen.began(), seen.sum("flowcar.tcp.connection.closed", &[]));
    assert_eq!((opened, closed), (FLOWS, FLOWS));
    assert_eq!(seen.sum("flowcar.tcp.connection.lost", &[]), 0.0);
    let bytes: u64 = clients.iter().chain(&servers).map(|end| end.sent).sum();
    let told = seen.sum("flowcar.tcp.io", &[("network.io.direction", "transmit")]);
    assert_eq!(told, bytes as f64);
}
