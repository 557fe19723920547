//! `flowcar export` as a sidecar: it follows a cgroup that it is not in, whether anybody takes what it exports or not.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Stdio},
};

use flowcar_tests::{
    flowcar,
    place::{Place, require_cgroup2, require_root},
    traffic::{CallPlan, ServePlan, Serving, call_in},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Killed on drop, so that a panic leaves nothing running.
struct Export(Child);

impl Drop for Export {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn it_follows_another_cgroup_until_it_is_told_to_stop() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let pod = Place::new("pod").unwrap();
    let sidecar = Place::new("sidecar").unwrap();
    // Nobody listens in the sidecar's network: exports fail, following goes on.
    let mut command = flowcar::command(&sidecar).unwrap();
    command
        .arg("export")
        .arg("--cgroup")
        .arg(pod.cgroup().path());
    let mut export = Export(command.stderr(Stdio::piped()).spawn().unwrap());
    let mut log = BufReader::new(export.0.stderr.take().unwrap()).lines();
    let mut told = |what: &str| {
        let found = log
            .by_ref()
            .map(|line| line.unwrap())
            .find(|line| line.contains(what));
        found.unwrap_or_else(|| panic!("it never said {what:?}"))
    };
    told("following");

    let serving = Serving::start(&pod, &ServePlan::at("[::]:0".parse().unwrap())).unwrap();
    let target = ([127, 0, 0, 1], serving.address().port()).into();
    let calls = call_in(&pod, &CallPlan::to(target).connections(10, 2)).unwrap();
    assert!(calls.iter().all(|call| call.failure.is_none()));
    serving
        .reports(10, std::time::Duration::from_secs(30))
        .unwrap();

    kill(Pid::from_raw(export.0.id().cast_signed()), Signal::SIGTERM).unwrap();
    let last = told("stopping");
    println!("{last}");
    // Both ends are in the pod.
    for figure in ["opened=20", "closed=20", "live=0", "lost=0", "failed=0"] {
        assert!(last.contains(figure), "{last}");
    }
    assert_eq!(export.0.wait().unwrap().code(), Some(0));
}
