//! `flowcar export` as a sidecar: it follows a cgroup that it is not in, with or without a receiver.

use std::{os::unix::process::CommandExt as _, time::Duration};

use flowcar_tests::{
    exporting::{Exporting, has_books},
    flowcar,
    place::{TestPod, require_cgroup2, require_root},
    traffic::{CallPlan, ServePlan, Serving, call_in},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

#[test]
fn export_follows_another_cgroup_until_sigterm() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let pod = TestPod::new("pod").unwrap();
    let sidecar = TestPod::new("sidecar").unwrap();
    // Nobody listens in the sidecar's network: exports fail, following goes on.
    let mut command = flowcar::command(&sidecar).unwrap();
    command
        .arg("export")
        .arg("--cgroup")
        .arg(pod.cgroup().path());
    let mut export = Exporting::start(&mut command);
    export.reported("following");

    let serving = Serving::start(&pod, &ServePlan::at("[::]:0".parse().unwrap())).unwrap();
    let target = ([127, 0, 0, 1], serving.address().port()).into();
    let calls = call_in(&pod, &CallPlan::to(target).connections(10, 2)).unwrap();
    assert!(calls.iter().all(|call| call.failure.is_none()));
    serving.reports(10, Duration::from_secs(30)).unwrap();
    // Both ends are in the pod.
    has_books(&export.stop(), 20);
}

/// SIGHUP of a closed terminal stops it as SIGTERM does; a flowcar that ignores SIGHUP (nohup) goes on.
#[test]
fn sighup_stops_export_unless_ignored() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let pod = TestPod::new("hangup").unwrap();
    let start = |ignored: bool| {
        let mut command = flowcar::command(&pod).unwrap();
        command
            .arg("export")
            .arg("--cgroup")
            .arg(pod.cgroup().path());
        // The tests themselves may run under nohup.
        let disposition = if ignored {
            libc::SIG_IGN
        } else {
            libc::SIG_DFL
        };
        // SAFETY: between fork and exec the closure makes one system call.
        unsafe {
            command.pre_exec(move || {
                libc::signal(libc::SIGHUP, disposition);
                Ok(())
            });
        }
        let mut export = Exporting::start(&mut command);
        export.reported("following");
        let pid = Pid::from_raw(export.id().cast_signed());
        kill(pid, Signal::SIGHUP).unwrap();
        export
    };
    let mut ended = start(false);
    has_books(&ended.reported("stopping"), 0);
    assert_eq!(ended.wait().code(), Some(0));
    // Otherwise it would have exited by the first signal, with another status.
    has_books(&start(true).stop(), 0);
}

/// Lost reports are logged; the exit status shows them in strict mode only.
#[test]
fn lost_reports_fail_the_exit_status_if_strict() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let pod = TestPod::new("strict").unwrap();
    for (arguments, status) in [(&[][..], 0), (&["--strict"][..], 69)] {
        let mut command = flowcar::command(&pod).unwrap();
        command
            .arg("export")
            .args(arguments)
            .arg("--cgroup")
            .arg(pod.cgroup().path())
            // Nobody listens there.
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
            .env("FLOWCAR_SHUTDOWN_TIMEOUT", "300");
        let mut export = Exporting::start(&mut command);
        export.reported("following");
        let pid = Pid::from_raw(export.id().cast_signed());
        kill(pid, Signal::SIGTERM).unwrap();
        export.reported("metrics are lost");
        assert_eq!(export.wait().code(), Some(status), "{arguments:?}");
    }
}
