//! `flowcar run`: what it follows, and that the command runs as it does without flowcar.

mod command;
mod report;
mod settings;
mod terminal;

use std::{
    fs,
    process::{Output, Stdio},
};

use flowcar_tests::{
    flowcar,
    place::{TestPod, require_cgroup2, require_root},
};

fn can_run() -> bool {
    require_root() && require_cgroup2()
}

fn pod() -> TestPod {
    TestPod::new("cli").unwrap()
}

/// `flowcar run OPTIONS -- COMMAND` until it ends.
fn run(pod: &TestPod, options: &[&str], command: &[&str]) -> Output {
    let mut run = flowcar::command(pod).unwrap();
    run.arg("run").args(options).arg("--").args(command);
    run.stdin(Stdio::null()).output().unwrap()
}

fn status(output: &Output) -> i32 {
    output
        .status
        .code()
        .unwrap_or_else(|| panic!("killed: {output:?}"))
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// The cgroups that flowcar made in the pod and has not removed.
fn left_behind(pod: &TestPod) -> Vec<String> {
    let entries = fs::read_dir(pod.cgroup().path()).unwrap();
    entries
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().unwrap().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect()
}
