//! Attempts that never became connections.

use std::{net::SocketAddr, time::Duration};

use flowcar_tests::{
    flowcar::{self, FlowLine, Pair, Report},
    link::{
        Direction::{AtoB, BtoA},
        Only, Plan, TcpSummary, When,
    },
    place::{TestPod, require_cgroup2, require_program, require_root, require_tun},
    traffic::{ConnectionReport, FailureKind, Phase},
};

fn can_run() -> bool {
    require_root() && require_cgroup2() && require_tun()
}

/// The application's report, and its one flow.
fn attempt(pod: &TestPod, target: SocketAddr, arguments: &[&str]) -> (ConnectionReport, FlowLine) {
    let (mut applications, Report { mut flows, summary }) =
        flowcar::call(pod, target, arguments).unwrap();
    assert_eq!((applications.len(), flows.len()), (1, 1), "{flows:?}");
    assert_eq!((summary.failed, summary.opened, summary.closed), (1, 0, 0));
    assert_eq!((summary.live, summary.lost), (0, 0));
    let (application, flow) = (applications.remove(0), flows.remove(0));
    println!("{flow:?}");
    assert_eq!(flow.role, "client");
    assert_eq!(flow.peer(), target);
    assert_eq!((flow.bytes_sent, flow.bytes_received), (0, 0));
    assert_eq!(flow.rtt.count, 0, "an attempt has no round trips");
    let reported = Duration::from_nanos(application.connect_ns.unwrap()).as_secs_f64();
    let connect = flow.connect_s.unwrap();
    assert!(connect > 0.0 && connect <= reported, "{connect} {reported}");
    (application, flow)
}

fn failed(application: &ConnectionReport, kind: FailureKind) {
    let failure = application.failure.as_ref().unwrap();
    assert_eq!((failure.phase, failure.kind), (Phase::Connect, kind));
}

#[test]
fn nobody_listens() {
    if !can_run() {
        return;
    }
    let pair = Pair::new(Plan::rtt(Duration::from_millis(20))).unwrap();
    for server in [pair.link().b4(), pair.link().b6()] {
        let (application, flow) = attempt(pair.client(), (server, 7000).into(), &[]);
        failed(&application, FailureKind::Refused);
        assert_eq!(flow.end, "refused");
        assert_eq!((flow.segments_sent, flow.segments_received), (1, 1));
        assert_eq!(flow.retransmits, 0);
        assert!(flow.connect_s.unwrap() >= 0.02, "it took a round trip");
    }
}

#[test]
fn nobody_answers() {
    if !can_run() {
        return;
    }
    let pair = Pair::new(Plan::nothing_passes()).unwrap();
    pair.client()
        .netns()
        .sysctl("net.ipv4.tcp_syn_retries", "1")
        .unwrap();
    for server in [pair.link().b4(), pair.link().b6()] {
        let (application, flow) = attempt(pair.client(), (server, 7000).into(), &[]);
        failed(&application, FailureKind::Timeout);
        assert_eq!(flow.end, "timeout");
        let trace = pair.link().trace().of_port(flow.local.port);
        let syns = trace.count(AtoB, TcpSummary::is_syn) as u64;
        assert_eq!((flow.segments_sent, flow.retransmits), (syns, syns - 1));
        assert!(syns >= 2, "it tried again");
        assert_eq!(flow.segments_received, 0);
    }
}

/// The application's time-out is shorter than the kernel's.
#[test]
fn application_aborts_the_attempt() {
    if !can_run() {
        return;
    }
    let pair = Pair::new(Plan::nothing_passes()).unwrap();
    let target = (pair.link().b4(), 7000).into();
    let (application, flow) = attempt(pair.client(), target, &["--timeout", "200"]);
    failed(&application, FailureKind::Timeout);
    assert_eq!(flow.end, "abandoned");
    assert_eq!(flow.segments_received, 0);
}

/// A lost SYN delays the connection by a second; the connection is counted as any other.
#[test]
fn a_lost_syn_is_sent_again() {
    if !can_run() {
        return;
    }
    let pair = Pair::new(Plan::rtt(Duration::from_millis(10))).unwrap();
    for pod in [pair.client(), pair.server()] {
        pod.netns().have_patience().unwrap();
    }
    let lossy = Plan::rtt(Duration::from_millis(10)).drop(Only::Syn, When::Nth(1));
    pair.link().set(AtoB, lossy);
    let called = pair.call(pair.link().b4(), 1, &[]).unwrap();
    let connection = &called.connections[0];
    assert_eq!(connection.client.failure, None);
    assert_eq!(connection.client_flow.retransmits, 1);
    assert_eq!(connection.server_flow.retransmits, 0);
    // RFC 6298's initial time-out.
    assert!(connection.client_flow.connect_s.unwrap() >= 1.0);
    assert_eq!((called.client.opened, called.client.closed), (1, 1));
    assert_eq!(called.client.failed, 0);
}

/// The server's socket starts with the retransmits of its SYN-ACK.
#[test]
fn a_lost_syn_ack_is_sent_again() {
    if !can_run() {
        return;
    }
    let pair = Pair::new(Plan::rtt(Duration::from_millis(10))).unwrap();
    let lossy = Plan::rtt(Duration::from_millis(10)).drop(Only::SynAck, When::Nth(1));
    pair.link().set(BtoA, lossy);
    let called = pair.call(pair.link().b4(), 1, &[]).unwrap();
    let connection = &called.connections[0];
    let trace = pair.link().trace();
    // The client's SYN comes again as well, and is answered by the server at once: two SYN-ACKs or three.
    let again = |direction, test: fn(&TcpSummary) -> bool| trace.count(direction, test) as u64 - 1;
    assert_eq!(
        connection.client_flow.retransmits,
        again(AtoB, TcpSummary::is_syn)
    );
    assert_eq!(
        connection.server_flow.retransmits,
        again(BtoA, TcpSummary::is_syn_ack)
    );
    assert!(connection.client_flow.connect_s.unwrap() >= 0.9);
    assert_eq!(
        connection.client_flow.trace_id,
        connection.server_flow.trace_id
    );
}

/// The network answers that there is no route.
#[test]
fn a_host_is_unreachable() {
    if !can_run() || !require_program("nft") {
        return;
    }
    let pair = Pair::new(Plan::rtt(Duration::from_millis(20))).unwrap();
    let rules = "table inet t { chain input { type filter hook input priority 0; \
                 tcp dport 7000 reject with icmpx type host-unreachable; }; }";
    let nft = pair
        .server()
        .netns()
        .command("nft")
        .unwrap()
        .arg(rules)
        .status();
    assert!(nft.unwrap().success());
    for server in [pair.link().b4(), pair.link().b6()] {
        let (application, flow) = attempt(pair.client(), (server, 7000).into(), &[]);
        failed(&application, FailureKind::Unreachable);
        assert_eq!(flow.end, "unreachable");
        assert_eq!((flow.segments_sent, flow.segments_received), (1, 0));
        assert!(flow.connect_s.unwrap() >= 0.02, "it took a round trip");
    }
}
