//! The tables in docs/ match the code. `FLOWCAR_UPDATE_README=1 cargo test --test readme` writes them.

use std::{env, fs, path::PathBuf};

#[test]
fn metrics_table_matches_the_code() {
    is_fresh(
        "docs/metrics.md",
        &[("metrics", flowcar::otlp::names::markdown())],
    );
}

#[test]
fn settings_table_matches_the_code() {
    is_fresh(
        "docs/configuration.md",
        &[("settings", flowcar::config::markdown())],
    );
}

#[test]
fn attribute_values_match_the_code() {
    is_fresh(
        "docs/attributes.md",
        &[("values", flowcar::otlp::values::markdown())],
    );
}

/// OpenTelemetry's model format.
#[test]
fn registry_matches_the_code() {
    is_same("docs/schema/flowcar.yaml", |_| flowcar::otlp::names::yaml());
}

fn is_fresh(name: &str, tables: &[(&str, String)]) {
    is_same(name, |text| {
        tables.iter().fold(text.to_owned(), |text, (mark, table)| {
            replace(&text, mark, table)
        })
    });
}

fn is_same(name: &str, made: impl FnOnce(&str) -> String) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(name);
    let text = fs::read_to_string(&path).expect("a file of the repository");
    let fresh = made(&text);
    if env::var_os("FLOWCAR_UPDATE_README").is_some() {
        fs::write(&path, &fresh).expect("a file that can be written");
        return;
    }
    assert_eq!(
        text, fresh,
        "{name} is stale: FLOWCAR_UPDATE_README=1 cargo test --test readme"
    );
}

/// Puts `table` between the marks of `name`.
fn replace(text: &str, name: &str, table: &str) -> String {
    let (open, close) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let (before, rest) = text
        .split_once(&open)
        .unwrap_or_else(|| panic!("no mark {open}"));
    let (_, after) = rest
        .split_once(&close)
        .unwrap_or_else(|| panic!("no mark {close}"));
    format!("{before}{open}{table}{close}{after}")
}
