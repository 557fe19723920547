//! Why a command may have had no connection. Pure.

use std::{ffi::OsString, path::Path};

/// Programs that have others do the work, and what to do instead.
const DELEGATES: [(&[&str], &str); 3] = [
    (
        &[
            "docker",
            "podman",
            "nerdctl",
            "ctr",
            "crictl",
            "lxc",
            "incus",
            "machinectl",
        ],
        "starts containers in cgroups of their own: follow one with flowcar export --cgroup",
    ),
    (
        &["systemd-run", "at", "batch"],
        "has another process run the work, in another cgroup: have it run flowcar run -- COMMAND",
    ),
    (
        &["ssh", "kubectl", "oc"],
        "has the work done elsewhere, and may use a connection that another process holds: run flowcar there",
    ),
];

/// The explanation of a report without a connection and without an attempt.
pub(super) fn explanation(command: &[OsString]) -> String {
    let general = "no TCP connection: flowcar follows neither UDP (HTTP/3) nor Unix sockets, nor what another process does for the command";
    let words: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
    let mut programs = words
        .iter()
        .flat_map(|word| word.split([' ', '\t', '\n', ';', '&', '|', '(', ')']))
        .filter_map(|word| Path::new(word).file_name()?.to_str());
    let delegate = programs.find_map(|program| {
        let (_, what) = DELEGATES
            .iter()
            .find(|(names, _)| names.contains(&program))?;
        Some(format!("{program} {what}"))
    });
    match delegate {
        Some(delegate) => format!("{general}.\n{delegate}"),
        None => general.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_that_has_others_do_the_work_is_named() {
        for (command, expected) in [
            (&["true"][..], None),
            (&["cat", "docker-compose.yaml"], None),
            (
                &["docker", "run", "alpine"],
                Some("docker starts containers"),
            ),
            (&["sudo", "/usr/bin/podman", "run"], Some("podman starts")),
            (
                &["sh", "-c", "cd x; systemd-run --scope y"],
                Some("systemd-run has"),
            ),
            (
                &["ssh", "host", "curl"],
                Some("ssh has the work done elsewhere"),
            ),
        ] {
            let command: Vec<_> = command.iter().map(OsString::from).collect();
            let text = explanation(&command);
            assert!(text.starts_with("no TCP connection"), "{text}");
            let second = text.lines().nth(1);
            match expected {
                Some(expected) => {
                    assert!(
                        second.is_some_and(|line| line.starts_with(expected)),
                        "{text}"
                    );
                }
                None => assert_eq!(second, None),
            }
            assert!(text.lines().all(|line| line.len() <= 130), "{text}");
        }
    }
}
