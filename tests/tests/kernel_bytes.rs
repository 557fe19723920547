//! Every flow against its application's bytes, its socket's counts, and what the link
//! carried, at both ends.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use flowcar_tests::{
    flowcar::{Called, Connection, FlowLine, Pair, Summary},
    link::{
        Direction::{self, AtoB, BtoA},
        PacketRecord, Plan, Trace,
    },
    place::{require_cgroup2, require_root, require_tun},
    traffic::ConnectionReport,
};

const MS: Duration = Duration::from_millis(1);

fn can_run() -> bool {
    require_root() && require_cgroup2() && require_tun()
}

#[test]
fn a_hundred_connections_of_random_sizes_over_ipv4() {
    if can_run() {
        let pair = Pair::new(Plan::rtt(MS * 2)).unwrap();
        a_hundred_connections(&pair, pair.link().b4());
    }
}

#[test]
fn a_hundred_connections_of_random_sizes_over_ipv6() {
    if can_run() {
        let pair = Pair::new(Plan::rtt(MS * 2)).unwrap();
        a_hundred_connections(&pair, pair.link().b6());
    }
}

fn a_hundred_connections(pair: &Pair, server: IpAddr) {
    let arguments = [
        "--concurrency",
        "10",
        "--exchanges",
        "1-5",
        "--request",
        "0-60000",
        "--response",
        "1-60000",
        "--seed",
        "3",
    ];
    let called = pair.call(server, 100, &arguments).unwrap();
    let trace = pair.link().trace();
    for connection in &called.connections {
        identities_hold(connection);
        connection.bytes_are_the_applications();
        segments_are_the_links(connection, &trace);
        let ends = (&*connection.client_flow.end, &*connection.server_flow.end);
        assert_eq!(ends, ("local_fin", "peer_fin"));
    }
    let sizes: BTreeSet<u64> = called
        .connections
        .iter()
        .flat_map(|connection| [connection.client.sent, connection.client.received])
        .collect();
    assert!(sizes.len() > 150, "sizes are random");
    let traces: BTreeSet<&str> = called
        .connections
        .iter()
        .map(|connection| &*connection.client_flow.trace_id)
        .collect();
    assert_eq!(traces.len(), 100, "one trace for each connection");
    all_in_the_books(&called, 100);
}

/// Every way in which a connection can close, by `traffic`'s reports and the wire.
#[test]
fn close_reasons_are_distinguished() {
    if !can_run() {
        return;
    }
    // Long enough for FINs to cross on a busy machine.
    let pair = Pair::new(Plan::rtt(MS * 100)).unwrap();
    for (close, client_end, server_end) in [
        ("client", "local_fin", "peer_fin"),
        ("server", "peer_fin", "local_fin"),
        ("simultaneous", "local_fin", "local_fin"),
        ("half-by-client", "local_fin", "peer_fin"),
        ("half-by-server", "peer_fin", "local_fin"),
        ("reset-by-client", "reset_sent", "reset_received"),
        ("reset-by-server", "reset_received", "reset_sent"),
    ] {
        // Without the server's delay FINs cross; with it a half-closed connection stays so for a while.
        let delay = if close == "simultaneous" { "0" } else { "50" };
        let arguments = ["--close", close, "--delay", delay, "--pause", "50"];
        let call = || pair.call(pair.link().b4(), 1, &arguments).unwrap();
        let mut called = call();
        // A machine that is slowed may take longer than the link.
        let mut tries = 1;
        while close == "simultaneous" && !fins_crossed(&called, &pair.link().trace()) && tries < 10
        {
            called = call();
            tries += 1;
        }
        let connection = &called.connections[0];
        println!("{close}: {:?}", connection.client_flow);
        let ends = (&*connection.client_flow.end, &*connection.server_flow.end);
        assert_eq!(ends, (client_end, server_end), "{close}");
        identities_hold(connection);
        let trace = pair.link().trace();
        if client_end.starts_with("reset") {
            bytes_are_acknowledged(connection, &trace);
        } else {
            connection.bytes_are_the_applications();
            segments_are_the_links(connection, &trace);
        }
        all_in_the_books(&called, 1);
    }
}

/// Whether each end had sent its FIN before the other's came.
fn fins_crossed(called: &Called, trace: &Trace) -> bool {
    let trace = trace.of_port(called.connections[0].client_flow.local.port);
    let fin = |direction| {
        let is_fin = |record: &&PacketRecord| record.tcp.is_some_and(|tcp| tcp.fin);
        *trace.sent(direction).find(is_fin).unwrap()
    };
    let (ours, theirs) = (fin(AtoB), fin(BtoA));
    ours.entered < theirs.left.unwrap() && theirs.entered < ours.left.unwrap()
}

/// Sockets of IPv6 that talk IPv4 are IPv4 flows.
#[test]
fn a_v4_mapped_socket_is_an_ipv4_flow() {
    if !can_run() {
        return;
    }
    let pair = Pair::new(Plan::rtt(MS)).unwrap();
    let IpAddr::V4(server) = pair.link().b4() else {
        panic!("b4 is IPv4");
    };
    let called = pair.call(server.to_ipv6_mapped().into(), 3, &[]).unwrap();
    for connection in &called.connections {
        identities_hold(connection);
        connection.bytes_are_the_applications();
        assert_eq!(connection.client_flow.peer.address, pair.link().b4());
        assert_eq!(connection.client_flow.local.address, pair.link().a4());
    }
    all_in_the_books(&called, 3);
}

