//! Hints of a report: why a command may have had no connection, and that processes of it still run. Pure.

use std::{ffi::OsString, path::Path};

/// Programs that have others do the work, and what to do instead.
const DELEGATES: [(&[&str], &str); 3] = [
    (
        &[
            "docker",
            "docker-compose",
            "podman",
            "podman-compose",
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

/// Programs and words of a shell that start the one behind their options, and the options with a value that may look like a program.
const WRAPPERS: [(&[&str], &[&str]); 10] = [
    (
        &["sudo", "doas"],
        &[
            "-u", "-g", "-h", "-p", "-r", "-t", "-C", "-D", "-R", "-T", "-U",
        ],
    ),
    (&["env"], &["-u", "--unset", "-C", "--chdir"]),
    (&["exec"], &["-a"]),
    (&["time"], &["-f", "--format", "-o", "--output"]),
    (&["timeout"], &["-s", "--signal"]),
    (&["ionice"], &["-c", "--class"]),
    (&["stdbuf"], &["-i", "-o", "-e"]),
    (&["taskset"], &["-c", "--cpu-list"]),
    (&["nice", "nohup", "setsid", "chrt", "command"], &[]),
    (
        &[
            "if", "then", "elif", "else", "while", "until", "do", "!", "{",
        ],
        &[],
    ),
];

const SHELLS: [&str; 6] = ["ash", "bash", "dash", "ksh", "sh", "zsh"];

/// The hint of a report: why it has no connection, where there was neither one nor an attempt, and how many of the command's processes
/// still run.
pub(super) fn hint(command: &[OsString], is_nothing: bool, running: usize) -> Option<String> {
    let left = match running {
        0 if is_nothing => return Some(explanation(command)),
        0 => return None,
        1 => {
            "1 process of the command still runs; its connections are followed no longer".to_owned()
        }
        more => format!(
            "{more} processes of the command still run; their connections are followed no longer"
        ),
    };
    Some(if is_nothing {
        format!("no TCP connection until the command ended.\n{left}")
    } else {
        left
    })
}

/// The explanation of a report without a connection and without an attempt.
fn explanation(command: &[OsString]) -> String {
    let general = "no TCP connection: flowcar follows neither UDP (HTTP/3) nor Unix sockets, nor other cgroups (a daemon's, or one joined later)";
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
    let script = SHELLS.contains(&program).then(|| script(rest)).flatten();
    match script {
        Some(script) => script
            .split([';', '&', '|', '(', ')', '\n'])
            .filter_map(|part| {
                let words: Vec<_> = part.split_whitespace().collect();
                self::program(&words).map(|(program, _)| program)
            })
            .collect(),
        None => vec![program],
    }
}

/// What a shell with these arguments runs: the first argument behind the options, if `-c` is among them, also as `-lc` or `-ec`.
fn script<'a>(arguments: &[&'a str]) -> Option<&'a str> {
    let (mut takes_script, mut takes_value) = (false, false);
    for word in arguments {
        let is_option = word.len() > 1 && word.starts_with(['-', '+']);
        if std::mem::take(&mut takes_value) {
            continue;
        }
        if !is_option {
            return takes_script.then_some(word);
        }
        if !word.starts_with("--") {
            takes_script |= word.starts_with('-') && word.contains('c');
            // The name of an option follows.
            takes_value = word.contains(['o', 'O']);
        }
    }
    None
}

/// The program behind those that start another one, and its arguments. Options, their values, numbers and variables are no programs.
fn program<'a, 'b>(words: &'b [&'a str]) -> Option<(&'a str, &'b [&'a str])> {
    let (mut words, mut valued): (_, &[&str]) = (words, &[]);
    loop {
        let (&word, rest) = words.split_first()?;
        let is_program = !word.starts_with('-')
            && !word.contains('=')
            && !word.starts_with(|c: char| c.is_ascii_digit());
        words = if valued.contains(&word) {
            rest.get(1..)?
        } else {
            rest
        };
        if is_program {
            let name = Path::new(word).file_name()?.to_str()?;
            let wrapper = WRAPPERS.iter().find(|(names, _)| names.contains(&name));
            match wrapper {
                Some((_, options)) => valued = options,
                None => return Some((name, rest)),
            }
        }
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
            (&["docker-compose", "up"], Some("docker-compose starts")),
            (&["bash", "-lc", "docker ps"], Some("docker starts")),
            (&["bash", "-l", "-c", "docker ps"], Some("docker starts")),
            (&["sh", "-ec", "true; docker ps"], Some("docker starts")),
            (
                &["bash", "-euo", "pipefail", "-c", "docker ps"],
                Some("docker starts"),
            ),
            (&["sh", "-c", "exec docker ps"], Some("docker starts")),
            (
                &["sh", "-c", "if ! docker ps; then exit; fi"],
                Some("docker starts"),
            ),
            (
                &["timeout", "-s", "KILL", "5", "docker", "ps"],
                Some("docker starts"),
            ),
            (&["env", "-u", "X", "docker", "ps"], Some("docker starts")),
            (
                &["sudo", "-u", "me", "ionice", "-c", "idle", "docker"],
                Some("docker starts"),
            ),
            (&["env", "-u", "docker"], None),
            (&["sh", "-e", "docker"], None),
            (&["bash", "--", "docker", "-c", "ssh host"], None),
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

    #[test]
    fn processes_that_the_command_left_are_counted() {
        let command = ["sh", "-c", "docker ps &"].map(OsString::from);
        assert_eq!(hint(&command, false, 0), None);
        let one = "1 process of the command still runs; its connections are followed no longer";
        assert_eq!(hint(&command, false, 1).as_deref(), Some(one));
        let nothing = hint(&command, true, 2).expect("a hint");
        assert!(
            nothing.starts_with("no TCP connection until the command ended.\n2 processes"),
            "{nothing}"
        );
        let nothing = hint(&command, true, 0).expect("a hint");
        assert!(nothing.contains("docker starts"), "{nothing}");
    }
}
