//! Where eBPF is refused, `flowcar check` and the `auto` source name the reason, and flows are followed all the same
//! where anything can follow them.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use flowcar_tests::{
    exporting::Exporting,
    flowcar::{self, CAPABILITIES},
    place::{
        Capability, Filtered, OnlyCaps, TestPod, require_cgroup2, require_program, require_root,
    },
};
use serde::Deserialize;

/// What `flowcar check --format json` prints.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Report {
    version: String,
    source: Option<String>,
    reason: Option<String>,
    checks: Vec<Line>,
    fixes: Option<Vec<Fix>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fix {
    place: String,
    text: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    name: String,
    state: String,
    text: String,
}

/// Where flowcar is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Situation {
    Root,
    TwoCapabilities,
    NoBpf,
    NoNetAdmin,
    None,
    /// With two capabilities, and a filter that answers bpf(2) by this error.
    Seccomp(libc::c_int),
    /// bpf(2) and socket(2) denied: nothing can follow.
    NothingAtAll,
    UserNamespace,
    /// No cgroup2 is mounted.
    Version1,
}

use Situation::*;

/// Shell commands for what cannot be done between fork and exec. `$0` is flowcar.
const UNMOUNTED: &str = r#"
    mount --make-rprivate /
    while grep -q ' - cgroup2 ' /proc/self/mountinfo; do
        umount -l "$(awk '$0 ~ / - cgroup2 / { print $5; exit }' /proc/self/mountinfo)"
    done
    mount -t tmpfs none /run
    mkdir /run/host-cgroup
    exec "$0" "$@"
"#;

/// `flowcar` in a pod's network, to be given its arguments.
pub(crate) fn flowcar_in(situation: Situation, pod: &TestPod) -> Command {
    let words: &[&str] = match situation {
        UserNamespace => &["unshare", "--user", "--map-root-user", "--"],
        Version1 => &["unshare", "--mount", "sh", "-ec", UNMOUNTED],
        _ => &[],
    };
    let mut command = flowcar::started_by(words).unwrap();
    pod.netns().enter(&mut command).unwrap();
    match situation {
        Root | UserNamespace | Version1 => {}
        TwoCapabilities => {
            command.with_only_caps(&CAPABILITIES);
        }
        NoBpf => {
            command.with_only_caps(&[Capability::CAP_NET_ADMIN]);
        }
        NoNetAdmin => {
            command.with_only_caps(&[Capability::CAP_BPF]);
        }
        None => {
            command.with_only_caps(&[]);
        }
        Seccomp(errno) => {
            command
                .with_only_caps(&CAPABILITIES)
                .without_calls(&[libc::SYS_bpf], errno);
        }
        NothingAtAll => {
            let calls = [libc::SYS_bpf, libc::SYS_socket];
            command
                .with_only_caps(&CAPABILITIES)
                .without_calls(&calls, libc::EPERM);
        }
    }
    command
}

