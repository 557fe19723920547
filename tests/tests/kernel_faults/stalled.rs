//! Peers that stop reading, and peers that vanish.

use std::time::Duration;

use flowcar_tests::{
    link::{Direction::AtoB, Only, Plan, When},
    traffic::{CallPlan, ConnectionReport, FailureKind, Holding, Phase, ServePlan},
};

use super::reported::{Findings, Reported, can_run, causes, sent_again};

const MS: Duration = Duration::from_millis(1);
const RTT: Duration = Duration::from_millis(20);

/// Microseconds as the seconds that the metric is in.
fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

/// Closes the one connection after a poll has shown it: a poll comes with each report.
fn closed(reported: Reported, holding: Holding) -> (Findings, ConnectionReport) {
    std::thread::sleep(MS * 1_000);
    let mut reports = holding.close().unwrap();
    (reported.findings(1, 1), reports.remove(0))
}

/// How long the client was limited by this, seconds.
fn limited(findings: &Findings, limit: &str) -> f64 {
    let limit = [("flowcar.tcp.limited.by", limit)];
    findings.client.sum("flowcar.tcp.limited.time", &limit)
}

/// A receiver that does not read closes its window; nothing is lost.
#[test]
fn a_peer_that_stops_reading() {
    if !can_run() {
        return;
    }
    let mut serve = ServePlan::at("[::]:0".parse().unwrap());
    serve.socket.receive_buffer = Some(20_000);
    let reported = Reported::with(Plan::rtt(RTT), &serve);
    let plan = CallPlan {
        stall: MS * 1_500,
        ..CallPlan::to(reported.pods.v4()).sizes(100_000..=100_000, 1..=1)
    };
    let mut holding = Holding::start(reported.pods.client(), &plan).unwrap();
    assert_eq!(holding.exchange().unwrap(), 1);
    let trace = reported.pods.link().trace();
    assert!(
        trace.count(flowcar_tests::link::Direction::BtoA, |tcp| tcp.window == 0
            && !tcp.rst)
            > 0
    );
    let (findings, client) = closed(reported, holding);
    let info = client.tcp_info.unwrap();
    let by = |limit| limited(&findings, limit);
    println!("{} s of {} us", by("receive_window"), info.rwnd_limited);
    assert!(
        by("receive_window") >= 2.0 * 1.2,
        "it stalled twice at least"
    );
    assert!(by("receive_window") <= seconds(info.rwnd_limited));
    assert_eq!(
        findings.client.sum("flowcar.tcp.retransmits", &[]),
        0.0,
        "probes of a window are none"
    );
    assert_eq!(findings.server.sum("flowcar.tcp.limited.time", &[]), 0.0);
    assert_eq!(findings.client.flow(&client).end(), "local_fin");
}

/// A send buffer holds less than a round trip could carry. The kernel counts that only where the congestion window was reduced
/// before (net/ipv4/tcp_output.c, `tcp_cwnd_validate`).
#[test]
fn a_send_buffer_that_is_too_small() {
    if !can_run() {
        return;
    }
    let reported = Reported::new(Plan::rtt(RTT));
    let lossy = Plan::rtt(RTT).drop(Only::Data, When::Every(100));
    reported.pods.link().set(AtoB, lossy);
    let mut plan = CallPlan::to(reported.pods.v4()).sizes(2_000_000..=2_000_000, 1..=1);
    plan.socket.send_buffer = Some(8_000);
    let mut holding = Holding::start(reported.pods.client(), &plan).unwrap();
    assert_eq!(holding.exchange().unwrap(), 1);
    let (findings, client) = closed(reported, holding);
    let info = client.tcp_info.unwrap();
    let by = |limit| limited(&findings, limit);
    println!("{} s of {} us", by("send_buffer"), info.sndbuf_limited);
    let all = seconds(info.sndbuf_limited);
    assert!(all > 0.0, "it was never limited, so this shows nothing");
    // The last of three exchanges came after the last poll.
    assert!((0.2 * all..=all).contains(&by("send_buffer")));
    let flow = findings.client.flow(&client);
    let number = |name| flow.get(name).parse::<f64>().unwrap();
    // As of a moment in the middle: from a segment in ten round trips, where one is sent again alone, to twice what the buffer
    // holds in each.
    let round_trip = number("flowcar.tcp.delivery_rate") * RTT.as_secs_f64();
    assert!((144.8..=200_000.0).contains(&round_trip), "{round_trip}");
    let min = number("flowcar.tcp.rtt.min") / seconds(info.min_rtt.into());
    assert!((1.0..=1.05).contains(&min), "{min}: {info:?}");
    let again = sent_again(&findings.trace, AtoB);
    findings.retransmits(causes([("fast", again)]), causes([]));
}

/// The kernel retransmits until it times out.
#[test]
fn a_peer_that_vanishes() {
    if !can_run() {
        return;
    }
    let reported = Reported::new(Plan::rtt(RTT));
    reported.least_timeout("200000");
    reported.sysctl("net.ipv4.tcp_retries2", "2");
    let mut holding =
        Holding::start(reported.pods.client(), &CallPlan::to(reported.pods.v4())).unwrap();
    reported.pods.link().set_both(Plan::nothing_passes());
    assert_eq!(holding.exchange().unwrap(), 0);
    let reports = holding.close().unwrap();
    let failure = reports[0].failure.as_ref().unwrap();
    assert_eq!(
        (failure.phase, failure.kind),
        (Phase::Exchange, FailureKind::Timeout)
    );
    let findings = reported.findings(1, 0);
    assert_eq!(findings.client.flow(&reports[0]).end(), "timeout");
    let again = sent_again(&findings.trace, AtoB) as f64;
    assert!(again >= 2.0, "{again}");
    let by_timeout = findings.client.sum(
        "flowcar.tcp.retransmits",
        &[("flowcar.tcp.retransmit.type", "timeout")],
    );
    assert_eq!(
        (
            by_timeout,
            findings.client.sum("flowcar.tcp.retransmits", &[])
        ),
        (again, again)
    );
    // An end that has nothing to send does not notice.
    assert_eq!(findings.server.sum("flowcar.tcp.connection.live", &[]), 1.0);
    assert_eq!(findings.server.sum("flowcar.tcp.retransmits", &[]), 0.0);
}
