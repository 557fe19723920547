//! The names of tests, read from their sources: for lists of tests in files that no compiler reads.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The names of the tests in a binary, as its harness prints them, by the source file of its root.
///
/// # Panics
/// A file of it cannot be read.
pub fn of(root: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    collect(root, folder_of(root), "", &mut names);
    names
}

/// Adds the tests of a file, and of the files that it declares, which are in `folder`.
fn collect(file: &Path, folder: &Path, module: &str, names: &mut BTreeSet<String>) {
    let mut is_test = false;
    let (mut inline, mut path) = (None, None);
    for line in read(file).lines() {
        let text = line.trim_start();
        if let Some(quoted) = line.strip_prefix("#[path = \"") {
            path = quoted.strip_suffix("\"]");
        } else if let Some(child) = module_of(line) {
            let (file, folder) = match path.take() {
                Some(path) => {
                    let file = folder_of(file).join(path);
                    let folder = folder_of(&file).to_owned();
                    (file, folder)
                }
                None => file_of(folder, child),
            };
            collect(&file, &folder, &format!("{module}{child}::"), names);
        } else if let Some(child) = visible(line).strip_prefix("mod ") {
            inline = child.strip_suffix(" {");
        } else if line == "}" {
            inline = None;
        } else if text.starts_with("#[test]") || text.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some((_, rest)) = text.split_once("fn ").filter(|_| is_test) {
            let name = rest.split('(').next().unwrap_or_default();
            let inline = inline.map_or_else(String::new, |child| format!("{child}::"));
            names.insert(format!("{module}{inline}{name}"));
            is_test = false;
        }
    }
}

/// The file of a module that is declared in a file whose modules are in `folder`, and the folder of its own.
fn file_of(folder: &Path, module: &str) -> (PathBuf, PathBuf) {
    let own = folder.join(module);
    let flat = own.with_extension("rs");
    let file = if flat.is_file() {
        flat
    } else {
        own.join("mod.rs")
    };
    (file, own)
}

/// The module that a line declares to be in a file.
fn module_of(line: &str) -> Option<&str> {
    visible(line).strip_prefix("mod ")?.strip_suffix(';')
}

/// A line without the visibility that it begins with.
fn visible(line: &str) -> &str {
    let Some(rest) = line.strip_prefix("pub") else {
        return line;
    };
    let rest = match rest.strip_prefix('(') {
        Some(scope) => scope.split_once(')').map_or(scope, |(_, rest)| rest),
        None => rest,
    };
    rest.trim_start()
}

fn folder_of(file: &Path) -> &Path {
    file.parent().expect("a file in a folder")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
