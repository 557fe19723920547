//! Attempts that fail before a SYN is sent: the application's error, and flowcar's.

use std::{
    collections::BTreeMap,
    io,
    net::{SocketAddr, TcpListener},
    thread,
};

use flowcar_tests::{
    place::{AtConnect, ConnectHook, TestPod, has_own_machine, lacks},
    traffic::{Connected, Connecting},
    watch::{Flow, Mode, Watch},
};
use libc::{EACCES, EADDRNOTAVAIL, ECONNREFUSED, EHOSTUNREACH, EINVAL, ENETUNREACH, EPERM};

use super::{OWN4, OWN6, can_run, connect, pod, serve, watches};

/// Ports that hooks refuse: one above the pod's cgroup, and one on it.
const REFUSED_ABOVE: u16 = 7001;
const REFUSED: u16 = 7002;

const LOCAL: &[(&str, &str)] = &[("error.type", "local")];
const FAILED: &str = "flowcar.tcp.connection.failed";

/// A way to fail.
struct Row {
    what: &'static str,
    target: String,
    arguments: &'static [&'static str],
    /// The application's errors, one for each call that fails.
    errnos: Vec<i32>,
    reason: &'static str,
}

fn row(what: &'static str, target: impl Into<String>, errno: i32) -> Row {
    Row {
        what,
        target: target.into(),
        arguments: &[],
        errnos: vec![errno],
        reason: "local",
    }
}

fn with(arguments: &'static [&'static str], row: Row) -> Row {
    Row { arguments, ..row }
}

fn rows(server: u16) -> Vec<Row> {
    let at = |ip: &str, port: u16| SocketAddr::new(ip.parse().unwrap(), port).to_string();
    let nowhere = "192.0.2.1:9";
    vec![
        row("no route", nowhere, ENETUNREACH),
        row("no route, v6", "[2001:db8::1]:9", ENETUNREACH),
        with(&["--mapped"], row("no route, mapped", nowhere, ENETUNREACH)),
        row("a route that prohibits", "203.0.113.1:9", EACCES),
        row("an unreachable route", "198.51.100.1:9", EHOSTUNREACH),
        row("a hook above refuses", at(OWN4, REFUSED_ABOVE), EPERM),
        row("a hook above refuses, v6", at(OWN6, REFUSED_ABOVE), EPERM),
        with(
            &["--mapped"],
            row(
                "a hook above refuses, mapped",
                at(OWN4, REFUSED_ABOVE),
                EPERM,
            ),
        ),
        row("a hook beside refuses", at(OWN4, REFUSED), EPERM),
        row("a hook beside refuses, v6", at(OWN6, REFUSED), EPERM),
        row("link-local without a device", "[fe80::1]:9", EINVAL),
        with(
            &["--how", "non-blocking"],
            row("without blocking", nowhere, ENETUNREACH),
        ),
        with(
            &["--how", "fast-open"],
            row("Fast Open", nowhere, ENETUNREACH),
        ),
        with(
            &["--how", "deferred"],
            row("Fast Open at the first write", nowhere, ENETUNREACH),
        ),
        with(
            &["--how", "after-unspec"],
            row("after connect(AF_UNSPEC)", nowhere, ENETUNREACH),
        ),
        // A UDP socket's call is none of TCP's.
        with(
            &["--how", "after-udp"],
            row("beside a UDP socket", nowhere, ENETUNREACH),
        ),
        Row {
            errnos: vec![ENETUNREACH; 3],
            ..with(
                &["--calls", "3"],
                row("again and again on one socket", nowhere, ENETUNREACH),
            )
        },
        // The second call connects.
        with(
            &["--first", "192.0.2.1:9"],
            row("and then connected", at(OWN4, server), ENETUNREACH),
        ),
        Row {
            errnos: Vec::new(),
            reason: "abandoned",
            ..with(
                &["--how", "deferred-unused"],
                row("a deferred SYN never goes", at(OWN4, server), 0),
            )
        },
    ]
}

