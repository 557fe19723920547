//! What userspace takes, counted of the program `costs` (`tests/costs`).

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use flowcar_tests::place::{lacks, require_file, require_program};

use super::figures::{Figures, Table, WORK};

/// The function of `tests/costs` in which instructions are counted.
const COUNTED: &str = "costs::work::measured*";

/// Counts instructions, allocations and bytes, where the program and callgrind are there.
pub(crate) fn count(figures: &mut Figures) {
    let program = program();
    if !require_file(&program, "make costs") || !require_program("valgrind") {
        return;
    }
    let known = output(Command::new(&program).arg("names"));
    let mut known: Vec<&str> = known.lines().collect();
    let mut counted = WORK.map(|(name, _)| name);
    known.sort_unstable();
    counted.sort_unstable();
    assert_eq!(
        known, counted,
        "`WORK` in figures.rs, and costs/src/work.rs"
    );
    let figures_of = |name| work(&program, name);
    let all: Vec<_> = WORK
        .iter()
        .map(|(name, _)| (*name, figures_of(name)))
        .collect();
    let table = |figure: fn(&Work) -> f64| -> Table {
        let figures = all
            .iter()
            .map(|(name, work)| ((*name).to_owned(), figure(work)));
        figures.collect()
    };
    figures.allocations = table(|work| work.allocations);
    figures.bytes = lines(&output(Command::new(&program).arg("bytes")));
    // Each architecture has instructions of its own.
    let made_by = &mut figures.made_by;
    if !made_by.architecture.is_empty() && made_by.architecture != env::consts::ARCH {
        return lacks("committed instructions of userspace on this architecture");
    }
    env::consts::ARCH.clone_into(&mut made_by.architecture);
    made_by.userspace = output(Command::new(&program).arg("compiler"))
        .trim()
        .to_owned();
    figures.instructions = table(|work| work.instructions);
}

/// What one of a kind of work takes.
struct Work {
    instructions: f64,
    allocations: f64,
}

fn work(program: &Path, name: &str) -> Work {
    let directory = tempfile::tempdir().unwrap();
    let profile = directory.path().join("profile");
    let mut command = Command::new("valgrind");
    command
        .arg("--tool=callgrind")
        .arg(format!("--toggle-collect={COUNTED}"))
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .arg(program)
        .arg(name);
    let counts = lines(&output(&mut command));
    let times = counts["times"];
    let instructions = total(&fs::read_to_string(&profile).unwrap());
    assert!(
        instructions > times,
        "callgrind found no function {COUNTED} in {}",
        program.display()
    );
    Work {
        instructions: (instructions / times).round(),
        allocations: (100.0 * counts["allocations"] / times).round() / 100.0,
    }
}

/// The sum of a callgrind profile.
fn total(profile: &str) -> f64 {
    let mut lines = profile.lines();
    let total = lines.find_map(|line| line.strip_prefix("totals: "));
    total
        .and_then(|total| total.trim().parse().ok())
        .unwrap_or_default()
}

/// Lines of a name and a number.
fn lines(text: &str) -> BTreeMap<String, f64> {
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    let pairs = pairs.map(|(name, number)| (name.to_owned(), number.parse().expect("a number")));
    pairs.collect()
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The program of the profile `costs`, beside the profile of this one.
fn program() -> PathBuf {
    let this = env::current_exe().unwrap();
    // target/PROFILE/deps/THIS
    let target = this.ancestors().nth(3).expect("a target directory");
    target.join("costs/costs")
}
