//! The applications' reports are true: both ends agree, the kernel agrees, and connections close on the
//! wire as requested.

use std::{net::SocketAddr, time::Duration};

use flowcar_tests::{
    link::{
        Direction::{self, AtoB, BtoA},
        Nat, PacketRecord, Plan, Rewrite, TcpSummary, Trace,
    },
    peers::eventually,
    place::{TestPod, require_cgroup2, require_program, require_root, require_tun},
    traffic::{
        CallPlan, Close, Holding, LoadPlan, Pods, ServePlan, Serving, SocketOptions,
        StreamProtocol, call_in, load_in,
    },
};

const MS: Duration = Duration::from_millis(1);

fn can_run() -> bool {
    require_root() && require_cgroup2() && require_tun()
}

#[test]
fn both_ends_and_the_kernel_agree_on_every_byte() {
    if !can_run() {
        return;
    }
    let pods = Pods::new(Plan::rtt(MS)).unwrap();
    for target in [pods.v4(), pods.v6(), pods.v4_mapped()] {
        let plan = CallPlan {
            seed: 5,
            exchanges: 1..=4,
            ..CallPlan::to(target)
        };
        let plan = plan.connections(30, 10).sizes(0..=50_000, 1..=50_000);
        let (clients, servers) = pods.call(&plan).unwrap();
        assert_eq!((clients.len(), servers.len()), (30, 30));
        for (client, server) in clients.iter().zip(&servers) {
            assert_eq!((&client.failure, &server.failure), (&None, &None));
            assert_eq!(
                (client.sent, client.received),
                (server.received, server.sent)
            );
            assert_eq!(client.exchanges, server.exchanges);
            assert_eq!(client.local.unwrap().port(), server.peer.port());
            assert_eq!(client.exchange.count, client.exchanges);
            // The client's SYN counts as acknowledged; at the server, the client's FIN as received.
            let (at_client, at_server) = (client.tcp_info.unwrap(), server.tcp_info.unwrap());
            assert_eq!(
                (at_client.bytes_acked, at_client.bytes_received),
                (client.sent + 1, client.received)
            );
            assert_eq!(
                (at_server.bytes_acked, at_server.bytes_received),
                (server.sent, server.received + 1)
            );
        }
        let sizes: std::collections::BTreeSet<_> =
            clients.iter().map(|client| client.sent).collect();
        assert!(sizes.len() > 20, "sizes are random");
    }
}

#[test]
fn the_same_seed_sends_the_same_bytes() {
    if !can_run() {
        return;
    }
    let pods = Pods::new(Plan::rtt(Duration::ZERO)).unwrap();
    let sizes = |seed| {
        let plan = CallPlan {
            seed,
            exchanges: 1..=9,
            ..CallPlan::to(pods.v4())
        }
        .connections(10, 1);
        let (clients, _) = pods.call(&plan.sizes(0..=9_000, 0..=9_000)).unwrap();
        let mut sizes: Vec<_> = clients
            .iter()
            .map(|client| (client.sent, client.received))
            .collect();
        sizes.sort_unstable();
        sizes
    };
    let first = sizes(1);
    assert_eq!(first, sizes(1));
    assert_ne!(first, sizes(2));
}

