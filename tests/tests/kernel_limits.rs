//! What finds no room, at a socket or in the table, is counted under its reason, and all else is reported as usual.

use std::time::Duration;

use flowcar_tests::{
    link::{
        Direction::{AtoB, BtoA},
        Only, Plan, TcpSummary, When,
    },
    place::{TestPod, require_cgroup2, require_root, require_tun},
    traffic::{CallPlan, ConnectionReport, Holding, Pods, ServePlan, Serving},
    watch::{Mode, Seen, Watch, bytes_hold},
};

const RTT: Duration = Duration::from_millis(20);

/// Two pods in which nothing may be attached to a socket: Linux 6.9 and later have that limit for each network namespace
/// (net/core/bpf_sk_storage.c, `omem_charge`).
fn pods_without_room() -> Option<Pods> {
    if !require_root() || !require_cgroup2() || !require_tun() {
        return None;
    }
    let pods = Pods::new(Plan::rtt(RTT)).unwrap();
    for pod in [pods.client(), pods.server()] {
        pod.netns().sysctl("net.core.optmem_max", "0").unwrap();
    }
    Some(pods)
}

/// Each has a flow, with the application's bytes.
#[track_caller]
fn all_are_reported(seen: &Seen, applications: &[ConnectionReport]) {
    for report in applications {
        bytes_hold(seen.flow(report), report);
    }
}

/// A server's socket whose SYN-ACK was sent again needs more than a short-flow slot.
#[test]
fn connection_without_socket_storage_is_lost() {
    let Some(pods) = pods_without_room() else {
        return;
    };
    let mut watch = Watch::start(pods.server(), Mode::Both, &[]);
    let lossy = Plan::rtt(RTT).drop(Only::SynAck, When::Nth(1));
    pods.link().set(BtoA, lossy);
    let call = || pods.call(&CallPlan::to(pods.v4())).unwrap();
    call();
    assert_eq!(pods.link().trace().dropped(BtoA, TcpSummary::is_syn_ack), 1);
    let (_, servers) = call();
    watch.until("both", |seen| seen.began() == 2.0 && !seen.flows.is_empty());
    let seen = watch.stop();
    let lost = "flowcar.tcp.connection.lost";
    let to_storage = [("flowcar.tcp.lost.reason", "socket_storage")];
    assert_eq!(
        (seen.sum(lost, &to_storage), seen.sum(lost, &[])),
        (1.0, 1.0)
    );
    assert_eq!(seen.sum("flowcar.tcp.connection.closed", &[]), 1.0);
    assert_eq!(seen.sum("flowcar.tcp.connection.live", &[]), 0.0);
    assert_eq!(seen.flows.len(), 1);
    all_are_reported(&seen, &servers);
}

/// A lost segment of a client: the type of its retransmit finds no room, the number is the socket's own count.
#[test]
fn retransmit_types_without_storage_are_counted_as_dropped() {
    let Some(pods) = pods_without_room() else {
        return;
    };
    let mut watch = Watch::start(pods.client(), Mode::Both, &[]);
    pods.link()
        .set(AtoB, Plan::rtt(RTT).drop(Only::Data, When::Nth(1)));
    let (clients, _) = pods.call(&CallPlan::to(pods.v4())).unwrap();
    watch.until("it", |seen| !seen.flows.is_empty());
    let seen = watch.stop();
    let trace = pods.link().trace();
    assert_eq!(trace.dropped(AtoB, TcpSummary::is_data), 1);
    let detail = [("flowcar.self.record.kind", "detail")];
    assert!(seen.sum("flowcar.self.record.dropped", &detail) > 0.0);
    all_are_reported(&seen, &clients);
    let again = trace.sent_again(AtoB) as f64;
    assert!(again > 0.0);
    let (all, unknown) = (
        "flowcar.tcp.retransmits",
        [("flowcar.tcp.retransmit.type", "unknown")],
    );
    assert_eq!(
        (seen.sum(all, &unknown), seen.sum(all, &[])),
        (again, again)
    );
    assert_eq!(seen.sum("flowcar.tcp.connection.lost", &[]), 0.0);
}

#[test]
fn flows_over_capacity_are_reported_when_they_close() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    const CONNECTIONS: u64 = 100;
    const LISTED: f64 = 10.0;
    let pod = TestPod::new("full-table").unwrap();
    let serving = Serving::start(&pod, &ServePlan::at("[::]:0".parse().unwrap())).unwrap();
    let target = ([127, 0, 0, 1], serving.address().port()).into();
    let mut watch = Watch::start(&pod, Mode::Both, &[("FLOWCAR_MAX_FLOWS", "10")]);
    let plan = CallPlan::to(target).connections(CONNECTIONS, CONNECTIONS);
    let holding = Holding::start(&pod, &plan).unwrap();
    let table = "flowcar.self.flow.count";
    watch.until("a full table", |seen| seen.sum(table, &[]) == LISTED);
    let seen = watch.reports(3);
    assert_eq!(seen.sum(table, &[]), LISTED);
    assert!(seen.sum("flowcar.self.flow.rejected", &[]) >= 2.0 * CONNECTIONS as f64 - LISTED);

    let clients = holding.close().unwrap();
    let servers = serving.reports(CONNECTIONS as usize, Duration::from_secs(60));
    watch.until("every flow", |seen| {
        seen.flows.len() as u64 == 2 * CONNECTIONS
    });
    let seen = watch.stop();
    all_are_reported(&seen, &clients);
    all_are_reported(&seen, &servers.unwrap());
    let sum = |what| seen.sum(&format!("flowcar.tcp.connection.{what}"), &[]);
    let all = 2.0 * CONNECTIONS as f64;
    assert_eq!(
        (sum("opened"), sum("closed"), sum("live"), sum("lost")),
        (all, all, 0.0, 0.0)
    );
}
