//! inet_diag alone, as nobody.

use std::{net::SocketAddr, time::Duration};

use flowcar_tests::{
    place::{TestPod, require_cgroup2, require_root},
    traffic::{CallPlan, Close, Holding, ServePlan, Serving, call_in},
    watch::{Mode, Watch, bytes_hold},
};

const WITHIN: Duration = Duration::from_secs(60);

/// Short connections, most of which no dump sees.
#[test]
fn every_connection_of_the_namespace_has_exact_bytes() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let pod = TestPod::new("alone").unwrap();
    // Nothing is lost here, but a busy machine makes the kernel probe early, and a retransmitted FIN cannot always be distinguished
    // from payload.
    pod.netns()
        .sysctl("net.ipv4.tcp_early_retrans", "0")
        .unwrap();
    let serving = Serving::start(&pod, &ServePlan::at("[::]:0".parse().unwrap())).unwrap();
    let port = serving.address().port();
    let mut watch = Watch::start(&pod, Mode::Alone, &[]);
    // What opens before the first dump may be taken for older than flowcar.
    watch.reports(1);
    let mut count = 0;
    for target in [
        ([127, 0, 0, 1], port).into(),
        (std::net::Ipv6Addr::LOCALHOST, port).into(),
    ] {
        for (close, ends) in [
            (Close::Client, ("local_fin", "peer_fin")),
            (Close::Server, ("peer_fin", "local_fin")),
            (Close::HalfByClient, ("local_fin", "peer_fin")),
            (Close::HalfByServer, ("peer_fin", "local_fin")),
        ] {
            let plan = CallPlan::to(target).connections(50, 5).exchanges(3);
            let clients = call_in(&pod, &plan.sizes(0..=60_000, 1..=60_000).close(close)).unwrap();
            let servers = serving.reports(50, WITHIN).unwrap();
            let before = count;
            count += 100;
            watch.until("all of them", |seen| seen.flows.len() >= count);
            let seen = watch.reports(1);
            for (role, end, reports) in [("client", ends.0, &clients), ("server", ends.1, &servers)]
            {
                for report in reports {
                    assert_eq!(report.failure, None);
                    let flow = seen.flow_since(before, report);
                    bytes_hold(flow, report);
                    assert_eq!((flow.role(), flow.end()), (role, end), "{close:?} {flow:?}");
                    assert_eq!(
                        flow.get("flowcar.tcp.adopted.by"),
                        "",
                        "it was opened later"
                    );
                    assert_eq!(
                        flow.get("flowcar.tcp.connect.duration"),
                        "",
                        "absent, not guessed"
                    );
                    assert_eq!(flow.get("flowcar.tcp.rtt.kind"), "smoothed");
                }
            }
        }
    }
    let seen = watch.stop();
    assert_eq!(seen.flows.len(), count);
    assert_eq!(seen.source, "inet_diag");
    let sum = |name: &str| seen.sum(name, &[]);
    assert_eq!(seen.began(), count as f64);
    assert_eq!(sum("flowcar.tcp.connection.closed"), count as f64);
    assert_eq!(sum("flowcar.tcp.connection.lost"), 0.0);
    assert_eq!(sum("flowcar.self.record.malformed"), 0.0);
    let smoothed = [("flowcar.tcp.rtt.kind", "smoothed")];
    let samples = seen.sum("flowcar.tcp.rtt", &smoothed);
    assert!(
        samples >= count as f64,
        "one of each connection at least: {samples}"
    );
    assert_eq!(sum("flowcar.tcp.rtt"), samples);
    for absent in [
        "connect.duration",
        "connection.duration",
        "exchange.duration",
    ] {
        assert_eq!(sum(&format!("flowcar.tcp.{absent}")), 0.0);
    }
}

/// The end that closes first leaves nothing, as one does that closes second.
#[test]
fn end_without_room_for_its_timewait_socket_is_not_closed_by_its_peer() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let pod = TestPod::new("no-room").unwrap();
    pod.netns()
        .sysctl("net.ipv4.tcp_max_tw_buckets", "0")
        .unwrap();
    let serving = Serving::start(&pod, &ServePlan::at("[::]:0".parse().unwrap())).unwrap();
    let target = ([127, 0, 0, 1], serving.address().port()).into();
    let mut watch = Watch::start(&pod, Mode::Alone, &[]);
    watch.reports(1);
    let mut count = 0;
    for close in [Close::Client, Close::HalfByClient] {
        let plan = CallPlan::to(target).connections(10, 1).close(close);
        let clients = call_in(&pod, &plan).unwrap();
        count += 20;
        watch.until("all of them", |seen| seen.flows.len() >= count);
        let seen = watch.reports(1);
        for report in &clients {
            let flow = seen.flow_since(count - 20, report);
            assert!(
                ["local_fin", "unknown"].contains(&flow.end()),
                "{close:?} {flow:?}"
            );
        }
    }
    let kernel = pod.netns().snmp().unwrap();
    assert!(kernel["TcpExt.TCPTimeWaitOverflow"] > 0);
}

