//! A flowcar that is restarted after SIGTERM or SIGKILL: it counts nothing twice, and reports what it missed.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    thread,
    time::{Duration, Instant, SystemTime},
};

use flowcar_tests::{
    place::{TestPod, require_cgroup2, require_root},
    traffic::{CallPlan, ConnectionReport, Holding, ServePlan, Serving, call_in},
    watch::{Mode, Seen, Watch, bytes_hold},
};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

const WITHIN: Duration = Duration::from_secs(60);

const OPENED: &str = "flowcar.tcp.connection.opened";
const ADOPTED: &str = "flowcar.tcp.connection.adopted";
const CLOSED: &str = "flowcar.tcp.connection.closed";
const LIVE: &str = "flowcar.tcp.connection.live";
const LOST: &str = "flowcar.tcp.connection.lost";
const IO: &str = "flowcar.tcp.io";
const UNFOLLOWED: &str = "flowcar.self.unfollowed.time";

#[derive(Clone, Copy, Debug)]
enum Ended {
    Terminated,
    Killed,
}

/// A directory that any user may write to, as a pod's emptyDir is.
fn state() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    directory
}

fn start(pod: &TestPod, mode: Mode, state: &TempDir) -> Watch {
    let path = state.path().to_str().unwrap();
    Watch::start(pod, mode, &[("FLOWCAR_STATE_DIR", path)])
}

fn serve(pod: &TestPod) -> (Serving, SocketAddr) {
    let serving = Serving::start(pod, &ServePlan::at("[::]:0".parse().unwrap())).unwrap();
    let target = ([127, 0, 0, 1], serving.address().port()).into();
    (serving, target)
}

fn hold(pod: &TestPod, target: SocketAddr, connections: u64) -> Holding {
    let plan = CallPlan::to(target).connections(connections, 1);
    Holding::start(pod, &plan.sizes(0..=5000, 1..=5000)).unwrap()
}

/// Payload that both ends of these connections sent, by the clients' applications.
fn payload(clients: &[ConnectionReport]) -> f64 {
    let both = |client: &ConnectionReport| client.sent + client.received;
    clients.iter().map(both).sum::<u64>() as f64
}

fn new(seen: &Seen) -> f64 {
    seen.sum(OPENED, &[]) + seen.sum(ADOPTED, &[]) - restored(seen)
}

fn restored(seen: &Seen) -> f64 {
    seen.sum(ADOPTED, &[("flowcar.tcp.adopted.by", "restart")])
}

#[test]
fn beside_ebpf_a_restart_counts_nothing_twice() {
    restart(Mode::Both);
}

#[test]
fn alone_a_restart_counts_nothing_twice() {
    restart(Mode::AloneInCgroup);
}

fn restart(mode: Mode) {
    if !require_root() || !require_cgroup2() {
        return;
    }
    for ended in [Ended::Terminated, Ended::Killed] {
        restarted(mode, ended);
    }
}

