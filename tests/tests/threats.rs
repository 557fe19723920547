//! The tables of threats in docs/security: each row names tests that exist, and each test of an attack is in a row.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use flowcar_tests::test_names;

/// A page with a table of threats.
struct Page {
    name: &'static str,
    /// The binary of tests that are named without one.
    binary: &'static str,
    /// Modules of which every test is an attack.
    attacks: &'static [&'static str],
    least_rows: usize,
}

const PAGES: [Page; 2] = [
    Page {
        name: "process.md",
        binary: "kernel_attacks",
        attacks: &["kernel_attacks"],
        least_rows: 30,
    },
    Page {
        name: "injector.md",
        binary: "k8s_controller",
        attacks: &[
            "k8s_controller::attack",
            "k8s_controller::identity",
            "k8s_controller::rights",
            "k8s_controller::volumes",
        ],
        least_rows: 10,
    },
];

/// Libraries whose unit tests may be named, and where they are.
const LIBRARIES: [(&str, &str); 2] = [
    ("flowcar", "sidecar/src/lib.rs"),
    ("flowcar_k8s", "k8s/src/lib.rs"),
];

/// Folders of integration tests: a file or a folder for each binary.
const FOLDERS: [&str; 2] = ["tests/tests", "sidecar/tests"];

// === impl Page ===

impl Page {
    /// The rows of its table, each with the tests that it names.
    fn rows(&self) -> Vec<(String, Vec<String>)> {
        let page = root().join("docs/security").join(self.name);
        let text = fs::read_to_string(page).expect(self.name);
        let (_, threats) = text.split_once("## Threats").expect("the threats");
        let threats = threats.split("\n## ").next().expect("the section");
        let rows = threats.lines().filter(|line| line.starts_with("| "));
        rows.skip(1)
            .map(|row| {
                let last = row.trim_end_matches('|').rsplit('|').next();
                let names = last.expect("a cell").split('`').skip(1).step_by(2);
                (row.to_owned(), names.map(str::to_owned).collect())
            })
            .collect()
    }

    /// The tests that a name stands for: one, or all of a module.
    fn tests<'a>(&self, name: &str, all: &'a BTreeSet<String>) -> Vec<&'a String> {
        for full in [name.to_owned(), format!("{}::{name}", self.binary)] {
            let of = all.iter().filter(|test| is_in(&full, test));
            let of: Vec<_> = of.collect();
            if !of.is_empty() {
                return of;
            }
        }
        Vec::new()
    }
}

/// Whether a test is this one, or one of this module.
fn is_in(name: &str, test: &str) -> bool {
    let rest = test.strip_prefix(name);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every test: the name of its binary or library, and the name that the harness prints.
fn all_tests() -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    let mut add = |binary: &str, file: &Path| {
        let names = test_names::of(file).into_iter();
        all.extend(names.map(|name| format!("{binary}::{name}")));
    };
    for (library, file) in LIBRARIES {
        add(library, &root().join(file));
    }
    for folder in FOLDERS {
        for entry in fs::read_dir(root().join(folder)).expect(folder) {
            let path = entry.expect("an entry").path();
            let name = path.file_stem().expect("a name").to_string_lossy();
            let main = path.join("main.rs");
            if main.is_file() {
                add(&name, &main);
            } else if path.extension().is_some_and(|end| end == "rs") {
                add(&name, &path);
            }
        }
    }
    all
}

#[test]
fn every_threat_names_tests_that_exist() {
    let all = all_tests();
    assert!(all.len() > 1_000, "{}", all.len());
    for page in PAGES {
        let rows = page.rows();
        assert!(
            rows.len() >= page.least_rows,
            "{}: {} rows",
            page.name,
            rows.len()
        );
        for (row, names) in rows {
            assert!(!names.is_empty(), "{}: {row}", page.name);
            for name in names {
                let is_there = !page.tests(&name, &all).is_empty();
                assert!(is_there, "{}: no test is {name}: {row}", page.name);
            }
        }
    }
}

#[test]
fn every_attack_is_in_a_table_of_threats() {
    let all = all_tests();
    for page in PAGES {
        let names = page.rows().into_iter().flat_map(|(_, names)| names);
        let named: BTreeSet<_> = names.flat_map(|name| page.tests(&name, &all)).collect();
        for module in page.attacks {
            let attacks = all.iter().filter(|test| is_in(module, test));
            let attacks: BTreeSet<_> = attacks.collect();
            assert!(!attacks.is_empty(), "{module}");
            let missing: Vec<_> = attacks.difference(&named).collect();
            assert!(
                missing.is_empty(),
                "docs/security/{} has no row with {missing:#?}",
                page.name
            );
        }
    }
}
