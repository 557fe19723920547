//! Which crates are linked.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};
use serde::Deserialize;

/// The text of MIT behind the copyright line (<https://spdx.org/licenses/MIT.html>), to its first condition's end.
const MIT: &str = "Permission is hereby granted, free of charge, to any person obtaining a copy of this software and \
associated documentation files (the \"Software\"), to deal in the Software without restriction, including without \
limitation the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, \
and to permit persons to whom the Software is furnished to do so, subject to the following conditions: The above \
copyright notice and this permission notice shall be included in all copies or substantial portions of the Software.";

/// A crate that is linked.
#[derive(Clone, Debug)]
pub(crate) struct Crate {
    pub(crate) name: String,
    pub(crate) version: String,
    /// The SPDX expression of its licence: as its manifest declares it, else by the text of its licence's file.
    pub(crate) licence: String,
    pub(crate) repository: Option<String>,
    pub(crate) manifest_path: PathBuf,
    /// The registry that it is from; none for a crate of this workspace.
    pub(crate) source: Option<String>,
}

/// A crate as cargo knows it.
#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    /// Where the manifest names a file instead of an expression, relative to the manifest.
    license_file: Option<PathBuf>,
    repository: Option<String>,
    manifest_path: PathBuf,
    source: Option<String>,
}

impl Package {
    fn into_crate(self) -> anyhow::Result<Crate> {
        let licence = licence(&self)?;
        let Self {
            name,
            version,
            repository,
            manifest_path,
            source,
            ..
        } = self;
        Ok(Crate {
            name,
            version,
            licence,
            repository,
            manifest_path,
            source,
        })
    }
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

/// What cargo knows of every locked crate, less those that were taken.
pub(crate) struct Catalogue(HashMap<(String, String), Package>);

impl Catalogue {
    pub(crate) fn read() -> anyhow::Result<Self> {
        let metadata = cargo(&["metadata", "--locked", "--format-version", "1"])?;
        let Metadata { packages } = serde_json::from_str(&metadata)?;
        let keyed = packages
            .into_iter()
            .map(|each| ((each.name.clone(), each.version.clone()), each));
        Ok(Self(keyed.collect()))
    }

    /// The crates of which code is linked into `package`'s binary, itself first, but for those that were taken before.
    pub(crate) fn take_linked(
        &mut self,
        package: &str,
        target: &str,
    ) -> anyhow::Result<Vec<Crate>> {
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
        let mut crates = Vec::new();
        for line in tree.lines().filter(|line| !line.is_empty()) {
            // NAME vVERSION [(PATH)] [(*)]
            let mut words = line.split(' ');
            let (name, version) = (
                words.next(),
                words.next().and_then(|word| word.strip_prefix('v')),
            );
            let (name, version) = name
                .zip(version)
                .with_context(|| format!("cargo tree printed {line:?}"))?;
            if let Some(found) = self.0.remove(&(name.to_owned(), version.to_owned())) {
                crates.push(found.into_crate()?);
            }
        }
        ensure!(!crates.is_empty(), "cargo tree lists no crate of {package}");
        crates[1..].sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
        Ok(crates)
    }

    /// The one crate of this name, if it was not taken before.
    pub(crate) fn take(&mut self, name: &str) -> anyhow::Result<Option<Crate>> {
        let key = self.0.keys().find(|(of, _)| of == name).cloned();
        let found = key.and_then(|key| self.0.remove(&key));
        found.map(Package::into_crate).transpose()
    }
}

/// The SPDX expression of a crate's licence.
fn licence(of: &Package) -> anyhow::Result<String> {
    if let Some(declared) = &of.license {
        // The older way to write a choice.
        return Ok(declared.replace('/', " OR "));
    }
    let Package { name, version, .. } = of;
    let file = of.license_file.as_ref();
    let file = file.with_context(|| format!("{name} {version} declares no licence"))?;
    let folder = of.manifest_path.parent().unwrap_or(Path::new("."));
    let path = folder.join(file);
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let of_mit = "MIT".to_owned();
    words(&text)
        .contains(&words(MIT))
        .then_some(of_mit)
        .with_context(|| {
            format!(
                "{name} {version} declares its licence only by {}, whose text is not MIT's: \
                 teach `bill` (tests/src/bin/bill/crates.rs) that licence's text",
                path.display()
            )
        })
}

/// The release of the compiler, whose standard library is linked, too.
pub(crate) fn compiler() -> anyhow::Result<String> {
    let printed = output("rustc", &["--version"])?;
    let release = printed.split(' ').nth(1);
    Ok(release
        .with_context(|| format!("rustc printed {printed:?}"))?
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
