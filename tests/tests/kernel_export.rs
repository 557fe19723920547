//! `flowcar export` as a sidecar: it follows a cgroup that it is not in, with or without a receiver.

use std::{os::unix::process::CommandExt as _, time::Duration};

use flowcar_tests::{
    exporting::{Exporting, has_books},
    flowcar,
    place::{TestPod, require_cgroup2, require_root},
    traffic::{CallPlan, FailureKind, ServePlan, Serving, call_in},
    watch::{Mode, Watch},
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

/// `timeout` and a closed terminal signal flowcar twice, and systemd sends SIGHUP behind SIGTERM: that is one stop. A later signal is
/// another, and ends flowcar at once.
#[test]
fn signals_at_the_same_time_are_one_stop() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let pod = TestPod::new("signals").unwrap();
    let start = |timeout: &str| {
        let mut command = flowcar::command(&pod).unwrap();
        command
            .arg("export")
            .arg("--cgroup")
            .arg(pod.cgroup().path())
            // Nobody listens there: the last report waits for so long.
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
            .env("FLOWCAR_SHUTDOWN_TIMEOUT", timeout);
        let mut export = Exporting::start(&mut command);
        export.reported("following");
        export
    };
    for pair in [
        [Signal::SIGTERM, Signal::SIGHUP],
        [Signal::SIGINT, Signal::SIGTERM],
        [Signal::SIGTERM, Signal::SIGTERM],
    ] {
        let mut export = start("300");
        for signal in pair {
            export.signal(signal).unwrap();
        }
        export.reported("metrics are lost: the receiver did not take");
        assert_eq!(export.wait().code(), Some(0), "{pair:?}");
    }
    let mut export = start("600000");
    export.signal(Signal::SIGTERM).unwrap();
    export.reported("stopping");
    std::thread::sleep(Duration::from_millis(1_100));
    export.signal(Signal::SIGTERM).unwrap();
    export.reported("a second signal: what was not sent yet is lost");
    assert_eq!(export.wait().code(), Some(70));
}

/// Lost reports and spans are logged; the exit status shows them in strict mode only.
#[test]
fn lost_reports_fail_the_exit_status_if_strict() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let pod = TestPod::new("strict").unwrap();
    let serving = Serving::start(&pod, &ServePlan::at("127.0.0.1:0".parse().unwrap())).unwrap();
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
        // Both ends are in the pod: a span for each.
        call_in(&pod, &CallPlan::to(serving.address()).connections(3, 1)).unwrap();
        serving.reports(3, Duration::from_secs(30)).unwrap();
        let pid = Pid::from_raw(export.id().cast_signed());
        kill(pid, Signal::SIGTERM).unwrap();
        // Metrics and spans are given up at the same time.
        let mut lines = export.lines_until("are lost");
        lines.extend(export.lines_until("are lost"));
        let has = |parts: &[&str]| {
            let all = |line: &String| parts.iter().all(|part| line.contains(part));
            assert!(lines.iter().any(all), "{parts:?}: {lines:#?}");
        };
        has(&["metrics are lost: the receiver did not take"]);
        has(&["spans are lost: the receiver did not take", "lost=6"]);
        assert_eq!(export.wait().code(), Some(status), "{arguments:?}");
    }
}

/// A log record for each socket that the application closed and each attempt that failed, with the attributes of its span and the
/// application's own counts; none where nobody asked for them.
#[test]
fn each_closed_socket_and_failed_attempt_has_one_log_record() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    for (setting, is_on) in [(Some(("OTEL_LOGS_EXPORTER", "otlp")), true), (None, false)] {
        let pod = TestPod::new("log-records").unwrap();
        let watch = Watch::start(&pod, Mode::Both, setting.as_slice());
        let serving = Serving::start(&pod, &ServePlan::at("127.0.0.1:0".parse().unwrap())).unwrap();
        let plan = CallPlan::to(serving.address()).connections(20, 4);
        let calls = call_in(&pod, &plan).unwrap();
        let served = serving.reports(20, Duration::from_secs(30)).unwrap();
        // Nobody listens there.
        let refused = CallPlan::to("127.0.0.1:9".parse().unwrap()).connections(3, 1);
        let refused = call_in(&pod, &refused).unwrap();
        for attempt in &refused {
            let failure = attempt.failure.as_ref().unwrap();
            assert_eq!(failure.kind, FailureKind::Refused, "{failure:?}");
        }
        let seen = watch.stop();
        let log = seen.log.join("\n");
        assert_eq!(
            log.contains("the receiver accepted the first logs"),
            is_on,
            "{log}"
        );
        if !is_on {
            assert_eq!(seen.flows.len(), 43);
            assert!(seen.log_records.is_empty(), "{:?}", seen.log_records);
            continue;
        }
        // 20 connections of two ends, and 3 attempts.
        assert_eq!(seen.log_records.len(), 43);
        for record in &seen.log_records {
            assert_eq!(record.event_name, "flowcar.tcp.flow.closed");
            let mut spans = seen.flows.iter();
            let span = spans.find(|span| span.span_id == record.span_id).unwrap();
            assert_eq!(record.attributes, span.attributes);
            let (ended, observed) = record.times_unix_ns;
            assert_eq!(ended, span.end_unix_ns);
            assert!(ended <= observed, "{record:?}");
        }
        let ends = |name: &str, wanted: &str| {
            let records = seen.log_records.iter();
            records
                .filter(|record| record.attributes.get(name).is_some_and(|is| is == wanted))
                .collect::<Vec<_>>()
        };
        for report in calls.iter().chain(&served) {
            let local = report.local.unwrap();
            let found = ends("network.local.port", &local.port().to_string());
            let peer = report.peer.port().to_string();
            let mut found = found
                .into_iter()
                .filter(|record| record.attributes["network.peer.port"] == peer);
            let record = found.next().unwrap();
            assert!(found.next().is_none(), "{local} has two");
            assert_eq!(record.severity, "INFO", "{record:?}");
            let count = |name: &str| record.attributes[name].parse::<u64>().unwrap();
            let bytes = (
                count("flowcar.tcp.bytes.sent"),
                count("flowcar.tcp.bytes.received"),
            );
            assert_eq!(bytes, (report.sent, report.received), "{record:?}");
        }
        let failed = ends("error.type", "refused");
        assert_eq!(failed.len(), refused.len());
        for record in failed {
            assert_eq!(record.severity, "ERROR", "{record:?}");
            assert_eq!(record.attributes["server.port"], "9");
        }
    }
}
