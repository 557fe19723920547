//! The licence texts that the crates carry.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use crate::crates::Crate;

/// Words that a licence's file begins with.
const NAMES: [&str; 5] = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE"];

/// Each text once, under the crates that carry it. A crate that carries none is named with what it declares.
pub(crate) fn texts(crates: &[Crate]) -> anyhow::Result<String> {
    let mut carriers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut all = String::from("What is linked into this binary, and under which licence.\n\n");
    for each in crates {
        let name = format!("{} {}", each.name, each.version);
        let files = files(each)?;
        let carried = if files.is_empty() {
            " (its package carries no text)"
        } else {
            ""
        };
        writeln!(all, "{name}: {}{carried}", each.licence)?;
        for file in files {
            let bytes =
                fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
            let text = String::from_utf8_lossy(&bytes)
                .replace("\r\n", "\n")
                .trim()
                .to_owned();
            carriers.entry(text).or_default().push(name.clone());
        }
    }
    let mut sorted: Vec<_> = carriers.into_iter().collect();
    sorted.sort_by(|a, b| a.1.cmp(&b.1));
    for (text, mut names) in sorted {
        names.dedup();
        writeln!(all, "\n{}\n{}\n\n{text}", "=".repeat(80), names.join(", "))?;
    }
    Ok(all)
}

fn files(each: &Crate) -> anyhow::Result<Vec<PathBuf>> {
    let folder = each.manifest_path.parent().unwrap_or(Path::new("."));
    // A crate of the workspace has the workspace's.
    let folder = if each.source.is_none() {
        folder.parent().unwrap_or(folder)
    } else {
        folder
    };
    let mut files = Vec::new();
    for entry in
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?
    {
        let path = entry?.path();
        let name = path
            .file_name()
            .and_then(OsStr::to_str)
            .unwrap_or_default()
            .to_uppercase();
        let fits = NAMES.iter().any(|start| name.starts_with(start));
        if fits && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
