//! Resets after the peer's FIN, and health checks that reset by design.

use std::process::Stdio;

use flowcar_tests::{
    place::{TestPod, require_cgroup2, require_root},
    traffic::{self, CutOffReport},
    watch::{Flow, Mode, Seen, Watch},
};

const AFTER_FIN: &str = "flowcar.tcp.reset_after_fin";

const NOTHING: &[(&str, &str)] = &[];
const EXCHANGES: &[(&str, &str)] = &[("FLOWCAR_EXCHANGE", "on")];

/// The close reason of each end, and whether a RST came after the FIN.
struct Row {
    how: &'static str,
    client: (&'static str, bool),
    /// The server's end, which closed first; none where it was still waiting for the client's FIN when the RST came.
    server: Option<&'static str>,
}

const ROWS: [Row; 5] = [
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
];

#[test]
fn reset_after_the_peers_fin_is_no_failure() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    for settings in [NOTHING, EXCHANGES] {
        for row in &ROWS {
            let (reports, seen) = cut_off(row.how, settings, 3);
            for report in &reports {
                let client = end_of(&seen, report.client);
                let reported = (client.end(), client.get(AFTER_FIN) == "true");
                assert_eq!(reported, row.client, "{} {client:?}", row.how);
                assert_eq!(client.get("error.type"), "");
                assert_eq!(client.received, 1000);
                let server = end_of(&seen, report.server);
                if let Some(expected) = row.server {
                    assert_eq!(server.end(), expected, "{} {server:?}", row.how);
                    assert_eq!(server.get("error.type"), "");
                }
                assert_eq!((server.sent, server.received >= 100), (1000, true));
            }
        }
    }
}

/// Its reason is reported, and it is no failure of the server.
#[test]
fn health_check_is_no_failure() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    for (settings, reasons) in [
        (NOTHING, &["reset", "reset_received"][..]),
        (EXCHANGES, &["reset_received"]),
    ] {
        let (reports, seen) = cut_off("probe", settings, 3);
        for report in &reports {
            let server = end_of(&seen, report.server);
            assert!(reasons.contains(&server.end()), "{server:?}");
            assert_eq!(server.get("error.type"), "");
            assert_eq!((server.sent, server.received), (0, 0));
        }
    }
}

fn cut_off(how: &str, settings: &[(&str, &str)], connections: usize) -> (Vec<CutOffReport>, Seen) {
    let pod = TestPod::new(how).unwrap();
    let mut watch = Watch::start(&pod, Mode::Both, settings);
    let program = traffic::program().unwrap();
    let mut command = pod.command(program.to_str().unwrap()).unwrap();
    let output = command
        .args(["cut-off", how, "--connections", &connections.to_string()])
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "{how}");
    let lines = String::from_utf8(output.stdout).unwrap();
    let reports: Vec<CutOffReport> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(reports.len(), connections);
    watch.until("both ends", |seen| seen.flows.len() >= 2 * connections);
    (reports, watch.stop())
}

/// The flow of the end with this address.
#[track_caller]
fn end_of(seen: &Seen, local: std::net::SocketAddr) -> &Flow {
    let mut flows = seen.flows.iter();
    flows.find(|flow| flow.local == local).unwrap()
}
