//! What may be linked: every locked crate is checked against deny.toml, by cargo's metadata. And what images are built by.

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
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
    src_path: String,
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
    exceptions: Vec<Excepted>,
}

#[derive(Deserialize)]
struct Clarified {
    #[serde(rename = "crate")]
    name: String,
    expression: String,
}

#[derive(Deserialize)]
struct Excepted {
    #[serde(rename = "crate")]
    name: String,
    allow: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Sources {
    #[serde(rename = "allow-registry")]
    allow_registry: Vec<String>,
}

#[derive(Deserialize)]
struct Bans {
    skip: Vec<Skipped>,
    build: BuildScripts,
}

#[derive(Deserialize)]
struct Skipped {
    /// Name and the part of the version that semantic versioning keeps: `syn:2`, `nix:0.31`.
    #[serde(rename = "crate")]
    spec: String,
}

#[derive(Deserialize)]
struct BuildScripts {
    #[serde(rename = "allow-build-scripts")]
    allow: BTreeSet<String>,
}

// === impl Package ===

impl Package {
    /// Where its build script is, if it has one.
    fn build_script(&self) -> Option<&str> {
        let is_script = |target: &&Target| target.kind.iter().any(|kind| kind == "custom-build");
        let script = self.targets.iter().find(is_script)?;
        Some(&script.src_path)
    }
}

// === impl Skipped ===

impl Skipped {
    fn is(&self, name: &str, version: &str) -> bool {
        let (crate_name, kept) = self.spec.split_once(':').expect("a name and a version");
        let rest = version.strip_prefix(kept);
        crate_name == name && rest.is_some_and(|rest| rest.starts_with('.'))
    }
}

fn root(file: &str) -> String {
    format!("{}/../{file}", env!("CARGO_MANIFEST_DIR"))
}

fn deny() -> Deny {
    toml::from_str(&fs::read_to_string(root("deny.toml")).unwrap()).unwrap()
}

/// The crates of each lock file.
fn locked() -> impl Iterator<Item = Vec<Package>> {
    ["Cargo.toml", "tests/fuzz/Cargo.toml"]
        .into_iter()
        .map(packages)
}

fn packages(manifest: &str) -> Vec<Package> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--format-version", "1"])
        .args(["--manifest-path", &root(manifest)])
        .output()
        .unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{manifest}: {message}");
    let Metadata { packages } = serde_json::from_slice(&output.stdout).unwrap();
    assert!(packages.len() > 100);
    packages
}

#[test]
fn every_licence_is_an_allowed_one() {
    let Licenses {
        allow,
        clarify,
        exceptions,
    } = deny().licenses;
    for package in locked().flatten() {
        let Package { name, version, .. } = &package;
        let clarified = clarify.iter().find(|of| of.name == *name);
        let text = match (&package.license, clarified) {
            (Some(license), _) => license,
            (None, Some(clarified)) => &clarified.expression,
            (None, None) => panic!("{name} {version} declares no licence"),
        };
        let expression = Expression::parse_mode(text, ParseMode::LAX).unwrap();
        let is_excepted = |licence: &str| {
            let of = exceptions.iter().find(|of| of.name == *name);
            of.is_some_and(|of| of.allow.contains(licence))
        };
        let is_allowed = expression.evaluate(|licence| {
            let licence = licence.to_string();
            allow.contains(&licence) || is_excepted(&licence)
        });
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
    } in locked().flatten()
    {
        let Some(source) = source else { continue };
        let is_allowed = allowed
            .iter()
            .any(|registry| source == format!("registry+{registry}"));
        assert!(is_allowed, "{name} {version} is from {source}");
    }
}

/// A second version of a crate adds memory and a chance of a fault: each is reviewed, and so is a third.
#[test]
fn duplicate_crate_versions_are_those_that_are_named() {
    let skip = deny().bans.skip;
    let mut needed = BTreeSet::new();
    for packages in locked() {
        let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for package in packages {
            let of = versions.entry(package.name).or_default();
            of.insert(package.version);
        }
        for (name, mut versions) in versions {
            let count = versions.len();
            versions.retain(|version| {
                let skipped = skip.iter().find(|of| of.is(&name, version));
                needed.extend(skipped.filter(|_| count > 1).map(|of| &of.spec));
                skipped.is_none()
            });
            assert_eq!(
                versions.len(),
                1,
                "{name}: one version is not among bans.skip of deny.toml, and here are {versions:?}"
            );
        }
    }
    let named: BTreeSet<_> = skip.iter().map(|of| &of.spec).collect();
    assert_eq!(needed, named, "bans.skip of deny.toml has others");
}

