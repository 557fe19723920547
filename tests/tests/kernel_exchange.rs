//! Exchange latency against a packet capture at the same end, and who sent a RST.

use std::time::Duration;

use flowcar_tests::{
    flowcar::{Connection, FlowLine, Pair},
    link::{
        Capture, Captured,
        Direction::{self, AtoB, BtoA},
        Only, Plan, When, percentile, within_buckets,
    },
    place::{require_cgroup2, require_root, require_tun},
    traffic::ConnectionReport,
};

const MS: Duration = Duration::from_millis(1);

fn can_run() -> bool {
    require_root() && require_cgroup2() && require_tun()
}

fn pair(plan: Plan) -> Pair {
    Pair::new(plan).unwrap().set("FLOWCAR_EXCHANGE", "on")
}

/// Calls once, and gives what the client's and the server's end captured of it.
fn call(pair: &Pair, arguments: &[&str]) -> (Connection, [Captured; 2]) {
    let captures = [pair.client(), pair.server()]
        .map(|pod| Capture::start(pod.netns(), &pair.link().device()).unwrap());
    let mut called = pair.call(pair.link().b4(), 1, arguments).unwrap();
    let connection = called.connections.remove(0);
    let port = connection.client_flow.local.port;
    let captured = captures.map(|capture| capture.take().unwrap().of_port(port));
    (connection, captured)
}

/// The figures of an end are between those of its wire and its application's; gives the exchanges on the wire.
fn exchanges_are_the_wires(
    name: &str,
    flow: &FlowLine,
    captured: &Captured,
    application: &ConnectionReport,
) -> Vec<Duration> {
    let carried = captured.exchanges(flow.role == "client");
    assert_eq!(flow.exchanges.count, carried.len() as u64, "{name}");
    let measured = application.exchange;
    for (found, quantile, measured_ns) in [
        (flow.exchanges.p50_s, 0.5, measured.p50_ns),
        (flow.exchanges.p99_s, 0.99, measured.p99_ns),
    ] {
        let name = format!("{name}, {quantile}");
        let bounds = [
            percentile(&carried, quantile),
            Duration::from_nanos(measured_ns),
        ];
        within_buckets(&name, found.unwrap(), bounds);
    }
    carried
}

fn both_are_the_wires(name: &str, connection: &Connection, captured: &[Captured; 2]) {
    let ends = [
        (&connection.client_flow, &connection.client),
        (&connection.server_flow, &connection.server),
    ];
    for ((flow, application), captured) in ends.into_iter().zip(captured) {
        let name = format!("{name}, {}", flow.role);
        let carried = exchanges_are_the_wires(&name, flow, captured, application);
        assert_eq!(carried.len() as u64, connection.client.exchanges, "{name}");
    }
}

/// Few exchanges (inline samples), and many (a histogram); small ones, and of many segments.
#[test]
fn exchanges_match_the_capture_at_both_ends() {
    if !can_run() {
        return;
    }
    let pair = pair(Plan::rtt(MS * 5));
    for exchanges in ["1", "11", "12", "60"] {
        for (request, response) in [("1", "1"), ("20000", "50000")] {
            let name = format!("{exchanges} of {request} and {response}");
            let arguments = [
                "--exchanges",
                exchanges,
                "--request",
                request,
                "--response",
                response,
                "--delay",
                "3",
            ];
            let (connection, captured) = call(&pair, &arguments);
            both_are_the_wires(&name, &connection, &captured);
            // The server takes the 3 ms of --delay, the client waits for those and for the link.
            let p50 = |flow: &FlowLine| flow.exchanges.p50_s.unwrap();
            assert!(p50(&connection.server_flow) >= 0.003, "{name}");
            assert!(p50(&connection.client_flow) >= 0.008, "{name}");
        }
    }
}

/// With jitter each way takes up to 5 ms more or less than half a round trip.
#[test]
fn exchange_latency_follows_the_link() {
    if !can_run() {
        return;
    }
    for jitter in [0, 5] {
        for (rtt, exchanges) in [(5, "200"), (20, "100"), (100, "20")] {
            let plan = Plan::rtt(MS * rtt).jitter(MS * jitter).seed(rtt.into());
            // Less than the server takes here would be no more than what passes between the capture and the programs.
            let arguments = ["--exchanges", exchanges, "--delay", "5"];
            let (connection, captured) = call(&pair(plan), &arguments);
            let name = format!("{rtt} ms, jitter {jitter} ms");
            both_are_the_wires(&name, &connection, &captured);
        }
    }
}

/// A request that has to be sent again, or whose response has, took as long as it took; and is one exchange.
#[test]
fn exchange_includes_a_retransmitted_segment() {
    if !can_run() {
        return;
    }
    let clean = Plan::rtt(MS * 5);
    let lost = |direction: Direction| {
        let pair = pair(clean.clone());
        for pod in [pair.client(), pair.server()] {
            pod.netns().have_patience().unwrap();
        }
        let lossy = clean.clone().drop(Only::Data, When::Nth(3));
        pair.link().set(direction, lossy);
        // A server that answers at once takes no longer than the way from its device to its hooks.
        let (connection, captured) = call(&pair, &["--exchanges", "5", "--delay", "3"]);
        both_are_the_wires(&format!("{direction:?}"), &connection, &captured);
        connection
    };
    // Only the client waits longer, by the retransmission timer's least (Linux: 200 ms, include/net/tcp.h, TCP_RTO_MIN); of the server's
    // exchanges most are short.
    let client_waits = |connection: &Connection| {
        let [client, server] = [&connection.client_flow, &connection.server_flow];
        client.exchanges.p99_s.unwrap() >= 0.2 && server.exchanges.p50_s.unwrap() < 0.2
    };
    let connection = lost(AtoB);
    assert_eq!(connection.client_flow.retransmits, 1);
    assert!(client_waits(&connection), "{connection:?}");
    // A response: the server has answered, and the client waits.
    let connection = lost(BtoA);
    assert_eq!(connection.server_flow.retransmits, 1);
    assert!(client_waits(&connection), "{connection:?}");
}

/// By default exchanges are off, and no exchange is reported.
#[test]
fn exchanges_are_off_by_default() {
    if !can_run() {
        return;
    }
    let pair = Pair::new(Plan::rtt(MS)).unwrap();
    let (connection, _) = call(&pair, &["--exchanges", "5"]);
    for flow in [&connection.client_flow, &connection.server_flow] {
        let exchanges = &flow.exchanges;
        assert_eq!((exchanges.count, exchanges.p50_s), (0, None));
    }
}

/// With packet programs the sender of a RST is reported; also on connections long enough for socket storage.
#[test]
fn sender_of_a_reset_is_reported() {
    if !can_run() {
        return;
    }
    let pair = pair(Plan::rtt(MS * 20));
    for exchanges in ["1", "15"] {
        for (close, client_end, server_end) in [
            ("reset-by-client", "reset_sent", "reset_received"),
            ("reset-by-server", "reset_received", "reset_sent"),
            ("client", "local_fin", "peer_fin"),
            ("server", "peer_fin", "local_fin"),
        ] {
            let arguments = ["--close", close, "--exchanges", exchanges];
            let called = pair.call(pair.link().b4(), 1, &arguments).unwrap();
            let connection = &called.connections[0];
            let ends = (&*connection.client_flow.end, &*connection.server_flow.end);
            assert_eq!(ends, (client_end, server_end), "{close}, {exchanges}");
        }
    }
}
