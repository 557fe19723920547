//! Several listeners on one port.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use flowcar_tests::{
    place::{Cgroup, TestPod},
    traffic::{self, CallPlan, ServePlan, Serving, call_in},
    watch::{Mode, Watch, bytes_hold},
};

use crate::can_run;

const CONNECTIONS: u64 = 100;
const WITHIN: Duration = Duration::from_secs(30);

/// Each worker accepts from a listener of its own.
#[test]
fn reuseport_workers_of_one_pod() {
    if !can_run() {
        return;
    }
    for mode in [Mode::Both, Mode::AloneInCgroup] {
        let pod = TestPod::new("workers").unwrap();
        let serve = ServePlan {
            workers: 8,
            ..ServePlan::at("0.0.0.0:0".parse().unwrap())
        };
        let serving = Serving::start(&pod, &serve).unwrap();
        let target: SocketAddr = ([127, 0, 0, 1], serving.address().port()).into();
        let mut watch = Watch::start(&pod, mode, &[]);
        watch.reports(1);
        let plan = CallPlan::to(target).connections(CONNECTIONS, 5);
        call_in(&pod, &plan.sizes(0..=5_000, 1..=5_000)).unwrap();
        let servers = serving.reports(CONNECTIONS as usize, WITHIN).unwrap();
        let at_servers = |seen: &flowcar_tests::watch::Seen| {
            let servers = seen.flows.iter().filter(|flow| flow.role() == "server");
            servers.count() as u64
        };
        watch.until("all servers' ends", |seen| at_servers(seen) >= CONNECTIONS);
        let seen = watch.stop();
        assert_eq!(at_servers(&seen), CONNECTIONS, "{mode:?}");
        for report in &servers {
            bytes_hold(seen.flow(report), report);
        }
    }
}

/// A pod and its neighbour share a port: the pod's are those that its own process accepted.
#[test]
fn reuseport_shared_with_a_neighbour() {
    if !can_run() {
        return;
    }
    for mode in [Mode::Both, Mode::AloneInCgroup] {
        let pod = TestPod::new("shared-port").unwrap();
        let neighbour = Cgroup::new("neighbour").unwrap();
        let serve = ServePlan {
            workers: 2,
            ..ServePlan::at("0.0.0.0:0".parse().unwrap())
        };
        let serving = Serving::start(&pod, &serve).unwrap();
        let target: SocketAddr = ([127, 0, 0, 1], serving.address().port()).into();
        let others = Neighbour::serve(&pod, &neighbour, target.port());
        let mut watch = Watch::start(&pod, mode, &[]);
        watch.reports(1);
        let call = ["call", &target.to_string(), "--connections", "100"];
        let called = beside(&pod, &neighbour, &call).output().unwrap();
        assert!(called.status.success());

        let deadline = Instant::now() + WITHIN;
        let (mut own, mut theirs) = (Vec::new(), 0);
        while own.len() + theirs < CONNECTIONS as usize {
            let served = serving.reports(1, Duration::from_millis(50));
            own.extend(served.unwrap_or_default());
            theirs += others.ended.try_iter().count();
            assert!(Instant::now() < deadline, "{} and {theirs}", own.len());
        }
        println!("{mode:?}: {} of {CONNECTIONS} were the pod's", own.len());
        assert!(!own.is_empty() && theirs > 0, "both had a share");
        match mode {
            Mode::Both => watch.until("the pod's", |seen| seen.flows.len() >= own.len()),
            // Of a shared listener the owner of a short connection is unknown; a counter reports that.
            _ => watch.until("what is reported", |seen| {
                let unscoped = seen.sum("flowcar.self.socket.unscoped", &[]);
                unscoped + seen.flows.len() as f64 >= 2.0 * CONNECTIONS as f64
            }),
        };
        let seen = watch.stop();
        if mode == Mode::Both {
            assert_eq!(seen.flows.len(), own.len());
            for report in &own {
                bytes_hold(seen.flow(report), report);
            }
        }
        let is_own = |peer: SocketAddr| own.iter().any(|report| report.peer == peer);
        assert!(seen.flows.iter().all(|flow| is_own(flow.peer)));
    }
}

/// `traffic serve` in the neighbour's cgroup.
struct Neighbour {
    child: Child,
    /// A connection closed.
    ended: mpsc::Receiver<()>,
}

impl Neighbour {
    fn serve(pod: &TestPod, cgroup: &Cgroup, port: u16) -> Self {
        let listen = format!("0.0.0.0:{port}");
        let serve = ["serve", "--listen", &listen, "--workers", "2"];
        let mut child = beside(pod, cgroup, &serve).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
        output.next().expect("it listens").unwrap();
        let (to, ended) = mpsc::channel();
        thread::spawn(move || {
            let mut lines = output.map_while(Result::ok);
            lines.try_for_each(|_| to.send(()))
        });
        Self { child, ended }
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        // It may have been killed with its cgroup.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `traffic` in the pod's network and in another cgroup.
fn beside(pod: &TestPod, neighbour: &Cgroup, arguments: &[&str]) -> Command {
    let mut command = Command::new(traffic::program().unwrap());
    neighbour.enter(&mut command).unwrap();
    pod.netns().enter(&mut command).unwrap();
    command.args(arguments).stdout(Stdio::piped());
    command
}
