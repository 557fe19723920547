//! Other programs at the same hook: on the same cgroup, or on one above it, with or without regard for flowcar's.

use std::time::Duration;

use flowcar_tests::{
    exporting::{Exporting, has_books},
    flowcar::{self, Called, Pair, Summary},
    link::Plan,
    place::{
        Callbacks, Cgroup, ExclusivePacketFilter, Neighbour, Sharing, TestPod, require_cgroup2,
        require_root, require_tun,
    },
    traffic::{self, CallPlan, Holding, ServePlan, Serving, call_in},
    watch::{Mode, Watch},
};

/// `BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB`, `..PASSIVE_ESTABLISHED_CB`, `..STATE_CB`, `..RTT_CB`.
const ACTIVE: u32 = 4;
const PASSIVE: u32 = 5;
const STATE: u32 = 10;
const RTT: u32 = 12;

const CONNECTIONS: usize = 10;

fn can_run() -> bool {
    require_root() && require_cgroup2()
}

/// Calls between two pods, each with the neighbour above what flowcar follows.
fn called_beside(callbacks: Callbacks) -> Option<(Called, [Neighbour; 2])> {
    if !can_run() || !require_tun() {
        return None;
    }
    let pair = Pair::new(Plan::rtt(Duration::from_millis(5))).unwrap();
    let neighbours = [pair.client(), pair.server()]
        .map(|pod| Neighbour::attach(pod.cgroup(), Sharing::Multi, callbacks).unwrap());
    let sizes = ["--exchanges", "4", "--response", "1-20000"];
    let called = pair.call(pair.link().b4(), CONNECTIONS, &sizes).unwrap();
    for (neighbour, established) in neighbours.iter().zip([ACTIVE, PASSIVE]) {
        assert_eq!(neighbour.count(established).unwrap(), CONNECTIONS as u64);
    }
    Some((called, neighbours))
}

/// The bytes: they do not depend on the callbacks.
fn bytes_hold(called: &Called) {
    for connection in &called.connections {
        connection.bytes_are_the_applications();
        let (client, server) = (&connection.client_flow, &connection.server_flow);
        assert_eq!(client.trace_id, server.trace_id);
        assert_eq!((&*client.end, &*server.end), ("local_fin", "peer_fin"));
    }
}

fn all_closed(books: &Summary) {
    let all = CONNECTIONS as u64;
    assert_eq!((books.opened, books.closed), (all, all), "{books:?}");
    assert_eq!(
        (books.live, books.failed, books.lost),
        (0, 0, 0),
        "{books:?}"
    );
}

/// Another program that requests state callbacks clears the flag of the RTT callbacks. Nothing else is missing, and both
/// get the state callbacks.
#[test]
fn other_program_above_requests_state_callbacks() {
    let Some((called, neighbours)) = called_beside(Callbacks::State) else {
        return;
    };
    bytes_hold(&called);
    all_closed(&called.client);
    all_closed(&called.server);
    for neighbour in &neighbours {
        assert!(neighbour.count(STATE).unwrap() >= CONNECTIONS as u64);
    }
}

/// Another program that requests RTT callbacks clears the flag of the state callbacks, which report closes.
#[test]
fn other_program_above_requests_rtt_callbacks() {
    let Some((called, neighbours)) = called_beside(Callbacks::Rtt) else {
        return;
    };
    bytes_hold(&called);
    all_closed(&called.client);
    all_closed(&called.server);
    for connection in &called.connections {
        assert!(connection.client_flow.rtt.count > 0);
    }
    for neighbour in &neighbours {
        assert!(neighbour.count(RTT).unwrap() >= CONNECTIONS as u64);
    }
}

/// Another program that clears all callbacks hides every close. Polls have shown the sockets, and then do not.
#[test]
fn other_program_clears_all_callbacks() {
    if !can_run() {
        return;
    }
    const HELD: u64 = 5;
    let pod = TestPod::new("pod").unwrap();
    let serving = Serving::start(&pod, &ServePlan::at("[::]:0".parse().unwrap())).unwrap();
    let target = ([127, 0, 0, 1], serving.address().port()).into();
    let mut watch = Watch::start(&pod, Mode::Both, &[]);
    // It runs after flowcar.
    let _neighbour = Neighbour::attach(pod.cgroup(), Sharing::Multi, Callbacks::None).unwrap();
    let held = CallPlan::to(target).connections(HELD, HELD);
    let holding = Holding::start(&pod, &held).unwrap();
    let all = 2.0 * HELD as f64;
    let live = "flowcar.tcp.connection.live";
    watch.until("all of them", |seen| seen.sum(live, &[]) == all);
    watch.reports(3);
    holding.close().unwrap();
    watch.until("none left", |seen| seen.sum(live, &[]) == 0.0);
    let seen = watch.stop();
    let sum = |what| seen.sum(&format!("flowcar.tcp.connection.{what}"), &[]);
    assert_eq!((sum("opened"), sum("closed"), sum("lost")), (all, 0.0, all));
    let callbacks = [("flowcar.tcp.lost.reason", "callbacks")];
    assert_eq!(seen.sum("flowcar.tcp.connection.lost", &callbacks), all);
}

