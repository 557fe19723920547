//! The commands of flowcar's that pages show: the programs know each, with its arguments. What such a command does is tested with the
//! rest of the command.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use flowcar_tests::{cluster::tools, flowcar};

/// Commands with arguments that the pages show at least: with fewer this test reads nothing.
const LEAST: usize = 40;

/// flowcar's programs that have commands.
const PROGRAMS: [&str; 2] = ["flowcar", "kubectl-flowcar"];

/// What ends a command in a line of a shell.
const ENDS: [&str; 11] = ["...", "|", "||", "&&", "&", ";", ">", ">>", "2>", "<", "--"];

/// A program of flowcar's, with arguments.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Shown {
    program: &'static str,
    arguments: Vec<String>,
}

// === impl Shown ===

impl Shown {
    /// The commands in a line of code.
    fn all_of(line: &str) -> Vec<Self> {
        let line = line.split(" #").next().unwrap_or_default();
        let words: Vec<&str> = line.split_whitespace().collect();
        let mut found = Vec::new();
        for (at, word) in words.iter().enumerate() {
            let before = at.checked_sub(1).map(|before| words[before]);
            let program = match *word {
                "flowcar" if before == Some("kubectl") => PROGRAMS[1],
                // The container of that name.
                "flowcar" if before == Some("-c") => continue,
                "flowcar" | "target/release/flowcar" => PROGRAMS[0],
                _ => continue,
            };
            let arguments: Vec<String> = words[at + 1..]
                .iter()
                .take_while(|word| !ENDS.contains(word) && !word.starts_with("2>"))
                .map(|word| word.trim_matches(['"', '\'', ',']).to_owned())
                .collect();
            let is_command = |word: &String| {
                word.starts_with(|c: char| c.is_ascii_lowercase())
                    && word.chars().all(|c| c.is_ascii_lowercase() || c == '-')
            };
            if arguments.first().is_some_and(is_command) {
                found.push(Self { program, arguments });
            }
        }
        found
    }

    /// What the program answers where it does not know the command, or one of the arguments. A paragraph may name an option without the
    /// option's value.
    fn refusal(&self) -> Option<String> {
        let with = |value: Option<&str>| {
            let mut command = start(self.program);
            // Help is read last: it does not hide what stands before it.
            command.args(&self.arguments).args(value).arg("--help");
            command.output().unwrap()
        };
        let plain = with(None);
        let is_known = plain.status.success()
            || self.arguments.last()?.starts_with("--") && with(Some("VALUE")).status.success();
        (!is_known).then(|| String::from_utf8_lossy(&plain.stderr).into_owned())
    }
}

/// The commands that a page shows: all in its blocks for a shell, and in its paragraphs those that the programs have. A paragraph also quotes messages
/// that begin with flowcar's name.
fn commands(page: &str, known: &[BTreeSet<String>; 2]) -> Vec<Shown> {
    let mut found = Vec::new();
    for (number, part) in page.split("```").enumerate() {
        if number % 2 == 1 {
            // Others show output and manifests.
            let shell = part.strip_prefix("sh\n").unwrap_or_default();
            found.extend(shell.lines().flat_map(Shown::all_of));
            continue;
        }
        let shown = part.split('`').skip(1).step_by(2).flat_map(Shown::all_of);
        found.extend(shown.filter(|shown| {
            let of = usize::from(shown.program != PROGRAMS[0]);
            // What `flowcar run` starts stands behind `--`: other words are a message's.
            let is_message = shown.arguments[0] == "run"
                && (shown.arguments.get(1)).is_some_and(|word| !word.starts_with('-'));
            known[of].contains(&shown.arguments[0]) && !is_message
        }));
    }
    found
}

/// The commands that a program's help lists.
fn known(program: &str) -> BTreeSet<String> {
    let output = start(program).arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let list = help.split("Commands:\n").nth(1).unwrap();
    let lines = list.lines().take_while(|line| !line.is_empty());
    let named = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = named.map(|line| line.split_whitespace().next().unwrap().to_owned());
    names.collect()
}

fn start(program: &str) -> Command {
    if program == PROGRAMS[0] {
        flowcar::bare().unwrap()
    } else {
        tools::kubectl_flowcar(Path::new("/dev/null"))
    }
}

/// Every page, but those of what is built and of what is fetched.
fn pages(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            pages(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
}

#[test]
fn programs_know_each_command_that_a_page_shows() {
    let mut refused = Vec::new();
    let known = PROGRAMS.map(known);
    let mut seen: Vec<Shown> = Vec::new();
    let mut paths = Vec::new();
    pages(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join(".."),
        &mut paths,
    );
    for path in paths {
        let page = fs::read_to_string(&path).unwrap();
        for shown in commands(&page, &known) {
            if seen.contains(&shown) {
                continue;
            }
            if let Some(refusal) = shown.refusal() {
                refused.push(format!("{}: {shown:?}: {refusal}", path.display()));
            }
            seen.push(shown);
        }
    }
    assert!(seen.len() >= LEAST, "only {}: {seen:?}", seen.len());
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

#[test]
fn commands_are_found_and_unknown_ones_are_refused() {
    let all = |line| {
        let found = Shown::all_of(line).into_iter();
        found
            .map(|of| format!("{} {}", of.program, of.arguments.join(" ")))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        all("sudo -E target/release/flowcar export --cgroup /sys/fs/cgroup # a comment"),
        ["flowcar export --cgroup /sys/fs/cgroup"]
    );
    assert_eq!(
        all("kubectl exec POD -c flowcar -n NAMESPACE -- flowcar check --send | jq ."),
        ["flowcar check --send"]
    );
    assert_eq!(
        all("kubectl flowcar status && flowcar run --format json -- curl localhost"),
        ["kubectl-flowcar status", "flowcar run --format json"]
    );
    assert!(all("the flowcar. flowcar FLOWCAR_SOURCE").is_empty());
    for wrong in [
        "flowcar chekc",
        "flowcar check --sned",
        "kubectl flowcar stats",
    ] {
        let shown = &Shown::all_of(wrong)[0];
        assert!(shown.refusal().is_some(), "{wrong}");
    }
}
