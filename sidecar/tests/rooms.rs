//! The order of the modules: nothing imports what stands above it, and no files import each other in a circle. Read from the sources.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use syn::{Item, UseTree, visit::Visit};

/// The modules of the sidecar, from the values at the bottom to the commands at the top. A module imports only what stands before it.
const SIDECAR: [&str; 34] = [
    "flow",
    "peer",
    "clock",
    "losses",
    "snapshot",
    "series",
    "view",
    "files",
    "certs",
    "confinement",
    "memory",
    "hardening",
    "capabilities",
    "cgroup",
    "host",
    "origin",
    "container_stats",
    "exporter_sockets",
    "config",
    "logs",
    "source",
    "otlp",
    "follower",
    "checkpoint",
    "exit",
    "signals",
    "control",
    "session",
    "top",
    "manual",
    "sink",
    "run",
    "export",
    "check",
];

/// A module by its path from the crate's root, such as `["flow", "table"]`.
type Module = Vec<String>;

/// What a file imports, and what else it names by `crate::`, `self::` or `super::`.
struct Paths(Vec<Vec<String>>);

impl Paths {
    fn add_tree(&mut self, prefix: &[String], tree: &UseTree) {
        let with = |name: String| [prefix, &[name]].concat();
        match tree {
            UseTree::Path(path) => self.add_tree(&with(path.ident.to_string()), &path.tree),
            UseTree::Name(name) => self.0.push(with(name.ident.to_string())),
            UseTree::Rename(name) => self.0.push(with(name.ident.to_string())),
            UseTree::Glob(_) => self.0.push(prefix.to_vec()),
            UseTree::Group(group) => group
                .items
                .iter()
                .for_each(|tree| self.add_tree(prefix, tree)),
        }
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item(&mut self, item: &'ast Item) {
        // Tests may import everything.
        if !is_test(item) {
            syn::visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.add_tree(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments = path.segments.iter();
        self.0
            .push(segments.map(|segment| segment.ident.to_string()).collect());
        syn::visit::visit_path(self, path);
    }
}

fn is_test(item: &Item) -> bool {
    let attributes = match item {
        Item::Mod(of) => &of.attrs,
        Item::Fn(of) => &of.attrs,
        Item::Use(of) => &of.attrs,
        Item::Impl(of) => &of.attrs,
        _ => return false,
    };
    attributes
        .iter()
        .any(|attribute| attribute.path().is_ident("cfg") && quoted(attribute).contains("test"))
}

fn quoted(attribute: &syn::Attribute) -> String {
    attribute
        .meta
        .require_list()
        .map(|list| list.tokens.to_string())
        .unwrap_or_default()
}

/// The files of a crate by the modules that they are, without those of tests.
fn modules(folder: &Path, prefix: &Module, found: &mut BTreeMap<Module, String>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        let name = path
            .file_stem()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        if name == "tests" || name.ends_with("_tests") || name == "bin" {
            continue;
        }
        let module = [prefix.as_slice(), std::slice::from_ref(&name)].concat();
        if path.is_dir() {
            modules(&path, &module, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let module = match name.as_str() {
                "mod" => prefix.clone(),
                "lib" | "main" if prefix.is_empty() => continue,
                _ => module,
            };
            found.insert(module, fs::read_to_string(&path).expect("a source"));
        }
    }
}

/// Which modules each module imports. A module inside another may use what the outer one has.
fn imports(source: &str) -> BTreeMap<Module, BTreeSet<Module>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(source);
    let mut files = BTreeMap::new();
    modules(&folder, &Vec::new(), &mut files);
    assert!(files.len() > 10, "{source}: {} files", files.len());
    let mut all = BTreeMap::new();
    for (module, text) in &files {
        let file = syn::parse_file(text).unwrap_or_else(|error| panic!("{module:?}: {error}"));
        let mut paths = Paths(Vec::new());
        paths.visit_file(&file);
        let targets = paths
            .0
            .iter()
            .filter_map(|path| resolve(module, path, &files));
        let foreign = targets.filter(|target| !module.starts_with(target));
        all.insert(module.clone(), foreign.collect());
    }
    all
}

/// The module that a path leads into.
fn resolve(from: &Module, path: &[String], files: &BTreeMap<Module, String>) -> Option<Module> {
    let mut base = match path.first()?.as_str() {
        "crate" => Vec::new(),
        "self" => from.clone(),
        "super" => from[..from.len() - 1].to_vec(),
        _ => return None,
    };
    for segment in &path[1..] {
        match segment.as_str() {
            "super" => {
                base.pop();
            }
            name => base.push(name.to_owned()),
        }
    }
    while !base.is_empty() && !files.contains_key(&base) {
        base.pop();
    }
    (!base.is_empty()).then_some(base)
}

/// A circle of modules, if there is one.
fn circle(imports: &BTreeMap<Module, BTreeSet<Module>>) -> Option<Vec<String>> {
    let mut left: BTreeSet<_> = imports.keys().collect();
    loop {
        let free: Vec<_> = left
            .iter()
            .filter(|module| {
                imports[**module]
                    .iter()
                    .all(|target| !left.contains(target))
            })
            .copied()
            .collect();
        if free.is_empty() {
            break;
        }
        left.retain(|module| !free.contains(module));
    }
    let mut at = *left.first()?;
    let mut walked = Vec::new();
    while !walked.contains(&at) {
        walked.push(at);
        at = imports[at]
            .iter()
            .find(|target| left.contains(target))
            .expect("each of the rest imports one of the rest");
    }
    let start = walked.iter().position(|module| *module == at)?;
    Some(
        walked[start..]
            .iter()
            .map(|module| module.join("::"))
            .collect(),
    )
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    for source in [
        "sidecar/screen/src",
        "sidecar/src",
        "sidecar-ebpf/src",
        "k8s/src",
    ] {
        assert_eq!(circle(&imports(source)), None, "{source}");
    }
}

#[test]
fn sidecar_modules_import_only_what_stands_below() {
    let rank = |module: &Module| {
        SIDECAR
            .iter()
            .position(|name| *name == module[0])
            .unwrap_or_else(|| panic!("{} has no place in the order", module[0]))
    };
    let imports = imports("sidecar/src");
    let upward: Vec<_> = imports
        .iter()
        .flat_map(|(module, targets)| targets.iter().map(move |target| (module, target)))
        .filter(|(module, target)| rank(target) > rank(module))
        .map(|(module, target)| format!("{} imports {}", module.join("::"), target.join("::")))
        .collect();
    assert!(upward.is_empty(), "{}", upward.join("\n"));
}

#[test]
fn circle_and_upward_import_are_found() {
    let module = |name: &str| vec![name.to_owned()];
    let imports = BTreeMap::from([
        (module("a"), BTreeSet::from([module("b")])),
        (module("b"), BTreeSet::from([module("c")])),
        (module("c"), BTreeSet::from([module("b")])),
    ]);
    let found = circle(&imports).expect("b and c");
    assert_eq!(found, ["b", "c"]);
}
