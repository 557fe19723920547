//! Settings, options and rights that are wrong.

use std::{path::Path, process::Stdio};

use flowcar_tests::{
    flowcar::{self, Report},
    place::{Capability, OnlyCaps},
};

use super::{can_run, left_behind, pod, status, text};

/// The command's environment is flowcar's, too: an invalid setting in it is logged, and no more.
#[test]
fn invalid_settings_do_not_prevent_the_command() {
    if !can_run() {
        return;
    }
    let pod = pod();
    for (name, value) in [
        ("OTEL_TRACES_EXPORTER", "console"),
        ("OTEL_METRICS_EXPORTER", "prometheus"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:99999"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "Bearer s3cret"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere"),
        ("OTEL_RESOURCE_ATTRIBUTES", "s3cret"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "1"),
    ] {
        let mut run = flowcar::command(&pod).unwrap();
        run.args(["run", "--format", "json", "--", "sh", "-c", "exit 7"]);
        let output = run.env(name, value).stdin(Stdio::null()).output().unwrap();
        assert_eq!(status(&output), 7, "{name}: {output:?}");
        let reported = text(&output.stderr);
        let lines: Vec<_> = reported.lines().collect();
        assert_eq!(lines.len(), 2, "{name}: {reported}");
        assert!(lines[0].contains(&format!("WARN {name} is ")), "{reported}");
        assert!(!reported.contains("s3cret"), "{reported}");
        assert_eq!(Report::parse(lines[1]).unwrap().summary.exit_status, 7);
    }
    let run = |name, value| {
        let mut run = flowcar::command(&pod).unwrap();
        run.args(["run", "--", "true"]).env(name, value);
        run.stdin(Stdio::null()).output().unwrap()
    };
    let own = run("FLOWCAR_RING_BYTES", "5000");
    assert_eq!(status(&own), 64, "{own:?}");
    let unused = run("OTEL_BSP_SCHEDULE_DELAY", "100");
    assert_eq!(text(&unused.stderr).lines().count(), 2, "{unused:?}");
}

#[test]
fn a_missing_capability_is_named() {
    if !can_run() {
        return;
    }
    let pod = pod();
    let cases: [(&[Capability], &str); 3] = [
        (&[Capability::CAP_NET_ADMIN], "missing CAP_BPF:"),
        (&[Capability::CAP_BPF], "missing CAP_NET_ADMIN:"),
        (&[], "missing CAP_BPF and CAP_NET_ADMIN:"),
    ];
    for (kept, expected) in cases {
        let mut run = flowcar::bare().unwrap();
        pod.enter(&mut run).unwrap();
        run.with_only_caps(kept);
        let output = run.args(["run", "--", "echo", "ran"]).output().unwrap();
        assert_eq!(status(&output), 77, "{kept:?}: {output:?}");
        let reported = text(&output.stderr);
        assert!(reported.contains(expected), "{kept:?}: {reported}");
        assert_eq!(reported.lines().count(), 1, "{reported}");
        assert_eq!(output.stdout, b"", "the command was not run unfollowed");
        assert_eq!(left_behind(&pod), [""; 0]);
    }
}

/// One line each: what, why and what to do.
#[test]
fn configuration_errors_are_reported_before_anything_runs() {
    if !can_run() {
        return;
    }
    let pod = pod();
    let procs = pod.cgroup().path().join("cgroup.procs");
    for path in [Path::new("/tmp"), Path::new("/nowhere"), &procs] {
        let mut export = flowcar::command(&pod).unwrap();
        let output = export.arg("export").arg("--cgroup").arg(path);
        let output = output.output().unwrap();
        assert_eq!(status(&output), 64, "{path:?}: {output:?}");
        let reported = text(&output.stderr);
        assert!(
            reported.contains(path.to_str().unwrap()) && reported.contains("cgroup2"),
            "{reported}"
        );
        assert_eq!(reported.lines().count(), 1, "{reported}");
    }
    for arguments in [
        &["run"][..],
        &["run", "--format", "xml", "--", "echo", "ran"],
        &["export"],
        &["no-such-command"],
    ] {
        let mut flowcar = flowcar::command(&pod).unwrap();
        let output = flowcar.args(arguments).output().unwrap();
        assert_eq!(status(&output), 64, "{arguments:?}: {output:?}");
        assert_eq!(output.stdout, b"", "{arguments:?}");
    }
}