/// Every way to close, by the sender of the first FIN or RST and whether FINs crossed.
#[test]
fn connections_close_as_requested() {
    if !can_run() {
        return;
    }
    // Ends that close at about the same time do so within half a round trip, also on a busy machine.
    let pods = Pods::new(Plan::rtt(MS * 400)).unwrap();
    let end_of = |close, delay| {
        let plan = CallPlan {
            delay,
            pause: MS * 50,
            ..CallPlan::to(pods.v4()).close(close)
        };
        let (clients, servers) = pods.call(&plan).unwrap();
        assert_eq!(
            (&clients[0].failure, &servers[0].failure),
            (&None, &None),
            "{close:?}"
        );
        assert_eq!(
            (clients[0].sent, clients[0].received),
            (132, 1000),
            "{close:?}"
        );
        assert_eq!(
            (servers[0].sent, servers[0].received),
            (1000, 132),
            "{close:?}"
        );
        // The wire may be one way behind the programs.
        eventually("the last segments", MS * 20_000, || {
            let port = clients[0].local.unwrap().port();
            let trace = pods.link().trace().of_port(port);
            let arrived = |direction, test: fn(&TcpSummary) -> bool| {
                first(&trace, direction, test).is_some_and(|packet| packet.left.is_some())
            };
            let both = arrived(AtoB, |tcp| tcp.fin) && arrived(BtoA, |tcp| tcp.fin);
            (both || arrived(BtoA, |tcp| tcp.rst)).then_some(trace)
        })
    };
    let fin = |trace: &Trace, direction| first(trace, direction, |tcp| tcp.fin).expect("a FIN");
    let resets = |trace: &Trace| {
        (
            trace.count(AtoB, |tcp| tcp.rst),
            trace.count(BtoA, |tcp| tcp.rst),
        )
    };

    let trace = end_of(Close::Client, Duration::ZERO);
    assert!(fin(&trace, AtoB).left.unwrap() <= fin(&trace, BtoA).entered);
    assert_eq!(resets(&trace), (0, 0));

    let trace = end_of(Close::Server, Duration::ZERO);
    assert!(fin(&trace, BtoA).left.unwrap() <= fin(&trace, AtoB).entered);
    assert_eq!(resets(&trace), (0, 0));

    let trace = end_of(Close::Simultaneous, Duration::ZERO);
    let (ours, theirs) = (fin(&trace, AtoB), fin(&trace, BtoA));
    assert!(
        ours.entered < theirs.left.unwrap() && theirs.entered < ours.left.unwrap(),
        "the FINs cross"
    );
    assert_eq!(resets(&trace), (0, 0));

    let trace = end_of(Close::HalfByClient, MS * 500);
    let request = first(&trace, AtoB, TcpSummary::is_data).unwrap();
    let response = first(&trace, BtoA, TcpSummary::is_data).unwrap();
    assert!(response.entered - request.left.unwrap() >= MS * 500);
    assert!(response.entered > fin(&trace, AtoB).left.unwrap());
    assert!(fin(&trace, BtoA).entered >= response.entered);
    assert_eq!(resets(&trace), (0, 0));

    let trace = end_of(Close::HalfByServer, Duration::ZERO);
    assert!(fin(&trace, AtoB).entered - fin(&trace, BtoA).left.unwrap() >= MS * 50);
    assert_eq!(resets(&trace), (0, 0));

    let trace = end_of(Close::ResetByServer, Duration::ZERO);
    assert!(
        first(&trace, BtoA, |tcp| tcp.rst).is_some()
            && first(&trace, AtoB, |tcp| tcp.rst || tcp.fin).is_none()
    );
    assert_eq!(trace.count(BtoA, |tcp| tcp.fin), 0);
}

/// The server gets an error for a client's reset, which is not a failure of the test.
#[test]
fn a_client_can_reset() {
    if !can_run() {
        return;
    }
    let pods = Pods::new(Plan::rtt(MS * 2)).unwrap();
    let (clients, servers) = pods
        .call(&CallPlan::to(pods.v4()).close(Close::ResetByClient))
        .unwrap();
    assert_eq!(clients[0].failure, None);
    let failure = servers[0].failure.as_ref().unwrap();
    assert_eq!(failure.kind, flowcar_tests::traffic::FailureKind::Reset);
    let trace = pods.link().trace();
    assert_eq!(trace.count(AtoB, |tcp| tcp.rst), 1);
    assert_eq!(
        trace.count(AtoB, |tcp| tcp.fin) + trace.count(BtoA, |tcp| tcp.fin),
        0
    );
}

