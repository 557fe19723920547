//! A kernel that was built without bpf(2). Run on that alone: elsewhere these fail.

use flowcar_tests::place::TestPod;

use crate::kernel_refusals::{
    Situation::{Root, TwoCapabilities},
    can_run, check, flowcar_in, holds, takes, text,
};

#[test]
fn check_names_the_missing_bpf_config() {
    if !can_run() {
        return;
    }
    for situation in [Root, TwoCapabilities] {
        let (status, report) = check(situation, &[], &[]);
        holds(&report, &[("bpf", "no"), ("programs", "no")]);
        takes(&report, "inet_diag", Some("kernel"));
        for line in ["bpf", "programs"] {
            let message = text(&report, line);
            assert!(message.contains("CONFIG_BPF_SYSCALL"), "{report:#?}");
        }
        assert_eq!(status, 0);
    }
}

#[test]
fn ebpf_by_name_is_refused() {
    if !can_run() {
        return;
    }
    let pod = TestPod::new("by-name").unwrap();
    let output = flowcar_in(TwoCapabilities, &pod)
        .env("FLOWCAR_SOURCE", "ebpf")
        .args(["export", "--cgroup"])
        .arg(pod.cgroup().path())
        .output()
        .unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("CONFIG_BPF_SYSCALL"), "{message}");
    assert_ne!(output.status.code(), Some(0), "{message}");
}