pub(crate) fn check(
    situation: Situation,
    arguments: &[&str],
    settings: &[(&str, &str)],
) -> (i32, Report) {
    let pod = TestPod::new("check").unwrap();
    let mut command = flowcar_in(situation, &pod);
    command
        .args(["check", "--format", "json"])
        .args(arguments)
        .envs(settings.iter().copied());
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let printed = String::from_utf8_lossy(&output.stderr);
    let report: Report =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{printed}"));
    assert_eq!(report.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(printed, "", "it does not log");
    (output.status.code().unwrap(), report)
}

pub(crate) fn can_run() -> bool {
    require_root() && require_cgroup2() && require_program("unshare")
}

/// Yes or no by the machine's choice: whether those without CAP_BPF may call bpf(2) at all
/// (kernel.unprivileged_bpf_disabled, and the kernel's version).
const EITHER: &str = "either";

/// Compares every line of a report with the expected state. Lines that depend on the machine are read from the machine.
#[track_caller]
pub(crate) fn holds(report: &Report, not_ok: &[(&str, &str)]) {
    let mut expected: BTreeMap<&str, &str> = [
        "kernel",
        "bpf",
        "programs",
        "capabilities",
        "seccomp",
        "user namespace",
        "cgroup2",
        "inet_diag",
        "settings",
        "source",
    ]
    .map(|name| (name, "ok"))
    .into();
    expected.insert("security modules", "info");
    expected.insert("pod", "info");
    let btf = Path::new("/sys/kernel/btf/vmlinux").exists();
    expected.insert("btf", if btf { "ok" } else { "info" });
    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    let locked = limits
        .lines()
        .find(|line| line.starts_with("Max locked memory"))
        .unwrap();
    let unlimited = locked.split_whitespace().nth(3) == Some("unlimited");
    // flowcar raises it first, where it may.
    let memlock = report
        .checks
        .iter()
        .find(|line| line.name == "memory lock")
        .unwrap();
    assert!(
        memlock.state == "ok" || (!unlimited && memlock.state == "info"),
        "{memlock:?}"
    );
    expected.insert("memory lock", &memlock.state);
    expected.extend(not_ok.iter().copied());
    let names: Vec<&str> = report.checks.iter().map(|line| &*line.name).collect();
    assert!(names.iter().all(|name| expected.contains_key(name)) && names.len() == expected.len());
    for Line { name, state, .. } in &report.checks {
        let expected = expected[&**name];
        if expected == EITHER {
            assert!(["ok", "no"].contains(&&**state), "{name}: {report:#?}");
        } else {
            assert_eq!(state, expected, "{name}: {report:#?}");
        }
    }
    assert!(
        report
            .checks
            .iter()
            .all(|line| !line.text.is_empty() && !line.text.contains('\n'))
    );
}

#[track_caller]
pub(crate) fn takes(report: &Report, source: &str, reason: Option<&str>) {
    assert_eq!(report.source.as_deref(), Some(source), "{report:#?}");
    assert_eq!(report.reason.as_deref(), reason, "{report:#?}");
}

#[track_caller]
pub(crate) fn text<'a>(report: &'a Report, name: &str) -> &'a str {
    &report
        .checks
        .iter()
        .find(|line| line.name == name)
        .unwrap()
        .text
}

#[test]
fn root_and_two_capabilities_take_ebpf() {
    if !can_run() {
        return;
    }
    for situation in [Root, TwoCapabilities] {
        let (status, report) = check(situation, &[], &[]);
        holds(&report, &[]);
        takes(&report, "ebpf", Option::None);
        assert_eq!(status, 0);
        assert!(
            text(&report, "source").contains("--cgroup PATH"),
            "{report:#?}"
        );
    }
}

#[test]
fn a_cgroup_can_be_named() {
    if !can_run() {
        return;
    }
    let pod = TestPod::new("named").unwrap();
    let path = pod.cgroup().path().to_str().unwrap();
    let (_, report) = check(TwoCapabilities, &["--cgroup", path], &[]);
    assert_eq!(text(&report, "cgroup"), path);
    takes(&report, "ebpf", Option::None);
    assert!(!text(&report, "source").contains("--cgroup"));
}

#[test]
fn a_missing_capability_is_named() {
    if !can_run() {
        return;
    }
    for (situation, missing) in [
        (NoBpf, "CAP_BPF missing"),
        (NoNetAdmin, "CAP_NET_ADMIN missing"),
        (None, "CAP_BPF and CAP_NET_ADMIN missing"),
    ] {
        let (status, report) = check(situation, &[], &[]);
        holds(
            &report,
            &[("bpf", EITHER), ("programs", "no"), ("capabilities", "no")],
        );
        takes(&report, "inet_diag", Some("capability"));
        assert!(
            text(&report, "capabilities").starts_with(missing),
            "{report:#?}"
        );
        assert_eq!(status, 0);
    }
}

