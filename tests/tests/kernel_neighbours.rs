//! Others use the same hook: on the same cgroup, on one above it, with or without regard for who is there already.

use std::{
    io::{BufRead, BufReader, Lines},
    process::{Child, ChildStderr, Stdio},
    time::Duration,
};

use flowcar_tests::{
    flowcar::{self, Called, Pair, Summary},
    link::Plan,
    place::{
        Callbacks, Cgroup, Neighbour, Place, Sharing, require_cgroup2, require_root, require_tun,
    },
    traffic::{CallPlan, ServePlan, Serving, call_in},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
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

/// What does not hang on who got which callback.
fn bytes_hold(called: &Called) {
    for connection in &called.connections {
        for (application, flow) in [
            (&connection.client, &connection.client_flow),
            (&connection.server, &connection.server_flow),
        ] {
            assert_eq!(application.failure, None);
            assert_eq!(
                (flow.bytes_sent, flow.bytes_received),
                (application.sent, application.received),
                "{flow:?}"
            );
        }
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

/// A neighbour that wants to hear of states wipes the wish to hear of round trips. Nothing else is missing, and both
/// hear of states.
#[test]
fn a_neighbour_above_that_wants_states() {
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

/// One that wants round trips wipes the wish to hear of states, by which closes are learnt.
#[test]
fn a_neighbour_above_that_wants_round_trips() {
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

/// Killed on drop, so that a panic leaves nothing running.
struct Export {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
}

impl Export {
    fn start(of: &Cgroup, place: &Place, settings: &[(&str, &str)]) -> Self {
        let mut command = flowcar::command(place).unwrap();
        command
            .arg("export")
            .arg("--cgroup")
            .arg(of.path())
            .envs(settings.iter().copied());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, log }
    }

    fn told(&mut self, what: &str) -> String {
        let mut said = Vec::new();
        for line in self.log.by_ref() {
            let line = line.unwrap();
            if line.contains(what) {
                return line;
            }
            said.push(line);
        }
        panic!("it never said {what:?}, but: {said:#?}");
    }

    fn stop(mut self) -> String {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, Signal::SIGTERM).unwrap();
        let last = self.told("stopping");
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        last
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Connections within the pod: two flows each.
fn calls(pod: &Place, count: u32) {
    let serving = Serving::start(pod, &ServePlan::at("[::]:0".parse().unwrap())).unwrap();
    let target = ([127, 0, 0, 1], serving.address().port()).into();
    let calls = call_in(pod, &CallPlan::to(target).connections(count.into(), 2)).unwrap();
    assert!(calls.iter().all(|call| call.failure.is_none()));
    serving
        .reports(count as usize, Duration::from_secs(60))
        .unwrap();
}

/// Each has books of its own, and one that goes takes nothing of the other's with it.
#[test]
fn two_flowcars_on_one_pod() {
    if !can_run() {
        return;
    }
    let pod = Place::new("pod").unwrap();
    let sidecar = Place::new("sidecar").unwrap();
    let mut both = [(); 2].map(|()| Export::start(pod.cgroup(), &sidecar, &[]));
    for export in &mut both {
        assert!(export.told("following").contains("source=\"ebpf\""));
    }
    calls(&pod, 10);
    let [first, second] = both;
    let books = |last: &str, flows: u32| {
        for figure in [
            format!("opened={flows} closed={flows} "),
            "live=0 lost=0 failed=0".into(),
        ] {
            assert!(last.contains(&figure), "{last}");
        }
    };
    books(&first.stop(), 20);
    calls(&pod, 5);
    books(&second.stop(), 30);
}

/// Nothing can be attached beside an exclusive program: on the pod's cgroup, or on one above it.
#[test]
fn an_exclusive_program_in_the_way_is_named() {
    if !can_run() {
        return;
    }
    let sidecar = Place::new("sidecar").unwrap();
    let above = Cgroup::new("above").unwrap();
    let pod = above.child("pod").unwrap();
    for owner in [&above, &pod] {
        let _there = Neighbour::attach(owner, Sharing::Exclusive, Callbacks::State).unwrap();
        let mut export = Export::start(&pod, &sidecar, &[]);
        let refused = export.told("is refused");
        assert!(
            refused.contains("reason=\"exclusive_program\""),
            "{refused}"
        );
        assert!(export.told("following").contains("source=\"inet_diag\""));

        let mut export = Export::start(&pod, &sidecar, &[("FLOWCAR_SOURCE", "ebpf")]);
        let refused = export.told("flowcar: ");
        assert!(refused.contains("allows no others"), "{refused}");
        assert_eq!(export.child.wait().unwrap().code(), Some(77));
    }
    let mut export = Export::start(&pod, &sidecar, &[]);
    assert!(
        export.told("following").contains("source=\"ebpf\""),
        "it is gone"
    );
}

/// One above that can be overridden is: it no longer runs in the pod, which is its owner's choice.
#[test]
fn an_overridable_program_above_gives_way() {
    if !can_run() {
        return;
    }
    let sidecar = Place::new("sidecar").unwrap();
    let pod = Place::new("pod").unwrap();
    let inner = pod.cgroup().child("inner").unwrap();
    let above = Neighbour::attach(pod.cgroup(), Sharing::Override, Callbacks::State).unwrap();
    let mut export = Export::start(&inner, &sidecar, &[]);
    assert!(export.told("following").contains("source=\"ebpf\""));
    calls(&pod, 3);
    assert_eq!(
        above.count(ACTIVE).unwrap(),
        3,
        "outside of what flowcar follows it still runs"
    );
    assert!(export.stop().contains("opened=0"));
}