/// A build script runs with the rights of whoever builds.
#[test]
fn build_scripts_are_those_that_were_read() {
    let mut scripts = BTreeMap::new();
    for package in locked().flatten() {
        if let Some(script) = package.build_script() {
            scripts.insert(package.name.clone(), script.to_owned());
        }
    }
    let read = deny().bans.build.allow;
    for (name, script) in &scripts {
        assert!(
            read.contains(name),
            "{name} has a build script that nobody has read: {script}. If it reaches no network and writes to OUT_DIR alone, \
             add the crate to bans.build.allow-build-scripts of deny.toml"
        );
    }
    let found: BTreeSet<_> = scripts.into_keys().collect();
    assert_eq!(found, read, "bans.build.allow-build-scripts of deny.toml");
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

/// What a stub of a shell script begins with: the functions of .ci/setup that its parts use, and `put FOLDER NAME VERSION`, which writes a
/// program that prints a version.
const STUBS: &str = "put() { mkdir -p \"$1\"; printf '#!/bin/sh\\necho \"%s\"\\n' \"$3\" >\"$1/$2\"; chmod +x \"$1/$2\"; }; ";

#[test]
fn images_take_the_pinned_bpf_linker_and_tests_any_that_is_new_enough() {
    // The linkers that are in PATH, and the one that cargo installed.
    const FIND: &str = "eval \"$(sed -n '/^at_least()/p; /^in_front()/p' .ci/setup)\"; source .ci/parts/bpf.sh; \
                        BPF_LINKER=0.13.0; bpf_rustc=(echo rustc 1.97.0-nightly); bpf_llvm=22; tools=$dir/tools; cargo_home=$dir/cargo; \
                        build_linker() { put \"$1/bin\" bpf-linker \"bpf-linker $BPF_LINKER\"; }; \
                        took() { echo \"$2\"; }; depends_on() { :; }; die() { echo \"$1\"; exit 1; }; \
                        [[ -z $first ]] || put \"$dir/first\" bpf-linker \"bpf-linker $first\"; \
                        [[ -z $installed ]] || put \"$cargo_home/bin\" bpf-linker \"bpf-linker $installed\"; \
                        PATH=$dir/first:$behind$PATH; find_linker; command -v bpf-linker";
    const BUILT: &str = "tools/bpf-linker-0.13.0-for-1.97.0-nightly";
    for (what, first, installed, is_behind, taken, version) in [
        ("image", "0.13.0", "", false, "first", "0.13.0"),
        ("image", "0.14.0", "0.13.0", false, "cargo", "0.13.0"),
        // Its folder is in PATH already, and another linker is before it.
        ("image", "0.14.0", "0.13.0", true, BUILT, "0.13.0"),
        ("image", "0.14.0", "0.14.0", false, BUILT, "0.13.0"),
        ("image", "0.12.0", "", false, BUILT, "0.13.0"),
        ("image", "", "", false, BUILT, "0.13.0"),
        ("node", "0.14.0", "", false, BUILT, "0.13.0"),
        ("test", "0.14.0", "0.13.0", false, "first", "0.14.0"),
        ("kernels", "0.13.0", "0.14.0", false, "first", "0.13.0"),
        ("lint", "0.12.0", "0.14.0", false, "cargo", "0.14.0"),
        ("build", "0.12.0", "", false, BUILT, "0.13.0"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let behind = format!("{}/cargo/bin:", dir.path().display());
        let found = Command::new("bash")
            .args(["-euo", "pipefail", "-c", &format!("{STUBS}{FIND}")])
            .env("what", what)
            .env("dir", dir.path())
            .env("first", first)
            .env("installed", installed)
            .env("behind", if is_behind { &behind } else { "" })
            .env("PATH", "/usr/bin:/bin")
            .current_dir(root(""))
            .output()
            .unwrap();
        let linker = dir.path().join(taken).join(match taken {
            "first" => "bpf-linker",
            _ => "bin/bpf-linker",
        });
        let linker = linker.display();
        let expected = format!("{version} ({linker})\n{linker}\n");
        let text = String::from_utf8_lossy(&found.stdout);
        assert_eq!(text, expected, "{what} {first} {installed}: {found:?}");
    }
}

/// By hand, too, where the environment is not that of `make image`.
#[test]
fn images_are_not_built_by_other_tools() {
    // cargo would be next.
    const BUILD: &str = "for each in rustc:\"$rustc\" bpf-linker:\"$linker\"; do put \"$dir\" \"${each%%:*}\" \"${each#*:}\"; done; \
                         printf '#!/bin/sh\\necho would build; exit 42\\n' >\"$dir/cargo\"; \
                         printf '#!/bin/sh\\n[ \"$2\" = \"%s\" ] && echo \"%s\"\\n' \"$has\" \"$nightly\" >\"$dir/rustup\"; \
                         chmod +x \"$dir\"/*; PATH=$dir:$PATH exec k8s/image/build flowcar";
    let pins = include_str!("../../.ci/pins");
    let pin = |name: &str| {
        let line = |line: &'static str| line.strip_prefix(name)?.strip_prefix('=');
        pins.lines().find_map(line).unwrap()
    };
    let (rust, nightly) = (pin("RUST_IMAGE"), pin("NIGHTLY"));
    let day: jiff::civil::Date = nightly["nightly-".len()..].parse().unwrap();
    let of = |day: jiff::civil::Date| format!("rustc 1.97.0-nightly (abcdef012 {day})");
    // A nightly is named by the day after its last commit's.
    let (pinned, newer) = (&*of(day.yesterday().unwrap()), &*of(day));
    let rustc = &*format!("rustc {rust} (abcdef012 2026-04-14)");
    let other_rustc = "rustc 1.94.0 (abcdef012 2026-03-02)";
    let linker = &*format!("bpf-linker {}", pin("BPF_LINKER"));
    let other_linker = &*format!("{linker}1");
    for (rustc, has, version, asked, linker, refused) in [
        (rustc, nightly, pinned, None, linker, None),
        (rustc, "nightly", pinned, Some("nightly"), linker, None),
        (rustc, nightly, newer, None, linker, Some(nightly)),
        (
            rustc,
            "nightly",
            newer,
            Some("nightly"),
            linker,
            Some(nightly),
        ),
        (
            rustc,
            "stable",
            rustc,
            Some("stable"),
            linker,
            Some(nightly),
        ),
        (
            rustc,
            nightly,
            pinned,
            Some("system"),
            linker,
            Some(nightly),
        ),
        (
            rustc,
            nightly,
            pinned,
            None,
            other_linker,
            Some("bpf-linker"),
        ),
        (other_rustc, nightly, pinned, None, linker, Some("Rust")),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut build = Command::new("bash");
        build
            .args(["-euc", &format!("{STUBS}{BUILD}")])
            .envs([
                ("rustc", rustc),
                ("has", has),
                ("nightly", version),
                ("linker", linker),
            ])
            .env("dir", dir.path())
            .env("PATH", "/usr/bin:/bin")
            .env("CARGO_TARGET_DIR", dir.path().join("target"))
            .env("FLOWCAR_STATIC_TARGET", "x86_64-unknown-linux-musl")
            .env_remove("FLOWCAR_BPF_TOOLCHAIN")
            .envs(asked.map(|name| ("FLOWCAR_BPF_TOOLCHAIN", name)))
            .current_dir(root(""));
        let built = build.output().unwrap();
        let what = format!("{rustc}, {has}, {version}, {asked:?}, {linker}: {built:?}");
        match refused {
            None => assert_eq!(built.status.code(), Some(42), "{what}"),
            Some(tool) => {
                assert_eq!(built.status.code(), Some(1), "{what}");
                let message = String::from_utf8_lossy(&built.stderr);
                let start = format!("k8s/image/build: images are built by {tool}");
                assert!(message.contains(&start), "{what}");
            }
        }
    }
}
