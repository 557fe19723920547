//! `flowcar export` where a pod's container has it: in a private cgroup namespace, beside a read-only view of the node's
//! cgroup tree, with two capabilities and without a setting of its cgroup.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::Duration,
};

use flowcar_tests::{
    exporting::{Exporting, has_books},
    flowcar,
    node::{NEIGHBOUR, Node, UID, contained},
    peers::eventually,
    place::{Cgroup, Netns, maps_ask_for_a_right, require_cgroup2, require_root},
    traffic,
};

fn export(cgroup: &Cgroup, netns: &Netns, settings: &[(&str, &str)]) -> Exporting {
    let mut command = contained(cgroup, netns, "export");
    Exporting::start(command.envs(settings.iter().copied()))
}

fn traffic(cgroup: &Cgroup, netns: &Netns, arguments: &[&str]) -> Command {
    let mut command = Command::new(traffic::program().unwrap());
    netns.enter(&mut command).unwrap();
    cgroup.enter(&mut command).unwrap();
    command.args(arguments).stdout(Stdio::piped());
    command
}

/// Connections of one container to another one, `count` of them, all made in full.
fn calls(from: &Cgroup, to: &Cgroup, netns: &Netns, address: &str, count: &str) {
    let serve = ["serve", "--listen", address, "--until", count];
    let mut server = traffic(to, netns, &serve).spawn().unwrap();
    let mut output = BufReader::new(server.stdout.take().unwrap()).lines();
    output.next().unwrap().unwrap();
    let call = ["call", address, "--connections", count];
    let client = traffic(from, netns, &call).output().unwrap();
    assert!(client.status.success());
    assert_eq!(output.count().to_string(), count);
    assert!(server.wait().unwrap().success());
}

/// By /proc, for each thread. CAP_BPF is left where the kernel asks for it whenever a map is read.
fn has_no_rights(process: u32) {
    let none = "0000000000000000";
    let left = if maps_ask_for_a_right().unwrap() {
        "0000008000000000"
    } else {
        none
    };
    let mut threads = 0;
    for thread in fs::read_dir(format!("/proc/{process}/task")).unwrap() {
        let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap().trim_start_matches(':').trim().to_owned()
        };
        for (set, left) in [
            ("CapInh", none),
            ("CapPrm", left),
            ("CapEff", left),
            ("CapAmb", none),
        ] {
            assert_eq!(field(set), left, "{set} of {}", field("Name"));
        }
        assert_eq!(field("NoNewPrivs"), "1");
        threads += 1;
    }
    assert!(threads > 0);
}

fn can_run() -> bool {
    require_root() && require_cgroup2()
}

#[test]
fn the_pod_is_found_and_only_the_pod_is_followed() {
    if !can_run() {
        return;
    }
    let node = Node::new();
    let netns = Netns::new("pod").unwrap();
    let mut sidecar = export(&node.sidecar, &netns, &[]);
    let attached = sidecar.reported("following");
    assert!(
        attached.contains(&format!("kubepods-burstable-pod{UID}.slice")),
        "{attached}"
    );
    assert!(
        !attached.contains("scope"),
        "the pod's, not a container's: {attached}"
    );

    has_no_rights(sidecar.id());
    calls(&node.other, &node.other, &netns, "127.0.0.1:7001", "9");
    calls(&node.other, &node.app, &netns, "127.0.0.1:7002", "4");
    calls(&node.app, &node.other, &netns, "127.0.0.1:7003", "3");

    has_books(&sidecar.stop(), 7);
}

/// The API's uid is a check: a static pod's cgroup has another one, so a difference is logged and not refused.
#[test]
fn different_pod_uid_is_reported() {
    if !can_run() {
        return;
    }
    let node = Node::new();
    let netns = Netns::new("pod").unwrap();
    let uid = NEIGHBOUR.replace('_', "-");
    let mut sidecar = export(&node.sidecar, &netns, &[("FLOWCAR_POD_UID", &uid)]);
    let reported = sidecar.reported("another uid");
    assert!(reported.contains(&uid), "{reported}");
    let attached = sidecar.reported("following");
    assert!(
        attached.contains(UID),
        "the neighbour is never followed: {attached}"
    );
}

