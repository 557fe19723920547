//! Many closes within milliseconds: the counts by which they are judged are read while more come.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{Child, Stdio},
};

use flowcar_tests::{
    place::{TestPod, has_own_machine, require_cgroup2, require_program, require_root},
    traffic::{self, Among, CrowdReport},
    watch::{Mode, Seen, Watch},
};

const CONNECTIONS: usize = 60;

/// What is wrong with an end that has no flow.
const MISSING: &str = "is missing";

#[test]
fn timeouts_of_a_crowd_are_timeouts_and_no_other_close_is() {
    if !require_root() || !require_cgroup2() || !require_program("nft") {
        return;
    }
    let mut wrong = Vec::new();
    for among in [Among::Timeouts, Among::Aborts, Among::Resets] {
        // Adopted ones are known by polls alone, also beside the programs.
        for is_adopted in [false, true] {
            wrong.extend(check(among, is_adopted));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Checks a crowd in both modes at once. Gives what is wrong.
fn check(among: Among, is_adopted: bool) -> Vec<String> {
    let pod = TestPod::new("crowd").unwrap();
    let early = is_adopted.then(|| Crowd::start(&pod, among));
    let modes = [Mode::Both, Mode::Alone];
    let start = |mode| Watch::start(&pod, mode, &[("OTEL_METRIC_EXPORT_INTERVAL", "1000")]);
    let mut watches = modes.map(start);
    for watch in &mut watches {
        // By then it sleeps, and the first close wakes it.
        watch.reports(2);
    }
    let crowd = early.unwrap_or_else(|| Crowd::start(&pod, among));
    let all = crowd.end();
    let mut wrong = Vec::new();
    for (mut watch, mode) in watches.into_iter().zip(modes) {
        watch.until("both ends of each", |seen| {
            seen.flows.len() + lost(seen) >= 2 * CONNECTIONS
        });
        let seen = watch.stop();
        // Without records the counts alone show the reason of those that timers ended, and with RSTs among them nothing shows which they
        // were. On emulated machines a reading takes as long as the time from close to close.
        let has_records = mode == Mode::Both && !is_adopted;
        let is_certain = has_records && among != Among::Resets || among == Among::Timeouts;
        let may_be_unknown = !is_certain || has_own_machine();
        let mut lost = lost(&seen);
        let found = all
            .iter()
            .flat_map(|of| wrongs(&seen, of, has_records, may_be_unknown));
        let found = found.filter(|wrong| {
            let is_lost = wrong.ends_with(MISSING) && lost > 0;
            lost -= usize::from(is_lost);
            !is_lost
        });
        wrong.extend(found.map(|wrong| {
            format!("{mode:?}, {among:?}, open before flowcar: {is_adopted}: {wrong}")
        }));
    }
    wrong
}

/// Ends that were aborted before a dump showed them, as is possible on emulated machines: their sockets had no addresses any more.
fn lost(seen: &Seen) -> usize {
    let disconnected = [("flowcar.tcp.lost.reason", "disconnected")];
    let lost = seen.sum("flowcar.tcp.connection.lost", &disconnected) as usize;
    if has_own_machine() { lost } else { 0 }
}

/// The traffic, once its connections are open.
struct Crowd {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Crowd {
    fn start(pod: &TestPod, among: Among) -> Self {
        let program = traffic::program().unwrap();
        let among = serde_json::to_value(among).unwrap();
        let mut command = pod.command(program.to_str().unwrap()).unwrap();
        let mut child = command
            .args(["crowd", "--connections", &CONNECTIONS.to_string()])
            .args(["--among", among.as_str().unwrap()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut String::new()).unwrap();
        Self { child, output }
    }

    /// Has them end. Gives what became of them.
    fn end(mut self) -> Vec<CrowdReport> {
        let mut stdin = self.child.stdin.take().unwrap();
        stdin.write_all(b"\n").unwrap();
        let mut lines = String::new();
        self.output.read_to_string(&mut lines).unwrap();
        assert!(self.child.wait().unwrap().success());
        let reports: Vec<_> = lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(reports.len(), CONNECTIONS);
        reports
    }
}

/// What is wrong in the reports of both ends of a connection. Its own end's abort is certain where it `has_records`. A reason
/// `may_be_unknown` where the kernel counts how many timers expired and nothing shows which.
fn wrongs(seen: &Seen, of: &CrowdReport, has_records: bool, may_be_unknown: bool) -> Vec<String> {
    // Where no packet is seen, and without the programs, a reset is one of the three.
    let resets = ["reset_sent", "reset_received", "reset"];
    let (aborted, reset): (&[&str], &[&str]) = if has_records {
        (&resets[..1], &resets[1..])
    } else {
        (&resets, &resets)
    };
    let timeout: &[&str] = &["timeout"];
    let (client, server) = match of.ended {
        Among::Timeouts => (timeout, timeout),
        Among::Aborts => (aborted, timeout),
        Among::Resets => (reset, aborted),
    };
    let ends = [
        (of.client, of.server, client),
        (of.server, of.client, server),
    ];
    let wrong = ends.into_iter().filter_map(|(local, peer, expected)| {
        let mut flows = seen.flows.iter();
        let Some(flow) = flows.find(|flow| (flow.local, flow.peer) == (local, peer)) else {
            return Some(format!("{local} to {peer} {MISSING}"));
        };
        let is = flow.end();
        let right = expected.contains(&is) || (may_be_unknown && is == "unknown");
        (!right).then(|| format!("{local} to {peer}: {is} and not {expected:?}"))
    });
    wrong.collect()
}
