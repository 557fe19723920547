//! Many closes within milliseconds: the counts by which they are judged are read while more come.

use std::process::Stdio;

use flowcar_tests::{
    place::{TestPod, has_own_machine, require_cgroup2, require_program, require_root},
    traffic::{self, CrowdReport},
    watch::{Mode, Seen, Watch},
};

const CONNECTIONS: usize = 60;

#[test]
fn timeouts_of_a_crowd_are_timeouts_and_aborts_among_them_are_not() {
    if !require_root() || !require_cgroup2() || !require_program("nft") {
        return;
    }
    for (mode, aborts) in [
        (Mode::Both, false),
        (Mode::Both, true),
        (Mode::Alone, false),
        (Mode::Alone, true),
    ] {
        let pod = TestPod::new("crowd").unwrap();
        let mut watch = Watch::start(&pod, mode, &[("OTEL_METRIC_EXPORT_INTERVAL", "1000")]);
        // By then it sleeps, and the first close wakes it.
        watch.reports(2);
        let all = crowd(&pod, aborts);
        watch.until("both ends of each", |seen| {
            seen.flows.len() >= 2 * CONNECTIONS
        });
        let seen = watch.stop();
        // Without programs the counts alone show the reason. On emulated machines a reading takes as long as the time from close to close.
        let may_be_unknown = (aborts && mode == Mode::Alone) || has_own_machine();
        let wrong: Vec<_> = all
            .iter()
            .flat_map(|of| wrongs(&seen, of, may_be_unknown))
            .collect();
        assert!(
            wrong.is_empty(),
            "{mode:?}, aborts: {aborts}\n{}",
            wrong.join("\n")
        );
    }
}

/// Makes the connections. Gives what became of them.
fn crowd(pod: &TestPod, aborts: bool) -> Vec<CrowdReport> {
    let program = traffic::program().unwrap();
    let mut command = pod.command(program.to_str().unwrap()).unwrap();
    command.args(["crowd", "--connections", &CONNECTIONS.to_string()]);
    if aborts {
        command.arg("--aborts");
    }
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success());
    let lines = String::from_utf8(output.stdout).unwrap();
    let reports: Vec<_> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(reports.len(), CONNECTIONS);
    reports
}

/// What is wrong in the reports of both ends of a connection. A reason `may_be_unknown` where the kernel counts how many timers expired and
/// nothing shows which.
fn wrongs(seen: &Seen, of: &CrowdReport, may_be_unknown: bool) -> Vec<String> {
    let client = if of.is_aborted {
        "reset_sent"
    } else {
        "timeout"
    };
    let ends = [
        (of.client, of.server, client),
        (of.server, of.client, "timeout"),
    ];
    let wrong = ends.into_iter().filter_map(|(local, peer, expected)| {
        let mut flows = seen.flows.iter();
        let Some(flow) = flows.find(|flow| (flow.local, flow.peer) == (local, peer)) else {
            return Some(format!("{local} to {peer} is missing"));
        };
        let may_be = |reason| reason == expected || (may_be_unknown && reason == "unknown");
        (!may_be(flow.end()))
            .then(|| format!("{local} to {peer}: {} and not {expected}", flow.end()))
    });
    wrong.collect()
}
