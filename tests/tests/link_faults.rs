//! Faults happen exactly as planned: the link's drops, delays and duplicates are those that the kernels at its ends
//! count.

use std::time::Duration;

use flowcar_tests::{
    link::{
        Direction::{AtoB, BtoA},
        Fate, Only, Plan, TcpSummary, Trace, When,
    },
    place::{TestPod, require_cgroup2, require_root, require_tun},
    traffic::{CallPlan, ConnectionReport, FailureKind, Holding, Phase, Pods, call_in},
};

const MS: Duration = Duration::from_millis(1);
const RTT: Duration = Duration::from_millis(20);

fn can_run() -> bool {
    require_root() && require_cgroup2() && require_tun()
}

/// Pods whose kernels send nothing again without a reason.
fn pods(plan: Plan) -> Pods {
    let pods = Pods::new(plan).unwrap();
    for pod in [pods.client(), pods.server()] {
        pod.netns().have_patience().unwrap();
    }
    pods
}

fn counter(pod: &TestPod, name: &str) -> i64 {
    pod.netns().snmp().unwrap()[name]
}

fn all_well(reports: &[ConnectionReport]) {
    for report in reports {
        assert_eq!(report.failure, None);
    }
}

/// Segments with payload that were sent before, by their sequence numbers alone.
fn sent_again(trace: &Trace) -> usize {
    let mut seen = std::collections::HashSet::new();
    trace
        .sent(AtoB)
        .filter_map(|record| record.tcp)
        .filter(|tcp| tcp.is_data() && !seen.insert((tcp.source, tcp.seq)))
        .count()
}

/// Each lost segment is sent again once: drops, the kernel's counter, the socket's own, and the repeated
/// sequence numbers are the same number.
#[test]
fn lost_data_is_what_the_kernel_retransmits() {
    if !can_run() {
        return;
    }
    let pods = pods(Plan::rtt(RTT));
    pods.link()
        .set(AtoB, Plan::rtt(RTT).drop(Only::Data, When::Every(50)));
    let (clients, servers) = pods
        .call(&CallPlan::to(pods.v4()).sizes(1_000_000..=1_000_000, 1..=1))
        .unwrap();
    all_well(&clients);
    assert_eq!(servers[0].received, 1_000_032);
    let trace = pods.link().trace();
    let dropped = trace.dropped(AtoB, TcpSummary::is_data);
    assert_eq!(trace.count(AtoB, TcpSummary::is_data) / 50, dropped);
    assert!(dropped >= 13, "{dropped}");
    assert_eq!(sent_again(&trace), dropped);
    assert_eq!(counter(pods.client(), "Tcp.RetransSegs"), dropped as i64);
    assert_eq!(clients[0].tcp_info.unwrap().total_retrans, dropped as u32);
    assert_eq!(counter(pods.server(), "Tcp.RetransSegs"), 0);
}

/// By chance and in both directions, with many connections and the kernel's usual settings: the log's
/// repeated sequence numbers are the kernel's retransmits, whatever made it send again.
#[test]
fn random_loss_is_counted_to_the_segment() {
    if !can_run() {
        return;
    }
    let pods = Pods::new(
        Plan::rtt(MS * 4)
            .drop(Only::Data, When::Chance(0.05))
            .seed(3),
    )
    .unwrap();
    let plan = CallPlan::to(pods.v6())
        .connections(20, 10)
        .exchanges(10)
        .sizes(1..=10_000, 1..=10_000);
    let (clients, servers) = pods.call(&plan).unwrap();
    all_well(&clients);
    all_well(&servers);
    let trace = pods.link().trace();
    assert!(trace.dropped(AtoB, TcpSummary::is_data) > 10);
    assert!(sent_again(&trace) >= trace.dropped(AtoB, TcpSummary::is_data));
    assert_eq!(
        counter(pods.client(), "Tcp.RetransSegs"),
        sent_again(&trace) as i64
    );
    for (client, server) in clients.iter().zip(&servers) {
        assert_eq!(
            (client.sent, client.received),
            (server.received, server.sent)
        );
    }
}

