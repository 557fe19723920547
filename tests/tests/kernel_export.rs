//! `flowcar export` as a sidecar: it follows a cgroup that it is not in, whether anybody takes what it exports or not.

use std::{os::unix::process::CommandExt as _, time::Duration};

use flowcar_tests::{
    exporting::{Exporting, has_books},
    flowcar,
    place::{Place, require_cgroup2, require_root},
    traffic::{CallPlan, ServePlan, Serving, call_in},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

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
    let mut export = Exporting::start(&mut command);
    export.told("following");

    let serving = Serving::start(&pod, &ServePlan::at("[::]:0".parse().unwrap())).unwrap();
    let target = ([127, 0, 0, 1], serving.address().port()).into();
    let calls = call_in(&pod, &CallPlan::to(target).connections(10, 2)).unwrap();
    assert!(calls.iter().all(|call| call.failure.is_none()));
    serving.reports(10, Duration::from_secs(30)).unwrap();
    // Both ends are in the pod.
    has_books(&export.stop(), 20);
}

/// A terminal that is closed ends it as SIGTERM does; one that was started to outlive its terminal (nohup) goes on.
#[test]
fn a_hangup_ends_it_in_order_unless_it_is_ignored() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let pod = Place::new("hangup").unwrap();
    let start = |ignored: bool| {
        let mut command = flowcar::command(&pod).unwrap();
        command
            .arg("export")
            .arg("--cgroup")
            .arg(pod.cgroup().path());
        if ignored {
            // SAFETY: between fork and exec the closure makes one system call.
            unsafe {
                command.pre_exec(|| {
                    libc::signal(libc::SIGHUP, libc::SIG_IGN);
                    Ok(())
                });
            }
        }
        let mut export = Exporting::start(&mut command);
        export.told("following");
        let pid = Pid::from_raw(export.id().cast_signed());
        kill(pid, Signal::SIGHUP).unwrap();
        export
    };
    let mut ended = start(false);
    has_books(&ended.told("stopping"), 0);
    assert_eq!(ended.wait().code(), Some(0));
    // Else it would have ended by the first signal, without this one's status.
    has_books(&start(true).stop(), 0);
}

/// Reports that nobody took are logged; in the exit status where that is asked for.
#[test]
fn reports_that_nobody_took_are_in_the_exit_status_if_strict() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let pod = Place::new("strict").unwrap();
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
        export.told("following");
        let pid = Pid::from_raw(export.id().cast_signed());
        kill(pid, Signal::SIGTERM).unwrap();
        export.told("metrics are lost");
        assert_eq!(export.wait().code(), Some(status), "{arguments:?}");
    }
}
