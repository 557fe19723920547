//! Faults of data segments on the link, and the retransmits of both ends.

use std::time::Duration;

use flowcar_tests::{
    link::{
        Direction::{AtoB, BtoA},
        Fate, Only, Plan, TcpSummary, When,
    },
    traffic::{CallPlan, ConnectionReport},
};

use super::reported::{Findings, Reported, can_run, causes, sent_again};

const MS: Duration = Duration::from_millis(1);
const RTT: Duration = Duration::from_millis(20);

/// One connection with one request of this size through a link that has this plan from client to server.
fn one_request(there: Plan, back: Plan, bytes: u64) -> Findings {
    let reported = Reported::new(Plan::rtt(RTT));
    reported.pods.link().set(AtoB, there);
    reported.pods.link().set(BtoA, back);
    let plan = CallPlan::to(reported.pods.v4()).sizes(bytes..=bytes, 1..=1);
    let (clients, servers) = reported.pods.call(&plan).unwrap();
    all_well(&clients);
    all_well(&servers);
    let findings = reported.findings(1, 1);
    // The socket's own count, read before its end: the FIN is not lost here.
    let total = clients[0].tcp_info.unwrap().total_retrans;
    assert_eq!(u64::from(total), sent_again(&findings.trace, AtoB));
    findings
}

fn all_well(reports: &[ConnectionReport]) {
    assert!(reports.iter().all(|report| report.failure.is_none()));
}

/// Many connections of every kind through a link without faults.
fn clean(plan: Plan) {
    if !can_run() {
        return;
    }
    let reported = Reported::new(plan);
    for target in [reported.pods.v4(), reported.pods.v6()] {
        let plan = CallPlan::to(target)
            .connections(20, 5)
            .exchanges(3)
            .sizes(0..=20_000, 1..=20_000);
        let (clients, servers) = reported.pods.call(&plan).unwrap();
        all_well(&clients);
        all_well(&servers);
    }
    let findings = reported.findings(40, 40);
    assert_eq!(findings.trace.fates(Fate::Dropped), 0);
    findings.retransmits(causes([]), causes([]));
    for seen in [&findings.client, &findings.server] {
        assert_eq!(seen.sum("flowcar.tcp.limited.time", &[]), 0.0);
    }
}

#[test]
fn clean_link_has_no_fault() {
    clean(Plan::rtt(RTT));
}

/// Round trips of 20 to 40 ms: nothing is lost, so nothing may be reported as lost.
#[test]
fn jitter_is_no_loss() {
    clean(Plan::rtt(MS * 30).jitter(MS * 5).seed(5));
}

/// Segments after a hole reveal it: fast retransmits.
#[test]
fn lost_data_is_sent_again_fast() {
    if !can_run() {
        return;
    }
    let lossy = Plan::rtt(RTT).drop(Only::Data, When::Every(50));
    let findings = one_request(lossy, Plan::rtt(RTT), 500_000);
    let dropped = findings.dropped(AtoB, TcpSummary::is_data);
    assert!(dropped >= 5, "{dropped}");
    findings.retransmits(causes([("fast", dropped)]), causes([]));
}

/// No segment follows the last one, so the timer retransmits it.
#[test]
fn a_lost_tail_waits_for_the_timer() {
    if !can_run() {
        return;
    }
    let lossy = Plan::rtt(RTT).drop(Only::Data, When::Nth(1));
    let findings = one_request(lossy, Plan::rtt(RTT), 100);
    assert_eq!(findings.dropped(AtoB, TcpSummary::is_data), 1);
    findings.retransmits(causes([("timeout", 1)]), causes([]));
}

/// As above, with the kernel's probes, which are quicker.
#[test]
fn a_lost_tail_is_probed() {
    if !can_run() {
        return;
    }
    let reported = Reported::new(Plan::rtt(RTT));
    reported.probes("3");
    let lossy = Plan::rtt(RTT).drop(Only::Data, When::Nth(10));
    reported.pods.link().set(AtoB, lossy);
    // Ten segments, which the first window holds.
    let plan = CallPlan::to(reported.pods.v4()).sizes(14_000..=14_000, 1..=1);
    let (clients, _) = reported.pods.call(&plan).unwrap();
    all_well(&clients);
    let findings = reported.findings(1, 1);
    assert_eq!(findings.dropped(AtoB, TcpSummary::is_data), 1);
    findings.retransmits(causes([("tail_loss_probe", 1)]), causes([]));
}

/// Later acknowledgements replace the lost ones.
#[test]
fn lost_acknowledgements_cost_nothing() {
    if !can_run() {
        return;
    }
    let lossy = Plan::rtt(RTT).drop(Only::PureAck, When::Every(2));
    let findings = one_request(Plan::rtt(RTT), lossy, 300_000);
    assert!(findings.dropped(BtoA, TcpSummary::is_pure_ack) > 10);
    findings.retransmits(causes([]), causes([]));
}

/// A segment that arrives late may be taken for lost: by the receiver's acknowledgements, and not by a timer.
#[test]
fn overtaken_segments_cause_no_timer_retransmits() {
    if !can_run() {
        return;
    }
    let held = Plan::rtt(RTT).hold(Only::Data, When::Every(40), MS * 10);
    let findings = one_request(held, Plan::rtt(RTT), 500_000);
    assert!(findings.trace.fates(Fate::Reordered) >= 5);
    assert_eq!(findings.trace.fates(Fate::Dropped), 0);
    let again = sent_again(&findings.trace, AtoB);
    println!("{again} were sent again");
    assert!(again > 0, "none was taken for lost, so this shows nothing");
    findings.retransmits(causes([("fast", again)]), causes([]));
}

#[test]
fn doubled_segments_are_not_sent_again() {
    if !can_run() {
        return;
    }
    let doubled = Plan::rtt(RTT).duplicate(Only::Data, When::Every(10));
    let findings = one_request(doubled, Plan::rtt(RTT), 200_000);
    assert!(findings.trace.copies() >= 10);
    findings.retransmits(causes([]), causes([]));
}

/// Both ends lose segments: each reports its own.
#[test]
fn each_end_reports_its_own_retransmits() {
    if !can_run() {
        return;
    }
    let reported = Reported::new(Plan::rtt(RTT));
    let lossy = |every| Plan::rtt(RTT).drop(Only::Data, When::Every(every));
    reported.pods.link().set(AtoB, lossy(40));
    reported.pods.link().set(BtoA, lossy(60));
    let plan = CallPlan::to(reported.pods.v6()).sizes(200_000..=200_000, 400_000..=400_000);
    let (clients, servers) = reported.pods.call(&plan).unwrap();
    all_well(&clients);
    all_well(&servers);
    let findings = reported.findings(1, 1);
    let dropped = [AtoB, BtoA].map(|direction| findings.dropped(direction, TcpSummary::is_data));
    assert!(dropped[0] >= 3 && dropped[1] >= 3, "{dropped:?}");
    findings.retransmits(
        causes([("fast", dropped[0])]),
        causes([("fast", dropped[1])]),
    );
}
