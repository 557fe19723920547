//! `flowcar top` on a terminal, of a running export and by a follower of its own.

use std::process::Command;

use flowcar_tests::{
    flowcar,
    place::{TestPod, require_cgroup2, require_root},
    terminal::Terminal,
    traffic::{CallPlan, Close, Holding, ServePlan, Serving, call_in},
    watch::{Mode, Watch},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const OPEN: usize = 20;

fn can_run() -> bool {
    require_root() && require_cgroup2()
}

/// From the test's own shell, as root's on a host.
fn top(pod: &TestPod, columns: u16) -> Terminal {
    let mut command = Command::new(flowcar::program().unwrap());
    pod.netns().enter(&mut command).unwrap();
    command.args(["top", "--cgroup"]).arg(pod.cgroup().path());
    Terminal::start(&mut command, columns, 24).unwrap()
}

/// The row of a peer, by the beginning of its name.
fn row<'a>(screen: &'a str, peer: &str) -> Option<Vec<&'a str>> {
    let row = screen.lines().find(|line| line.starts_with(peer))?;
    Some(row[peer.len()..].split_whitespace().collect())
}

struct Traffic {
    pod: TestPod,
    serving: Serving,
}

impl Traffic {
    fn start() -> Self {
        let pod = TestPod::new("top").unwrap();
        let plan = ServePlan::at("[::]:0".parse().unwrap());
        let serving = Serving::start(&pod, &plan).unwrap();
        Self { pod, serving }
    }

    fn plan(&self) -> CallPlan {
        CallPlan::to(([127, 0, 0, 1], self.serving.address().port()).into())
    }

    /// The client's row, and the server's.
    fn names(&self) -> [String; 2] {
        let port = self.serving.address().port();
        [format!("127.0.0.1:{port}"), format!("clients of :{port}")]
    }
}

#[test]
fn top_shows_peers_and_their_connections() {
    if !can_run() {
        return;
    }
    let traffic = Traffic::start();
    let mut watch = Watch::start(&traffic.pod, Mode::Both, &[("FLOWCAR_EXCHANGE", "on")]);
    watch.reports(1);
    let plan = traffic.plan().connections(OPEN as u64, 4);
    let holding = Holding::start(&traffic.pod, &plan).unwrap();
    let mut top = top(&traffic.pod, 80);
    let names = traffic.names();
    for name in &names {
        let live = OPEN.to_string();
        top.until(name, |screen| {
            row(screen, name).is_some_and(|row| row[0] == live)
        });
    }
    assert!(top.is_full_screen());
    // Attempts that fail are the client's, and are what somebody has to look at.
    let refused = CallPlan::to("127.0.0.1:9".parse().unwrap()).connections(5, 1);
    call_in(&traffic.pod, &refused).unwrap();
    let failed =
        |screen: &str| row(screen, "127.0.0.1:9").is_some_and(|row| row.contains(&"handshake"));
    top.until("failed attempts", failed);
    // Both ends of a reset connection are cut off, and as long as they are recent nothing else is shown for them.
    let reset = traffic.plan().connections(3, 1).close(Close::ResetByServer);
    call_in(&traffic.pod, &reset).unwrap();
    for name in &names {
        let cut_off =
            |screen: &str| row(screen, name).is_some_and(|row| row.ends_with(&["cut", "off"]));
        top.until("resets", cut_off);
    }
    // The filter leaves the client's row, which then is the first.
    top.press("/127.0.0.1:");
    top.until("the filter", |screen| screen.contains("filter: 127.0.0.1:"));
    top.press("\r");
    top.until("only the client's", |screen| {
        row(screen, &names[1]).is_none()
    });
    top.press("\x1b");
    top.until("all", |screen| row(screen, &names[1]).is_some());
    // The opened peer shows each connection, by its local port.
    top.press(&format!(
        "/127.0.0.1:{}\r\r",
        traffic.serving.address().port()
    ));
    let shows_ports =
        |screen: &str| screen.lines().filter(|line| line.starts_with(':')).count() >= OPEN.min(20);
    let screen = top.until("connections", shows_ports);
    println!("{screen}");
    let shown: Vec<u16> = screen
        .lines()
        .filter_map(|line| line.strip_prefix(':')?.split(' ').next()?.parse().ok())
        .collect();
    let reports = holding.close().unwrap();
    let ports: Vec<u16> = reports.iter().map(|of| of.local.unwrap().port()).collect();
    assert!(
        shown.iter().all(|port| ports.contains(port)),
        "{shown:?} of {ports:?}"
    );
    top.until("none is open", |screen| {
        screen.contains("no connection to this peer is open")
    });
    top.press("q");
    assert!(top.finish().success());
    assert!(!top.is_full_screen(), "{}", top.text());
    watch.stop();
}

#[test]
fn top_follows_by_itself_where_no_export_runs() {
    if !can_run() {
        return;
    }
    let traffic = Traffic::start();
    let mut top = top(&traffic.pod, 130);
    top.until("no flows", |screen| screen.contains("no connections yet"));
    // A server that waits is what holds its client back.
    let plan = traffic.plan().connections(4, 4).exchanges(20);
    let calls = call_in(&traffic.pod, &plan).unwrap();
    assert!(calls.iter().all(|call| call.failure.is_none()));
    for name in &traffic.names() {
        top.until(name, |screen| {
            row(screen, name).is_some_and(|row| row[0] == "0" && row[1] != "-")
        });
    }
    println!("{}", top.text());
    top.press("?");
    top.until("help", |screen| screen.contains("any key goes back"));
    top.press("xh");
    let screen = top.until("histograms", |screen| screen.contains("exchange: 80"));
    println!("{screen}");
    kill(Pid::from_raw(top.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert!(top.finish().success());
    assert!(!top.is_full_screen(), "{}", top.text());
}

#[test]
fn top_without_a_terminal_names_what_to_use() {
    let mut command = Command::new(flowcar::program().unwrap());
    let output = command.arg("top").output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(
        message.contains("needs a terminal") && message.contains("flowcar flows"),
        "{message}"
    );
}
