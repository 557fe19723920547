//! Connections that were open before flowcar was.

use std::{thread, time::Duration};

use flowcar_tests::{
    place::{TestPod, require_cgroup2, require_root},
    traffic::{CallPlan, Holding, LoadPlan, ServePlan, Serving, call_in, load_in},
    watch::{Mode, Seen, Watch, bytes_hold},
};

const OPEN: u64 = 1_000;

/// Whether a process in the pod's network namespace subscribes to destroy events: only then does the kernel write a message
/// for each.
fn is_reported(pod: &TestPod) -> bool {
    let table = pod
        .netns()
        .run(|| std::fs::read_to_string("/proc/thread-self/net/netlink"));
    let table = table.unwrap().unwrap();
    let mut sockets = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    // The columns: address, protocol (4 is NETLINK_SOCK_DIAG), port, groups.
    sockets.any(|columns| columns[1] == "4" && columns[3] != "00000000")
}

/// Both ends are in the pod.
const FLOWS: usize = 2 * OPEN as usize;

#[test]
fn with_ebpf_a_thousand_connections_are_adopted_to_the_byte() {
    adopt(Mode::Both);
}

#[test]
fn alone_a_thousand_connections_are_adopted_to_the_byte() {
    adopt(Mode::Alone);
}

/// Connections whose open record found no room in the ring look older than flowcar.
#[test]
fn connections_lost_to_a_full_ring_at_startup_are_counted() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    const OLD: u64 = 20;
    let pod = TestPod::new("overrun").unwrap();
    let serving = Serving::start(&pod, &ServePlan::at("[::]:0".parse().unwrap())).unwrap();
    let target = ([127, 0, 0, 1], serving.address().port()).into();
    let hold = |connections| CallPlan::to(target).connections(connections, connections);
    let old = Holding::start(&pod, &hold(OLD)).unwrap();
    let load = LoadPlan {
        call: CallPlan::to(target).connections(0, 16),
        duration: Duration::from_secs(10),
        rate: None,
    };
    let unadopted = |seen: &Seen| seen.sum("flowcar.self.socket.unadopted", &[]);
    let mut watch = thread::scope(|scope| {
        let loading = scope.spawn(|| load_in(&pod, &load).unwrap());
        // A page of ring has room for few open records, if they come before flowcar's first poll.
        loop {
            let mut watch = Watch::start(&pod, Mode::Both, &[("FLOWCAR_RING_BYTES", "4096")]);
            if unadopted(watch.reports(2)) > 0.0 {
                break watch;
            }
            assert!(
                !loading.is_finished(),
                "the ring never overran at the start"
            );
        }
    });
    watch.until("only the old ones", |seen| {
        seen.sum("flowcar.self.flow.count", &[]) == 0.0
    });
    assert!(unadopted(watch.reports(1)) >= 2.0 * OLD as f64);
    old.close().unwrap();
    let seen = watch.stop();
    assert!(
        seen.flows
            .iter()
            .all(|flow| flow.get("flowcar.tcp.adopted.by").is_empty())
    );
}

fn adopt(mode: Mode) {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let pod = TestPod::new("adopted").unwrap();
    let serving = Serving::start(&pod, &ServePlan::at("[::]:0".parse().unwrap())).unwrap();
    let target = ([127, 0, 0, 1], serving.address().port()).into();
    let plan = CallPlan::to(target)
        .connections(OPEN, 20)
        .exchanges(1)
        .sizes(0..=5000, 1..=5000);
    let mut holding = Holding::start(&pod, &plan).unwrap();

    let often = [("OTEL_METRIC_EXPORT_INTERVAL", "100")];
    let mut watch = Watch::start(&pod, mode, &often);
    let live = "flowcar.tcp.connection.live";
    let seen = watch.until("their adoption", |seen| seen.sum(live, &[]) >= FLOWS as f64);
    // From the attach of the programs and of the destroy events to the first report with all of them.
    let took = Duration::from_nanos(seen.counted_unix_ns.1 - seen.counted_unix_ns.0);
    // Time without a processor, on a busy machine, is not flowcar's.
    let waited = watch.waited_for_a_processor();
    println!("adopted and reported {took:?} after the start, {waited:?} of it without a processor");
    let took = took.saturating_sub(waited);
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(is_reported(&pod));
    assert_eq!(holding.exchange().unwrap(), OPEN as usize);
    let later = call_in(&pod, &CallPlan::to(target).connections(10, 1)).unwrap();
    let clients = holding.close().unwrap();
    let servers = serving
        .reports(OPEN as usize + 10, Duration::from_secs(60))
        .unwrap();
    watch.until("their close", |seen| seen.flows.len() >= FLOWS + 20);
    assert_eq!(
        is_reported(&pod),
        mode == Mode::Alone,
        "beside eBPF only while adopted flows live"
    );
    let seen = watch.stop();

    assert_eq!(
        (clients.len(), seen.flows.len()),
        (OPEN as usize, FLOWS + 20)
    );
    for (role, reports) in [
        ("client", &clients),
        ("server", &servers),
        ("client", &later),
    ] {
        for report in reports {
            assert_eq!(report.failure, None);
            let flow = seen.flow(report);
            bytes_hold(flow, report);
            assert_eq!(flow.role(), role, "{flow:?}");
            assert_eq!(
                flow.end(),
                if role == "client" {
                    "local_fin"
                } else {
                    "peer_fin"
                },
                "{flow:?}"
            );
        }
    }
    let adopted =
        |flow: &&flowcar_tests::watch::Flow| flow.get("flowcar.tcp.adopted.by") == "startup";
    assert_eq!(seen.flows.iter().filter(adopted).count(), FLOWS);
    let sum = |name| seen.sum(name, &[]);
    assert_eq!(sum("flowcar.tcp.connection.adopted"), FLOWS as f64);
    assert_eq!(sum("flowcar.tcp.connection.opened"), 20.0);
    assert_eq!(sum("flowcar.tcp.connection.closed"), (FLOWS + 20) as f64);
    assert_eq!((sum(live), sum("flowcar.tcp.connection.lost")), (0.0, 0.0));
    let bytes: u64 = clients
        .iter()
        .chain(&servers)
        .chain(&later)
        .map(|report| report.sent)
        .sum();
    let reported = seen.sum("flowcar.tcp.io", &[("network.io.direction", "transmit")]);
    assert_eq!(reported, bytes as f64);
}