fn identities_hold(connection: &Connection) {
    let Connection {
        client,
        server,
        client_flow,
        server_flow,
    } = connection;
    assert_eq!(
        (&*client_flow.role, &*server_flow.role),
        ("client", "server")
    );
    for (application, flow) in [(client, client_flow), (server, server_flow)] {
        let canonical =
            |address: std::net::SocketAddr| (address.ip().to_canonical(), address.port());
        assert_eq!(
            application.local.map(canonical),
            Some((flow.local.address, flow.local.port))
        );
        assert_eq!(
            canonical(application.peer),
            (flow.peer.address, flow.peer.port)
        );
    }
    assert_eq!(client_flow.trace_id, server_flow.trace_id);
    assert_ne!(client_flow.span_id, server_flow.span_id);
    let is_id = |id: &str, digits: usize| {
        id.len() == digits
            && id.bytes().all(|digit| digit.is_ascii_hexdigit())
            && id.bytes().any(|digit| digit != b'0')
    };
    assert!(is_id(&client_flow.trace_id, 32));
    assert!(is_id(&client_flow.span_id, 16) && is_id(&server_flow.span_id, 16));
    assert!(client_flow.connect_s.is_some() && server_flow.connect_s.is_none());
}

/// After a reset the sender cannot know of bytes whose acknowledgement never came.
fn bytes_are_acknowledged(connection: &Connection, trace: &Trace) {
    let trace = trace.of_port(connection.client_flow.local.port);
    for ((application, flow), direction) in ends(connection).into_iter().zip([AtoB, BtoA]) {
        assert_eq!(flow.bytes_received, application.received, "{flow:?}");
        assert_eq!(flow.bytes_sent, acknowledged(&trace, direction), "{flow:?}");
        assert!(flow.bytes_sent <= application.sent);
    }
}

/// Payload of this direction that was acknowledged by segments that arrived.
fn acknowledged(trace: &Trace, direction: Direction) -> u64 {
    let first = trace
        .sent(direction)
        .filter_map(|record| record.tcp)
        .find(|tcp| tcp.syn)
        .expect("a SYN");
    let acks = trace
        .sent(direction.opposite())
        .filter(|record| record.left.is_some())
        .filter_map(|record| record.tcp)
        .filter(|tcp| tcp.ack_flag && !tcp.rst);
    let most = acks.map(|tcp| tcp.ack.wrapping_sub(first.end_seq())).max();
    most.expect("an acknowledgement").into()
}

/// A server's socket does not exist yet when its SYN-ACK leaves, which is not among its segments; the SYN is. Nor does one exist
/// where a RST answers an acknowledgement that came for nothing after the end.
fn segments_are_the_links(connection: &Connection, trace: &Trace) {
    let trace = trace.of_port(connection.client_flow.local.port);
    let carried =
        |direction, syns: bool| trace.count(direction, |tcp| (syns || !tcp.syn) && !tcp.rst) as u64;
    let Connection {
        client_flow,
        server_flow,
        ..
    } = connection;
    for (flow, other, sent, received) in [
        (
            client_flow,
            server_flow,
            carried(AtoB, true),
            carried(BtoA, true),
        ),
        (
            server_flow,
            client_flow,
            carried(BtoA, false),
            carried(AtoB, true),
        ),
    ] {
        // Needless retransmits of either end, and their answers, may come when this socket has closed: the TIME_WAIT
        // socket counts neither. Nor does it count the peer's FIN and its acknowledgement, where our own was acknowledged before
        // (net/ipv4/tcp.c, __tcp_close: FIN_WAIT2 without a socket).
        let ours_was_first = u64::from(flow.end == "local_fin");
        let again = flow.retransmits + other.retransmits + ours_was_first;
        for (counted, carried) in [
            (flow.segments_sent, sent),
            (flow.segments_received, received),
        ] {
            let late = carried.checked_sub(counted);
            assert!(
                late.is_some_and(|late| late <= again),
                "{counted} of {carried}: {flow:?}"
            );
        }
    }
    for ((application, flow), direction) in ends(connection).into_iter().zip([AtoB, BtoA]) {
        assert_eq!(flow.retransmits, trace.sent_again(direction), "{flow:?}");
        // The application asked before the FINs: there are at most a FIN and two ACKs more in each direction, and what was
        // sent again since.
        let info = application.tcp_info.unwrap();
        let again = flow.retransmits.checked_sub(info.total_retrans.into());
        let again = again.unwrap_or_else(|| panic!("{info:?}: {flow:?}"));
        let later = flow.segments_sent - u64::from(info.segs_out);
        assert!(later <= 3 + again, "{later} after {info:?}: {flow:?}");
    }
}

fn ends(connection: &Connection) -> [(&ConnectionReport, &FlowLine); 2] {
    [
        (&connection.client, &connection.client_flow),
        (&connection.server, &connection.server_flow),
    ]
}

fn all_in_the_books(called: &Called, connections: u64) {
    let expected = Summary {
        opened: connections,
        closed: connections,
        live: 0,
        failed: 0,
        lost: 0,
        lost_by: Default::default(),
        unscoped: None,
        times: None,
        peers: Vec::new(),
        exit_status: 0,
        hint: None,
    };
    for summary in [&called.client, &called.server] {
        let times = summary.times.as_ref();
        assert_eq!(times.map(|times| times.connections), Some(connections));
        let books = Summary {
            times: None,
            peers: Vec::new(),
            ..summary.clone()
        };
        assert_eq!(books, expected);
    }
}