#[test]
fn held_connections_stay_open_until_closed() {
    if !can_run() {
        return;
    }
    let pods = Pods::new(Plan::rtt(Duration::ZERO)).unwrap();
    let mut holding =
        Holding::start(pods.client(), &CallPlan::to(pods.v4()).connections(500, 8)).unwrap();
    assert_eq!(holding.open(), 500);
    assert_eq!(pods.server().netns().snmp().unwrap()["Tcp.CurrEstab"], 500);
    assert_eq!(holding.exchange().unwrap(), 500);
    let clients = holding.close().unwrap();
    let servers = pods
        .serving()
        .reports(500, Duration::from_secs(30))
        .unwrap();
    assert_eq!(clients.len(), 500);
    // One exchange at the opening, one when asked, one at the end.
    assert!(
        clients
            .iter()
            .all(|client| client.failure.is_none() && client.exchanges == 3)
    );
    assert!(servers.iter().all(|server| server.failure.is_none()
        && server.sent == 3000
        && server.received == 3 * 132));
}

#[test]
fn load_report_matches_the_load() {
    if !can_run() {
        return;
    }
    let pod = TestPod::new("load").unwrap();
    let serve = ServePlan {
        workers: 2,
        ..ServePlan::at("127.0.0.1:0".parse().unwrap())
    };
    let serving = Serving::start(&pod, &serve).unwrap();
    let call = CallPlan::to(serving.address()).connections(1, 2);
    let report = load_in(
        &pod,
        &LoadPlan {
            call,
            duration: MS * 500,
            rate: Some(200.0),
        },
    )
    .unwrap();
    // Two hundred a second for half a second.
    assert_eq!((report.connections, report.exchanges), (100, 100));
    assert!(report.failed.is_empty());
    assert_eq!((report.sent, report.received), (13_200, 100_000));
    assert_eq!((report.connect.count, report.exchange.count), (100, 100));
    let servers = serving.reports(100, Duration::from_secs(30)).unwrap();
    assert_eq!(
        servers.iter().map(|server| server.received).sum::<u64>(),
        13_200
    );
    assert_eq!(pod.netns().snmp().unwrap()["Tcp.PassiveOpens"], 100);
}

/// A receiver that stops reading closes its window, and the sender's kernel accounts for the time.
#[test]
fn a_stalled_receiver_closes_its_window() {
    if !can_run() {
        return;
    }
    let socket = SocketOptions {
        receive_buffer: Some(16_384),
        ..SocketOptions::default()
    };
    let serve = ServePlan {
        socket,
        ..ServePlan::at("[::]:0".parse().unwrap())
    };
    let pods = Pods::with(Plan::rtt(MS * 2), &serve).unwrap();
    let plan = CallPlan {
        stall: MS * 1000,
        ..CallPlan::to(pods.v4()).sizes(400_000..=400_000, 1..=1)
    };
    let (clients, _) = pods.call(&plan).unwrap();
    assert_eq!(clients[0].failure, None);
    let trace = pods.link().trace();
    assert!(trace.count(BtoA, |tcp| tcp.window == 0 && !tcp.rst) > 0);
    assert!(
        clients[0].tcp_info.unwrap().rwnd_limited >= 200_000,
        "microseconds"
    );
}

#[test]
fn fast_open_carries_data_in_the_syn() {
    if !can_run() {
        return;
    }
    let socket = SocketOptions {
        fast_open: true,
        ..SocketOptions::default()
    };
    let serve = ServePlan {
        socket,
        ..ServePlan::at("[::]:0".parse().unwrap())
    };
    let pods = Pods::with(Plan::rtt(MS * 2), &serve).unwrap();
    for pod in [pods.client(), pods.server()] {
        pod.netns().sysctl("net.ipv4.tcp_fastopen", "3").unwrap();
    }
    let plan = CallPlan {
        socket,
        ..CallPlan::to(pods.v4())
    }
    .connections(2, 1);
    let (clients, servers) = pods.call(&plan).unwrap();
    assert!(
        clients
            .iter()
            .chain(&servers)
            .all(|report| report.failure.is_none())
    );
    // The first connection only fetches the cookie.
    assert_eq!(
        pods.link()
            .trace()
            .count(AtoB, |tcp| tcp.is_syn() && tcp.is_data()),
        1
    );
    assert_eq!(
        pods.server().netns().snmp().unwrap()["TcpExt.TCPFastOpenPassive"],
        1
    );
}

