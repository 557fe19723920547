//! What a running `flowcar export` answers to `flowcar flows`.

use std::io;

use serde_json::Value;

use super::bare;
use crate::place::TestPod;

/// What `flowcar flows` prints of a pod with these arguments, from the test's own shell, as root's on a host.
///
/// # Errors
/// It cannot be started, fails, or prints no text.
pub fn flows(pod: &TestPod, arguments: &[&str]) -> io::Result<String> {
    let mut command = bare()?;
    pod.netns().enter(&mut command)?;
    let output = command
        .args(["flows", "--cgroup"])
        .arg(pod.cgroup().path())
        .args(arguments)
        .output()?;
    if !output.status.success() {
        return Err(io::Error::other(format!("{output:?}")));
    }
    String::from_utf8(output.stdout).map_err(io::Error::other)
}

/// The open connections, and the books.
///
/// # Errors
/// As [`flows`], or it prints something else than lines of JSON.
pub fn listing(pod: &TestPod) -> io::Result<(Vec<Value>, Value)> {
    let list = flows(pod, &["--format", "json"])?;
    let lines = list.lines().map(serde_json::from_str);
    let mut lines = lines.collect::<Result<Vec<Value>, _>>()?;
    let last = lines.pop().unwrap_or_default();
    Ok((lines, last["summary"].clone()))
}