/// A client's reset clears the counts of its socket; unknown counts are counted under their reason.
#[test]
fn resets_are_reported_or_counted_as_lost() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let pod = TestPod::new("resets").unwrap();
    let serving = Serving::start(&pod, &ServePlan::at("[::]:0".parse().unwrap())).unwrap();
    let target = ([127, 0, 0, 1], serving.address().port()).into();
    let mut watch = Watch::start(
        &pod,
        Mode::Alone,
        &[("OTEL_METRIC_EXPORT_INTERVAL", "60000")],
    );
    watch.reports(1);
    let plan = CallPlan::to(target).connections(20, 1);
    let clients = call_in(&pod, &plan.clone().close(Close::ResetByClient)).unwrap();
    let servers = serving.reports(20, WITHIN).unwrap();
    watch.until("the servers' ends", |seen| seen.flows.len() >= 20);
    let seen = watch.stop();
    assert_eq!((clients.len(), seen.flows.len()), (20, 20));
    let mut in_doubt = 0;
    for report in &servers {
        let flow = seen.flow(report);
        assert_eq!(flow.role(), "server", "{flow:?}");
        match flow.end() {
            "reset" => {}
            "unknown" => in_doubt += 1,
            _ => panic!("{flow:?}"),
        }
        bytes_hold(flow, report);
    }
    // Where the server had to retransmit, which a stalled machine causes, the kernel may have timed out.
    let kernel = pod.netns().snmp().unwrap();
    let sent_again = kernel["Tcp.RetransSegs"];
    assert!(in_doubt <= sent_again, "{in_doubt} of {sent_again}");
    let lost = seen.sum(
        "flowcar.tcp.connection.lost",
        &[("flowcar.tcp.lost.reason", "disconnected")],
    );
    assert_eq!(lost, 20.0);
}

/// Nobody listens there.
#[test]
fn refused_attempts_are_failures() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let pod = TestPod::new("refused").unwrap();
    let mut watch = Watch::start(&pod, Mode::Alone, &[]);
    let target = "127.0.0.1:9".parse().unwrap();
    let calls = call_in(&pod, &CallPlan::to(target).connections(5, 1)).unwrap();
    assert!(calls.iter().all(|call| call.failure.is_some()));
    watch.until("the failures", |seen| {
        seen.metrics
            .get("flowcar.tcp.connection.failed")
            .is_some_and(|points| points.iter().map(|(_, count)| count).sum::<f64>() >= 5.0)
    });
    let seen = watch.stop();
    assert_eq!(seen.sum("flowcar.tcp.connection.lost", &[]), 0.0);
    assert_eq!(seen.began(), 0.0);
}

/// Connections that move no byte stay in the books for as long as they live.
#[test]
fn idle_connections_are_kept() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    for mode in [Mode::Alone, Mode::Both] {
        let pod = TestPod::new("idle").unwrap();
        let serving = Serving::start(&pod, &ServePlan::at("[::]:0".parse().unwrap())).unwrap();
        let target = ([127, 0, 0, 1], serving.address().port()).into();
        let mut watch = Watch::start(&pod, mode, &[]);
        let holding = Holding::start(&pod, &CallPlan::to(target).connections(50, 2)).unwrap();
        let live = "flowcar.tcp.connection.live";
        watch.until("all live", |seen| seen.sum(live, &[]) == 100.0);
        for _ in 0..8 {
            let seen = watch.reports(1);
            assert_eq!(seen.sum(live, &[]), 100.0, "{mode:?}");
            assert!(seen.flows.is_empty());
        }
        let clients = holding.close().unwrap();
        watch.until("their close", |seen| seen.flows.len() >= 100);
        let seen = watch.stop();
        for report in &clients {
            bytes_hold(seen.flow(report), report);
        }
        assert_eq!(seen.sum("flowcar.tcp.connection.closed", &[]), 100.0);
        assert_eq!(seen.sum(live, &[]), 0.0);
    }
}

