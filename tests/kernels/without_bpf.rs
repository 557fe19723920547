//! A kernel that was built without bpf(2). Run on that alone: elsewhere these fail.

use flowcar_tests::place::Place;

use crate::kernel_refusals::{
    Situation::{Root, TwoCapabilities},
    can_run, check, flowcar_in, holds, takes, text,
};

#[test]
fn a_check_says_so() {
    if !can_run() {
        return;
    }
    for situation in [Root, TwoCapabilities] {
        let (status, report) = check(situation, &[], &[]);
        holds(&report, &[("bpf", "no"), ("programs", "no")]);
        takes(&report, "inet_diag", Some("kernel"));
        for line in ["bpf", "programs"] {
            let said = text(&report, line);
            assert!(said.contains("CONFIG_BPF_SYSCALL"), "{report:#?}");
        }
        assert_eq!(status, 0);
    }
}

#[test]
fn ebpf_by_name_is_refused() {
    if !can_run() {
        return;
    }
    let pod = Place::new("by-name").unwrap();
    let output = flowcar_in(TwoCapabilities, &pod)
        .env("FLOWCAR_SOURCE", "ebpf")
        .args(["export", "--cgroup"])
        .arg(pod.cgroup().path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("CONFIG_BPF_SYSCALL"), "{said}");
    assert_ne!(output.status.code(), Some(0), "{said}");
}
