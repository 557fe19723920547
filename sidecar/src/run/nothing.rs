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

/// Programs that start the one behind their options.
const WRAPPERS: [&str; 8] = [
    "sudo", "env", "nice", "nohup", "setsid", "stdbuf", "time", "timeout",
];

const SHELLS: [&str; 4] = ["bash", "dash", "sh", "zsh"];

/// The explanation of a report without a connection and without an attempt.
pub(super) fn explanation(command: &[OsString]) -> String {
    let general = "no TCP connection: flowcar follows neither UDP (HTTP/3) nor Unix sockets, nor what another process does for the command";
    let words: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    match programs(&words).into_iter().find_map(delegate) {
        Some(delegate) => format!("{general}.\n{delegate}"),
        None => general.to_owned(),
    }
}

fn delegate(program: &str) -> Option<String> {
    let mut rows = DELEGATES.iter();
    let (_, what) = rows.find(|(names, _)| names.contains(&program))?;
    Some(format!("{program} {what}"))
}

/// The programs that a command starts, as far as its words show them: its own, or those of a shell's script.
fn programs<'a>(words: &[&'a str]) -> Vec<&'a str> {
    let Some((program, rest)) = program(words) else {
        return Vec::new();
    };
    match rest {
        ["-c", script, ..] if SHELLS.contains(&program) => script
            .split([';', '&', '|', '(', ')', '\n'])
            .filter_map(|part| {
                let words: Vec<_> = part.split_whitespace().collect();
                self::program(&words).map(|(program, _)| program)
            })
            .collect(),
        _ => vec![program],
    }
}

/// The program behind those that start another one, and its arguments. Options, numbers and variables are no programs.
fn program<'a, 'b>(words: &'b [&'a str]) -> Option<(&'a str, &'b [&'a str])> {
    let is_program = |word: &&&str| {
        !word.starts_with('-')
            && !word.contains('=')
            && !word.starts_with(|c: char| c.is_ascii_digit())
    };
    let at = words.iter().position(|word| is_program(&word))?;
    let name = Path::new(words[at]).file_name()?.to_str()?;
    let rest = &words[at + 1..];
    if WRAPPERS.contains(&name) {
        return program(rest);
    }
    Some((name, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_that_has_others_do_the_work_is_named() {
        for (command, expected) in [
            (&["true"][..], None),
            (&["cat", "docker-compose.yaml"], None),
            (&["echo", "meet", "me", "at", "noon"], None),
            (&["grep", "ssh", "file"], None),
            (&["sh", "-c", "echo docker"], None),
            (
                &["docker", "run", "alpine"],
                Some("docker starts containers"),
            ),
            (&["sudo", "/usr/bin/podman", "run"], Some("podman starts")),
            (
                &["timeout", "-k", "5", "9", "env", "A=b", "docker"],
                Some("docker starts"),
            ),
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