/// Both ends of every connection are in the pod, so each counts twice.
fn restarted(mode: Mode, ended: Ended) {
    let what = format!("{mode:?} {ended:?}");
    let pod = TestPod::new("restart").unwrap();
    let state = state();
    // The server's port distinguishes connections that outlive the gap from those that close in it.
    let ((lasting, to_lasting), (ending, to_ending)) = (serve(&pod), serve(&pod));
    let port = to_lasting.port().to_string();
    let lasts = |seen: &Seen, way| {
        let with = [("server.port", &*port), ("network.io.direction", way)];
        seen.sum(IO, &with)
    };

    let mut oldest = hold(&pod, to_lasting, 7);
    let doomed = hold(&pod, to_ending, 5);
    let mut watch = start(&pod, mode, &state);
    let mut older = hold(&pod, to_lasting, 4);
    let doomed_too = hold(&pod, to_ending, 3);
    let short = hold(&pod, to_lasting, 2);
    watch.until("all of them", |seen| seen.sum(LIVE, &[]) == 42.0);
    let mut clients = short.close().unwrap();
    watch.until("the short", |seen| seen.sum(CLOSED, &[]) == 4.0);
    let before = lasts(watch.reports(1), "transmit");
    let last_exchange = SystemTime::now();
    oldest.exchange().unwrap();
    older.exchange().unwrap();
    // The applications' bytes so far are reported, and, as another report follows, acknowledged.
    let mut reported = before;
    loop {
        let now = lasts(watch.reports(2), "transmit");
        if now > before && now == reported {
            break;
        }
        reported = now;
    }
    let first = match ended {
        Ended::Terminated => watch.stop(),
        Ended::Killed => watch.kill(),
    };
    let ended_unseen = SystemTime::now();

    oldest.exchange().unwrap();
    let missed = [doomed.close().unwrap(), doomed_too.close().unwrap()].concat();
    call_in(&pod, &CallPlan::to(to_ending).connections(6, 2)).unwrap();
    ending.reports(14, WITHIN).unwrap();
    let newer = hold(&pod, to_lasting, 3);
    older.exchange().unwrap();

    let restarted = SystemTime::now();
    let mut watch = start(&pod, mode, &state);
    let following = SystemTime::now();
    let newest = hold(&pod, to_lasting, 1);
    watch.until("what is left", |seen| {
        let lost = seen.sum(LOST, &[("flowcar.tcp.lost.reason", "restart")]);
        seen.sum(LIVE, &[]) == 30.0 && lost > 0.0
    });
    watch.reported("restored the checkpoint of the previous flowcar");
    oldest.exchange().unwrap();
    let survivors = [oldest.close().unwrap(), older.close().unwrap()].concat();
    clients.extend(survivors.iter().cloned());
    clients.extend(newer.close().unwrap());
    clients.extend(newest.close().unwrap());
    let servers = lasting.reports(17, WITHIN).unwrap();
    watch.until("their ends", |seen| seen.sum(CLOSED, &[]) == 30.0);
    let second = watch.stop();

    assert_eq!((clients.len(), missed.len()), (17, 8));
    // Each connection that a flowcar followed is opened once.
    assert_eq!((new(&first), restored(&first)), (42.0, 0.0), "{what}");
    assert_eq!((new(&second), restored(&second)), (8.0, 38.0), "{what}");
    let lost = second.sum(LOST, &[("flowcar.tcp.lost.reason", "restart")]);
    assert_eq!((lost, second.sum(LOST, &[])), (16.0, 16.0), "{what}");
    assert_eq!(first.sum(LOST, &[]), 0.0, "{what}");
    // Every byte of those that outlive the gap, once; of those that closed in it, none since.
    for way in ["transmit", "receive"] {
        let reported = lasts(&first, way) + lasts(&second, way);
        assert_eq!(reported, payload(&clients), "{what} {way}");
        let all = second.sum(IO, &[("network.io.direction", way)]);
        assert_eq!(all, lasts(&second, way), "{what} {way}");
    }
    // A span covers a connection's whole life.
    assert_eq!(second.flows.len(), 30, "{what}");
    for (role, reports) in [("client", &clients[2..]), ("server", &servers[2..])] {
        for report in reports {
            let flow = second.flow(report);
            bytes_hold(flow, report);
            assert_eq!(flow.role(), role, "{what} {flow:?}");
        }
    }
    let seconds = |from: SystemTime, to: SystemTime| to.duration_since(from).unwrap().as_secs_f64();
    let unfollowed = second.sum(UNFOLLOWED, &[]);
    println!("{what}: {unfollowed} s unfollowed");
    let bounds = seconds(ended_unseen, restarted)..=seconds(last_exchange, following);
    assert!(
        bounds.contains(&unfollowed),
        "{what}: {unfollowed} {bounds:?}"
    );
    assert_eq!(first.sum(UNFOLLOWED, &[]), 0.0, "{what}");
    let line = second
        .log
        .iter()
        .find(|line| line.contains("restored the checkpoint"));
    let line = line.unwrap();
    assert!(line.contains("taken_over=22 ended_unseen=16"), "{line}");
}

/// Connections close one after the other while the next flowcar starts: before, during and after its start.
/// Each is reported with all its bytes, or lost, and none is both.
#[test]
fn connections_closed_during_a_restart_count_once() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    for mode in [Mode::Both, Mode::AloneInCgroup] {
        ending_meanwhile(mode);
    }
}

