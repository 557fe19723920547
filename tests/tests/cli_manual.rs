//! `flowcar manual`: man pages and completions, read by bash.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use flowcar_tests::flowcar;

fn flowcar(arguments: &[&str]) -> String {
    let output = flowcar::bare().unwrap().args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The commands of `flowcar --help`.
fn commands() -> BTreeSet<String> {
    let help = flowcar(&["--help"]);
    let list = help.split("Commands:\n").nth(1).unwrap();
    let list = list.split("\n\n").next().unwrap().lines();
    let named = list.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = named.map(|line| line.split_whitespace().next().unwrap().to_owned());
    names.filter(|name| name != "help").collect()
}

fn written() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let printed = flowcar(&["manual", directory.path().to_str().unwrap()]);
    assert_eq!(printed.lines().count(), 4, "{printed}");
    directory
}

fn file(directory: &Path, path: &str) -> String {
    fs::read_to_string(directory.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn manual_has_a_page_for_each_command() {
    let directory = written();
    let commands = commands();
    assert!(
        commands.contains("top") && commands.len() >= 8,
        "{commands:?}"
    );
    for command in commands {
        let page = file(directory.path(), &format!("man/man1/flowcar-{command}.1"));
        assert!(page.contains(".TH ") && page.contains(&command), "{page}");
    }
    let main = file(directory.path(), "man/man1/flowcar.1");
    assert!(
        main.contains("Exit status") && main.contains("77"),
        "{main}"
    );
    assert!(file(directory.path(), "man/man1/flowcar-run.1").contains("flowcar run"));
}

#[test]
fn shells_complete_commands_and_arguments() {
    let directory = written();
    let path = directory.path().join("bash-completion/completions/flowcar");
    // What bash calls when somebody types `flowcar exp<TAB>`, and `flowcar flows --for<TAB>`.
    for (words, expected, other) in [
        ("flowcar exp", "export", "--format"),
        ("flowcar flows --for", "--format", "export"),
        ("flowcar run --for", "--format", "export"),
        ("flowcar run -- ech", "echo", "--format"),
    ] {
        let count = words.split(' ').count() - 1;
        let (last, before) = (
            words.split(' ').next_back().unwrap(),
            words.split(' ').nth(count - 1).unwrap(),
        );
        let script = format!(
            "source {}; COMP_WORDS=({words}); COMP_CWORD={count}; _flowcar_or_command flowcar {last} {before}; echo \"${{COMPREPLY[*]}}\"",
            path.display()
        );
        let output = Command::new("bash").args(["-c", &script]).output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout);
        assert!(printed.contains(expected), "{words}: {output:?}");
        assert!(!printed.contains(other), "{words}: {output:?}");
    }
    assert!(
        file(directory.path(), "bash-completion/completions/flowcar")
            .contains("complete -F _flowcar_or_command ")
    );
    assert!(file(directory.path(), "zsh/site-functions/_flowcar").starts_with("#compdef flowcar"));
    assert!(
        file(directory.path(), "fish/vendor_completions.d/flowcar.fish")
            .contains("complete -c flowcar")
    );
}

#[test]
fn directory_that_cannot_be_written_is_named() {
    let output = flowcar::bare()
        .unwrap()
        .args(["manual", "/proc/nowhere"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(73));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/proc/nowhere"));
}
