//! Retransmits by type on the screen of `flowcar top`, and the page of one connection that is followed to its close.

use std::{
    net::{Ipv6Addr, SocketAddr},
    process::Stdio,
    thread,
    time::Duration,
};

use flowcar_tests::{
    flowcar,
    link::{Direction::AtoB, Only, Plan, TcpSummary, When},
    place::{TestPod, require_cgroup2, require_root, require_tun},
    terminal::Terminal,
    traffic::{CallPlan, Close, ConnectionReport, Holding, Pods, ServePlan, Serving, call_in},
    watch::{Mode, Watch},
};
use serde_json::Value;

const RTT: Duration = Duration::from_millis(20);

/// Whether a line of the screen begins with these words.
fn shows(screen: &str, words: &str) -> bool {
    let all: Vec<&str> = words.split_whitespace().collect();
    screen.lines().any(|line| {
        let line = line.trim_matches(['│', ' ']).split_whitespace();
        line.take(all.len()).eq(all.iter().copied())
    })
}

#[track_caller]
fn until(top: &Terminal, words: &str) -> String {
    let screen = top.until(words, |screen| shows(screen, words));
    println!("{screen}\n");
    screen
}

/// This end of the connection whose page this is.
fn followed(screen: &str) -> SocketAddr {
    let line = screen
        .lines()
        .find_map(|line| line.strip_prefix("following "));
    let line = line.unwrap_or_else(|| panic!("nothing is followed:\n{screen}"));
    line.split(' ').next().unwrap().parse().unwrap()
}

/// SYNs that the client sent again, and its other segments, as the link carried them.
fn carried_again(pods: &Pods, of: SocketAddr) -> (u64, u64) {
    let trace = pods.link().trace().of_port(of.port());
    let syns = trace.count(AtoB, TcpSummary::is_syn) as u64 - 1;
    (syns, trace.sent_again(AtoB) - syns)
}

