//! A memory limit, and more connections than it has room for: flowcar goes on, and what it cannot keep is counted and reported.

use flowcar_tests::{
    flowcar,
    place::{MemoryCgroup, TestPod, lacks, require_cgroup2, require_root},
    traffic::{CallPlan, Holding, ServePlan, Serving, call_in},
    watch::{Mode, Watch},
};

/// Room for flowcar itself, in a debug build, and for some thousands of connections.
const LIMIT: u64 = 64 << 20;

/// Both ends are followed: twice as many sockets, of which each takes flowcar and the kernel three kilobytes.
const CONNECTIONS: u64 = 14_000;

/// A cgroup with the limit, for a flowcar.
fn limited(name: &str) -> Option<MemoryCgroup> {
    if !require_root() || !require_cgroup2() {
        return None;
    }
    let memory = MemoryCgroup::new(name, Some(LIMIT)).unwrap();
    if memory.is_none() {
        lacks("a memory cgroup");
    }
    memory
}

/// A pod with ports for so many connections, and a server in it.
fn serving(name: &str) -> (TestPod, Serving) {
    let pod = TestPod::new(name).unwrap();
    let range = ("net.ipv4.ip_local_port_range", "1024 65535");
    pod.netns().sysctl(range.0, range.1).unwrap();
    let serving = Serving::start(&pod, &ServePlan::at("[::]:0".parse().unwrap())).unwrap();
    (pod, serving)
}

#[test]
fn connections_over_the_memory_limit_are_counted_as_lost() {
    let Some(memory) = limited("export") else {
        return;
    };
    let (pod, serving) = serving("memory");
    let target = ([127, 0, 0, 1], serving.address().port()).into();
    let settings = [
        ("FLOWCAR_SPAN_QUEUE_BYTES", "1000000"),
        ("FLOWCAR_SPANS_PER_SECOND", "10"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "1000"),
    ];
    let mut watch = Watch::start_with(&pod, Mode::Both, &settings, |command| {
        memory.enter(command).unwrap();
    });
    let sum = |watch: &mut Watch, name: &str| watch.reports(2).sum(name, &[]);
    let plan = CallPlan::to(target).connections(CONNECTIONS, 4);
    let holding = Holding::start(&pod, &plan).unwrap();
    let open = 2.0 * holding.open() as f64;
    // How many the kernel keeps and the table does not list depends on how soon flowcar has a turn: they are reported when they close.
    watch.until("lost ones", |seen| {
        seen.sum("flowcar.tcp.connection.lost", &[]) > 0.0
    });
    let listed = sum(&mut watch, "flowcar.self.flow.count");
    assert!(listed > 100.0 && listed < open / 2.0, "{listed} of {open}");
    let lost = sum(&mut watch, "flowcar.tcp.connection.lost");
    assert!(lost > 0.0, "the kernel kept all of them");
    assert_eq!(holding.close().unwrap().len() as f64, open / 2.0);
    watch.until("their ends", |seen| {
        seen.began() == open && seen.sum("flowcar.tcp.connection.live", &[]) == 0.0
    });
    // There is room again; until the kernel programs are informed of it, more may be lost.
    let (mut tries, mut closed) = (0, 0.0);
    while closed < 20.0 {
        assert!(tries < 20, "no connection is followed any more");
        tries += 1;
        let before = sum(&mut watch, "flowcar.tcp.connection.closed");
        call_in(&pod, &CallPlan::to(target).connections(10, 1)).unwrap();
        closed = sum(&mut watch, "flowcar.tcp.connection.closed") - before;
    }
    let seen = watch.stop();
    let message =
        |line: &String| line.contains("the memory limit has no room for more connections");
    assert!(seen.log.iter().any(message), "{:?}", seen.log);
    let lost = |reasons: &[(&str, &str)]| seen.sum("flowcar.tcp.connection.lost", reasons);
    let [storage, ring] =
        ["socket_storage", "ring_full"].map(|reason| lost(&[("flowcar.tcp.lost.reason", reason)]));
    assert!(storage > 0.0, "the limit is the reason");
    // On a busy machine the ring overflows, too.
    assert_eq!(storage + ring, lost(&[]));
}

/// Connections that were open before flowcar are found by its first dump, all at once, and again at each start.
#[test]
fn more_open_connections_than_memory_at_the_start_are_left_out_and_counted() {
    let Some(memory) = limited("start") else {
        return;
    };
    let (pod, serving) = serving("memory-start");
    let target = ([127, 0, 0, 1], serving.address().port()).into();
    let holding = Holding::start(&pod, &CallPlan::to(target).connections(CONNECTIONS, 4)).unwrap();
    let open = 2.0 * holding.open() as f64;
    let settings = [("OTEL_METRIC_EXPORT_INTERVAL", "1000")];
    for (mode, start) in [
        (Mode::Both, "first"),
        (Mode::Both, "second"),
        (Mode::AloneInCgroup, "first"),
        (Mode::AloneInCgroup, "second"),
    ] {
        let mut watch = Watch::start_with(&pod, mode, &settings, |command| {
            memory.enter(command).unwrap();
        });
        let seen = watch.until("flows that find no room", |seen| {
            seen.sum("flowcar.self.flow.rejected", &[]) > 0.0
        });
        let listed = seen.sum("flowcar.self.flow.count", &[]);
        assert!(
            listed > 100.0 && listed < open / 2.0,
            "{mode:?}, {start} start: {listed} of {open}"
        );
        // The kernel has not killed it.
        watch.reports(2);
        watch.stop();
    }
    assert_eq!(holding.close().unwrap().len() as f64, open / 2.0);
}

/// Waiting spans have their part of it, too: a receiver that is away is no reason to be killed.
#[test]
fn run_keeps_within_the_memory_limit() {
    let Some(memory) = limited("run") else {
        return;
    };
    let mut command = flowcar::bare().unwrap();
    command
        .args(["run", "--", "true"])
        .env("FLOWCAR_LOG", "info")
        .env("FLOWCAR_SPAN_QUEUE_BYTES", "268435456");
    memory.enter(&mut command).unwrap();
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let log = String::from_utf8_lossy(&output.stderr);
    for message in [
        "the memory limit bounds flows and series",
        "the memory limit bounds the spans that wait",
    ] {
        assert!(log.contains(message), "{log}");
    }
}
