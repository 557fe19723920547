//! Handshakes that lose a segment.

use std::time::Duration;

use flowcar_tests::{
    link::{
        Direction::{AtoB, BtoA},
        Only, Plan, TcpSummary, When,
    },
    traffic::CallPlan,
};

use super::reported::{Findings, Reported, can_run, causes};

const RTT: Duration = Duration::from_millis(20);

fn one_connection(there: Plan, back: Plan) -> Findings {
    let reported = Reported::new(Plan::rtt(RTT));
    reported.pods.link().set(AtoB, there);
    reported.pods.link().set(BtoA, back);
    let (clients, _) = reported
        .pods
        .call(&CallPlan::to(reported.pods.v4()))
        .unwrap();
    assert_eq!(clients[0].failure, None);
    reported.findings(1, 1)
}

#[test]
fn a_lost_syn() {
    if !can_run() {
        return;
    }
    let lossy = Plan::rtt(RTT).drop(Only::Syn, When::Nth(1));
    let findings = one_connection(lossy, Plan::rtt(RTT));
    assert_eq!(findings.dropped(AtoB, TcpSummary::is_syn), 1);
    findings.retransmits(causes([("syn", 1)]), causes([]));
}

#[test]
fn a_lost_syn_ack() {
    if !can_run() {
        return;
    }
    let lossy = Plan::rtt(RTT).drop(Only::SynAck, When::Nth(1));
    let findings = one_connection(Plan::rtt(RTT), lossy);
    assert_eq!(findings.dropped(BtoA, TcpSummary::is_syn_ack), 1);
    // Either end's timer may be first, and a SYN that comes again is answered again.
    let again =
        |direction, test: fn(&TcpSummary) -> bool| findings.trace.count(direction, test) as u64 - 1;
    let syns = again(AtoB, TcpSummary::is_syn);
    let syn_acks = again(BtoA, TcpSummary::is_syn_ack);
    assert!(syn_acks >= 1);
    findings.retransmits(causes([("syn", syns)]), causes([("synack", syn_acks)]));
}