/// Routes that forbid. Gives whether this `ip` knows them.
fn forbid(pod: &TestPod) -> bool {
    let mut routes = [
        ["route", "add", "prohibit", "203.0.113.0/24"],
        ["route", "add", "unreachable", "198.51.100.0/24"],
    ]
    .into_iter();
    routes.all(|arguments| {
        let mut ip = pod.netns().command("ip").unwrap();
        ip.args(arguments).status().unwrap().success()
    })
}

fn refuse(above: &flowcar_tests::place::Cgroup, pod: &TestPod) -> Vec<ConnectHook> {
    let hook = |cgroup, v6, port| ConnectHook::attach(cgroup, v6, AtConnect::Refuse(port)).unwrap();
    [false, true]
        .into_iter()
        .flat_map(|v6| {
            [
                hook(above, v6, REFUSED_ABOVE),
                hook(pod.cgroup(), v6, REFUSED),
            ]
        })
        .collect()
}

#[test]
fn every_attempt_without_a_syn_is_counted() {
    if !can_run() {
        return;
    }
    let (above, pod) = pod("unsent");
    let serving = serve(&pod);
    let has_routes = forbid(&pod);
    // Before flowcar, so that it runs first, and after.
    let _before = refuse(&above, &pod);
    let mut watches = watches(&pod);
    let (mut local, mut abandoned) = (0, 0);
    for row in rows(serving.address().port()) {
        if !has_routes && row.what.contains("route that") {
            lacks("ip route add prohibit");
            continue;
        }
        let target: SocketAddr = row.target.parse().unwrap();
        let before = watches.each_ref().map(|watch| watch.seen().flows.len());
        let calls = connect(&pod, target, row.arguments);
        let failed: Vec<&Connected> = calls.iter().filter(|call| call.errno.is_some()).collect();
        let errnos: Vec<i32> = failed.iter().filter_map(|call| call.errno).collect();
        assert_eq!(errnos, row.errnos, "{}", row.what);
        let expected: Vec<SocketAddr> = match row.reason {
            "local" => failed.iter().map(|call| call.asked).collect(),
            _ => vec![target],
        };
        for (watch, before) in watches.iter_mut().zip(before) {
            are_right(watch, before, &row, &expected);
        }
        if row.reason == "local" {
            local += expected.len();
        } else {
            abandoned += expected.len();
        }
    }
    for watch in &mut watches {
        let seen = watch.until("all of them", |seen| {
            seen.sum(FAILED, &[]) == (local + abandoned) as f64
        });
        assert_eq!(seen.sum(FAILED, LOCAL), local as f64);
        assert_eq!(seen.sum(FAILED, &[("error.type", "refused")]), 0.0);
    }
}

/// The spans of a row's failures.
fn are_right(watch: &mut Watch, before: usize, row: &Row, expected: &[SocketAddr]) {
    let what = row.what;
    let failed = |flow: &&Flow| !flow.get("error.type").is_empty();
    let seen = watch.until(what, |seen| {
        seen.flows[before..].iter().filter(failed).count() >= expected.len()
    });
    let flows: Vec<&Flow> = seen.flows[before..].iter().filter(failed).collect();
    assert_eq!(flows.len(), expected.len(), "{what}: {flows:?}");
    for (flow, asked) in flows.into_iter().zip(expected) {
        assert_eq!(flow.get("error.type"), row.reason, "{what}: {flow:?}");
        assert_eq!((flow.peer, flow.server()), (*asked, *asked), "{what}");
        assert_eq!((flow.role(), flow.sent, flow.received), ("client", 0, 0));
        for absent in [
            "network.local.address",
            "client.address",
            "flowcar.tcp.connect.duration",
        ] {
            assert_eq!(flow.get(absent), "", "{what}");
        }
    }
}