#[test]
fn lost_syn_and_syn_ack_are_distinguished() {
    if !can_run() {
        return;
    }
    let pods = pods(Plan::rtt(RTT));
    pods.link()
        .set(AtoB, Plan::rtt(RTT).drop(Only::Syn, When::Nth(1)));
    let (clients, _) = pods.call(&CallPlan::to(pods.v4())).unwrap();
    all_well(&clients);
    // The kernel's first time-out is a second (RFC 6298, 2.1).
    assert!(clients[0].connect_ns.unwrap() >= 1_000_000_000 + 20_000_000);
    let trace = pods.link().trace();
    assert_eq!(
        (
            trace.dropped(AtoB, TcpSummary::is_syn),
            trace.count(AtoB, TcpSummary::is_syn)
        ),
        (1, 2)
    );
    assert_eq!(trace.count(BtoA, TcpSummary::is_syn_ack), 1);
    assert!(trace.handshakes(AtoB)[0] >= MS * 1020);
    assert_eq!(counter(pods.client(), "TcpExt.TCPSynRetrans"), 1);
    assert_eq!(counter(pods.server(), "TcpExt.TCPSynRetrans"), 0);

    pods.link().set(AtoB, Plan::rtt(RTT));
    pods.link()
        .set(BtoA, Plan::rtt(RTT).drop(Only::SynAck, When::Nth(1)));
    let (clients, _) = pods.call(&CallPlan::to(pods.v4())).unwrap();
    all_well(&clients);
    let trace = pods
        .link()
        .trace()
        .of_port(clients[0].local.unwrap().port());
    let (syns, syn_acks) = (
        trace.count(AtoB, TcpSummary::is_syn),
        trace.count(BtoA, TcpSummary::is_syn_ack),
    );
    assert_eq!(trace.dropped(BtoA, TcpSummary::is_syn_ack), 1);
    assert_eq!(trace.dropped(AtoB, |_| true), 0);
    assert_eq!(
        counter(pods.client(), "TcpExt.TCPSynRetrans"),
        1 + syns as i64 - 1
    );
    assert_eq!(
        counter(pods.server(), "TcpExt.TCPSynRetrans"),
        syn_acks as i64 - 1
    );
}

#[test]
fn lost_acknowledgements_cost_nothing_while_later_ones_arrive() {
    if !can_run() {
        return;
    }
    let pods = pods(Plan::rtt(RTT));
    pods.link()
        .set(BtoA, Plan::rtt(RTT).drop(Only::PureAck, When::Every(2)));
    let (clients, _) = pods
        .call(&CallPlan::to(pods.v4()).sizes(500_000..=500_000, 1..=1))
        .unwrap();
    all_well(&clients);
    let trace = pods.link().trace();
    assert!(trace.dropped(BtoA, TcpSummary::is_pure_ack) > 10);
    assert_eq!(trace.dropped(BtoA, |tcp| !tcp.is_pure_ack()), 0);
    assert_eq!(sent_again(&trace), 0);
    assert_eq!(counter(pods.client(), "Tcp.RetransSegs"), 0);
}

#[test]
fn held_segments_are_overtaken() {
    if !can_run() {
        return;
    }
    let pods = pods(Plan::rtt(RTT));
    pods.link().set(
        AtoB,
        Plan::rtt(RTT).hold(Only::Data, When::Nth(100), MS * 3),
    );
    let (clients, servers) = pods
        .call(&CallPlan::to(pods.v4()).sizes(1_000_000..=1_000_000, 1..=1))
        .unwrap();
    all_well(&clients);
    assert_eq!(servers[0].received, 1_000_032);
    let trace = pods.link().trace();
    let reordered: Vec<_> = trace
        .records
        .iter()
        .filter(|record| record.fate == Fate::Reordered)
        .collect();
    assert_eq!(reordered.len(), 1);
    assert!(reordered[0].delay().unwrap() >= MS * 13);
    assert!(counter(pods.server(), "TcpExt.TCPOFOQueue") > 0);
    assert_eq!(trace.fates(Fate::Dropped), 0);
}

