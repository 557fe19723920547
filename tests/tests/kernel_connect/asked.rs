//! The address that was asked for, and the socket's, by every path and every way to call.

use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt as _, process::Stdio};

use flowcar_tests::{
    flowcar,
    place::{AtConnect, Cgroup, ConnectHook, TestPod, lacks},
    traffic::{CallPlan, Connected, Holding},
    watch::{Flow, Mode, Seen, Watch},
};

use super::{OWN4, OWN6, can_run, connect, pod, serve, watches};

/// What lies between the application and the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Between {
    Nothing,
    /// A connect hook on the cgroup above, as of a socket load balancer.
    Hook,
    /// Destination NAT, as of kube-proxy.
    Nat,
}

const PATHS: [Between; 3] = [Between::Nothing, Between::Hook, Between::Nat];

/// The family of what is asked for, and whether the socket is of the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
    Mapped,
}

const FAMILIES: [Family; 3] = [Family::V4, Family::V6, Family::Mapped];

/// Ways to call, and how many connections each makes.
const WAYS: [(&str, usize); 8] = [
    ("blocking", 1),
    ("non-blocking", 1),
    ("repeated", 1),
    ("after-unspec", 1),
    ("twice", 2),
    ("after-udp", 1),
    ("fast-open", 1),
    ("deferred", 1),
];

/// The address of the server for each path; the port is the server's own where there is nothing between, else 80.
fn target(between: Between, family: Family, port: u16) -> SocketAddr {
    let (v4, v6, port) = match between {
        Between::Nothing => (OWN4, OWN6, port),
        Between::Hook => ("10.96.0.1", "fd96::1", 80),
        Between::Nat => ("10.96.0.2", "fd96::2", 80),
    };
    let ip = if family == Family::V6 { v6 } else { v4 };
    SocketAddr::new(ip.parse().unwrap(), port)
}

/// Where the server listens.
fn backend(family: Family, port: u16) -> SocketAddr {
    target(Between::Nothing, family, port)
}

/// Services that the hooks on a cgroup rewrite.
fn rewrite(cgroup: &Cgroup, port: u16) -> Vec<ConnectHook> {
    let hook = |v6, family| {
        let service = target(Between::Hook, family, port);
        let what = AtConnect::Rewrite(service, backend(family, port));
        ConnectHook::attach(cgroup, v6, what).unwrap()
    };
    vec![
        hook(false, Family::V4),
        hook(true, Family::V6),
        hook(true, Family::Mapped),
    ]
}

/// Services that packets are rewritten for.
fn translate(pod: &TestPod, port: u16) {
    let rules = format!(
        "table inet services {{ chain output {{ type nat hook output priority -100;
           ip daddr 10.96.0.2 tcp dport 80 dnat ip to {OWN4}:{port};
           ip6 daddr fd96::2 tcp dport 80 dnat ip6 to [{OWN6}]:{port}; }}; }}"
    );
    let nft = pod.netns().command("nft").unwrap().arg(rules).status();
    assert!(nft.unwrap().success());
}

/// The flow of one end of a connection, among those that came after so many.
fn end_of<'a>(
    seen: &'a Seen,
    before: usize,
    role: &str,
    local: SocketAddr,
    peer: Option<SocketAddr>,
) -> Option<&'a Flow> {
    seen.flows[before..].iter().find(|flow| {
        flow.role() == role && flow.local == local && peer.is_none_or(|peer| flow.peer == peer)
    })
}

#[test]
fn both_addresses_of_every_connection_are_right() {
    if !can_run() {
        return;
    }
    let (above, pod) = pod("asked");
    let serving = serve(&pod);
    let port = serving.address().port();
    let _hooks = rewrite(&above, port);
    translate(&pod, port);
    let mut watches = watches(&pod);
    let mut asked_for_80 = 0;
    let mut calls = Vec::new();
    for between in PATHS {
        for family in FAMILIES {
            for (how, count) in WAYS {
                let mut arguments = vec!["--how", how];
                arguments.extend((family == Family::Mapped).then_some("--mapped"));
                let what = format!("{between:?} {family:?} {how}");
                let made = connect(&pod, target(between, family, port), &arguments);
                assert_eq!(made.len(), count, "{what}");
                let all = made.into_iter();
                calls.extend(all.map(|call| (what.clone(), call, backend(family, port))));
                asked_for_80 += usize::from(between != Between::Nothing) * count;
            }
        }
    }
    for watch in &mut watches {
        let seen = watch.until("both ends of all", |seen| {
            seen.flows.len() >= 2 * calls.len()
        });
        assert_eq!(seen.flows.len(), 2 * calls.len());
        for (what, call, backend) in &calls {
            is_right(seen, call, *backend, what);
        }
    }
    for watch in watches {
        let seen = watch.stop();
        let clients = [
            ("network.tcp.handshake.role", "client"),
            ("server.port", "80"),
        ];
        let opened = seen.sum("flowcar.tcp.connection.opened", &clients);
        assert_eq!(opened, asked_for_80 as f64);
        assert_eq!(seen.sum("flowcar.tcp.connection.failed", &[]), 0.0);
        assert_eq!(seen.sum("flowcar.self.record.malformed", &[]), 0.0);
    }
}

