//! Unusual connections: bytes, roles and traces hold.

use std::time::Duration;

use flowcar_tests::{
    flowcar::{self, Called, Pair, Run, both_ends},
    link::{Direction::AtoB, Plan},
    place::{TestPod, require_cgroup2, require_root, require_tun},
    traffic,
};

fn pair() -> Option<Pair> {
    let can_run = require_root() && require_cgroup2() && require_tun();
    can_run.then(|| Pair::new(Plan::rtt(Duration::from_millis(10))).unwrap())
}

fn holds(called: &Called) {
    for connection in &called.connections {
        connection.bytes_are_the_applications();
        let (client, server) = (&connection.client_flow, &connection.server_flow);
        assert_eq!((&*client.role, &*server.role), ("client", "server"));
        assert_eq!(client.trace_id, server.trace_id);
        assert_ne!(client.span_id, server.span_id);
    }
    for books in [&called.client, &called.server] {
        assert_eq!(books.opened, called.connections.len() as u64);
        assert_eq!((books.closed, books.lost), (books.opened, 0));
    }
}

/// bbr paces what it sends.
#[test]
fn another_congestion_control() {
    let Some(pair) = pair() else { return };
    for pod in [pair.client(), pair.server()] {
        pod.netns()
            .sysctl("net.ipv4.tcp_congestion_control", "bbr")
            .unwrap();
    }
    let arguments = ["--request", "100000", "--response", "500000"];
    holds(&pair.call(pair.link().b4(), 5, &arguments).unwrap());
}

/// Without timestamps and selective acknowledgements the kernel measures and recovers otherwise.
#[test]
fn plain_tcp_without_options() {
    let Some(pair) = pair() else { return };
    for pod in [pair.client(), pair.server()] {
        for option in ["tcp_timestamps", "tcp_sack", "tcp_window_scaling"] {
            let key = format!("net.ipv4.{option}");
            pod.netns().sysctl(&key, "0").unwrap();
        }
    }
    let called = pair
        .call(pair.link().b6(), 5, &["--exchanges", "5"])
        .unwrap();
    holds(&called);
    assert!(
        called
            .connections
            .iter()
            .all(|connection| connection.client_flow.rtt.count >= 5)
    );
}

/// With SYN cookies the server's socket keeps nothing of the SYN.
#[test]
fn syn_cookies() {
    let Some(pair) = pair() else { return };
    // 2: for every connection.
    pair.server()
        .netns()
        .sysctl("net.ipv4.tcp_syncookies", "2")
        .unwrap();
    holds(&pair.call(pair.link().b4(), 5, &[]).unwrap());
    let counters = pair.server().netns().snmp().unwrap();
    assert_eq!(counters["TcpExt.SyncookiesRecv"], 5, "cookies were in use");
}

/// Both ends in one cgroup are two flows of one trace.
#[test]
fn both_ends_in_one_cgroup() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let pod = TestPod::new("both").unwrap();
    let traffic = traffic::program().unwrap();
    let script = format!(
        "{0} serve --listen '[::]:7000' --until 10 | {{ read -r listening; \
         {0} call '[::1]:7000' --connections 10; cat; }} >/dev/null",
        traffic.display()
    );
    let run = Run::start(&pod, "sh".as_ref(), &["-c", &script]).unwrap();
    let (status, report) = run.finish().unwrap();
    assert!(status.success());
    assert_eq!((report.summary.opened, report.summary.closed), (20, 20));
    assert_eq!(report.summary.lost, 0);
    let clients = report.flows.iter().filter(|flow| flow.role == "client");
    assert_eq!(clients.clone().count(), 10);
    for client in clients {
        let server = report
            .flows
            .iter()
            .find(|flow| flow.role == "server" && flow.peer() == client.local())
            .expect("the other end");
        assert_eq!(client.trace_id, server.trace_id);
        assert_ne!(client.span_id, server.span_id);
        assert_eq!(
            (client.bytes_sent, client.bytes_received),
            (server.bytes_received, server.bytes_sent)
        );
    }
}

/// The client's `snd_nxt` is ahead of its initial sequence number by the data in the SYN.
#[test]
fn fast_open() {
    let Some(pair) = pair() else { return };
    for pod in [pair.client(), pair.server()] {
        pod.netns().sysctl("net.ipv4.tcp_fastopen", "3").unwrap();
    }
    let traffic = traffic::program().unwrap();
    let serve = [
        "serve",
        "--listen",
        "[::]:7000",
        "--until",
        "3",
        "--fast-open",
    ];
    let mut server = Run::start(pair.server(), &traffic, &serve).unwrap();
    let mut output = server.stdout().unwrap();
    std::io::BufRead::read_line(&mut output, &mut String::new()).unwrap();
    let target = (pair.link().b4(), 7000).into();
    let arguments = ["--connections", "3", "--fast-open"];
    let (clients, at_client) = flowcar::call(pair.client(), target, &arguments).unwrap();
    assert_eq!(std::io::BufRead::lines(output).count(), 3);
    let (_, at_server) = server.finish().unwrap();
    let with_data = pair
        .link()
        .trace()
        .count(AtoB, |tcp| tcp.is_syn() && tcp.is_data());
    assert_eq!(with_data, 2, "the first connection only fetches the cookie");
    for client in &clients {
        both_ends(client, &at_client, &at_server);
    }
}
