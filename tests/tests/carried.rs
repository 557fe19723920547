//! The lists of tests that `tests/kernels/run` gives to its machines name tests that exist: a test that is renamed would otherwise run
//! where it cannot, or nowhere.

use std::{fs, path::Path};

/// The names of the tests in the binary that is carried to other kernels, as its harness prints them.
fn carried() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let root = read(&folder.join("kernels.rs"));
    let mut names = Vec::new();
    let mut path = None;
    for line in root.lines() {
        if let Some(quoted) = line.strip_prefix("#[path = \"") {
            path = quoted.strip_suffix("\"]").map(|path| folder.join(path));
        } else if let Some(module) = module_of(line) {
            let file = path
                .take()
                .unwrap_or_else(|| folder.join(format!("{module}.rs")));
            collect(&file, module, &mut names);
        }
    }
    names
}

/// Adds the tests of a file, and of the files that it declares.
fn collect(file: &Path, module: &str, names: &mut Vec<String>) {
    let folder = if file.ends_with("main.rs") || file.ends_with("mod.rs") {
        file.parent().expect("a file in a folder").to_owned()
    } else {
        file.with_extension("")
    };
    let mut is_test = false;
    let mut inline = None;
    for line in read(file).lines() {
        let text = line.trim_start();
        if let Some(child) = module_of(line) {
            let flat = folder.join(format!("{child}.rs"));
            let nested = folder.join(child).join("mod.rs");
            let file = if flat.is_file() { flat } else { nested };
            collect(&file, &format!("{module}::{child}"), names);
        } else if let Some(child) = line.strip_prefix("mod ") {
            inline = child.strip_suffix(" {");
        } else if line == "}" {
            inline = None;
        } else if text.starts_with("#[test]") || text.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some((_, rest)) = text.split_once("fn ").filter(|_| is_test) {
            let name = rest.split('(').next().unwrap_or_default();
            let inline = inline.map_or_else(String::new, |child| format!("{child}::"));
            names.push(format!("{module}::{inline}{name}"));
            is_test = false;
        }
    }
}

/// The module that a line declares to be in a file.
fn module_of(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("pub ").unwrap_or(line);
    rest.strip_prefix("mod ")?.strip_suffix(';')
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn lists_of_the_emulated_kernels_name_tests_that_exist() {
    let names = carried();
    assert!(names.len() > 60, "{names:#?}");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    for list in ["left-out.list", "alike.list", "without-bpf.list"] {
        let text = read(&folder.join(list));
        let parts = text.lines().filter(|line| !line.starts_with('#'));
        let parts: Vec<_> = parts.filter(|line| !line.is_empty()).collect();
        assert!(!parts.is_empty(), "{list}");
        for part in parts {
            let named = names.iter().any(|name| name.contains(part));
            assert!(named, "{list}: no test has {part} in its name");
        }
    }
}
