//! The table of threats in docs/security/injector.md.

use std::path::Path;

/// Every row of the document's threats names an existing test.
#[test]
fn every_threat_names_an_existing_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text =
        std::fs::read_to_string(root.join("docs/security/injector.md")).expect("the document");
    let (_, threats) = text.split_once("## Threats").expect("the threats");
    let (threats, _) = threats.split_once("\n## ").expect("their end");
    let mut sources = String::new();
    let mut folders = vec![
        root.join("tests/tests"),
        root.join("k8s/src"),
        root.join("sidecar/src"),
    ];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                sources += &std::fs::read_to_string(path).expect("a source");
            }
        }
    }
    let rows: Vec<_> = threats
        .lines()
        .filter(|line| line.starts_with("| "))
        .skip(1)
        .collect();
    assert!(rows.len() >= 10, "{rows:?}");
    for row in rows {
        let last = row
            .trim_end_matches('|')
            .rsplit('|')
            .next()
            .expect("a cell");
        let names: Vec<_> = last
            .split(',')
            .map(|name| name.trim().trim_matches('`'))
            .collect();
        for name in names {
            let is_there = !name.is_empty() && sources.contains(&format!("fn {name}("));
            assert!(is_there, "{name}: {row}");
        }
    }
}
