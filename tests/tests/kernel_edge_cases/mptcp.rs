//! Multipath TCP: flowcar follows each subflow, which is a TCP connection of its own.

use std::{net::SocketAddr, time::Duration};

use flowcar_tests::{
    flowcar::{self, FlowLine, Pair, Report, Run, both_ends},
    link::{
        Direction::{self, AtoB, BtoA},
        Link, Plan, TcpSummary, Trace,
    },
    place::{TestPod, require_program},
    traffic::{self, ConnectionReport},
};

use crate::can_link;

const MS: Duration = Duration::from_millis(1);

/// `traffic serve` and `traffic call`, each followed.
fn call(pair: &Pair, arguments: &[&str]) -> (Vec<ConnectionReport>, Report, Report) {
    let program = traffic::program().unwrap();
    let serve = [
        "serve",
        "--listen",
        "[::]:7000",
        "--until",
        "3",
        "--protocol",
        "mptcp",
    ];
    let mut server = Run::start(pair.server(), &program, &serve).unwrap();
    let mut output = server.stdout().unwrap();
    std::io::BufRead::read_line(&mut output, &mut String::new()).unwrap();
    let target: SocketAddr = (pair.link().b4(), 7000).into();
    let mut words = vec!["--connections", "3", "--protocol", "mptcp"];
    words.extend_from_slice(arguments);
    let (clients, at_client) = flowcar::call(pair.client(), target, &words).unwrap();
    assert_eq!(std::io::BufRead::lines(output).count(), 3);
    let (_, at_server) = server.finish().unwrap();
    assert!(clients.iter().all(|client| client.failure.is_none()));
    (clients, at_client, at_server)
}

#[test]
fn a_single_subflow_is_one_flow() {
    if !can_link() {
        return;
    }
    let pair = Pair::new(Plan::rtt(MS * 2)).unwrap();
    let (clients, at_client, at_server) = call(&pair, &["--exchanges", "3"]);
    let counters = pair.server().netns().snmp().unwrap();
    assert_eq!(counters["MPTcpExt.MPCapableACKRX"], 3, "they are multipath");
    for books in [&at_client.summary, &at_server.summary] {
        assert_eq!((books.opened, books.closed, books.lost), (3, 3, 0));
    }
    assert_eq!((at_client.flows.len(), at_server.flows.len()), (3, 3));
    for client in &clients {
        let [flow, other] = both_ends(client, &at_client, &at_server);
        assert_eq!((&*flow.role, &*other.role), ("client", "server"));
    }
}

/// A second path: the client joins it to the connection, and the kernel spreads the payload over both.
#[test]
fn each_subflow_is_a_flow() {
    if !can_link() || !require_program("ip") {
        return;
    }
    let pair = Pair::new(Plan::rtt(MS * 10)).unwrap();
    let second = Link::between(
        pair.client().netns(),
        pair.server().netns(),
        Plan::rtt(MS * 10),
    );
    let second = second.unwrap();
    let ip = |pod: &TestPod, words: &str| {
        let words = words.split(' ');
        let ip = pod.netns().command("ip").unwrap().args(words).status();
        assert!(ip.unwrap().success());
    };
    for pod in [pair.client(), pair.server()] {
        ip(pod, "mptcp limits set subflow 2 add_addr_accepted 2");
    }
    // To the server's address of the first link, from the client's of the second.
    let (address, device) = (second.a4(), second.device());
    let add = format!("mptcp endpoint add {address} dev {device} subflow");
    ip(pair.client(), &add);
    let arguments = [
        "--exchanges",
        "5",
        // The kernel joins the second subflow from a work queue.
        "--pause",
        "200",
        "--request",
        "300000",
        "--response",
        "300000",
    ];
    let (clients, at_client, at_server) = call(&pair, &arguments);
    let counters = pair.server().netns().snmp().unwrap();
    assert_eq!(counters["MPTcpExt.MPJoinAckRx"], 3, "each has two subflows");
    for report in [&at_client, &at_server] {
        let books = &report.summary;
        assert_eq!((books.opened, books.closed, books.lost), (6, 6, 0));
        assert_eq!(report.flows.len(), 6);
    }
    let traces = [pair.link().trace(), second.trace()];
    for flow in &at_client.flows {
        let same = |other: &&FlowLine| other.peer() == flow.local() && other.local() == flow.peer();
        let other = at_server.flows.iter().find(same).expect("the other end");
        assert_eq!(flow.trace_id, other.trace_id);
        let carried = [AtoB, BtoA].map(|direction| payload(&traces, flow, direction));
        assert_eq!([flow.bytes_sent, flow.bytes_received], carried, "{flow:?}");
        assert_eq!(
            [other.bytes_received, other.bytes_sent],
            carried,
            "{other:?}"
        );
    }
    // What was on its way for too long is sent over the other path, too; so there may be more, and not less.
    let sum = |of: fn(&FlowLine) -> u64| at_client.flows.iter().map(of).sum::<u64>();
    let called = |of: fn(&ConnectionReport) -> u64| clients.iter().map(of).sum::<u64>();
    assert!(sum(|flow| flow.bytes_sent) >= called(|client| client.sent));
    assert!(sum(|flow| flow.bytes_received) >= called(|client| client.received));
}

/// Payload that one of the links carried of this flow, each byte once.
fn payload(traces: &[Trace], flow: &FlowLine, direction: Direction) -> u64 {
    let is_its = |tcp: &TcpSummary| {
        let ends = (tcp.source, tcp.destination);
        ends == (flow.local(), flow.peer()) || ends == (flow.peer(), flow.local())
    };
    let records = traces.iter().flat_map(|trace| trace.sent(direction));
    let segments: Vec<_> = records
        .filter_map(|record| record.tcp)
        .filter(is_its)
        .collect();
    let first = segments.iter().find(|tcp| tcp.syn).expect("a SYN");
    let ends = segments.iter().filter(|tcp| tcp.is_data()).map(|tcp| {
        let end = tcp.seq.wrapping_add(tcp.payload);
        u64::from(end.wrapping_sub(first.end_seq()))
    });
    ends.max().unwrap_or_default()
}