fn export(of: &Cgroup, pod: &TestPod, settings: &[(&str, &str)]) -> Exporting {
    let mut command = flowcar::command(pod).unwrap();
    command
        .arg("export")
        .arg("--cgroup")
        .arg(of.path())
        .envs(settings.iter().copied());
    Exporting::start(&mut command)
}

/// Connections within the pod: two flows each.
fn calls(pod: &TestPod, count: u32) {
    let serving = Serving::start(pod, &ServePlan::at("[::]:0".parse().unwrap())).unwrap();
    let target = ([127, 0, 0, 1], serving.address().port()).into();
    let calls = call_in(pod, &CallPlan::to(target).connections(count.into(), 2)).unwrap();
    assert!(calls.iter().all(|call| call.failure.is_none()));
    serving
        .reports(count as usize, Duration::from_secs(60))
        .unwrap();
}

/// Each has its own books, and the exit of one changes nothing for the other.
#[test]
fn two_flowcars_on_one_pod() {
    if !can_run() {
        return;
    }
    let pod = TestPod::new("pod").unwrap();
    let sidecar = TestPod::new("sidecar").unwrap();
    let mut both = [(); 2].map(|()| export(pod.cgroup(), &sidecar, &[]));
    for running in &mut both {
        assert!(running.reported("following").contains("source=\"ebpf\""));
    }
    calls(&pod, 10);
    let [first, second] = both;
    has_books(&first.stop(), 20);
    calls(&pod, 5);
    has_books(&second.stop(), 30);
}

/// Nothing can be attached beside an exclusive program: on the pod's cgroup, or on one above it.
#[test]
fn exclusive_program_is_named() {
    if !can_run() {
        return;
    }
    let sidecar = TestPod::new("sidecar").unwrap();
    let above = Cgroup::new("above").unwrap();
    let pod = above.child("pod").unwrap();
    for owner in [&above, &pod] {
        let _there = Neighbour::attach(owner, Sharing::Exclusive, Callbacks::State).unwrap();
        let mut running = export(&pod, &sidecar, &[]);
        let refused = running.reported("is refused");
        assert!(
            refused.contains("reason=\"exclusive_program\""),
            "{refused}"
        );
        assert!(
            running
                .reported("following")
                .contains("source=\"inet_diag\"")
        );

        let mut running = export(&pod, &sidecar, &[("FLOWCAR_SOURCE", "ebpf")]);
        let refused = running.reported("flowcar: ");
        assert!(refused.contains("allows no others"), "{refused}");
        assert_eq!(running.wait().code(), Some(77));
    }
    let mut running = export(&pod, &sidecar, &[]);
    assert!(
        running.reported("following").contains("source=\"ebpf\""),
        "it is detached"
    );
}

/// An overridable program above is overridden: it no longer runs in the pod, which is its owner's choice.
#[test]
fn overridable_program_above_is_overridden() {
    if !can_run() {
        return;
    }
    let sidecar = TestPod::new("sidecar").unwrap();
    let pod = TestPod::new("pod").unwrap();
    let inner = pod.cgroup().child("inner").unwrap();
    let above = Neighbour::attach(pod.cgroup(), Sharing::Override, Callbacks::State).unwrap();
    let mut running = export(&inner, &sidecar, &[]);
    assert!(running.reported("following").contains("source=\"ebpf\""));
    calls(&pod, 3);
    assert_eq!(
        above.count(ACTIVE).unwrap(),
        3,
        "it still runs outside of the followed cgroup"
    );
    assert!(running.stop().contains("opened=0"));
}

/// `flowcar run` measures exchanges where nothing prevents it: without the packet programs it follows the command all the same, and
/// warns. Whoever asks for exchanges gets an error instead, and the command does not start.
#[test]
fn run_goes_without_exchanges_where_packet_programs_are_refused() {
    if !can_run() {
        return;
    }
    let pod = TestPod::new("pod").unwrap();
    let _there = ExclusivePacketFilter::attach(pod.cgroup()).unwrap();
    let serving = Serving::start(&pod, &ServePlan::at("[::]:0".parse().unwrap())).unwrap();
    let target = format!("127.0.0.1:{}", serving.address().port());
    let run = |settings: &[(&str, &str)]| {
        flowcar::command(&pod)
            .unwrap()
            .envs(settings.iter().copied())
            .args(["run", "--format", "json", "--"])
            .arg(traffic::program().unwrap())
            .args(["call", &target])
            .output()
            .unwrap()
    };
    let output = run(&[]);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{stderr}");
    let warning = stderr
        .lines()
        .find(|line| line.contains("exchanges are not measured"));
    let warning = warning.unwrap_or_else(|| panic!("{stderr}"));
    assert!(warning.contains("allows no others"), "{warning}");
    let lines = stderr.lines().filter(|line| line.starts_with('{'));
    let report = lines.collect::<Vec<_>>().join("\n");
    let report = flowcar::Report::parse(&report).unwrap();
    assert_eq!(report.flows.len(), 1, "{stderr}");
    assert_eq!(report.flows[0].exchanges.count, 0);

    let output = run(&[("FLOWCAR_EXCHANGE", "on")]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(77), "{stderr}");
    assert!(stderr.contains("allows no others"), "{stderr}");
    assert_eq!(output.stdout, b"", "the command did not start");
}
