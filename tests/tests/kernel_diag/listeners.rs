//! An application that does not accept its waiting connections.

use std::{fs, process::Command, time::Duration};

use flowcar_tests::{
    flowcar::Pair,
    link::{Direction, Only, Plan, TcpSummary, When},
    place::{TestPod, require_cgroup2, require_root, require_tun},
    traffic::{CallPlan, ServePlan, Serving, call_in},
    watch::{Mode, Seen, Watch},
};
use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{Id, WaitPidFlag, waitid},
    },
    unistd::Pid,
};

/// The accept queue of this port, by the kernel's table (Documentation/networking/proc_net_tcp.rst).
fn accept_queue(pod: &TestPod, port: u16) -> u64 {
    let table = pod
        .netns()
        .run(|| fs::read_to_string("/proc/thread-self/net/tcp"));
    let port = format!(":{port:04X}");
    for line in table.unwrap().unwrap().lines() {
        // number, local address, remote address, state, what is queued to send and to receive
        let columns: Vec<_> = line.split_whitespace().collect();
        if columns[1].ends_with(&port) && columns[3] == "0A" {
            let (_, queued) = columns[4].split_once(':').unwrap();
            return u64::from_str_radix(queued, 16).unwrap();
        }
    }
    panic!("nothing listens on {port}");
}

/// The kernel's count of drops at the listener of this port, as `ss` reads it (ss(8), `skmem`).
fn dropped_at_the_listener(pod: &TestPod, port: u16) -> i64 {
    let of_port = format!("sport = :{port}");
    let listeners = pod
        .netns()
        .run(|| Command::new("ss").args(["-Hltm", &of_port]).output());
    let listeners = String::from_utf8(listeners.unwrap().unwrap().stdout).unwrap();
    let skmem = listeners.trim().strip_suffix(')').expect(&listeners);
    let (_, dropped) = skmem.rsplit_once(",d").expect(&listeners);
    dropped.parse().expect(&listeners)
}

/// Waits until all of a stopped process's threads have stopped, reaping nothing.
fn stop(process: &Serving) -> Pid {
    let process = Pid::from_raw(process.id().cast_signed());
    kill(process, Signal::SIGSTOP).unwrap();
    let stopped = WaitPidFlag::WSTOPPED | WaitPidFlag::WNOWAIT;
    waitid(Id::Pid(process), stopped).unwrap();
    process
}

const DROPS: &str = "flowcar.tcp.listener.drops";

/// Drops of a full accept queue are reported by port, and equal the kernel's count.
#[test]
fn accept_queue_drops_are_reported() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    for mode in [Mode::Both, Mode::AloneInCgroup, Mode::Alone] {
        let pod = TestPod::new("listener").unwrap();
        pod.netns().sysctl("net.core.somaxconn", "4").unwrap();
        let plan = ServePlan::at("0.0.0.0:0".parse().unwrap());
        let serving = Serving::start(&pod, &plan).unwrap();
        let port = serving.address().port();
        let mut watch = Watch::start(&pod, mode, &[]);
        watch.reports(2);

        let server = stop(&serving);
        let before = pod.netns().snmp().unwrap();
        let target = ([127, 0, 0, 1], port).into();
        let mut calls = CallPlan::to(target).connections(12, 12);
        calls.timeout = Some(Duration::from_millis(1500));
        let clients = call_in(&pod, &calls).unwrap();
        assert!(
            clients.iter().all(|client| client.failure.is_some()),
            "{clients:?}"
        );
        // Clients whose handshake is complete at their end go on sending; their segments are dropped while the queue is full.
        let of_port = [("server.port", &*port.to_string())];
        let all = |seen: &Seen| {
            let kernel = pod.netns().snmp().unwrap().since(&before);
            let dropped = kernel["TcpExt.ListenDrops"];
            let at_the_socket = dropped_at_the_listener(&pod, port);
            // With two processors the last ACK of a handshake may find the queue full, which counts twice.
            dropped > 0
                && dropped == kernel["TcpExt.ListenOverflows"]
                && (dropped..=2 * dropped).contains(&at_the_socket)
                && at_the_socket as f64 == seen.sum(DROPS, &of_port)
        };
        let seen = watch.until("all drops", all);
        let sum = |name| seen.sum(name, &of_port);
        assert_eq!(sum("flowcar.tcp.listener.queue.capacity"), 4.0);
        // A queue is full if it holds more than its limit (include/net/sock.h, sk_acceptq_is_full), by one for each processor that
        // checks at the same time.
        let queued = accept_queue(&pod, port);
        assert!(queued > 4, "{queued}");
        assert_eq!(sum("flowcar.tcp.listener.queue.size"), queued as f64);

        kill(server, Signal::SIGCONT).unwrap();
        let queue = "flowcar.tcp.listener.queue.size";
        watch.until("an empty queue", |seen| {
            seen.sum(queue, &of_port) == 0.0 && all(seen)
        });
    }
}

