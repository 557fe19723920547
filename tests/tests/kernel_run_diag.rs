//! `flowcar run` with inet_diag alone: its report is right, and it states what it cannot report.

use std::{fs, net::SocketAddr, process::Stdio, time::Duration};

use flowcar_tests::{
    flowcar::{self, Report},
    place::{TestPod, require_cgroup2, require_root},
    traffic::{self, ServePlan, Serving},
};

/// Many times the poll interval, 500 ms: in an emulated machine a poll takes long, and flowcar gets few turns.
const SEEN_BY_POLLS_MS: &str = "8000";

/// A server beside the command, in the pod's network and above the followed cgroup.
fn serve(pod: &TestPod) -> (Serving, String) {
    let serving = Serving::start(pod, &ServePlan::at("127.0.0.1:0".parse().unwrap())).unwrap();
    let target = serving.address().to_string();
    (serving, target)
}

fn run(pod: &TestPod, format: &str, arguments: &[&str]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    let status = flowcar::command(pod)
        .unwrap()
        .env("FLOWCAR_SOURCE", "inet_diag")
        .args(["run", "--format", format, "-o"])
        .arg(file.path())
        .arg("--")
        .arg(traffic::program().unwrap())
        .args(arguments)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    fs::read_to_string(file.path()).unwrap()
}

#[test]
fn connections_longer_than_a_poll_interval_are_reported() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let pod = TestPod::new("polls").unwrap();
    let (serving, target) = serve(&pod);
    let arguments = ["call", &target, "--connections", "3", "--concurrency", "3"];
    let delay = ["--delay", SEEN_BY_POLLS_MS];
    let report = Report::parse(&run(&pod, "json", &[&arguments[..], &delay].concat())).unwrap();
    let servers = serving.reports(3, Duration::from_secs(30)).unwrap();
    assert_eq!(report.flows.len(), 3, "{report:#?}");
    for server in &servers {
        let flow = report.of_local_port(server.peer.port());
        assert_eq!(flow.peer(), server.local.unwrap());
        assert_eq!((flow.bytes_sent, flow.bytes_received), (132, 1000));
        assert_eq!((&*flow.role, &*flow.end), ("client", "local_fin"));
    }
    let books = &report.summary;
    assert_eq!((books.opened, books.closed, books.live), (3, 3, 0));
    assert_eq!(books.unscoped, Some(0));
}

/// The server's ends are attributed by their listener; the command's were never seen.
#[test]
fn connections_shorter_than_a_poll_interval_are_counted() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let pod = TestPod::new("unscoped").unwrap();
    let (_serving, target) = serve(&pod);
    let arguments = ["call", &target, "--connections", "20"];
    let report = Report::parse(&run(&pod, "json", &arguments)).unwrap();
    let books = &report.summary;
    // Polls may have shown some by chance, the more the slower the machine.
    let seen = report.flows.len() as u64;
    assert_eq!(books.opened, seen);
    assert_eq!(books.unscoped, Some(20 - seen));
    assert!(seen < 20, "polls saw all of them, so this shows nothing");

    let table = run(&pod, "table", &arguments);
    println!("{table}");
    assert!(table.lines().all(|line| line.chars().count() <= 108));
    let reported = table.lines().rev().nth(1).unwrap();
    assert!(
        reported.contains("more sockets of this network namespace"),
        "{table}"
    );
    assert!(table.contains("short connections of the command may be missing"));
}

/// With the programs nothing can be missing, so nothing is logged.
#[test]
fn run_with_ebpf_logs_no_warning() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let pod = TestPod::new("placed").unwrap();
    let (_serving, target) = serve(&pod);
    let target: SocketAddr = target.parse().unwrap();
    let (_, report) = flowcar::call(&pod, target, &["--connections", "3"]).unwrap();
    assert_eq!(report.summary.opened, 3);
    assert_eq!(report.summary.unscoped, None);
}
