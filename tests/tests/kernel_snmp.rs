//! Sums over all flows against the kernel's own counters of their network namespace.

use std::time::Duration;

use flowcar_tests::{
    flowcar::{Pair, Report, Run, Server},
    link::{Only, Plan, When},
    place::{Counters, require_cgroup2, require_root, require_tun},
    traffic,
};

/// Connections that the server accepts, by what the script below makes.
const ACCEPTED: u64 = 20 + 10 + 5 + 5 + 3;
const RESET: u64 = 5 + 5;
const REFUSED: u64 = 4;
const GIVEN_UP: u64 = 1;

/// Exchanges of all sizes, resets from both ends, ports without a listener and aborted attempts, over a link that
/// loses at random.
#[test]
fn mixed_load_matches_the_snmp_counters() {
    if !require_root() || !require_cgroup2() || !require_tun() {
        return;
    }
    let pair = Pair::new(Plan::rtt(Duration::from_millis(10))).unwrap();
    let lossy = |seed| {
        Plan::rtt(Duration::from_millis(10))
            .drop(Only::Data, When::Chance(0.03))
            .drop(Only::Syn, When::Chance(0.1))
            .drop(Only::SynAck, When::Chance(0.1))
            // One that is certain, besides the random ones.
            .drop(Only::Data, When::Nth(30))
            .seed(seed)
    };
    let before = [pair.client(), pair.server()].map(|pod| pod.netns().snmp().unwrap());
    let serving = Server::start(pair.server(), ACCEPTED as usize).unwrap();
    pair.link().set_both(lossy(4));
    let to = |words: &str| {
        let program = traffic::program().unwrap();
        let target = (pair.link().b4(), serving.port());
        format!(
            "{} call {}:{} {words}",
            program.display(),
            target.0,
            target.1
        )
    };
    let sizes = "--request 0-60000 --response 1-60000 --seed 7";
    let refused = format!(
        "{} call {}:9 --connections {REFUSED}",
        traffic::program().unwrap().display(),
        pair.link().b4()
    );
    // Before the answer can come.
    let evicted = format!(
        "{} call {}:9 --timeout 1",
        traffic::program().unwrap().display(),
        pair.link().b4()
    );
    let script = [
        to(&format!("--connections 20 --concurrency 5 {sizes}")),
        to(&format!(
            "--connections 10 --exchanges 5 --close server {sizes}"
        )),
        to("--connections 5 --close reset-by-client"),
        to("--connections 5 --close reset-by-server"),
        to("--connections 3 --close half-by-client --delay 50"),
        refused,
        evicted,
    ];
    let script = format!("exec >/dev/null; {}", script.join("; "));
    let run = Run::start(pair.client(), "sh".as_ref(), &["-c", &script]).unwrap();
    let (status, at_client) = run.finish().unwrap();
    assert!(status.success());
    let (_, at_server) = serving.finish().unwrap();
    let [client, server] = [(pair.client(), &before[0]), (pair.server(), &before[1])]
        .map(|(pod, before)| pod.netns().snmp().unwrap().since(before));
    println!("{:?}", client.nonzero().collect::<Vec<_>>());
    println!("{:?}", server.nonzero().collect::<Vec<_>>());

    for (report, counters) in [(&at_client, &client), (&at_server, &server)] {
        let books = &report.summary;
        assert_eq!((books.live, books.lost), (0, 0));
        let resent: u64 = report.flows.iter().map(|flow| flow.retransmits).sum();
        assert!(resent > 0, "the link lost nothing");
        assert_eq!(resent as i64, counters["Tcp.RetransSegs"]);
        agree(report, counters);
    }
    assert_eq!(at_client.summary.opened, ACCEPTED);
    assert_eq!(at_client.summary.failed, REFUSED + GIVEN_UP);
    assert_eq!(at_server.summary.opened, ACCEPTED);
    assert_eq!(client["Tcp.EstabResets"], RESET as i64);
}

/// The kernel's counts of opened and closed connections (net/ipv4/tcp.c, tcp_set_state; RFC 4022).
fn agree(report: &Report, counters: &Counters) {
    let opened = |role: &str| {
        let is_opened =
            |end: &str| !["refused", "timeout", "unreachable", "abandoned"].contains(&end);
        let flows = report.flows.iter().filter(|flow| flow.role == role);
        flows.filter(|flow| is_opened(&flow.end)).count() as i64
    };
    let failed = report.summary.failed as i64;
    assert_eq!(opened("client") + failed, counters["Tcp.ActiveOpens"]);
    assert_eq!(opened("server"), counters["Tcp.PassiveOpens"]);
    // The kernel counts those that it ended itself, not those whose application closed the socket meanwhile.
    let evicted = report.flows.iter().filter(|flow| flow.end == "abandoned");
    assert_eq!(
        failed - evicted.count() as i64,
        counters["Tcp.AttemptFails"]
    );
    let resets = report
        .flows
        .iter()
        .filter(|flow| flow.end.starts_with("reset"));
    assert_eq!(resets.count() as i64, counters["Tcp.EstabResets"]);
}
