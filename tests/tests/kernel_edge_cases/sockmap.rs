//! Payload that the kernel moves from socket to socket, as service meshes have it done.

use flowcar_tests::{
    flowcar::Run,
    place::TestPod,
    traffic::{self, Bypassed, ConnectionReport, ServePlan, Serving},
};

use crate::can_run;

/// What one socket receives is sent by another: both are TCP connections like others, and the proxy reads no byte.
#[test]
fn sockmap_proxy_has_two_flows() {
    if !can_run() {
        return;
    }
    let pod = TestPod::new("spliced").unwrap();
    // In the pod's cgroup, above the one that is followed.
    let serving = Serving::start(&pod, &ServePlan::at("127.0.0.1:0".parse().unwrap())).unwrap();
    let target = serving.address().to_string();
    let arguments = [
        "splice",
        &target,
        "--exchanges",
        "5",
        "--request",
        "50000",
        "--response",
        "90000",
    ];
    let mut run = Run::start(&pod, &traffic::program().unwrap(), &arguments).unwrap();
    let line = std::io::read_to_string(run.stdout().unwrap()).unwrap();
    let (status, report) = run.finish().unwrap();
    assert!(status.success());
    let client: ConnectionReport = serde_json::from_str(&line).unwrap();
    assert_eq!(client.failure, None);
    assert_eq!((client.sent, client.received), (5 * 50_032, 5 * 90_000));

    assert_eq!(report.flows.len(), 3, "{report:#?}");
    assert_eq!((report.summary.opened, report.summary.closed), (3, 3));
    assert_eq!(report.summary.lost, 0);
    let (port, server) = (client.local.unwrap().port(), serving.address().port());
    let there = (client.sent, client.received);
    for (flow, bytes) in [
        (report.of_local_port(port), there),
        (report.of_peer_port(port), (there.1, there.0)),
        (report.of_peer_port(server), there),
    ] {
        assert_eq!((flow.bytes_sent, flow.bytes_received), bytes, "{flow:?}");
    }
}

/// Payload that is redirected before it becomes a segment is in no count of TCP: the flow is reported without it. docs/limits.md
/// documents it.
#[test]
fn payload_that_bypasses_tcp_is_not_counted() {
    if !can_run() {
        return;
    }
    let pod = TestPod::new("bypassed").unwrap();
    let arguments = ["bypass", "1000000"];
    let mut run = Run::start(&pod, &traffic::program().unwrap(), &arguments).unwrap();
    let line = std::io::read_to_string(run.stdout().unwrap()).unwrap();
    let (status, report) = run.finish().unwrap();
    assert!(status.success());
    let bypassed: Bypassed = serde_json::from_str(&line).unwrap();
    assert_eq!(bypassed.bytes, 1_000_000, "all of it was read");

    assert_eq!(report.flows.len(), 2, "{report:#?}");
    assert_eq!((report.summary.opened, report.summary.closed), (2, 2));
    for flow in [
        report.of_local_port(bypassed.port),
        report.of_peer_port(bypassed.port),
    ] {
        assert_eq!((flow.bytes_sent, flow.bytes_received), (0, 0), "{flow:?}");
    }
}
