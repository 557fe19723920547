//! Which crates are linked.

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    process::Command,
};

use anyhow::{Context as _, ensure};
use serde::Deserialize;

/// A crate that is linked.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Crate {
    pub(crate) name: String,
    pub(crate) version: String,
    /// As it declares it.
    pub(crate) license: Option<String>,
    pub(crate) repository: Option<String>,
    pub(crate) manifest_path: PathBuf,
    /// The registry that it is from; none for a crate of this workspace.
    pub(crate) source: Option<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Crate>,
}

/// The crates of which code is linked into `package`'s binary, itself first.
pub(crate) fn linked(package: &str, target: &str) -> anyhow::Result<Vec<Crate>> {
    let edges = [
        "--edges",
        "normal,no-proc-macro",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ];
    let tree = cargo(
        &[
            &["tree", "--locked", "--package", package, "--target", target],
            &edges[..],
        ]
        .concat(),
    )?;
    let metadata = cargo(&["metadata", "--locked", "--format-version", "1"])?;
    let Metadata { packages } = serde_json::from_str(&metadata)?;
    let mut known: HashMap<_, _> = packages
        .into_iter()
        .map(|each| ((each.name.clone(), each.version.clone()), each))
        .collect();
    let (mut crates, mut seen) = (Vec::new(), BTreeSet::new());
    for line in tree.lines().filter(|line| !line.is_empty()) {
        // NAME vVERSION [(PATH)] [(*)]
        let mut words = line.split(' ');
        let (name, version) = (
            words.next(),
            words.next().and_then(|word| word.strip_prefix('v')),
        );
        let key = name
            .zip(version)
            .with_context(|| format!("cargo tree says {line:?}"))?;
        let key = (key.0.to_owned(), key.1.to_owned());
        if seen.insert(key.clone()) {
            let found = known.remove(&key);
            crates.push(found.with_context(|| format!("cargo metadata knows no {line}"))?);
        }
    }
    ensure!(!crates.is_empty(), "cargo tree says nothing of {package}");
    crates[1..].sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    Ok(crates)
}

/// The release of the compiler, whose standard library is linked, too.
pub(crate) fn compiler() -> anyhow::Result<String> {
    let said = output("rustc", &["--version"])?;
    let release = said.split(' ').nth(1);
    Ok(release
        .with_context(|| format!("rustc says {said:?}"))?
        .to_owned())
}

fn cargo(arguments: &[&str]) -> anyhow::Result<String> {
    output("cargo", arguments)
}

fn output(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("cannot start {program}"))?;
    ensure!(
        output.status.success(),
        "{program} {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}
