//! A process that uses descriptors up, or a limit that is too low, leaves flowcar without a descriptor while it starts.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use flowcar_tests::{
    node::{Node, UID, contained, in_container},
    place::{Netns, require_cgroup2, require_root},
};

/// What the message names.
const CAUSE: &str = "no file descriptor";

/// A program that starts needs as many for its libraries.
const LEAST: u64 = 4;
/// More than a start needs.
const MOST: u64 = 200;

/// Whatever call of the start is the one without a descriptor.
#[test]
fn missing_descriptors_at_start_are_named_as_the_cause() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let (node, netns) = (Node::new(), Netns::new("pod").unwrap());
    let named = format!("export --cgroup {}", in_container(&node.pods[0]));
    for (words, source) in [
        ("export", "auto"),
        ("export", "ebpf"),
        ("export", "inet_diag"),
        (&*named, "auto"),
    ] {
        let mut refused = 0;
        let enough = (LEAST..MOST).find(|most| {
            let mut command = contained(&node.sidecar, &netns, words);
            command
                .env("FLOWCAR_SOURCE", source)
                .env("FLOWCAR_POD_UID", UID.replace('_', "-"));
            let (complaints, follows) = start(&mut command, *most);
            let is_refused = !complaints.is_empty();
            assert!(
                is_refused || follows,
                "{words} ({source}) with {most}: it says nothing"
            );
            for complaint in &complaints {
                let what = format!("{words} ({source}) with {most}: {complaint}");
                assert!(complaint.contains(CAUSE), "{what}");
                assert!(!complaint.contains("CONFIG_"), "{what}");
            }
            refused += u64::from(is_refused);
            !is_refused
        });
        assert!(enough.is_some(), "{words} ({source}) never started");
        assert!(refused > 2, "{words} ({source}) lacked none");
    }
}

/// Starts flowcar with so many descriptors at most. Gives the warnings and errors of its start, and whether it follows.
fn start(command: &mut Command, most: u64) -> (Vec<String>, bool) {
    // The shell of the container has as many as it needs.
    let limited = format!("ulimit -n {most}");
    let child = command.env("EXTRA", limited).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let (mut complaints, mut follows) = (Vec::new(), false);
    for line in stderr.lines().map(Result::unwrap) {
        if line.contains("following") {
            follows = true;
            break;
        }
        // What 5.10 needs for ever is no complaint.
        if line.contains("CAP_BPF is kept") {
            continue;
        }
        if line.contains("WARN") || line.contains("ERROR") || line.starts_with("flowcar: ") {
            complaints.push(line);
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    (complaints, follows)
}