#[test]
fn a_check_finds_the_pod() {
    if !can_run() {
        return;
    }
    let node = Node::new();
    let netns = Netns::new("pod").unwrap();
    for (uid, state) in [(UID, "ok"), (NEIGHBOUR, "info")] {
        let output = contained(&node.sidecar, &netns, "check --format json")
            .env("FLOWCAR_POD_UID", uid.replace('_', "-"))
            .output()
            .unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["source"], "ebpf", "{report:#}");
        assert_eq!(output.status.code(), Some(0));
        let checks = report["checks"].as_array().unwrap();
        let pod = checks.iter().find(|line| line["name"] == "pod").unwrap();
        assert_eq!(pod["state"], state, "{pod}");
        let path = format!("kubepods-burstable-pod{UID}.slice ");
        assert!(pod["text"].as_str().unwrap().contains(&path), "{pod}");
    }
}

#[test]
fn outside_a_pod_nothing_is_followed() {
    if !can_run() {
        return;
    }
    let netns = Netns::new("nowhere").unwrap();
    let root = Cgroup::new("nowhere").unwrap();
    let slice = root.child("kubepods.slice").unwrap();
    let container = slice.child("cri-containerd-app.scope").unwrap();
    let mut sidecar = export(&container, &netns, &[]);
    let reported = sidecar.reported("flowcar: ");
    assert!(
        reported.contains("no cgroup above it is named like a pod's"),
        "{reported}"
    );
    assert_eq!(sidecar.wait().code(), Some(70));

    let mut sidecar = export(&container, &netns, &[("FLOWCAR_HOST_CGROUP", "/run/none")]);
    let reported = sidecar.reported("flowcar: ");
    assert!(
        reported.contains("/run/none") && reported.contains("FLOWCAR_HOST_CGROUP"),
        "{reported}"
    );
    assert_eq!(sidecar.wait().code(), Some(64));
}

/// Its own connections to the receiver are in the pod's cgroup, too.
#[test]
fn own_connections_are_excluded_and_probes_are_answered() {
    if !can_run() {
        return;
    }
    let node = Node::new();
    let netns = Netns::new("pod").unwrap();
    let probe = |question: &str| {
        let mut command = flowcar::bare().unwrap();
        netns.enter(&mut command).unwrap();
        node.sidecar.enter(&mut command).unwrap();
        command.args(["probe", question]).output().unwrap()
    };
    let before = probe("started");
    assert_eq!(before.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&before.stderr).contains("has not attached yet"));

    let mut sink = flowcar::bare().unwrap();
    netns.enter(&mut sink).unwrap();
    node.other.enter(&mut sink).unwrap();
    let mut sink = sink
        .arg("sink")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut received = BufReader::new(sink.stdout.take().unwrap()).lines();
    let settings = [("OTEL_METRIC_EXPORT_INTERVAL", "200")];
    let mut sidecar = export(&node.sidecar, &netns, &settings);
    sidecar.reported("following");
    // It opens its socket for questions behind that line.
    eventually("an answer", Duration::from_secs(60), || {
        probe("live").status.success().then_some(())
    });
    assert!(probe("started").status.success());
    received.next().unwrap().unwrap();
    while !probe("ready").status.success() {
        std::thread::sleep(Duration::from_millis(50));
    }
    calls(&node.app, &node.other, &netns, "127.0.0.1:7004", "3");

    has_books(&sidecar.stop(), 3);
    sink.kill().unwrap();
    sink.wait().unwrap();
}

/// A pod's cgroup is not recreated under a sidecar that is in it; where it is all the same, flowcar exits so that it is started again: in a
/// pod it attaches nothing a second time.
#[test]
fn flowcar_exits_if_its_pods_cgroup_is_recreated() {
    if !can_run() {
        return;
    }
    let netns = Netns::new("pod").unwrap();
    for exchange in ["off", "on"] {
        let node = Node::new();
        let pod = &node.pods[0];
        let mut sidecar = export(&node.sidecar, &netns, &[("FLOWCAR_EXCHANGE", exchange)]);
        sidecar.reported("following");
        has_no_rights(sidecar.id());
        node.other.adopt(sidecar.id()).unwrap();
        for container in [&node.sidecar, &node.app, pod] {
            fs::remove_dir(container.path()).unwrap();
        }
        sidecar.reported("was removed");
        fs::create_dir(pod.path()).unwrap();
        let reported = sidecar.reported("flowcar: ");
        assert!(reported.contains("cannot be followed"), "{reported}");
        assert!(
            reported.contains("in a pod flowcar attaches no program"),
            "{reported}"
        );
        assert_eq!(sidecar.wait().code(), Some(75));
    }
}
