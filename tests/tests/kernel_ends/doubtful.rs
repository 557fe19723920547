//! Ends whose evidence is gone, or misleads: a TIME_WAIT socket that found no room, and a RST that its receiver ignored.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
};

use flowcar_tests::{
    place::{TestPod, require_cgroup2, require_program, require_root},
    traffic::{CallPlan, Close, ServePlan, Serving, Teardown, Way, call_in},
    watch::{Mode, Watch},
};
use socket2::{Domain, Protocol, Socket, Type};

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
            .try_for_each(|(local, peer)| forge_reset(*peer, *local))
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

/// Sends a RST as if it came from `from` (RFC 9293 section 3.1), with a sequence number that the connection does not expect.
fn forge_reset(from: SocketAddrV4, to: SocketAddrV4) -> io::Result<()> {
    const SEQUENCE: u32 = 0x1234_5678;
    const RST: u8 = 1 << 2;
    let mut header = Vec::new();
    header.extend(from.port().to_be_bytes());
    header.extend(to.port().to_be_bytes());
    header.extend(SEQUENCE.to_be_bytes());
    header.extend([0; 4]);
    header.extend([5 << 4, RST]);
    header.extend([0; 6]);
    let checksum = checksum(*from.ip(), *to.ip(), &header);
    header[16..18].copy_from_slice(&checksum.to_be_bytes());
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP))?;
    socket.bind(&SocketAddr::from((*from.ip(), 0)).into())?;
    socket.send_to(&header, &SocketAddr::from((*to.ip(), 0)).into())?;
    Ok(())
}

/// Of a segment of an even number of bytes over IPv4 (RFC 9293 section 3.1, RFC 1071).
fn checksum(from: Ipv4Addr, to: Ipv4Addr, segment: &[u8]) -> u16 {
    let length = u16::try_from(segment.len()).expect("a short segment");
    let mut bytes = [from.octets(), to.octets()].concat();
    bytes.extend([0, 6]);
    bytes.extend(length.to_be_bytes());
    bytes.extend(segment);
    let words = bytes.chunks_exact(2);
    let mut sum: u32 = words
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
