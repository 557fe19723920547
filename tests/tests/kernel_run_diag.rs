//! `flowcar run` where only inet_diag tells: what it shows is right, and what it cannot show it says.

use std::{fs, net::SocketAddr, process::Stdio, time::Duration};

use flowcar_tests::{
    flowcar::{self, Report},
    place::{Place, require_cgroup2, require_root},
    traffic::{self, ServePlan, Serving},
};

/// Longer than the time from look to look, 500 ms.
const SEEN_BY_LOOKS_MS: &str = "1500";

/// A server beside the command, in the place's network and above the followed cgroup.
fn serve(place: &Place) -> (Serving, String) {
    let serving = Serving::start(place, &ServePlan::at("127.0.0.1:0".parse().unwrap())).unwrap();
    let target = serving.address().to_string();
    (serving, target)
}

fn run(place: &Place, format: &str, arguments: &[&str]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    let status = flowcar::command(place)
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
fn what_lives_long_enough_is_told() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let place = Place::new("looks").unwrap();
    let (serving, target) = serve(&place);
    let arguments = ["call", &target, "--connections", "3", "--concurrency", "3"];
    let delay = ["--delay", SEEN_BY_LOOKS_MS];
    let report = Report::parse(&run(&place, "json", &[&arguments[..], &delay].concat())).unwrap();
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

/// The server's ends are placed by their listener; the command's came and went unseen.
#[test]
fn what_is_too_short_is_counted() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let place = Place::new("unscoped").unwrap();
    let (_serving, target) = serve(&place);
    let arguments = ["call", &target, "--connections", "20"];
    let report = Report::parse(&run(&place, "json", &arguments)).unwrap();
    let books = &report.summary;
    // Looks may have come by chance, the more the slower the machine.
    let seen = report.flows.len() as u64;
    assert_eq!(books.opened, seen);
    assert_eq!(books.unscoped, Some(20 - seen));
    assert!(seen < 20, "looks saw all of them, so this shows nothing");

    let table = run(&place, "table", &arguments);
    println!("{table}");
    assert!(table.lines().all(|line| line.chars().count() <= 100));
    let told = table.lines().rev().nth(1).unwrap();
    assert!(
        told.contains("more sockets of this network namespace"),
        "{table}"
    );
    assert!(table.contains("short connections of the command may be missing"));
}

/// With the programs nothing can be missing, so nothing is said.
#[test]
fn beside_ebpf_there_is_nothing_to_say() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let place = Place::new("placed").unwrap();
    let (_serving, target) = serve(&place);
    let target: SocketAddr = target.parse().unwrap();
    let (_, report) = flowcar::call(&place, target, &["--connections", "3"]).unwrap();
    assert_eq!(report.summary.opened, 3);
    assert_eq!(report.summary.unscoped, None);
}
