//! flowcar follows its cgroup alone, also where other cgroups share the network.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use flowcar_tests::{
    flowcar::{Run, Server},
    place::{Cgroup, TestPod, require_cgroup2, require_root},
    traffic::{self, ConnectionReport, ServePlan, Serving},
};

/// `traffic` in the pod's network and in another cgroup.
fn beside(pod: &TestPod, neighbour: &Cgroup, arguments: &[&str]) -> Command {
    let mut command = Command::new(traffic::program().unwrap());
    neighbour.enter(&mut command).unwrap();
    pod.netns().enter(&mut command).unwrap();
    command.args(arguments).stdout(Stdio::piped());
    command
}

fn call(pod: &TestPod, neighbour: &Cgroup, target: &str, count: &str) -> Vec<ConnectionReport> {
    let arguments = ["call", target, "--connections", count];
    let output = beside(pod, neighbour, &arguments).output().unwrap();
    assert!(output.status.success());
    let lines = output.stdout.lines().map(|line| line.unwrap());
    let reports: Vec<ConnectionReport> = lines
        .map(|line| serde_json::from_str(&line).unwrap())
        .collect();
    assert!(reports.iter().all(|report| report.failure.is_none()));
    reports
}

/// Before, between and after the followed flows the neighbour makes its own, and it is the other end of those.
#[test]
fn a_neighbours_flows_are_never_seen() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let pod = TestPod::new("followed").unwrap();
    let neighbour = Cgroup::new("neighbour").unwrap();
    let serve = ["serve", "--listen", "127.0.0.1:7000", "--until", "50"];
    let mut neighbours_own = beside(&pod, &neighbour, &serve).spawn().unwrap();
    let mut its_output = BufReader::new(neighbours_own.stdout.take().unwrap());
    its_output.read_line(&mut String::new()).unwrap();

    let followed = Server::start(&pod, 10).unwrap();
    let target = format!("127.0.0.1:{}", followed.port());
    assert_eq!(call(&pod, &neighbour, "127.0.0.1:7000", "25").len(), 25);
    let mut callers = call(&pod, &neighbour, &target, "5");
    assert_eq!(call(&pod, &neighbour, "127.0.0.1:7000", "25").len(), 25);
    callers.extend(call(&pod, &neighbour, &target, "5"));
    let served = its_output.lines().count();
    assert!(neighbours_own.wait().unwrap().success());
    assert_eq!(served, 50);

    let (applications, report) = followed.finish().unwrap();
    assert_eq!((applications.len(), callers.len()), (10, 10));
    assert!(report.flows.iter().all(|flow| flow.role == "server"));
    let seen: BTreeSet<_> = report.flows.iter().map(|flow| Some(flow.peer())).collect();
    let expected: BTreeSet<_> = callers.iter().map(|caller| caller.local).collect();
    assert_eq!(seen, expected);
    let books = report.summary;
    assert_eq!((books.opened, books.closed), (10, 10));
    assert_eq!((books.live, books.failed, books.lost), (0, 0, 0));
}

/// Connections that the command leaves open are neither closed nor lost, and are shown with every byte, in every mode.
#[test]
fn connections_open_at_the_end_are_live() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    open_at_the_end(&[], true);
    open_at_the_end(&[("FLOWCAR_EXCHANGE", "on")], true);
    // A connection that is shorter than a poll's interval may not be known to be the command's.
    open_at_the_end(&[("FLOWCAR_SOURCE", "inet_diag")], false);
}

fn open_at_the_end(settings: &[(&str, &str)], sees_short: bool) {
    let pod = TestPod::new("live").unwrap();
    // In the pod's cgroup, above the one that is followed.
    let serving = Serving::start(&pod, &ServePlan::at("127.0.0.1:0".parse().unwrap())).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let script = format!(
        "mkfifo {0}/opened; (sleep 1000 | {1} hold {2} --connections 3 >{0}/opened) & \
         read -r opened <{0}/opened; {1} call {2} >/dev/null",
        directory.path().display(),
        traffic::program().unwrap().display(),
        serving.address()
    );
    let run = Run::start_with(&pod, settings, "sh".as_ref(), &["-c", &script]).unwrap();
    let (status, report) = run.finish().unwrap();
    assert!(status.success());
    let open: Vec<_> = report
        .flows
        .iter()
        .filter(|flow| flow.end == "open")
        .collect();
    assert_eq!(open.len(), 3, "{settings:?}: {report:#?}");
    for flow in open {
        let who = (flow.role.as_str(), flow.peer());
        assert_eq!(who, ("client", serving.address()), "{settings:?}");
        // The one exchange of each: a request of 100 bytes behind its header, and the response.
        let bytes = (flow.bytes_sent, flow.bytes_received);
        assert_eq!(bytes, (132, 1000), "{settings:?}: {flow:?}");
    }
    let books = report.summary;
    assert_eq!((books.live, books.failed, books.lost), (3, 0, 0));
    assert_eq!(books.opened, books.closed + 3);
    if sees_short {
        assert_eq!((report.flows.len(), books.closed), (4, 1), "{settings:?}");
    }
}