#[test]
fn multipath_connections_are_multipath() {
    if !can_run() {
        return;
    }
    let socket = SocketOptions {
        protocol: StreamProtocol::Mptcp,
        ..SocketOptions::default()
    };
    let serve = ServePlan {
        socket,
        ..ServePlan::at("[::]:0".parse().unwrap())
    };
    let pods = Pods::with(Plan::rtt(MS * 2), &serve).unwrap();
    let plan = CallPlan {
        socket,
        ..CallPlan::to(pods.v4())
    };
    let (clients, servers) = pods.call(&plan).unwrap();
    assert!(
        clients
            .iter()
            .chain(&servers)
            .all(|report| report.failure.is_none())
    );
    assert_eq!((servers[0].received, clients[0].received), (132, 1000));
    assert_eq!(
        pods.server().netns().snmp().unwrap()["MPTcpExt.MPCapableSYNRX"],
        1
    );
    assert_eq!(
        pods.server().netns().snmp().unwrap()["MPTcpExt.MPCapableACKRX"],
        1
    );
}

/// Addresses are rewritten, sequence numbers are not: what joins both ends of a connection survives.
#[test]
fn translation_changes_addresses_and_keeps_sequence_numbers() {
    if !can_run() || !require_program("nft") {
        return;
    }
    for rewrite in [Rewrite::Destination, Rewrite::Source, Rewrite::Both] {
        let (client, server) = (
            TestPod::new("client").unwrap(),
            TestPod::new("server").unwrap(),
        );
        let nat = Nat::between(client.netns(), server.netns(), Plan::rtt(MS * 2), rewrite).unwrap();
        let serving = Serving::start(&server, &ServePlan::at("[::]:0".parse().unwrap())).unwrap();
        let port = serving.address().port();
        for (service, real, own, router) in [
            (
                nat.service4(),
                nat.server_side().b4(),
                nat.client_side().a4(),
                nat.server_side().a4(),
            ),
            (
                nat.service6(),
                nat.server_side().b6(),
                nat.client_side().a6(),
                nat.server_side().a6(),
            ),
        ] {
            let called = call_in(&client, &CallPlan::to((service, port).into())).unwrap();
            assert_eq!(called[0].failure, None, "{rewrite:?} {service}");
            let served = serving.reports(1, Duration::from_secs(30)).unwrap();
            assert_eq!(called[0].local.unwrap().ip(), own);
            assert_eq!(served[0].local.unwrap().ip().to_canonical(), real);
            let expected = if rewrite == Rewrite::Destination {
                own
            } else {
                router
            };
            assert_eq!(served[0].peer.ip().to_canonical(), expected);
            assert_eq!(service == real, rewrite == Rewrite::Source);

            let outside = nat
                .client_side()
                .trace()
                .of_port(called[0].local.unwrap().port());
            let inside = nat.server_side().trace().of_port(served[0].peer.port());
            assert_eq!(initial(&outside, AtoB), initial(&inside, AtoB));
            assert_eq!(initial(&outside, BtoA), initial(&inside, BtoA));
            let to = |trace: &Trace| {
                first(trace, AtoB, TcpSummary::is_syn)
                    .unwrap()
                    .tcp
                    .unwrap()
                    .destination
            };
            assert_eq!(to(&outside), SocketAddr::new(service, port));
            assert_eq!(to(&inside), SocketAddr::new(real, port));
        }
    }
}

fn first(
    trace: &Trace,
    direction: Direction,
    test: impl Fn(&TcpSummary) -> bool,
) -> Option<PacketRecord> {
    trace
        .sent(direction)
        .find(|record| record.is(&test))
        .copied()
}

/// The initial sequence number of a direction.
fn initial(trace: &Trace, direction: Direction) -> u32 {
    first(trace, direction, |tcp| tcp.syn)
        .unwrap()
        .tcp
        .unwrap()
        .seq
}
