//! An application that does not accept what waits for it.

use std::{fs, time::Duration};

use flowcar_tests::{
    place::{Place, require_cgroup2, require_root},
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

/// What waits to be accepted on this port, as the kernel's own table has it (Documentation/networking/proc_net_tcp.rst).
fn accept_queue(place: &Place, port: u16) -> u64 {
    let table = place
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

/// What a full accept queue drops is told, by the port, and is what the kernel counted.
#[test]
fn a_full_accept_queue_is_told() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    for mode in [Mode::Both, Mode::AloneInCgroup, Mode::Alone] {
        let place = Place::new("listener").unwrap();
        place.netns().sysctl("net.core.somaxconn", "4").unwrap();
        let plan = ServePlan::at("0.0.0.0:0".parse().unwrap());
        let serving = Serving::start(&place, &plan).unwrap();
        let port = serving.address().port();
        let server = Pid::from_raw(serving.id().cast_signed());
        let mut watch = Watch::start(&place, mode, &[]);
        watch.reports(2);

        kill(server, Signal::SIGSTOP).unwrap();
        // The signal is on its way only; this waits until every thread has stopped, reaping nothing.
        let stopped = WaitPidFlag::WSTOPPED | WaitPidFlag::WNOWAIT;
        waitid(Id::Pid(server), stopped).unwrap();
        let before = place.netns().snmp().unwrap();
        let target = ([127, 0, 0, 1], port).into();
        let mut calls = CallPlan::to(target).connections(12, 12);
        calls.timeout = Some(Duration::from_millis(1500));
        let clients = call_in(&place, &calls).unwrap();
        assert!(
            clients.iter().all(|client| client.failure.is_some()),
            "{clients:?}"
        );
        // Clients that think that they are connected go on sending, and are dropped, for as long as the queue is full.
        let dropped = || {
            let kernel = place.netns().snmp().unwrap().since(&before);
            let dropped = kernel["TcpExt.ListenDrops"];
            assert!(dropped > 0 && dropped == kernel["TcpExt.ListenOverflows"]);
            dropped as f64
        };

        let of_port = [("server.port", &*port.to_string())];
        let drops = "flowcar.tcp.listener.drops";
        let all = |seen: &Seen| seen.sum(drops, &of_port) == dropped();
        let seen = watch.until("all drops", all);
        let sum = |name| seen.sum(name, &of_port);
        assert_eq!(sum("flowcar.tcp.listener.queue.limit"), 4.0);
        // Full is what holds more than its limit (include/net/sock.h, sk_acceptq_is_full), by one for each processor that
        // looks at the same time.
        let queued = accept_queue(&place, port);
        assert!(queued > 4, "{queued}");
        assert_eq!(sum("flowcar.tcp.listener.queue"), queued as f64);

        kill(server, Signal::SIGCONT).unwrap();
        let queue = "flowcar.tcp.listener.queue";
        watch.until("an empty queue", |seen| {
            seen.sum(queue, &of_port) == 0.0 && all(seen)
        });
    }
}
