//! README.md's tables are those of the code. `FLOWCAR_UPDATE_README=1 cargo test -p flowcar --test readme` writes them.

use std::{env, fs, path::PathBuf};

#[test]
fn its_tables_are_those_of_the_code() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = fs::read_to_string(&path).expect("README.md at the top of the repository");
    let fresh = [
        ("metrics", flowcar::otlp::names::markdown()),
        ("settings", flowcar::config::markdown()),
    ]
    .into_iter()
    .fold(readme.clone(), |text, (name, table)| {
        replace(&text, name, &table)
    });
    if env::var_os("FLOWCAR_UPDATE_README").is_some() {
        fs::write(&path, &fresh).expect("README.md can be written");
        return;
    }
    assert_eq!(
        readme, fresh,
        "README.md is stale: FLOWCAR_UPDATE_README=1 cargo test -p flowcar --test readme"
    );
}

/// Puts `table` between the marks of `name`.
fn replace(text: &str, name: &str, table: &str) -> String {
    let (open, close) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let (before, rest) = text
        .split_once(&open)
        .unwrap_or_else(|| panic!("README.md has no mark {open}"));
    let (_, after) = rest
        .split_once(&close)
        .unwrap_or_else(|| panic!("README.md has no mark {close}"));
    format!("{before}{open}{table}{close}{after}")
}