/// The last ACKs of handshakes that find the queue full count twice, since that is how the kernel counts them.
#[test]
fn last_acks_dropped_by_a_full_queue_are_reported() {
    if !require_root() || !require_cgroup2() || !require_tun() {
        return;
    }
    let pair = Pair::new(Plan::rtt(Duration::from_millis(900))).unwrap();
    let pod = pair.server();
    pod.netns().sysctl("net.core.somaxconn", "16").unwrap();
    // No cookies: their ACKs would be dropped before the kernel looks up the handshake.
    pod.netns().sysctl("net.ipv4.tcp_syncookies", "0").unwrap();
    let plan = ServePlan::at("0.0.0.0:0".parse().unwrap());
    let serving = Serving::start(pod, &plan).unwrap();
    let mut watch = Watch::start(pod, Mode::Both, &[]);
    watch.reports(2);
    let before = pod.netns().snmp().unwrap();

    stop(&serving);
    let port = serving.address().port();
    let target = (pair.link().b4(), port).into();
    // All SYNs of the second dozen are there before the first ACK, so that none of them finds the queue full.
    for _ in 0..2 {
        let mut calls = CallPlan::to(target).connections(12, 12);
        calls.timeout = Some(Duration::from_millis(3000));
        call_in(pair.client(), &calls).unwrap();
    }
    let all = |seen: &Seen| {
        let kernel = pod.netns().snmp().unwrap().since(&before);
        let twice = 2 * kernel["TcpExt.ListenOverflows"];
        twice > 0
            && twice == dropped_at_the_listener(pod, port)
            && twice as f64 == seen.sum(DROPS, &[])
    };
    watch.until("all drops", all);
}

/// A SYN that is sent again while its handshake goes on is dropped at the listener, whose queue has room.
#[test]
fn retransmitted_syns_are_reported_with_the_drops() {
    if !require_root() || !require_cgroup2() || !require_tun() {
        return;
    }
    let pair = Pair::new(Plan::rtt(Duration::from_millis(10))).unwrap();
    let pod = pair.server();
    let serving = Serving::start(pod, &ServePlan::at("0.0.0.0:0".parse().unwrap())).unwrap();
    let port = serving.address().port();
    let mut watch = Watch::start(pod, Mode::Both, &[]);
    watch.reports(2);
    let before = pod.netns().snmp().unwrap();

    let lossy = Plan::rtt(Duration::from_millis(10)).drop(Only::SynAck, When::Nth(1));
    pair.link().set_both(lossy);
    let target = (pair.link().b4(), port).into();
    let clients = call_in(pair.client(), &CallPlan::to(target)).unwrap();
    assert!(clients.iter().all(|client| client.failure.is_none()));
    let syns = pair
        .link()
        .trace()
        .of_port(port)
        .count(Direction::AtoB, TcpSummary::is_syn);
    assert!(syns > 1, "the client did not send again");
    watch.until("all drops", |seen| {
        let kernel = pod.netns().snmp().unwrap().since(&before);
        kernel["TcpExt.ListenDrops"] == 0
            && dropped_at_the_listener(pod, port) == syns as i64 - 1
            && seen.sum(DROPS, &[]) == syns as f64 - 1.0
    });
}
