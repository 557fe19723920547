//! The tables of threats in docs/security.

use std::path::Path;

/// Every row names tests, and each of them exists: a function, or all of a file of `kernel_attacks`.
#[test]
fn every_threat_names_an_existing_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut sources = String::new();
    for folder in ["tests/tests", "k8s/src", "sidecar/src", "sidecar/tests"] {
        read(&root.join(folder), &mut sources);
    }
    for (page, least) in [("injector.md", 10), ("process.md", 20)] {
        let text = std::fs::read_to_string(root.join("docs/security").join(page)).expect(page);
        let (_, threats) = text.split_once("## Threats").expect("the threats");
        let threats = threats.split("\n## ").next().expect("the section");
        let rows: Vec<_> = threats
            .lines()
            .filter(|line| line.starts_with("| "))
            .skip(1)
            .collect();
        assert!(rows.len() >= least, "{page}: {} rows", rows.len());
        for row in rows {
            let last = row.trim_end_matches('|').rsplit('|').next();
            let names: Vec<_> = last
                .expect("a cell")
                .split('`')
                .skip(1)
                .step_by(2)
                .collect();
            assert!(!names.is_empty(), "{page}: {row}");
            for name in names {
                let function = name.rsplit("::").next().expect("a name");
                let is_there = sources.contains(&format!("fn {function}("))
                    || sources.contains(&format!("mod {name};"))
                    || (name.contains('/') && root.join(name).is_file());
                assert!(is_there, "{page}: {name}: {row}");
            }
        }
    }
}

/// Adds every source below a folder.
fn read(folder: &Path, sources: &mut String) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            read(&path, sources);
        } else if path.extension().is_some_and(|end| end == "rs") {
            *sources += &std::fs::read_to_string(path).expect("a source");
        }
    }
}
