//! What may be linked: every locked crate is checked against deny.toml, by cargo's metadata.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
};

use serde::Deserialize;
use spdx::{Expression, ParseMode};

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
}

#[derive(Deserialize)]
struct Deny {
    licenses: Licenses,
    sources: Sources,
    bans: Bans,
}

#[derive(Deserialize)]
struct Licenses {
    allow: BTreeSet<String>,
    clarify: Vec<Clarified>,
}

#[derive(Deserialize)]
struct Clarified {
    #[serde(rename = "crate")]
    name: String,
    expression: String,
}

#[derive(Deserialize)]
struct Sources {
    #[serde(rename = "allow-registry")]
    allow_registry: Vec<String>,
}

#[derive(Deserialize)]
struct Bans {
    skip: Vec<Skipped>,
}

#[derive(Deserialize)]
struct Skipped {
    #[serde(rename = "crate")]
    name: String,
}

fn root(file: &str) -> String {
    format!("{}/../{file}", env!("CARGO_MANIFEST_DIR"))
}

fn deny() -> Deny {
    toml::from_str(&fs::read_to_string(root("deny.toml")).unwrap()).unwrap()
}

fn packages() -> Vec<Package> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--format-version", "1"])
        .args(["--manifest-path", &root("Cargo.toml")])
        .output()
        .unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{message}");
    let Metadata { packages } = serde_json::from_slice(&output.stdout).unwrap();
    assert!(packages.len() > 100);
    packages
}

#[test]
fn every_licence_is_an_allowed_one() {
    let Licenses { allow, clarify } = deny().licenses;
    for package in packages() {
        let Package { name, version, .. } = &package;
        let clarified = clarify.iter().find(|of| of.name == *name);
        let text = match (&package.license, clarified) {
            (Some(license), _) => license,
            (None, Some(clarified)) => &clarified.expression,
            (None, None) => panic!("{name} {version} declares no licence"),
        };
        let expression = Expression::parse_mode(text, ParseMode::LAX).unwrap();
        let is_allowed = expression.evaluate(|licence| allow.contains(&licence.to_string()));
        assert!(is_allowed, "{name} {version}: {text}");
    }
}

#[test]
fn every_crate_is_of_this_workspace_or_of_an_allowed_registry() {
    let allowed = deny().sources.allow_registry;
    for Package {
        name,
        version,
        source,
        ..
    } in packages()
    {
        let Some(source) = source else { continue };
        let is_allowed = allowed
            .iter()
            .any(|registry| source == format!("registry+{registry}"));
        assert!(is_allowed, "{name} {version} is from {source}");
    }
}

/// A second version of a crate adds memory and a chance of a fault: each is reviewed.
#[test]
fn duplicate_crate_versions_are_those_that_are_named() {
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in packages() {
        versions
            .entry(package.name)
            .or_default()
            .insert(package.version);
    }
    let found: BTreeSet<_> = versions
        .into_iter()
        .filter(|(_, versions)| versions.len() > 1)
        .map(|(name, _)| name)
        .collect();
    let named: BTreeSet<_> = deny().bans.skip.into_iter().map(|of| of.name).collect();
    assert_eq!(found, named);
}

/// Without rustup's pinned nightly: the distribution's compiler builds what is tested, and nothing that is shipped.
#[test]
fn images_take_no_other_compiler_than_the_pinned_one() {
    const FIND: &str = "source .ci/parts/bpf.sh; NIGHTLY=nightly-2026-01-01; \
                        use_nightly() { return 1; }; use_distribution() { echo distribution; }; \
                        find_linker() { :; }; die() { echo \"$1\"; exit 1; }; find_bpf";
    for (what, is_found, words) in [
        ("test", true, "distribution"),
        ("lint", true, "distribution"),
        ("image", false, "no nightly-2026-01-01 of rustup's"),
        ("node", false, "no nightly-2026-01-01 of rustup's"),
    ] {
        let found = Command::new("bash")
            .args(["-euc", FIND])
            .env("what", what)
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&found.stdout);
        assert_eq!(found.status.success(), is_found, "{what}: {found:?}");
        assert!(text.starts_with(words), "{what}: {text}");
    }
}

/// A program that prints this as its version; none where it is empty.
fn stub(name: &str, version: &str) -> String {
    match version {
        "" => format!("{name}() {{ return 127; }}; "),
        _ => format!("{name}() {{ echo \"{version}\"; }}; "),
    }
}

#[test]
fn images_take_the_pinned_rust_and_tests_any_that_is_new_enough() {
    const PINNED: &str = "rustc 1.95.0 (59807616e 2026-04-14)";
    const DISTRIBUTIONS: &str = "rustc 1.95.0 (59807616e 2026-04-14) (built from a source tarball)";
    const NEWER: &str = "rustc 1.96.0 (abcdef012 2026-05-28)";
    const OLDER: &str = "rustc 1.94.1 (abcdef012 2026-03-20)";
    const FIND: &str = "source .ci/parts/rust.sh; RUST=1.95; RUST_IMAGE=1.95.0; cargo_home=/nowhere; cargo() { :; }; \
                        find_rustup() { [[ -n $has_rustup ]]; }; use_versioned_rust() { return 1; }; \
                        install_rust() { return 1; }; install_rustup() { return 1; }; use_rustup() { return 1; }; \
                        at_least() { printf '%s\\n%s\\n' \"$2\" \"$1\" | sort -VC; }; took() { :; }; doing() { :; }; \
                        logged() { echo \"$*\"; }; choose() { echo \"$1=$2\"; }; depends_on() { :; }; \
                        die() { echo \"$1\"; exit 1; }; find_rust";
    let installed = "rustup toolchain install 1.95.0 --profile minimal\nRUSTUP_TOOLCHAIN=1.95.0\n";
    let none = "no Rust 1.95.0 of rustup's, and images take no other compiler";
    for (what, rustc, rustup, expected) in [
        ("image", PINNED, "", Ok("")),
        ("image", NEWER, PINNED, Ok("RUSTUP_TOOLCHAIN=1.95.0\n")),
        ("image", NEWER, NEWER, Ok(installed)),
        ("image", DISTRIBUTIONS, "", Err(none)),
        ("image", NEWER, "", Err(none)),
        ("test", NEWER, "", Ok("")),
        ("build", DISTRIBUTIONS, "", Ok("")),
        ("test", OLDER, "", Err("no Rust since 1.95 is here")),
    ] {
        let stubs = stub("rustc", rustc) + &stub("rustup", rustup);
        let found = Command::new("bash")
            .args(["-euc", &(stubs + FIND)])
            .env("what", what)
            .env("has_rustup", rustup)
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&found.stdout);
        assert_eq!(
            found.status.success(),
            expected.is_ok(),
            "{what} {rustc}: {found:?}"
        );
        match expected {
            Ok(all) => assert_eq!(text, all, "{what} {rustc}: {found:?}"),
            Err(start) => assert!(text.starts_with(start), "{what} {rustc}: {text}"),
        }
    }
}