/// By any of the errors that profiles answer with.
#[test]
fn a_seccomp_filter_is_named() {
    if !can_run() {
        return;
    }
    for errno in [libc::EPERM, libc::ENOSYS, libc::EACCES] {
        let (status, report) = check(Seccomp(errno), &[], &[]);
        holds(
            &report,
            &[("bpf", "no"), ("programs", "no"), ("seccomp", "no")],
        );
        takes(&report, "inet_diag", Some("seccomp"));
        assert!(
            text(&report, "seccomp").contains("RuntimeDefault"),
            "{report:#?}"
        );
        assert_eq!(status, 0);
    }
}

#[test]
fn a_user_namespace_is_named() {
    if !can_run() {
        return;
    }
    let (status, report) = check(UserNamespace, &[], &[]);
    holds(
        &report,
        &[
            ("bpf", EITHER),
            ("programs", "no"),
            ("user namespace", "no"),
        ],
    );
    takes(&report, "inet_diag", Some("user_namespace"));
    assert!(
        text(&report, "user namespace").contains("hostUsers"),
        "{report:#?}"
    );
    assert_eq!(status, 0);
}

#[test]
fn cgroup_version_1_is_named() {
    if !can_run() {
        return;
    }
    let (status, report) = check(Version1, &[], &[]);
    holds(&report, &[("cgroup2", "no"), ("pod", "no")]);
    takes(&report, "inet_diag", Some("cgroup_v1"));
    assert_eq!(status, 0);
}

#[test]
fn exit_status_is_69_if_nothing_can_follow() {
    if !can_run() {
        return;
    }
    let nothing = |situation, arguments: &[&str], settings: &[(&str, &str)], reason: &str| {
        let (status, report) = check(situation, arguments, settings);
        assert_eq!(
            (status, report.source.as_deref()),
            (69, Option::None),
            "{report:#?}"
        );
        assert_eq!(report.reason.as_deref(), Some(reason), "{report:#?}");
        let last = report.checks.last().unwrap();
        assert_eq!((&*last.name, &*last.state), ("source", "no"));
        report
    };
    let report = nothing(NothingAtAll, &[], &[], "seccomp");
    holds(
        &report,
        &[
            ("bpf", "no"),
            ("programs", "no"),
            ("seccomp", "no"),
            ("inet_diag", "no"),
            ("source", "no"),
        ],
    );
    nothing(None, &[], &[("FLOWCAR_SOURCE", "ebpf")], "capability");
    nothing(Root, &["--cgroup", "/proc"], &[], "scope");
    nothing(
        Root,
        &[],
        &[("FLOWCAR_POD_UID", "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9")],
        "scope",
    );
    let wrong = [
        ("FLOWCAR_SOURCE", "magic"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "soon"),
    ];
    let report = nothing(Root, &[], &wrong, "settings");
    for (name, _) in wrong {
        assert!(text(&report, "settings").contains(name), "{report:#?}");
    }
}

#[test]
fn check_prints_a_table_by_default() {
    if !can_run() {
        return;
    }
    let pod = TestPod::new("table").unwrap();
    let output = flowcar_in(TwoCapabilities, &pod)
        .arg("check")
        .output()
        .unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(
        table.lines().all(|line| line.chars().count() <= 100),
        "{table}"
    );
    for start in [
        "kernel           ok  Linux ",
        "programs         ok  ",
        "source           ok  ebpf",
    ] {
        assert!(
            table.lines().any(|line| line.starts_with(start)),
            "{start:?} in {table}"
        );
    }
}

/// Only where something prevents eBPF, and only if asked for.
#[test]
fn hints_say_what_removes_the_reason() {
    if !can_run() {
        return;
    }
    for (situation, place, part) in [
        (None, "container", "add: [BPF, NET_ADMIN]"),
        (None, "host", "setcap cap_bpf,cap_net_admin+ep"),
        (Seccomp(libc::EPERM), "container", "type: RuntimeDefault"),
        (UserNamespace, "pod", "hostUsers: true"),
    ] {
        let (_, report) = check(situation, &["--fix-hints"], &[]);
        let fixes = report.fixes.expect("asked for");
        let is_it = |fix: &Fix| fix.place == place && fix.text.contains(part);
        assert!(fixes.iter().any(is_it), "{situation:?}: {fixes:#?}");
        assert!(check(situation, &[], &[]).1.fixes.is_none());
    }
    let (_, report) = check(TwoCapabilities, &["--fix-hints"], &[]);
    assert!(report.fixes.is_none(), "{report:#?}");
    let pod = TestPod::new("hints").unwrap();
    for (situation, part) in [
        (
            None,
            "to have eBPF here (capability), one of these:\n  host:\n    sudo ",
        ),
        (TwoCapabilities, "nothing prevents eBPF"),
    ] {
        let mut command = flowcar_in(situation, &pod);
        let output = command.args(["check", "--fix-hints"]).output().unwrap();
        let table = String::from_utf8(output.stdout).unwrap();
        assert!(table.contains(part), "{table}");
    }
}