fn ending_meanwhile(mode: Mode) {
    const OPEN: u64 = 3_000;
    const FLOWS: f64 = 2.0 * OPEN as f64;
    let pod = TestPod::new("meanwhile").unwrap();
    // A busy machine makes the kernel probe early, and a retransmitted FIN cannot always be distinguished from payload.
    let netns = pod.netns();
    netns.sysctl("net.ipv4.tcp_early_retrans", "0").unwrap();
    let state = state();
    let (_serving, target) = serve(&pod);
    let mut watch = start(&pod, mode, &state);
    let holding = Holding::start(&pod, &CallPlan::to(target).connections(OPEN, 1)).unwrap();
    // Every exchange has the same payload.
    const REQUEST: f64 = 132.0;
    const RESPONSE: f64 = 1_000.0;
    let reported = OPEN as f64 * (REQUEST + RESPONSE);
    watch.until("their first exchange", |seen| {
        seen.sum(LIVE, &[]) == FLOWS && seen.sum(IO, &[]) == 2.0 * reported
    });
    watch.reports(1);
    let first = watch.kill();
    let closing = thread::spawn(move || holding.close().unwrap());
    let mut watch = start(&pod, mode, &state);
    watch.until("all decided", |seen| {
        seen.sum(CLOSED, &[]) + seen.sum(LOST, &[]) == FLOWS
    });
    let clients = closing.join().unwrap();
    let second = watch.stop();

    assert_eq!(clients.len(), OPEN as usize);
    for client in &clients {
        let payload = (client.sent as f64, client.received as f64);
        assert_eq!(payload, (2.0 * REQUEST, 2.0 * RESPONSE));
    }
    assert_eq!((new(&first), new(&second)), (FLOWS, 0.0), "{mode:?}");
    assert_eq!(restored(&second), FLOWS, "{mode:?}");
    let (closed, lost) = (second.sum(CLOSED, &[]), second.sum(LOST, &[]));
    println!("{mode:?}: {closed} closed, {lost} lost to the restart");
    assert_eq!(
        lost,
        second.sum(LOST, &[("flowcar.tcp.lost.reason", "restart")])
    );
    assert_eq!((closed + lost, second.sum(LIVE, &[])), (FLOWS, 0.0));
    assert_eq!(second.flows.len() as f64, closed, "{mode:?}");
    // One exchange of each closed connection was reported before.
    let servers = second.flows.iter().filter(|flow| flow.role() == "server");
    let servers = servers.count() as f64;
    let since = servers * RESPONSE + (closed - servers) * REQUEST;
    let sent = second.sum(IO, &[("network.io.direction", "transmit")]);
    let again = second.sum("flowcar.tcp.retransmits", &[]);
    assert_eq!(sent, since, "{mode:?}, {again} sent again");
    // Where the other end is unknown, its FIN may count as a byte.
    let since = servers * REQUEST + (closed - servers) * RESPONSE;
    let received = second.sum(IO, &[("network.io.direction", "receive")]);
    let inexact = second.sum("flowcar.self.flow.inexact", &[]);
    assert!(
        (received - since).abs() <= inexact,
        "{mode:?}: {received} {since} {inexact}"
    );
}

/// A flow whose close found the ring full stays in the table until polls miss it. When flowcar is killed before that, it is
/// lost once: to the ring.
#[test]
fn flows_lost_to_the_ring_are_not_lost_to_the_restart_too() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    // Polls show the sockets, and evict those that they miss; or only records report them.
    for (mode, live) in [(Mode::Both, 4.0), (Mode::Outside, 0.0)] {
        lost_to_the_ring(mode, live);
    }
}