#[test]
fn doubled_segments_arrive_twice() {
    if !can_run() {
        return;
    }
    let pods = pods(Plan::rtt(RTT));
    pods.link()
        .set(AtoB, Plan::rtt(RTT).duplicate(Only::Data, When::Every(10)));
    let (clients, servers) = pods
        .call(&CallPlan::to(pods.v4()).sizes(200_000..=200_000, 1..=1))
        .unwrap();
    all_well(&clients);
    assert_eq!(servers[0].received, 200_032);
    let trace = pods.link().trace();
    assert_eq!(trace.copies(), trace.count(AtoB, TcpSummary::is_data) / 10);
    assert!(trace.copies() >= 13);
    // The receiver acknowledges each old segment (RFC 2883). The sender counts those whose acknowledgement still finds
    // its socket: one that comes after the response has been read and the socket closed is nobody's.
    let copies = trace.copies() as i64;
    assert_eq!(counter(pods.server(), "TcpExt.TCPDSACKOldSent"), copies);
    let received = counter(pods.client(), "TcpExt.TCPDSACKRecv");
    assert!((1..=copies).contains(&received), "{received} of {copies}");
    assert_eq!(counter(pods.client(), "Tcp.RetransSegs"), 0);
}

/// A plan can change while connections are open: the peer vanishes, and comes back.
#[test]
fn a_peer_vanishes_and_comes_back() {
    if !can_run() {
        return;
    }
    let pods = pods(Plan::rtt(RTT));
    let plan = CallPlan {
        timeout: Some(MS * 500),
        ..CallPlan::to(pods.v4()).connections(3, 1)
    };
    let mut holding = Holding::start(pods.client(), &plan).unwrap();
    assert_eq!(holding.exchange().unwrap(), 3);

    pods.link().set_both(Plan::nothing_passes());
    assert_eq!(holding.exchange().unwrap(), 0);
    let lost = holding.close().unwrap();
    assert_eq!(lost.len(), 3);
    for report in &lost {
        let failure = report.failure.as_ref().unwrap();
        assert_eq!(
            (failure.phase, failure.kind),
            (Phase::Exchange, FailureKind::Timeout)
        );
        assert_eq!(report.exchanges, 2);
    }
    let (clients, _) = pods.call(&plan).unwrap();
    let failure = clients[0].failure.as_ref().unwrap();
    assert_eq!(
        (failure.phase, failure.kind),
        (Phase::Connect, FailureKind::Timeout)
    );
    assert_eq!(clients[0].local, None);
    assert!(pods.link().trace().dropped(AtoB, TcpSummary::is_syn) >= 3);

    pods.link().set_both(Plan::rtt(RTT));
    // Not by the server's reports, among which may now be those of the connections that were lost.
    let clients = call_in(pods.client(), &CallPlan::to(pods.v6())).unwrap();
    all_well(&clients);
}

#[test]
fn refused_and_silent_peers_are_distinguished() {
    if !can_run() {
        return;
    }
    let pods = pods(Plan::rtt(RTT));
    // Port 9 (discard) has no listener in a namespace of our own.
    for address in [pods.link().b4(), pods.link().b6()] {
        let (clients, _) = pods.call(&CallPlan::to((address, 9).into())).unwrap();
        let failure = clients[0].failure.as_ref().unwrap();
        assert_eq!(
            (failure.phase, failure.kind),
            (Phase::Connect, FailureKind::Refused)
        );
        assert!(clients[0].connect_ns.unwrap() >= 20_000_000);
    }
    assert_eq!(pods.link().trace().count(BtoA, |tcp| tcp.rst), 2);
    assert_eq!(counter(pods.server(), "Tcp.OutRsts"), 2);
}
