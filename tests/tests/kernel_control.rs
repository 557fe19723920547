//! `flowcar flows`: a running export is asked for its open connections.

use std::collections::BTreeMap;

use flowcar_tests::{
    flowcar,
    place::{TestPod, require_cgroup2, require_root},
    traffic::{CallPlan, Holding, ServePlan, Serving},
    watch::{Mode, Watch},
};
use serde_json::Value;

const OPEN: usize = 20;

/// Bytes each way of three exchanges, without their headers, each of which is shorter than one.
const WHOLE: u64 = 3_000;

#[test]
fn flows_lists_each_open_connection_and_the_books() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let pod = TestPod::new("control").unwrap();
    let serving = Serving::start(&pod, &ServePlan::at("[::]:0".parse().unwrap())).unwrap();
    let port = serving.address().port();
    let target = ([127, 0, 0, 1], port).into();
    let mut watch = Watch::start(&pod, Mode::Both, &[]);
    watch.reports(1);
    let plan = CallPlan::to(target)
        .connections(OPEN as u64, OPEN as u64)
        .exchanges(2);
    let plan = plan.sizes(1_000..=1_000, 1_000..=1_000);
    let mut holding = Holding::start(&pod, &plan).unwrap();
    holding.exchange().unwrap();
    let is_whole = |line: &Value| line["bytes_sent"].as_u64() >= Some(WHOLE);
    while flowcar::listing(&pod)
        .unwrap()
        .0
        .iter()
        .filter(|line| is_whole(line))
        .count()
        < 2 * OPEN
    {
        watch.reports(1);
    }
    // Two polls prove the last byte.
    watch.reports(2);
    let (lines, books) = flowcar::listing(&pod).unwrap();
    let figures = [
        ("live", 2 * OPEN),
        ("opened", 2 * OPEN),
        ("closed", 0),
        ("lost", 0),
    ];
    for (name, count) in figures {
        assert_eq!(books[name], count, "{name}: {books}");
    }
    let of = |role: &str| -> BTreeMap<u64, Value> {
        let of = lines.iter().filter(|line| line["role"] == role);
        of.map(|line| {
            let end = if role == "client" { "local" } else { "peer" };
            (line[end]["port"].as_u64().unwrap(), line.clone())
        })
        .collect()
    };
    let (clients, servers) = (of("client"), of("server"));
    let table = flowcar::flows(&pod, &[]).unwrap();
    let (processes, lines): (Vec<_>, Vec<_>) = table
        .lines()
        .partition(|line| line.starts_with("       by "));
    // Head and books.
    assert_eq!(lines.len(), 2 * OPEN + 2, "{table}");
    // The server has listened since before flowcar.
    assert_eq!(processes.len(), OPEN, "{table}");
    let reports = holding.close().unwrap();
    assert_eq!(reports.len(), OPEN);
    for report in reports {
        let port = u64::from(report.local.unwrap().port());
        let (client, server) = (&clients[&port], &servers[&port]);
        // All exchanges are of one size, and the last comes with the close.
        let before = |all: u64| all / report.exchanges * (report.exchanges - 1);
        let (sent, received) = (before(report.sent), before(report.received));
        assert_eq!(client["bytes_sent"], sent, "{client}");
        assert_eq!(client["bytes_received"], received, "{client}");
        assert_eq!(server["bytes_received"], sent, "{server}");
        assert!(client["close_reason"].is_null() && client["duration_s"].as_f64() > Some(0.0));
    }
    watch.until("all closed", |seen| seen.flows.len() >= 2 * OPEN);
    assert_eq!(
        flowcar::flows(&pod, &[]).unwrap().lines().count(),
        2,
        "none is open"
    );
    watch.stop();
    let mut command = flowcar::bare().unwrap();
    pod.netns().enter(&mut command).unwrap();
    let nobody = command.arg("flows").output().unwrap();
    assert_eq!(nobody.status.code(), Some(69), "{nobody:?}");
}
