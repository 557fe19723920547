//! Ends whose evidence is gone, or misleads: a TIME_WAIT socket that found no room, and a RST that its receiver ignored.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddrV4},
};

use flowcar_tests::{
    forged::{RST, send_forged},
    place::{TestPod, require_cgroup2, require_program, require_root},
    traffic::{CallPlan, Close, ServePlan, Serving, Teardown, Way, call_in},
    watch::{Mode, Watch},
};

/// With the programs: without packets, and with them.
fn watches(pod: &TestPod) -> [Watch; 2] {
    ["off", "on"].map(|exchange| {
        let settings = [("FLOWCAR_EXCHANGE", exchange)];
        Watch::start(pod, Mode::Both, &settings)
    })
}

/// Half-closed connections whose server answers and closes, and whose client's TIME_WAIT socket finds no room.
#[test]
fn half_closed_connection_without_room_for_its_timewait_socket_is_closed_in_order() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let pod = TestPod::new("no-room").unwrap();
    let netns = pod.netns();
    netns.sysctl("net.ipv4.tcp_max_tw_buckets", "0").unwrap();
    let serving = Serving::start(&pod, &ServePlan::at("[::]:0".parse().unwrap())).unwrap();
    let target = ([127, 0, 0, 1], serving.address().port()).into();
    let mut watches = watches(&pod);
    let plan = CallPlan::to(target)
        .connections(10, 1)
        .close(Close::HalfByClient);
    let clients = call_in(&pod, &plan).unwrap();
    for watch in &mut watches {
        let seen = watch.until("all of them", |seen| seen.flows.len() >= 20);
        for report in &clients {
            let flow = seen.flow_since(0, report);
            assert_eq!(flow.end(), "local_fin", "{flow:?}");
            let payload = (report.sent, report.received);
            assert_eq!((flow.sent, flow.received), payload, "{flow:?}");
        }
    }
    assert!(netns.snmp().unwrap()["TcpExt.TCPTimeWaitOverflow"] > 0);
}

/// A RST whose sequence number is out of the window comes to each end, and is ignored (RFC 5961 section 3.2). Later keepalive ends the
/// connection.
#[test]
fn reset_that_was_ignored_is_not_how_a_connection_ended() {
    if !require_root() || !require_cgroup2() || !require_program("nft") {
        return;
    }
    let pod = TestPod::new("forged").unwrap();
    let mut watches = watches(&pod);
    let mut ending = Teardown::start(&pod, Way::Keepalive, false).unwrap();
    // The watches' connections to their receivers are among them, and ignore it, too.
    let ends = pod.netns().run(connected).unwrap().unwrap();
    assert!(ends.len() >= 2, "{ends:?}");
    let forged = pod.netns().run(|| {
        ends.iter()
            .try_for_each(|(local, peer)| send_forged(*peer, *local, RST))
    });
    forged.unwrap().unwrap();
    ending.go_on().unwrap();
    ending.ended().unwrap();
    for watch in &mut watches {
        let seen = watch.until("both ends", |seen| seen.flows.len() >= 2);
        for flow in &seen.flows {
            assert_eq!(flow.end(), "timeout", "{flow:?}");
        }
    }
}

/// The established IPv4 sockets of this thread's network namespace, this end first.
fn connected() -> io::Result<Vec<(SocketAddrV4, SocketAddrV4)>> {
    const ESTABLISHED: &str = "01";
    // proc_pid_net(5): addresses as the kernel stores them, ports in host byte order.
    let address = |text: &str| {
        let (address, port) = text.split_once(':').expect("an address and a port");
        let address = u32::from_str_radix(address, 16).expect("hex digits");
        let port = u16::from_str_radix(port, 16).expect("hex digits");
        SocketAddrV4::new(Ipv4Addr::from(address.to_ne_bytes()), port)
    };
    let table = fs::read_to_string("/proc/thread-self/net/tcp")?;
    let rows = table.lines().skip(1).filter_map(|row| {
        let fields: Vec<_> = row.split_ascii_whitespace().collect();
        (fields[3] == ESTABLISHED).then(|| (address(fields[1]), address(fields[2])))
    });
    Ok(rows.collect())
}
