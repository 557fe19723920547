//! What `make demo` runs: the first thing that a newcomer sees.

use std::process::Command;

use flowcar_tests::{
    flowcar,
    place::{require_cgroup2, require_root, require_tun},
};

#[test]
fn demo_adds_up_and_shows_a_trace() {
    if !require_root() || !require_cgroup2() || !require_tun() {
        return;
    }
    let demo = flowcar::program().unwrap().with_file_name("demo");
    let output = Command::new(demo).output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    for part in ["shop", "web", "refused", "trace"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
}
