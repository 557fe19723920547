//! A neighbour in the same network namespace.

use std::{
    io::BufRead,
    process::{Command, Stdio},
    time::Duration,
};

use flowcar_tests::{
    place::{Cgroup, TestPod, require_cgroup2, require_root},
    traffic::{self, CallPlan, ConnectionReport, Holding, ServePlan, Serving},
    watch::{Mode, Watch, bytes_hold},
};

fn call(pod: &TestPod, neighbour: &Cgroup, target: &str, count: &str) -> Vec<ConnectionReport> {
    let mut command = Command::new(traffic::program().unwrap());
    neighbour.enter(&mut command).unwrap();
    pod.netns().enter(&mut command).unwrap();
    command
        .args(["call", target, "--connections", count])
        .stdout(Stdio::piped());
    let output = command.output().unwrap();
    assert!(output.status.success());
    let lines = output.stdout.lines().map(|line| line.unwrap());
    lines
        .map(|line| serde_json::from_str(&line).unwrap())
        .collect()
}

/// The neighbour calls into the pod: the pod's ends are followed, long or short; the neighbour's are counted separately.
#[test]
fn neighbours_sockets_are_counted_separately() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let pod = TestPod::new("scope").unwrap();
    let neighbour = Cgroup::new("neighbour").unwrap();
    let below = pod.cgroup().child("below").unwrap();
    let serving = Serving::start(&pod, &ServePlan::at("[::]:0".parse().unwrap())).unwrap();
    below.adopt(serving.id()).unwrap();
    let target = std::net::SocketAddr::from(([127, 0, 0, 1], serving.address().port()));
    let holding = Holding::start(&pod, &CallPlan::to(target).connections(3, 1)).unwrap();

    let mut watch = Watch::start(&pod, Mode::AloneInCgroup, &[]);
    let live = "flowcar.tcp.connection.live";
    let sockets = |side| [("flowcar.self.socket.scope", side)];
    watch.until("what is held", |seen| {
        let sum = |side| seen.sum("flowcar.self.socket.count", &sockets(side));
        // Both ends of flowcar's own connection are others.
        (seen.sum(live, &[]), sum("followed"), sum("other")) == (6.0, 6.0, 2.0)
    });
    let callers = call(&pod, &neighbour, &target.to_string(), "20");
    assert!(callers.iter().all(|caller| caller.failure.is_none()));
    let servers = serving.reports(20, Duration::from_secs(60)).unwrap();
    watch.until("the pod's ends", |seen| seen.flows.len() >= 20);
    let held = holding.close().unwrap();
    watch.until("what was held", |seen| seen.flows.len() >= 26);
    let seen = watch.stop();

    assert_eq!(seen.flows.len(), 26, "{:#?}", seen.flows);
    for report in servers.iter().chain(&held) {
        bytes_hold(seen.flow(report), report);
    }
    for caller in &callers {
        let local = caller.local.unwrap();
        assert!(
            seen.flows.iter().all(|flow| flow.local != local),
            "{local} is the neighbour's"
        );
    }
    // By their destroy events its short connections may have been the pod's.
    let unscoped = seen.sum("flowcar.self.socket.unscoped", &[]);
    assert!(unscoped >= 20.0, "{unscoped}");
}