/// Fast Open puts data into the SYN, and SYN cookies leave the server without a memory of its own: roles and bytes follow
/// from the counts all the same.
#[test]
fn roles_hold_with_fast_open_and_syn_cookies() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    for (key, value, fast_open) in [
        ("net.ipv4.tcp_fastopen", "3", true),
        ("net.ipv4.tcp_syncookies", "2", false),
    ] {
        let pod = TestPod::new("roles").unwrap();
        pod.netns().sysctl(key, value).unwrap();
        let mut serve = ServePlan::at("[::]:0".parse().unwrap());
        serve.socket.fast_open = fast_open;
        let serving = Serving::start(&pod, &serve).unwrap();
        let target: SocketAddr = ([127, 0, 0, 1], serving.address().port()).into();
        let mut plan = CallPlan::to(target).connections(20, 1).exchanges(2);
        plan.socket.fast_open = fast_open;
        // The first gets the cookie for the others.
        let mut clients = call_in(&pod, &plan.clone().connections(1, 1)).unwrap();
        let mut holding = Holding::start(&pod, &plan).unwrap();
        let mut watch = Watch::start(&pod, Mode::Alone, &[]);
        watch.until("the held", |seen| {
            seen.sum("flowcar.tcp.connection.live", &[]) == 40.0
        });
        clients.clear();
        holding.exchange().unwrap();
        clients.extend(call_in(&pod, &plan).unwrap());
        clients.extend(holding.close().unwrap());
        let servers = serving.reports(41, WITHIN).unwrap().split_off(1);
        watch.until("all of them", |seen| seen.flows.len() >= 80);
        let seen = watch.stop();
        for (role, reports) in [("client", &clients), ("server", &servers)] {
            for report in reports {
                let flow = seen.flow(report);
                bytes_hold(flow, report);
                assert_eq!(flow.role(), role, "{key} {flow:?}");
            }
        }
    }
}

/// A receiver that stops reading closes its window; the sender's socket counts for how long.
#[test]
fn time_limited_by_the_peers_window_is_reported() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    for mode in [Mode::Alone, Mode::Both] {
        let pod = TestPod::new("limited").unwrap();
        let mut serve = ServePlan::at("[::]:0".parse().unwrap());
        serve.socket.receive_buffer = Some(20_000);
        let serving = Serving::start(&pod, &serve).unwrap();
        let target: SocketAddr = ([127, 0, 0, 1], serving.address().port()).into();
        let mut watch = Watch::start(&pod, mode, &[]);
        let mut plan = CallPlan::to(target).sizes(2_000_000..=2_000_000, 1..=1);
        plan.stall = Duration::from_secs(1);
        let mut holding = Holding::start(&pod, &plan).unwrap();
        holding.exchange().unwrap();
        let limited = |seen: &flowcar_tests::watch::Seen| {
            seen.sum(
                "flowcar.tcp.limited.time",
                &[("flowcar.tcp.limited.by", "receive_window")],
            )
        };
        watch.until("the time", |seen| limited(seen) >= 0.9);
        drop(holding);
        let seen = watch.stop();
        println!("{mode:?}: limited for {} s", limited(&seen));
        assert!(limited(&seen) < 30.0);
    }
}

/// By default flowcar takes the best source that it may use, and logs in one line why it is not a better one.
#[test]
fn without_rights_flowcar_falls_back_and_logs_why() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let pod = TestPod::new("auto").unwrap();
    let serving = Serving::start(&pod, &ServePlan::at("[::]:0".parse().unwrap())).unwrap();
    let target = ([127, 0, 0, 1], serving.address().port()).into();
    let _holding = Holding::start(&pod, &CallPlan::to(target).connections(3, 1)).unwrap();
    let mut watch = Watch::start(&pod, Mode::Auto, &[]);
    watch.until("what is held", |seen| {
        seen.sum("flowcar.tcp.connection.live", &[]) == 6.0
    });
    let seen = watch.stop();
    assert_eq!(seen.source, "inet_diag");
    let warnings: Vec<_> = seen
        .log
        .iter()
        .filter(|line| line.contains("WARN"))
        .collect();
    let [warning] = &warnings[..] else {
        panic!("{warnings:?}");
    };
    assert!(
        warning.contains("CAP_BPF") && warning.contains("inet_diag"),
        "{warning}"
    );
}