/// `live` is what the second flowcar finds of the two connections that outlive the first.
fn lost_to_the_ring(mode: Mode, live: f64) {
    let pod = TestPod::new("ring").unwrap();
    let state = state();
    let path = state.path().to_str().unwrap();
    // Time enough between a report and the second poll after it.
    let settings = [
        ("FLOWCAR_STATE_DIR", path),
        ("FLOWCAR_RING_BYTES", "4096"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "1000"),
    ];
    let (_serving, target) = serve(&pod);
    let mut watch = Watch::start(&pod, mode, &settings);
    let mut held = Vec::new();
    for (connections, all) in [(2, 4.0), (5, 14.0), (5, 24.0), (5, 34.0), (5, 44.0)] {
        held.push(hold(&pod, target, connections));
        // A few at a time find room in the ring.
        watch.until("their opening", |seen| seen.sum(LIVE, &[]) == all);
    }
    let lasting = held.remove(0);
    watch.signal(Signal::SIGSTOP);
    for each in held {
        each.close().unwrap();
    }
    watch.signal(Signal::SIGCONT);
    watch.until("their ends", |seen| seen.sum(LIVE, &[]) == 4.0);
    let file = state.path().join("checkpoint.json");
    let deadline = Instant::now() + WITHIN;
    loop {
        let left: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        if left["reported"]["lost_closes"].as_u64() > Some(0) {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "the checkpoint was never written: {left}"
        );
        thread::sleep(Duration::from_millis(10));
    }
    let first = watch.kill();
    let mut watch = Watch::start(&pod, mode, &settings);
    watch.until("what is left", |seen| {
        seen.sum(LIVE, &[]) == live && restored(seen) == 4.0
    });
    lasting.close().unwrap();
    watch.until("the last ends", |seen| seen.sum(CLOSED, &[]) == live);
    let second = watch.stop();

    let ring_full = first.sum(LOST, &[("flowcar.tcp.lost.reason", "ring_full")]);
    let closed = first.sum(CLOSED, &[]);
    assert!(ring_full > 0.0, "{mode:?}");
    assert_eq!(closed + ring_full, 40.0, "{mode:?}");
    assert_eq!((new(&first), restored(&first)), (44.0, 0.0), "{mode:?}");
    assert_eq!((new(&second), restored(&second)), (0.0, 4.0), "{mode:?}");
    let restart = second.sum(LOST, &[("flowcar.tcp.lost.reason", "restart")]);
    assert_eq!((restart, second.sum(LOST, &[])), (4.0 - live, 4.0 - live));
    let lost_before = format!("lost_before={ring_full}");
    let line = second
        .log
        .iter()
        .find(|line| line.contains("restored the checkpoint"));
    assert!(line.unwrap().contains(&lost_before), "{line:?}");
}

/// In another network namespace the cookies of the checkpoint are not valid.
#[test]
fn flows_of_another_network_namespace_are_lost_at_restart() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let state = state();
    for (connections, lost) in [(3, 0.0), (2, 6.0)] {
        let pod = TestPod::new("elsewhere").unwrap();
        let (_serving, target) = serve(&pod);
        let _holding = hold(&pod, target, connections);
        let mut watch = start(&pod, Mode::AloneInCgroup, &state);
        let live = 2.0 * connections as f64;
        watch.until("what is held", |seen| seen.sum(LIVE, &[]) == live);
        let seen = watch.stop();
        let restart = seen.sum(LOST, &[("flowcar.tcp.lost.reason", "restart")]);
        assert_eq!((new(&seen), restored(&seen), restart), (live, lost, lost));
        assert_eq!(seen.sum(UNFOLLOWED, &[]) > 0.0, lost > 0.0);
    }
}

/// A torn checkpoint and an unwritable directory are logged in one line each.
#[test]
fn unusable_checkpoint_is_logged_and_all_flows_are_new() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let pod = TestPod::new("anew").unwrap();
    let state = state();
    let torn = br#"{"flowcar_checkpoint":1,"instance":{"boot":"x","ne"#;
    fs::write(state.path().join("checkpoint.json"), torn).unwrap();
    let (_serving, target) = serve(&pod);
    let _holding = hold(&pod, target, 2);
    let path = state.path().to_str().unwrap();
    for (directory, word) in [
        (path, "counts as a first start"),
        ("/proc", "cannot write the checkpoint"),
    ] {
        let settings = [("FLOWCAR_STATE_DIR", directory)];
        let mut watch = Watch::start(&pod, Mode::AloneInCgroup, &settings);
        watch.until("what is held", |seen| seen.sum(LIVE, &[]) == 4.0);
        watch.reports(5);
        let seen = watch.stop();
        assert_eq!((new(&seen), restored(&seen)), (4.0, 0.0));
        let warnings = seen.log.iter().filter(|line| line.contains("WARN"));
        let warnings: Vec<_> = warnings.collect();
        assert!(
            matches!(&warnings[..], [line] if line.contains(word)),
            "{warnings:?}"
        );
        // Removed, whoever wrote it: the next flowcar starts without a checkpoint.
        fs::remove_file(state.path().join("checkpoint.json")).ok();
    }
}