/// The one port of the range is taken by a connection to the same server.
#[test]
fn attempt_without_a_free_port_is_local() {
    if !can_run() {
        return;
    }
    let (_above, pod) = pod("ports");
    let serving = serve(&pod);
    let port = serving.address().port();
    let mut watches = watches(&pod);
    pod.netns()
        .sysctl("net.ipv4.ip_local_port_range", "40000 40000")
        .unwrap();
    let targets = [(OWN4, None), (OWN6, None), (OWN4, Some("--mapped"))];
    let mut holding = Vec::new();
    let mut failed = 0;
    for (ip, mapped) in targets {
        let target = SocketAddr::new(ip.parse().unwrap(), port);
        let mut first = Connecting::start(&pod, target, &["--hold"]).unwrap();
        let result = first.next_result().unwrap();
        // The second of IPv4 finds the port taken by the first.
        match mapped {
            None => {
                assert_eq!(result.errno, None);
                holding.push(first);
            }
            Some(_) => assert_eq!(result.errno, Some(EADDRNOTAVAIL)),
        }
        let calls = connect(&pod, target, mapped.as_slice());
        assert_eq!(calls[0].errno, Some(EADDRNOTAVAIL));
        failed += 1 + usize::from(mapped.is_some());
    }
    for watch in &mut watches {
        let seen = watch.until("all of them", |seen| {
            seen.sum(FAILED, LOCAL) == failed as f64
        });
        assert_eq!(seen.sum(FAILED, &[]), failed as f64);
    }
}

/// More sockets than there are short-flow slots.
const HELD: u32 = 5_000;

/// Sockets that call `connect()`, fail without a SYN, and stay open.
fn hold(pod: &TestPod, nowhere: SocketAddr) -> Connecting {
    let times = HELD.to_string();
    let mut held = Connecting::start(pod, nowhere, &["--hold", "--times", &times]).unwrap();
    for _ in 0..HELD {
        assert_eq!(held.next_result().unwrap().errno, Some(ENETUNREACH));
    }
    held
}

/// More sockets than there are short-flow slots fail and stay open: what was asked for is then kept beside the socket. They are
/// counted when they are closed, by their application or with its process.
#[test]
fn sockets_that_stay_open_are_counted_when_they_are_closed() {
    if !can_run() {
        return;
    }
    let (above, pod) = pod("held");
    let serving = serve(&pod);
    let port = serving.address().port();
    let service: SocketAddr = "10.96.0.1:80".parse().unwrap();
    let backend = SocketAddr::new(OWN4.parse().unwrap(), port);
    let rewrite = AtConnect::Rewrite(service, backend);
    let _hook = ConnectHook::attach(&above, false, rewrite).unwrap();
    let mut watches = watches(&pod);
    let nowhere = "192.0.2.1:9".parse().unwrap();
    let (closed, killed) = (hold(&pod, nowhere), hold(&pod, nowhere));
    let calls = connect(&pod, service, &["--times", "20"]);
    for watch in &mut watches {
        for call in &calls {
            let local = call.local.unwrap();
            let seen = watch.until("its flow", |seen| {
                seen.flows.iter().any(|flow| flow.local == local)
            });
            let flow = seen.flows.iter().find(|flow| flow.local == local).unwrap();
            assert_eq!((flow.peer, flow.server()), (backend, service));
        }
        assert_eq!(watch.seen().sum(FAILED, &[]), 0.0);
    }
    assert!(closed.finish().unwrap().is_empty());
    killed.kill().unwrap();
    let all = f64::from(2 * HELD);
    for watch in &mut watches {
        watch.until("all of them", |seen| seen.sum(FAILED, LOCAL) == all);
    }
}