/// Compares both ends with what the application knows.
fn is_right(seen: &Seen, call: &Connected, backend: SocketAddr, what: &str) {
    assert_eq!(call.errno, None, "{what}");
    let (local, peer) = (call.local.unwrap(), call.peer.unwrap());
    // A port may have been used twice.
    let of = |flow: &&Flow| flow.role() == "client" && (flow.local, flow.peer) == (local, peer);
    let clients: Vec<&Flow> = seen.flows.iter().filter(of).collect();
    let client = clients.iter().find(|flow| flow.server() == call.asked);
    let client = client.unwrap_or_else(|| panic!("{what}: {call:?} {clients:#?}"));
    assert_eq!(client.get("client.address"), local.ip().to_string());
    let server = seen.flows.iter().find(|flow| {
        flow.role() == "server" && flow.trace_id == client.trace_id && flow.peer == local
    });
    let server = server.unwrap_or_else(|| panic!("{what}: {client:?} has no other end"));
    assert_eq!((server.local, server.server()), (backend, backend));
}

/// Without eBPF the call is not seen.
#[test]
fn without_ebpf_the_server_is_the_sockets_peer() {
    if !can_run() {
        return;
    }
    let (above, pod) = pod("unseen");
    let serving = serve(&pod);
    let port = serving.address().port();
    let _hooks = rewrite(&above, port);
    let mut watch = Watch::start(&pod, Mode::Alone, &[]);
    let calls = connect(&pod, target(Between::Hook, Family::V4, port), &[]);
    let (local, peer) = (calls[0].local.unwrap(), calls[0].peer.unwrap());
    let seen = watch.until("the client", |seen| {
        end_of(seen, 0, "client", local, Some(peer)).is_some()
    });
    let client = end_of(seen, 0, "client", local, Some(peer)).unwrap();
    assert_eq!(client.server(), backend(Family::V4, port));
}

/// A hook above that runs first hides what was asked for: both addresses are the socket's.
#[test]
fn hook_above_that_runs_first_makes_the_server_the_sockets_peer() {
    if !can_run() {
        return;
    }
    let (above, pod) = pod("first");
    let serving = serve(&pod);
    let port = serving.address().port();
    let service = target(Between::Hook, Family::V4, port);
    let what = AtConnect::Rewrite(service, backend(Family::V4, port));
    let Some(_hook) = ConnectHook::attach_first(&above, false, what).unwrap() else {
        return lacks("BPF_F_PREORDER");
    };
    let mut watch = Watch::start(&pod, Mode::Both, &[]);
    let calls = connect(&pod, service, &[]);
    let (local, peer) = (calls[0].local.unwrap(), calls[0].peer.unwrap());
    assert_eq!(peer, backend(Family::V4, port));
    let seen = watch.until("the client", |seen| {
        end_of(seen, 0, "client", local, Some(peer)).is_some()
    });
    let client = end_of(seen, 0, "client", local, Some(peer)).unwrap();
    assert_eq!(client.server(), peer);
}

/// A flowcar that is restarted in between knows what was asked for by the checkpoint.
#[test]
fn address_that_was_asked_for_outlives_a_restart() {
    if !can_run() {
        return;
    }
    let (above, pod) = pod("kept");
    let serving = serve(&pod);
    let port = serving.address().port();
    let _hooks = rewrite(&above, port);
    let state = tempfile::tempdir().unwrap();
    fs::set_permissions(state.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let state = ("FLOWCAR_STATE_DIR", state.path().to_str().unwrap());
    let mut watch = Watch::start(&pod, Mode::Both, &[state]);
    let services = [Family::V4, Family::V6].map(|family| target(Between::Hook, family, port));
    let held: Vec<_> = services
        .iter()
        .map(|service| Holding::start(&pod, &CallPlan::to(*service)).unwrap())
        .collect();
    watch.until("both ends", |seen| {
        seen.sum("flowcar.tcp.connection.live", &[]) == 4.0
    });
    // As another report follows, it is acknowledged.
    watch.reports(3);
    watch.stop();
    let mut watch = Watch::start(&pod, Mode::Both, &[state]);
    watch.reported("restored the checkpoint of the previous flowcar");
    let closed = held
        .into_iter()
        .map(|held| held.close().unwrap().remove(0).local.unwrap());
    let closed: Vec<SocketAddr> = closed.collect();
    let seen = watch.until("the clients", |seen| {
        let is_there = |local: &SocketAddr| end_of(seen, 0, "client", *local, None).is_some();
        closed.iter().all(is_there)
    });
    for (local, service) in closed.iter().zip(services) {
        let client = end_of(seen, 0, "client", *local, None).unwrap();
        assert_eq!((client.server(), client.peer.port()), (service, port));
    }
    watch.stop();
}

/// `flowcar run` names both, for programs and for people.
#[test]
fn report_of_run_has_both_addresses() {
    if !can_run() {
        return;
    }
    let (above, pod) = pod("run");
    let serving = serve(&pod);
    let port = serving.address().port();
    let _hooks = rewrite(&above, port);
    let (service, backend) = (
        target(Between::Hook, Family::V4, port),
        backend(Family::V4, port),
    );
    let (called, report) = flowcar::call(&pod, service, &[]).unwrap();
    assert_eq!(called[0].failure, None);
    let flow = &report.flows[0];
    assert_eq!(flow.peer(), backend);
    let server = flow.server.unwrap();
    assert_eq!(SocketAddr::from((server.address, server.port)), service);

    let program = flowcar_tests::traffic::program().unwrap();
    let mut run = flowcar::command(&pod).unwrap();
    let output = run
        .args(["run", "--"])
        .arg(program)
        .args(["connect", &service.to_string()])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let row = format!("client {backend} ");
    assert!(lines.any(|line| line.starts_with(&row)), "{text}");
    let next = lines.next().unwrap().trim();
    assert_eq!(next, format!("asked for {service}"), "{text}");
}