/// One line has the reason, and flows are followed all the same.
#[test]
fn auto_names_the_reason_and_goes_on() {
    if !can_run() {
        return;
    }
    for (situation, reason) in [
        (NoBpf, "capability"),
        (NoNetAdmin, "capability"),
        (None, "capability"),
        (Seccomp(libc::EPERM), "seccomp"),
        (Seccomp(libc::ENOSYS), "seccomp"),
        (UserNamespace, "user_namespace"),
        (Version1, "cgroup_v1"),
    ] {
        let pod = TestPod::new("auto").unwrap();
        let mut command = flowcar_in(situation, &pod);
        command.arg("export");
        if situation != Version1 {
            command.arg("--cgroup").arg(pod.cgroup().path());
        }
        let reported = Exporting::start(&mut command).lines_until("source=");
        let refused: Vec<_> = reported
            .iter()
            .filter(|line| line.contains("is refused"))
            .collect();
        assert_eq!(refused.len(), 1, "{situation:?}: {reported:#?}");
        assert!(
            refused[0].contains(&format!("reason=\"{reason}\"")),
            "{situation:?}: {refused:?}"
        );
        let following = reported.last().unwrap();
        assert!(
            following.contains("source=\"inet_diag\""),
            "{situation:?}: {reported:#?}"
        );
    }
}

/// A pod on a node with cgroup v1 alone is followed by inet_diag, and the kubelet's probes are answered there, too.
#[test]
fn probes_are_answered_where_no_cgroup2_is_mounted() {
    if !can_run() {
        return;
    }
    let pod = TestPod::new("version-1").unwrap();
    let mut export = flowcar_in(Version1, &pod);
    let mut export = Exporting::start(export.arg("export"));
    export.lines_until("source=");
    // As the container's runtime starts a probe: in the container's namespaces.
    let probe = |what: &str| {
        let target = export.id().to_string();
        let words = ["nsenter", "--target", &target, "--mount", "--net"];
        let mut command = flowcar::started_by(&words).unwrap();
        command.args(["probe", what]).output().unwrap()
    };
    for what in ["started", "live"] {
        let answer = probe(what);
        assert!(answer.status.success(), "{what}: {answer:?}");
    }
    let log = export.stop();
    assert!(!log.contains("probes cannot be answered"), "{log}");
}

/// A source that is set by name is not replaced.
#[test]
fn ebpf_by_name_is_refused_with_the_reason() {
    if !can_run() {
        return;
    }
    for (situation, status, words) in [
        (None, 77, "missing CAP_BPF and CAP_NET_ADMIN"),
        (Seccomp(libc::EPERM), 77, "a seccomp filter denies bpf(2)"),
        (UserNamespace, 77, "user namespace"),
    ] {
        let pod = TestPod::new("by-name").unwrap();
        let mut command = flowcar_in(situation, &pod);
        command
            .env("FLOWCAR_SOURCE", "ebpf")
            .args(["export", "--cgroup"])
            .arg(pod.cgroup().path());
        let output = command.output().unwrap();
        let printed = String::from_utf8_lossy(&output.stderr);
        assert!(printed.contains(words), "{situation:?}: {printed}");
        assert_eq!(
            output.status.code(),
            Some(status),
            "{situation:?}: {printed}"
        );
    }
}
