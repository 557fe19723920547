//! A socket keeps the cgroup that it was made in, whichever process has it later: that cgroup is followed. An accepted one has its
//! listener's.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Command, Stdio},
    time::Duration,
};

use flowcar_tests::{
    place::{Cgroup, TestPod},
    traffic::{self, CallPlan, ConnectionReport, Holding, ServePlan, Serving},
    watch::{Mode, Watch, bytes_hold},
};

use crate::can_run;

const WITHIN: Duration = Duration::from_secs(30);

/// Long enough for several polls, which come with the reports every 200 ms.
const SEEN_BY_POLLS_MS: &str = "1000";

fn traffic_in(cgroup: &Cgroup, pod: &TestPod, arguments: &[&str]) -> Command {
    let mut command = Command::new(traffic::program().unwrap());
    cgroup.enter(&mut command).unwrap();
    pod.netns().enter(&mut command).unwrap();
    command.args(arguments).stdout(Stdio::piped());
    command
}

/// A connection that a process of `from` opens and one of `to` continues and closes. Returns both reports.
fn hand_over(
    pod: &TestPod,
    from: &Cgroup,
    to: &Cgroup,
    target: SocketAddr,
) -> (ConnectionReport, ConnectionReport) {
    let directory = tempfile::tempdir().unwrap();
    let (at, target) = (directory.path().join("at"), target.to_string());
    let at = at.to_str().unwrap();
    let take = [
        "take",
        &target,
        "--at",
        at,
        "--delay",
        SEEN_BY_POLLS_MS,
        "--request",
        "700",
    ];
    let mut taking = traffic_in(to, pod, &take).spawn().unwrap();
    let mut taken = BufReader::new(taking.stdout.take().unwrap()).lines();
    taken.next().expect("it is ready").unwrap();
    let give = ["give", &target, "--at", at];
    let given = traffic_in(from, pod, &give).output().unwrap();
    assert!(given.status.success());
    let taken = taken.next().expect("its report").unwrap();
    assert!(taking.wait().unwrap().success());
    let report = |line: &[u8]| -> ConnectionReport { serde_json::from_slice(line).unwrap() };
    (report(&given.stdout), report(taken.as_bytes()))
}

#[test]
fn passed_connection_stays_in_the_cgroup_of_its_creator() {
    if !can_run() {
        return;
    }
    for mode in [Mode::Both, Mode::AloneInCgroup] {
        let pod = TestPod::new("passed-on").unwrap();
        let neighbour = Cgroup::new("neighbour").unwrap();
        let serve = ["serve", "--listen", "127.0.0.1:7000"];
        let mut server = traffic_in(&neighbour, &pod, &serve).spawn().unwrap();
        let mut served = BufReader::new(server.stdout.take().unwrap()).lines();
        served.next().expect("it listens").unwrap();
        let target = "127.0.0.1:7000".parse().unwrap();
        let mut watch = Watch::start(&pod, mode, &[]);

        let (given, taken) = hand_over(&pod, pod.cgroup(), &neighbour, target);
        assert_eq!(
            (given.failure.as_ref(), taken.failure.as_ref()),
            (None, None)
        );
        let (theirs, _) = hand_over(&pod, &neighbour, pod.cgroup(), target);
        watch.until("what the pod made", |seen| !seen.flows.is_empty());
        watch.reports(2);
        let seen = watch.stop();
        assert_ne!(given.local, theirs.local);
        assert_eq!(seen.flows.len(), 1, "{mode:?}: {:#?}", seen.flows);
        let flow = seen.flow(&given);
        assert_eq!(given.local, taken.local);
        assert_eq!(
            (flow.sent, flow.received),
            (given.sent + taken.sent, given.received + taken.received),
            "both processes' exchanges are one flow"
        );
        assert_eq!(flow.end(), "local_fin");
        server.kill().unwrap();
        server.wait().unwrap();
    }
}

/// Its open connections and those that its listener accepts later are followed.
#[test]
fn sockets_stay_in_their_cgroup_when_the_process_moves() {
    if !can_run() {
        return;
    }
    for mode in [Mode::Both, Mode::AloneInCgroup] {
        let pod = TestPod::new("moved").unwrap();
        let neighbour = Cgroup::new("neighbour").unwrap();
        let serving = Serving::start(&pod, &ServePlan::at("0.0.0.0:0".parse().unwrap())).unwrap();
        let target: SocketAddr = ([127, 0, 0, 1], serving.address().port()).into();
        let mut watch = Watch::start(&pod, mode, &[]);
        let mut holding = Holding::start(&pod, &CallPlan::to(target).connections(3, 1)).unwrap();
        let live = "flowcar.tcp.connection.live";
        watch.until("both ends", |seen| seen.sum(live, &[]) == 6.0);

        neighbour.adopt(holding.id()).unwrap();
        neighbour.adopt(serving.id()).unwrap();
        assert_eq!(holding.exchange().unwrap(), 3);
        // By a neighbour, to the listener that has moved.
        let address = target.to_string();
        let call = [
            "call",
            &address,
            "--connections",
            "5",
            "--delay",
            SEEN_BY_POLLS_MS,
        ];
        let call = traffic_in(&neighbour, &pod, &call).output().unwrap();
        assert!(call.status.success());
        let held = holding.close().unwrap();
        let servers = serving.reports(8, WITHIN).unwrap();
        watch.until("all ends", |seen| seen.flows.len() >= 11);
        let seen = watch.stop();
        assert_eq!(seen.flows.len(), 11, "{mode:?}: {:#?}", seen.flows);
        for report in held.iter().chain(&servers) {
            assert_eq!(report.failure, None);
            bytes_hold(seen.flow(report), report);
        }
    }
}
