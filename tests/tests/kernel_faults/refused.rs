//! Filters that say no, and those that say nothing.

use std::time::Duration;

use flowcar_tests::{
    link::{Direction::AtoB, Plan, TcpSummary},
    place::{Place, require_program},
    traffic::{CallPlan, FailureKind, Holding, Phase, call_in},
    watch::Seen,
};

use super::told::{Told, can_run};

const RTT: Duration = Duration::from_millis(20);

/// From now on packets that come in to this port meet this verdict.
fn filter(place: &Place, port: u16, verdict: &str) {
    let rules = format!(
        "table inet t {{ chain input {{ type filter hook input priority 0; tcp dport {port} {verdict}; }}; }}"
    );
    let nft = place.netns().command("nft").unwrap().arg(rules).status();
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

/// Attempts at a server behind a filter, and what the client's flowcar says of them.
fn attempts(verdict: &str, told_application: FailureKind, reasons: &[&str]) {
    if !can_run() || !require_program("nft") {
        return;
    }
    let told = Told::new(Plan::rtt(RTT));
    told.sysctl("net.ipv4.tcp_syn_retries", "1");
    filter(told.pods.server(), told.pods.port(), verdict);
    for target in [told.pods.v4(), told.pods.v6()] {
        let calls = call_in(told.pods.client(), &CallPlan::to(target)).unwrap();
        let failure = calls[0].failure.as_ref().unwrap();
        assert_eq!(
            (failure.phase, failure.kind),
            (Phase::Connect, told_application)
        );
    }
    let findings = told.findings(2, 0);
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
fn a_filter_that_resets() {
    attempts("reject with tcp reset", FailureKind::Refused, &["refused"]);
}

/// The application hears that it was refused. What ICMP said is in no field that a program may read; that ICMP said something is in
/// the counters of the network namespace.
#[test]
fn a_filter_that_says_unreachable() {
    attempts(
        "reject with icmpx type port-unreachable",
        FailureKind::Refused,
        &["unreachable"],
    );
}

#[test]
fn a_filter_that_drops() {
    attempts("drop", FailureKind::Timeout, &["timeout"]);
}

/// A connection that a filter cuts off in the middle.
#[test]
fn a_filter_that_resets_what_is_open() {
    if !can_run() || !require_program("nft") {
        return;
    }
    let told = Told::new(Plan::rtt(RTT));
    let mut holding = Holding::start(told.pods.client(), &CallPlan::to(told.pods.v4())).unwrap();
    filter(
        told.pods.server(),
        told.pods.port(),
        "reject with tcp reset",
    );
    assert_eq!(holding.exchange().unwrap(), 0, "it is cut off");
    let reports = holding.close().unwrap();
    let failure = reports[0].failure.as_ref().unwrap();
    assert_eq!(
        (failure.phase, failure.kind),
        (Phase::Exchange, FailureKind::Reset)
    );
    // The server's socket is behind the filter, hears nothing, and lives.
    let findings = told.findings(1, 0);
    let flow = findings.client.flow(&reports[0]);
    assert!(
        ["reset", "reset_received"].contains(&flow.end()),
        "{flow:?}"
    );
    assert_eq!(findings.client.sum("flowcar.tcp.retransmits", &[]), 0.0);
    assert_eq!(findings.server.sum("flowcar.tcp.connection.live", &[]), 1.0);
}
