//! Programs that another process detaches: connections that close meanwhile are lost and reported; flowcar attaches again, or exits.

use std::time::Duration;

use flowcar_tests::{
    exporting::Exporting,
    node::{Node, contained},
    place::{Netns, TestPod, attached_programs, require_cgroup2, require_root},
    traffic::{CallPlan, Held, ServePlan, Serving, call_in},
    watch::{Mode, Watch},
};
use nix::sys::signal::Signal;

const WITHIN: Duration = Duration::from_secs(60);

#[test]
fn detached_programs_are_reported_and_attached_again() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let pod = TestPod::new("detached").unwrap();
    let serving = Serving::start(&pod, &ServePlan::at("127.0.0.1:0".parse().unwrap())).unwrap();
    let plan = CallPlan::to(serving.address()).connections(1, 1);
    let mut watch = Watch::start(&pod, Mode::Both, &[]);
    watch.reports(1);
    // The servers' ends are followed: the test's process is not in the cgroup.
    let held = pod.netns().run(|| Held::open(&plan)).unwrap().unwrap();
    watch.until("it is open", |seen| {
        seen.sum("flowcar.tcp.connection.live", &[]) == 1.0
    });
    // Stopped, it does nothing between the two.
    watch.signal(Signal::SIGSTOP);
    assert_eq!(pod.cgroup().detach_programs().unwrap(), attached_programs());
    pod.netns().run(|| held.close()).unwrap().unwrap();
    serving.reports(1, WITHIN).unwrap();
    watch.signal(Signal::SIGCONT);
    // Packet programs need a capability, which is dropped: addresses stay instead of names.
    watch.reported("DNS messages are not observed");
    let message = watch.reported("were detached from the cgroup");
    assert!(message.contains("attached again"), "{message}");

    // Both ends of these.
    call_in(&pod, &CallPlan::to(serving.address()).connections(3, 1)).unwrap();
    serving.reports(3, WITHIN).unwrap();
    watch.until("flows are followed again", |seen| seen.flows.len() >= 6);
    watch.until("the lost one is reported", |seen| {
        let detached = [("flowcar.tcp.lost.reason", "detached")];
        seen.sum("flowcar.tcp.connection.lost", &detached) == 1.0
    });
    watch.reports(1);
    let seen = watch.stop();
    let sum = |name: &str| seen.sum(name, &[]);
    assert_eq!(seen.began(), 7.0);
    assert_eq!(sum("flowcar.tcp.connection.closed"), 6.0);
    assert_eq!(sum("flowcar.tcp.connection.lost"), 1.0);
    assert_eq!(sum("flowcar.tcp.connection.live"), 0.0);
    assert!(sum("flowcar.self.unfollowed.time") > 0.0);
}

/// The links stay attached, to a program that reports nothing.
#[test]
fn replaced_program_is_reported_and_attached_again() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let pod = TestPod::new("replaced").unwrap();
    let serving = Serving::start(&pod, &ServePlan::at("127.0.0.1:0".parse().unwrap())).unwrap();
    let mut watch = Watch::start(&pod, Mode::Both, &[]);
    watch.reports(1);
    assert_eq!(pod.cgroup().replace_callbacks().unwrap(), 1);
    let message = watch.reported("or replaced");
    assert!(message.contains("attached again"), "{message}");
    call_in(&pod, &CallPlan::to(serving.address()).connections(3, 1)).unwrap();
    serving.reports(3, WITHIN).unwrap();
    watch.until("flows are followed again", |seen| seen.flows.len() >= 6);
    let seen = watch.stop();
    assert_eq!(seen.began(), 6.0);
}

/// In a pod no program is attached a second time: whoever takes flowcar over could choose another cgroup.
#[test]
fn flowcar_exits_if_programs_cannot_be_attached_again() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    for (exchange, programs) in [("off", 0), ("on", 2)] {
        let (node, netns) = (Node::new(), Netns::new("pod").unwrap());
        let mut command = contained(&node.sidecar, &netns, "export");
        command
            .env("FLOWCAR_EXCHANGE", exchange)
            .env("OTEL_METRIC_EXPORT_INTERVAL", "200");
        let mut export = Exporting::start(&mut command);
        export.reported("following its TCP flows");
        assert_eq!(
            node.pods[0].detach_programs().unwrap(),
            attached_programs() + programs
        );
        let message = export.reported("flowcar: ");
        assert!(message.contains("cannot be attached again"), "{message}");
        assert!(
            message.contains("in a pod flowcar attaches no program"),
            "{message}"
        );
        assert_eq!(export.wait().code(), Some(75));
    }
}
