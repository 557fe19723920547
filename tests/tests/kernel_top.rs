//! `flowcar top` on a terminal, of a running export and by a follower of its own.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    process::{Command, Stdio},
};

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
use serde_json::Value;

const OPEN: usize = 20;

fn can_run() -> bool {
    require_root() && require_cgroup2()
}

fn top(pod: &TestPod, columns: u16) -> Terminal {
    Terminal::start(&mut flowcar::top(pod).unwrap(), columns, 24).unwrap()
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

    /// Traffic that a running export follows.
    fn watched(settings: flowcar::Settings) -> (Self, Watch) {
        let traffic = Self::start();
        let mut watch = Watch::start(&traffic.pod, Mode::Both, settings);
        watch.reports(1);
        (traffic, watch)
    }

    /// [`OPEN`] connections, held open.
    fn hold(&self) -> Holding {
        let plan = self.plan().connections(OPEN as u64, 4);
        Holding::start(&self.pod, &plan).unwrap()
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
    let (traffic, watch) = Traffic::watched(&[("FLOWCAR_EXCHANGE", "on")]);
    let holding = traffic.hold();
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

/// `flowcar top` without a terminal.
fn piped(pod: &TestPod, arguments: &[&str]) -> Command {
    let mut command = flowcar::top(pod).unwrap();
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command
}

#[test]
fn top_without_a_terminal_prints_one_table() {
    if !can_run() {
        return;
    }
    let (traffic, watch) = Traffic::watched(&[]);
    let _holding = traffic.hold();
    let output = piped(&traffic.pod, &["--interval", "0.5"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let table = String::from_utf8(output.stdout).unwrap();
    println!("{table}");
    for name in &traffic.names() {
        let live = row(&table, name).map(|row| row[0].to_owned());
        assert_eq!(live, Some(OPEN.to_string()), "{table}");
    }
    assert!(!table.contains('\x1b'), "{table:?}");
    watch.stop();
}

/// The peer in a line of JSON.
fn peer<'a>(line: &'a Value, name: &str) -> Option<&'a Value> {
    line["peers"]
        .as_array()?
        .iter()
        .find(|peer| peer["name"] == name)
}

/// What `kubectl flowcar top` runs in each sidecar.
#[test]
fn lines_of_top_have_peers_and_the_connections_that_are_asked_for() {
    if !can_run() {
        return;
    }
    let (traffic, watch) = Traffic::watched(&[]);
    let holding = traffic.hold();
    let arguments = ["--format", "json", "--stdin", "--interval", "0.2"];
    let mut top = piped(&traffic.pod, &arguments)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = top.stdin.take().unwrap();
    let mut lines = BufReader::new(top.stdout.take().unwrap())
        .lines()
        .map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    let [client, server] = traffic.names();
    // Idle connections are added up once somebody asks. A line has the peers that changed.
    let mut found = BTreeMap::new();
    let mut live = Value::Null;
    while found.len() < 2 {
        let line = lines.next().unwrap();
        assert_eq!(line["protocol"], "flowcar-top/1");
        live = line["books"]["live"].clone();
        for (name, role) in [(&client, "client"), (&server, "server")] {
            if let Some(peer) = peer(&line, name).filter(|peer| peer["live"] == OPEN) {
                found.insert(role, peer["role"].clone());
            }
        }
    }
    assert_eq!(live, 2 * OPEN);
    assert!(found.iter().all(|(role, found)| role == found), "{found:?}");
    // Nothing changed but the time.
    let idle = lines.find(|line| line.get("peers").is_none()).unwrap();
    assert!(idle.get("connections").is_none(), "{idle}");
    writeln!(input, "client {client}").unwrap();
    let opened = lines
        .find(|line| line.get("connections").is_some())
        .unwrap();
    let all = opened["connections"]["all"].as_array().unwrap();
    let mut shown: Vec<SocketAddr> = all
        .iter()
        .map(|of| of["local"].as_str().unwrap().parse().unwrap())
        .collect();
    shown.sort();
    let reports = holding.close().unwrap();
    let mut made: Vec<_> = reports.iter().map(|of| of.local.unwrap()).collect();
    made.sort();
    assert_eq!(shown, made);
    writeln!(input).unwrap();
    let closed = |line: &Value| {
        line.get("connections").is_none()
            && peer(line, &client).is_some_and(|peer| peer["live"] == 0)
    };
    lines.find(closed).unwrap();
    // The end of the standard input is the end of it.
    drop(input);
    assert_eq!(lines.count() / 100, 0);
    assert!(top.wait().unwrap().success());
    watch.stop();
}

#[test]
fn lines_end_with_their_reader() {
    if !can_run() {
        return;
    }
    let (traffic, watch) = Traffic::watched(&[]);
    let arguments = ["--format", "json", "--interval", "0.1"];
    let mut top = piped(&traffic.pod, &arguments).spawn().unwrap();
    let mut line = String::new();
    let mut output = BufReader::new(top.stdout.take().unwrap());
    output.read_line(&mut line).unwrap();
    drop(output);
    assert!(top.wait().unwrap().success());
    watch.stop();
}

#[test]
fn top_names_what_to_use_instead() {
    let pod = |arguments: &[&str]| {
        let mut command = flowcar::bare().unwrap();
        command.arg("top").args(arguments).stdin(Stdio::null());
        command
    };
    let usage = pod(&["--stdin"]).output().unwrap();
    assert_eq!(usage.status.code(), Some(64));
    let message = String::from_utf8_lossy(&usage.stderr);
    assert!(message.contains("give --format json"), "{message}");
    // A screen without keys.
    let script = r#""$0" top < /dev/null 2>&1; echo status $?"#;
    let mut command = flowcar::started_by(&["sh", "-c", script]).unwrap();
    let top = Terminal::start(&mut command, 130, 10).unwrap();
    top.until("a message", |screen| {
        screen.contains("flowcar top --once") && screen.contains("status 64")
    });
}

#[test]
fn top_ends_when_its_terminal_is_closed() {
    if !can_run() {
        return;
    }
    let pod = TestPod::new("top").unwrap();
    let mut top = top(&pod, 80);
    top.until("the screen", |screen| screen.contains("no connections yet"));
    top.close();
    assert_eq!(top.finish().code(), Some(129));
}

#[test]
fn hangup_ends_top_as_a_closed_terminal_does() {
    if !can_run() {
        return;
    }
    let pod = TestPod::new("top").unwrap();
    let mut top = top(&pod, 80);
    top.until("the screen", |screen| screen.contains("no connections yet"));
    kill(Pid::from_raw(top.id().cast_signed()), Signal::SIGHUP).unwrap();
    assert_eq!(top.finish().code(), Some(129));
    assert!(!top.is_full_screen());
}

#[test]
fn lines_of_kubectl_follow_nothing_themselves() {
    if !can_run() {
        return;
    }
    let pod = TestPod::new("top").unwrap();
    let output = piped(&pod, &["--format", "json", "--stdin"])
        .stdin(Stdio::piped())
        .output()
        .unwrap();
    let line: Value = serde_json::from_slice(&output.stdout).unwrap();
    let error = line["error"].as_str().unwrap();
    assert!(error.contains("nobody answers"), "{line}");
    assert!(output.status.success(), "{output:?}");
}
