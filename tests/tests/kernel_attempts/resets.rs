//! Resets after the peer's FIN, and health checks that reset by design.

use std::{net::SocketAddr, process::Stdio};

use flowcar_tests::{
    place::{TestPod, require_cgroup2, require_root},
    traffic::{self, CutOffReport, GREETING},
    watch::{Flow, Mode, Seen, Watch},
};

const AFTER_FIN: &str = "flowcar.tcp.reset_after_fin";

const NOTHING: &[(&str, &str)] = &[];
const EXCHANGES: &[(&str, &str)] = &[("FLOWCAR_EXCHANGE", "on")];

/// Connections of each row.
const CONNECTIONS: usize = 3;

/// Every mode, and its settings.
const MODES: [(Mode, &[(&str, &str)]); 4] = [
    (Mode::Both, NOTHING),
    (Mode::Both, EXCHANGES),
    (Mode::Outside, NOTHING),
    (Mode::Alone, NOTHING),
];

/// The close reason of each end, and whether a RST came after the FIN.
struct Row {
    how: &'static str,
    client: (&'static str, bool),
    /// The server's end, which closed first; none where it was still waiting for the client's FIN when the RST came.
    server: Option<&'static str>,
}

const ROWS: [Row; 6] = [
    Row {
        how: "in-order",
        client: ("peer_fin", false),
        server: Some("local_fin"),
    },
    Row {
        how: "notify",
        client: ("peer_fin", true),
        server: Some("local_fin"),
    },
    Row {
        how: "notify-and-close",
        client: ("peer_fin", true),
        server: Some("local_fin"),
    },
    Row {
        how: "abort",
        client: ("peer_fin", true),
        server: None,
    },
    Row {
        how: "unread",
        client: ("peer_fin", true),
        server: None,
    },
    Row {
        how: "abort-half-closed",
        client: ("peer_fin", true),
        server: None,
    },
];

#[test]
fn reset_after_the_peers_fin_is_no_failure() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let pod = TestPod::new("cut-off").unwrap();
    for (mode, settings) in MODES {
        let mut watch = Watch::start(&pod, mode, settings);
        for row in &ROWS {
            let reports = cut_off(row.how, &pod, &mut watch, mode);
            let seen = watch.seen();
            for report in &reports {
                if mode == Mode::Alone {
                    is_right_without_programs(row, seen, report);
                    continue;
                }
                let client = end_of(seen, report.client, report.server).unwrap();
                let server = end_of(seen, report.server, report.client).unwrap();
                let reported = (client.end(), client.get(AFTER_FIN) == "true");
                assert_eq!(reported, row.client, "{mode:?} {} {client:?}", row.how);
                assert_eq!(client.get("error.type"), "");
                assert_eq!(client.received, 1000);
                if let Some(expected) = row.server {
                    assert_eq!(server.end(), expected, "{mode:?} {} {server:?}", row.how);
                    assert_eq!(server.get("error.type"), "");
                }
                assert_eq!((server.sent, server.received >= 100), (1000, true));
            }
        }
    }
}

/// No poll has shown the connection, and SO_LINGER of 0 clears the counts of the socket: what is not known is lost or `unknown`. The
/// RST removes what the server's end leaves, so that it looks as if it had closed second: no reason may be derived from that.
fn is_right_without_programs(row: &Row, seen: &Seen, report: &CutOffReport) {
    let how = row.how;
    if let Some(client) = end_of(seen, report.client, report.server) {
        let reasons = [row.client.0, "unknown"];
        assert!(reasons.contains(&client.end()), "{how} {client:?}");
        assert_eq!(client.get("error.type"), "", "{how} {client:?}");
    }
    let Some(server) = end_of(seen, report.server, report.client) else {
        return;
    };
    let reasons = match row.server {
        Some(expected) => vec![expected, "unknown"],
        None => vec!["local_fin", "reset", "unknown"],
    };
    assert!(reasons.contains(&server.end()), "{how} {server:?}");
}

/// Its reason is reported, and it is no failure of either end, also of a server that speaks first.
#[test]
fn health_check_is_no_failure() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    const EITHER: &[&str] = &["reset", "reset_received"];
    let reasons = [
        EITHER,
        &["reset_received"],
        EITHER,
        &["reset", "reset_received", "unknown"],
    ];
    let pod = TestPod::new("probe").unwrap();
    for ((mode, settings), reasons) in MODES.into_iter().zip(reasons) {
        let mut watch = Watch::start(&pod, mode, settings);
        for (how, greeting) in [("probe", 0), ("probe-of-greeter", GREETING as u64)] {
            for report in &cut_off(how, &pod, &mut watch, mode) {
                let Some(server) = end_of(watch.seen(), report.server, report.client) else {
                    assert_eq!(mode, Mode::Alone);
                    continue;
                };
                assert!(reasons.contains(&server.end()), "{mode:?} {how} {server:?}");
                assert_eq!(server.get("error.type"), "", "{mode:?} {how} {server:?}");
                assert_eq!((server.sent, server.received), (greeting, 0), "{how}");
                if let Some(client) = end_of(watch.seen(), report.client, report.server)
                    && client.end() == "reset_sent"
                {
                    assert_eq!(client.get("error.type"), "", "{mode:?} {how} {client:?}");
                }
            }
        }
    }
}

/// Makes connections that end so, and waits until both ends of each are reported.
fn cut_off(how: &str, pod: &TestPod, watch: &mut Watch, mode: Mode) -> Vec<CutOffReport> {
    // Of a short connection without its counts inet_diag alone knows only that there was one.
    let lost = |seen: &Seen| match mode {
        Mode::Alone => seen.sum("flowcar.tcp.connection.lost", &[]) as usize,
        _ => 0,
    };
    let before = watch.seen().flows.len() + lost(watch.seen());
    let program = traffic::program().unwrap();
    let mut command = pod.command(program.to_str().unwrap()).unwrap();
    let output = command
        .args(["cut-off", how, "--connections", &CONNECTIONS.to_string()])
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "{how}");
    let lines = String::from_utf8(output.stdout).unwrap();
    let reports: Vec<CutOffReport> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(reports.len(), CONNECTIONS);
    watch.until("both ends", |seen| {
        seen.flows.len() + lost(seen) >= before + 2 * CONNECTIONS
    });
    reports
}

/// The flow of the end with these addresses.
fn end_of(seen: &Seen, local: SocketAddr, peer: SocketAddr) -> Option<&Flow> {
    let mut flows = seen.flows.iter();
    flows.find(|flow| (flow.local, flow.peer) == (local, peer))
}