/// First calls that find no free short-flow slot are kept beside their sockets, of which each calls again once slots are free. A socket
/// has one record: no call is lost to the next one, or counted twice.
#[test]
fn call_that_was_kept_beside_its_socket_is_counted_once_whatever_follows() {
    if !can_run() {
        return;
    }
    const ECHOES: u32 = 100;
    let (_above, pod) = pod("beside");
    let bound = pod.netns().run(|| TcpListener::bind("[::]:0"));
    let listener = bound.unwrap().unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            // Until the client closes.
            let _ = io::copy(&mut socket.try_clone().unwrap(), &mut socket);
        }
    });
    let mut watches = watches(&pod);
    let nowhere: SocketAddr = "192.0.2.1:9".parse().unwrap();
    let held = [(); 2].map(|()| hold(&pod, nowhere));
    let own = |port| SocketAddr::new(OWN4.parse().unwrap(), port);
    let echoes = ECHOES.to_string();
    // What each calls then, and its error.
    let rows: [(SocketAddr, &[&str], Option<i32>); 4] = [
        (own(port), &["--echoes", &echoes], None),
        (own(port), &[], None),
        (nowhere, &[], Some(ENETUNREACH)),
        (own(1), &[], Some(ECONNREFUSED)),
    ];
    let first = nowhere.to_string();
    let paused = rows.map(|(target, more, errno)| {
        let arguments = [&["--first", &first, "--pause"], more].concat();
        let mut calling = Connecting::start(&pod, target, &arguments).unwrap();
        assert_eq!(calling.next_result().unwrap().errno, Some(ENETUNREACH));
        (calling, errno)
    });
    for held in held {
        assert!(held.finish().unwrap().is_empty());
    }
    for (mut calling, errno) in paused {
        calling.go_on().unwrap();
        assert_eq!(calling.finish().unwrap()[0].errno, errno);
    }
    let port = port.to_string();
    for watch in &mut watches {
        let connections = [("server.port", &*port)];
        watch.until("all of them", |seen| {
            let closed = seen.sum("flowcar.tcp.connection.closed", &connections);
            closed == 2.0 && seen.sum(FAILED, &[]) >= f64::from(2 * HELD + 6)
        });
        // What was counted twice would come by then.
        let seen = watch.reports(2);
        let refused = seen.sum(FAILED, &[("error.type", "refused")]);
        assert_eq!(
            (seen.sum(FAILED, LOCAL), refused, seen.sum(FAILED, &[])),
            (f64::from(2 * HELD + 5), 1.0, f64::from(2 * HELD + 6))
        );
        // The kernel may have timed some echoes together.
        let samples = seen.sum("flowcar.tcp.rtt", &connections);
        assert!(samples > f64::from(ECHOES / 2), "{samples} of {ECHOES}");
    }
}

/// Every one is counted, and the books stay closed. An emulated processor would take minutes for as many.
#[test]
fn a_hundred_thousand_attempts_without_a_syn_are_counted() {
    if !can_run() {
        return;
    }
    let all: u32 = if has_own_machine() { 10_000 } else { 100_000 };
    let (_above, pod) = pod("many");
    let settings = [
        ("FLOWCAR_RING_BYTES", "33554432"),
        ("FLOWCAR_SPANS_PER_SECOND", "10"),
    ];
    let mut watch = Watch::start(&pod, Mode::Both, &settings);
    let nowhere = "192.0.2.1:9".parse().unwrap();
    let calls = connect(&pod, nowhere, &["--times", &all.to_string()]);
    let mut errnos = BTreeMap::<_, u32>::new();
    for call in &calls {
        *errnos.entry(call.errno).or_default() += 1;
    }
    assert_eq!(errnos, BTreeMap::from([(Some(ENETUNREACH), all)]));
    let seen = watch.until("all of them", |seen| {
        seen.sum(FAILED, LOCAL) == f64::from(all)
    });
    assert_eq!(seen.sum(FAILED, &[]), f64::from(all));
    assert_eq!(seen.began(), 0.0);
    assert_eq!(seen.sum("flowcar.self.record.dropped", &[]), 0.0);
}
