//! Filters that refuse, and filters that drop.

use std::time::Duration;

use flowcar_tests::{
    link::{Direction::AtoB, Plan, TcpSummary},
    place::{TestPod, require_program},
    traffic::{CallPlan, FailureKind, Holding, Phase, call_in},
    watch::Seen,
};

use super::reported::{Reported, can_run};

const RTT: Duration = Duration::from_millis(20);

/// From now on incoming packets to this port get this verdict.
fn filter(pod: &TestPod, port: u16, verdict: &str) {
    let rules = format!(
        "table inet t {{ chain input {{ type filter hook input priority 0; tcp dport {port} {verdict}; }}; }}"
    );
    let nft = pod.netns().command("nft").unwrap().arg(rules).status();
    assert!(nft.unwrap().success());
}

/// `flowcar.tcp.connection.failed` of this reason, and that there is no other.
#[track_caller]
fn failed(seen: &Seen, reasons: &[&str], count: f64) {
    let name = "flowcar.tcp.connection.failed";
    let of_reasons: f64 = reasons
        .iter()
        .map(|reason| seen.sum(name, &[("error.type", reason)]))
        .sum();
    assert_eq!((of_reasons, seen.sum(name, &[])), (count, count));
    assert_eq!(seen.began(), 0.0);
    for flow in &seen.flows {
        assert!(reasons.contains(&flow.get("error.type")), "{flow:?}");
    }
}

/// Attempts at a server behind a filter, and the report of the client's flowcar.
fn attempts(verdict: &str, reported_to_application: FailureKind, reasons: &[&str]) {
    if !can_run() || !require_program("nft") {
        return;
    }
    let reported = Reported::new(Plan::rtt(RTT));
    reported.sysctl("net.ipv4.tcp_syn_retries", "1");
    filter(reported.pods.server(), reported.pods.port(), verdict);
    for target in [reported.pods.v4(), reported.pods.v6()] {
        let calls = call_in(reported.pods.client(), &CallPlan::to(target)).unwrap();
        let failure = calls[0].failure.as_ref().unwrap();
        assert_eq!(
            (failure.phase, failure.kind),
            (Phase::Connect, reported_to_application)
        );
    }
    let findings = reported.findings(2, 0);
    failed(&findings.client, reasons, 2.0);
    let again = findings.trace.count(AtoB, TcpSummary::is_syn) as f64 - 2.0;
    let resent = findings.client.sum(
        "flowcar.tcp.retransmits",
        &[("flowcar.tcp.retransmit.type", "syn")],
    );
    assert_eq!(resent, again);
    assert_eq!(findings.client.sum("flowcar.tcp.retransmits", &[]), again);
}

#[test]
fn filter_resets() {
    attempts("reject with tcp reset", FailureKind::Refused, &["refused"]);
}

/// The application gets ECONNREFUSED. The ICMP code is in no field that a program may read; that an ICMP error arrived is in
/// the counters of the network namespace.
#[test]
fn filter_answers_unreachable() {
    attempts(
        "reject with icmpx type port-unreachable",
        FailureKind::Refused,
        &["unreachable"],
    );
}

#[test]
fn filter_drops() {
    attempts("drop", FailureKind::Timeout, &["timeout"]);
}

/// A connection that a filter cuts off in the middle.
#[test]
fn filter_resets_an_open_connection() {
    if !can_run() || !require_program("nft") {
        return;
    }
    let reported = Reported::new(Plan::rtt(RTT));
    let mut holding =
        Holding::start(reported.pods.client(), &CallPlan::to(reported.pods.v4())).unwrap();
    filter(
        reported.pods.server(),
        reported.pods.port(),
        "reject with tcp reset",
    );
    assert_eq!(holding.exchange().unwrap(), 0, "it is cut off");
    let reports = holding.close().unwrap();
    let failure = reports[0].failure.as_ref().unwrap();
    assert_eq!(
        (failure.phase, failure.kind),
        (Phase::Exchange, FailureKind::Reset)
    );
    // The server's socket is behind the filter, receives nothing, and stays open.
    let findings = reported.findings(1, 0);
    let flow = findings.client.flow(&reports[0]);
    assert!(
        ["reset", "reset_received"].contains(&flow.end()),
        "{flow:?}"
    );
    assert_eq!(findings.client.sum("flowcar.tcp.retransmits", &[]), 0.0);
    assert_eq!(findings.server.sum("flowcar.tcp.connection.live", &[]), 1.0);
}
