//! Datagrams that a process sends to flowcar's netlink sockets, with the bytes of a genuine one.

use std::{
    fs, io,
    os::fd::{AsRawFd as _, OwnedFd},
    time::Duration,
};

use flowcar_tests::{
    place::{Capability, Netns, TestPod, as_nobody, require_cgroup2, require_root},
    traffic::{CallPlan, ServePlan, Serving, call_in},
    watch::{Mode, Watch},
};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto,
    setsockopt, socket, sockopt,
};

const WITHIN: Duration = Duration::from_secs(60);

/// `NETLINK_SOCK_DIAG` (include/uapi/linux/netlink.h), as /proc/net/netlink shows it.
const SOCK_DIAG: &str = "4";

/// `SKNLGRP_INET_TCP_DESTROY` as a bit of a netlink address (include/uapi/linux/sock_diag.h).
const DESTROY_GROUP: u32 = 1;

/// Where `struct inet_diag_msg` has the local port, behind the netlink header (include/uapi/linux/inet_diag.h).
const LOCAL_PORT: usize = 16 + 4;

/// Where it has the cookie: behind the ports, two addresses and the interface.
const COOKIE: usize = LOCAL_PORT + 4 + 32 + 4;

/// How many are sent to each of its sockets.
const FORGED: u16 = 250;

#[test]
fn forged_netlink_datagrams_are_ignored_and_counted() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let pod = TestPod::new("forged").unwrap();
    let serving = Serving::start(&pod, &ServePlan::at("127.0.0.1:0".parse().unwrap())).unwrap();
    let mut watch = Watch::start(&pod, Mode::Alone, &[]);
    watch.reports(1);
    // As anyone may, without any right.
    let listen = || as_nobody(&[], listen_for_closes);
    let attacker = pod.netns().run(listen).unwrap().unwrap().unwrap();
    let call = || {
        let plan = CallPlan::to(serving.address()).connections(1, 1);
        call_in(&pod, &plan).unwrap();
        serving.reports(1, WITHIN).unwrap();
    };
    call();
    watch.until("both ends", |seen| seen.flows.len() >= 2);
    let genuine = datagram(&attacker).unwrap();
    let ports = other_ports(pod.netns(), &attacker);
    let forge = |kept: &[Capability]| as_nobody(kept, || forge(&ports, &attacker, &genuine));
    let sent = forge(&[]).unwrap();
    assert_eq!(sent, 0, "the kernel lets anyone send to other processes");
    let sent = forge(&[Capability::CAP_NET_ADMIN]).unwrap();
    assert!(sent >= u64::from(FORGED), "{sent}");
    // A genuine close after them is still counted.
    call();
    watch.until("both ends of the second", |seen| seen.flows.len() >= 4);
    watch.reports(2);
    let seen = watch.stop();
    assert_eq!(seen.flows.len(), 4);
    let sum = |name: &str| seen.sum(name, &[]);
    assert_eq!(seen.began(), 4.0);
    assert_eq!(sum("flowcar.tcp.connection.closed"), 4.0);
    assert_eq!(sum("flowcar.tcp.connection.lost"), 0.0);
    // Datagrams to the socket of requests are skipped when the next dump is read.
    let refused = sum("flowcar.self.record.malformed");
    assert!(refused >= f64::from(FORGED), "{refused} of {sent}");
}

/// Joins the group to which the kernel sends closes.
fn listen_for_closes() -> io::Result<OwnedFd> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::empty(),
        SockProtocol::NetlinkSockDiag,
    )?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, DESTROY_GROUP))?;
    let timeout = nix::sys::time::TimeVal::new(30, 0);
    setsockopt(&socket, sockopt::ReceiveTimeout, &timeout)?;
    Ok(socket)
}

/// The kernel's destroy event of a close.
fn datagram(socket: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4096];
    let length = recv(socket.as_raw_fd(), &mut bytes, MsgFlags::empty())?;
    bytes.truncate(length);
    Ok(bytes)
}

/// The addresses of all netlink sockets of the namespace that dump sockets, but the attacker's.
fn other_ports(netns: &Netns, attacker: &OwnedFd) -> Vec<u32> {
    let table = netns
        .run(|| fs::read_to_string("/proc/thread-self/net/netlink"))
        .unwrap()
        .unwrap();
    let own = attacker_port(attacker);
    let ports = table.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (protocol, port) = (fields.next()?, fields.next()?.parse::<u32>().ok()?);
        (protocol == SOCK_DIAG && port != 0 && port != own).then_some(port)
    });
    ports.collect()
}

/// Sends closes of connections that never existed to every socket of flowcar; returns how many the kernel took.
fn forge(ports: &[u32], attacker: &OwnedFd, genuine: &[u8]) -> u64 {
    let mut sent = 0;
    for port in ports {
        for number in 0..FORGED {
            let mut forged = genuine.to_owned();
            let local = 20_000 + number;
            forged[LOCAL_PORT..LOCAL_PORT + 2].copy_from_slice(&local.to_be_bytes());
            let cookie = 0xffff_0000 + u64::from(number);
            forged[COOKIE..COOKIE + 8].copy_from_slice(&cookie.to_ne_bytes());
            let to = NetlinkAddr::new(*port, 0);
            // Its buffer may be full of them.
            let done = sendto(attacker.as_raw_fd(), &forged, &to, MsgFlags::MSG_DONTWAIT);
            sent += u64::from(done.is_ok());
        }
    }
    sent
}

fn attacker_port(attacker: &OwnedFd) -> u32 {
    nix::sys::socket::getsockname::<NetlinkAddr>(attacker.as_raw_fd())
        .unwrap()
        .pid()
}