#[test]
fn followed_connection_shows_retransmits_by_type_and_who_reset_it() {
    if !(require_root() && require_cgroup2() && require_tun()) {
        return;
    }
    let pods = Pods::new(Plan::rtt(RTT)).unwrap();
    for pod in [pods.client(), pods.server()] {
        pod.netns().have_patience().unwrap();
    }
    let mut watch = Watch::start(pods.client(), Mode::Both, &[]);
    watch.reports(1);
    let lossy = Plan::rtt(RTT)
        .drop(Only::Syn, When::Nth(1))
        .drop(Only::Data, When::Nth(1));
    pods.link().set(AtoB, lossy);
    let plan = CallPlan::to(pods.v4()).sizes(100..=100, 10..=10);
    let plan = plan.close(Close::ResetByServer);
    let mut holding = Holding::start(pods.client(), &plan).unwrap();
    // The peer's pane.
    let mut top = Terminal::start(&mut flowcar::top(pods.client()).unwrap(), 80, 24).unwrap();
    top.until("the peer", |screen| screen.contains(&pods.v4().to_string()));
    top.press("h");
    until(&top, "in all 1 0 0 1 0 0");
    top.press("h\r");
    until(&top, "connections of");
    top.until("the connection", |screen| {
        screen.lines().any(|line| line.starts_with(':'))
    });
    top.press("f");
    let local = followed(&until(&top, "since opened 1 0 0 1 0 0"));
    assert_eq!(carried_again(&pods, local), (1, 1));
    // One more is lost while it is followed, and others come and go.
    let lossy = Plan::rtt(RTT).drop(Only::Data, When::Nth(1));
    pods.link().set(AtoB, lossy);
    holding.exchange().unwrap();
    let others = CallPlan::to(pods.v4()).connections(10, 5).exchanges(3);
    let (others, _) = pods.call(&others).unwrap();
    assert!(others.iter().all(|report| report.failure.is_none()));
    let screen = until(&top, "while followed 0 0 0 1 0 0");
    assert!(shows(&screen, "since opened 1 0 0 2 0 0"), "{screen}");
    assert!(shows(&screen, "state open for"), "{screen}");
    assert_eq!(followed(&screen), local);
    assert_eq!(carried_again(&pods, local), (1, 2));
    // What a script reads.
    let output = flowcar::top(pods.client())
        .unwrap()
        .args(["--format", "json", "--once"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let line: Value = serde_json::from_slice(&output.stdout).unwrap();
    let by_type = &line["peers"][0]["retransmits_by_type"];
    assert_eq!(
        (by_type["syn"].as_u64(), by_type["timeout"].as_u64()),
        (Some(1), Some(2)),
        "{line}"
    );

    let reports = holding.close().unwrap();
    let [report] = &reports[..] else {
        panic!("{reports:?}")
    };
    assert_eq!(report.local, Some(local));
    let screen = top.until("the reset", |screen| {
        screen.contains("state        closed after")
    });
    println!("{screen}");
    assert!(
        screen.contains(": reset_received: the peer sent a RST"),
        "{screen}"
    );
    assert!(shows(&screen, "since opened 1 0 0 2 0 0"), "{screen}");
    assert_eq!(carried_again(&pods, local), (1, 2));
    let (sent, received) = (report.sent, report.received);
    assert!(
        shows(&screen, &format!("sent {sent}B")),
        "{sent} in {screen}"
    );
    assert!(
        shows(&screen, &format!("received {received}B")),
        "{received} in {screen}"
    );
    back_and_quit(top);
    watch.stop();
}

/// Leaves the page of a connection that was the last one of its peer, and quits.
fn back_and_quit(mut top: Terminal) {
    top.press("\x1b");
    top.until("the list", |screen| {
        screen.contains("no connection to this peer is open")
    });
    top.press("q");
    assert!(top.finish().success());
}

fn ports(reports: &[ConnectionReport]) -> Vec<u16> {
    reports
        .iter()
        .map(|report| report.local.unwrap().port())
        .collect()
}

/// Five connections, a set of which is closed after the other: the one that is followed is in one of them.
#[test]
fn followed_connection_stays_on_the_screen_until_it_closes() {
    if !(require_root() && require_cgroup2()) {
        return;
    }
    let pod = TestPod::new("follow").unwrap();
    let serving = Serving::start(&pod, &ServePlan::at((Ipv6Addr::UNSPECIFIED, 0).into())).unwrap();
    let plan = CallPlan::to(([127, 0, 0, 1], serving.address().port()).into());
    let mut watch = Watch::start(&pod, Mode::Both, &[]);
    watch.reports(1);
    let hold = |count| Holding::start(&pod, &plan.clone().connections(count, 1)).unwrap();
    let sets = [hold(3), hold(2)];
    let mut top = Terminal::start(&mut flowcar::top(&pod).unwrap(), 140, 24).unwrap();
    let name = format!("127.0.0.1:{}", serving.address().port());
    top.until("the peer", |screen| screen.contains(&name));
    top.press(&format!("/{name}\r\r"));
    let is_row = |line: &&str| line.starts_with(':');
    top.until("connections", |screen| {
        screen.lines().filter(is_row).count() == 5
    });
    // The third row.
    top.press("jjf");
    let screen = top.until("the page", |screen| screen.contains("following"));
    println!("{screen}");
    let local = followed(&screen);
    let busy = plan.clone().connections(30, 3).exchanges(3);
    let others = call_in(&pod, &busy).unwrap();
    assert!(!ports(&others).contains(&local.port()));
    for holding in sets {
        assert_eq!(followed(&top.text()), local);
        let closed = ports(&holding.close().unwrap());
        if closed.contains(&local.port()) {
            let screen = top.until("the close", |screen| screen.contains("closed after"));
            println!("{screen}");
            assert!(
                screen.contains(": local_fin: this end sent the first FIN"),
                "{screen}"
            );
            assert_eq!(followed(&screen), local);
        } else {
            // Some answers later it is open still, or has been closed before.
            thread::sleep(Duration::from_secs(3));
            let screen = top.text();
            println!("{screen}");
            assert_eq!(followed(&screen), local);
        }
    }
    top.until("the close", |screen| screen.contains("closed after"));
    back_and_quit(top);
    watch.stop();
}
