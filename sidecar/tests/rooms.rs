//! The order of the modules: nothing imports what stands above it, and no files import each other in a circle. Read from the sources.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use syn::{Item, UseTree, visit::Visit};

/// The modules of the sidecar, from the values at the bottom to the commands at the top. A module imports only what stands before it.
const SIDECAR: [&str; 35] = [
    "flow",
    "peer",
    "clock",
    "task",
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

/// The modules that the sidecar and the plugin share.
const SCREEN: [&str; 8] = [
    "cut",
    "histogram",
    "quantity",
    "terminal",
    "buckets",
    "answer",
    "line",
    "top",
];

/// The modules of the kernel programs.
const EBPF: [&str; 19] = [
    "verifier",
    "ctx",
    "histogram",
    "maps",
    "mark",
    "origin",
    "storage",
    "short_flow",
    "emit",
    "exchange",
    "loss",
    "connect",
    "packet",
    "dns",
    "handshake",
    "release",
    "state",
    "rtt",
    "sock_ops",
];

/// The modules of the controller and of its plugin.
const K8S: [&str; 24] = [
    "clock",
    "text",
    "quantity",
    "rate",
    "descriptors",
    "client",
    "metrics",
    "lease",
    "certs",
    "annotations",
    "budget",
    "config",
    "opted",
    "inject",
    "workload",
    "admit",
    "cluster",
    "verify",
    "events",
    "detect",
    "serve",
    "controller",
    "cli",
    "fuzz",
];

/// The modules of what `make demo`, `make bench` and tests start.
const LAB: [&str; 11] = [
    "forged",
    "log_lines",
    "usage",
    "place",
    "interrupt",
    "receiver",
    "link",
    "traffic",
    "flowcar",
    "exporting",
    "sidecar",
];

/// A module by its path from the crate's root, such as `["flow", "table"]`.
type Module = Vec<String>;

/// What a file names: paths that it imports or uses, and under which names others find what it re-exports.
#[derive(Default)]
struct Paths {
    used: Vec<Vec<String>>,
    /// A name in this module, and the path that it stands for.
    exported: BTreeMap<String, Vec<String>>,
    /// Names that are imported for the module alone.
    imported: BTreeMap<String, Vec<String>>,
}

impl Paths {
    fn of(module: &Module, text: &str) -> Self {
        let file = syn::parse_file(text).unwrap_or_else(|error| panic!("{module:?}: {error}"));
        let mut paths = Self::default();
        paths.visit_file(&file);
        paths
    }

    fn add_tree(&mut self, prefix: &[String], tree: &UseTree, exports: bool) {
        let with = |name: String| [prefix, &[name]].concat();
        let mut add = |name: String, path: Vec<String>| {
            self.used.push(path.clone());
            let names = if exports {
                &mut self.exported
            } else {
                &mut self.imported
            };
            names.insert(name, path);
        };
        match tree {
            UseTree::Path(path) => {
                self.add_tree(&with(path.ident.to_string()), &path.tree, exports);
            }
            UseTree::Name(name) if name.ident == "self" => {
                add(prefix.last().cloned().unwrap_or_default(), prefix.to_vec());
            }
            UseTree::Name(name) => add(name.ident.to_string(), with(name.ident.to_string())),
            UseTree::Rename(name) => add(name.rename.to_string(), with(name.ident.to_string())),
            UseTree::Glob(_) => self.used.push(prefix.to_vec()),
            UseTree::Group(group) => {
                let items = group.items.iter();
                items.for_each(|tree| self.add_tree(prefix, tree, exports));
            }
        }
    }

    /// Paths in the tokens of a macro's call: what the macro makes of them is not known.
    fn add_tokens(&mut self, tokens: &str) {
        for path in tokens
            .replace(' ', "")
            .split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
        {
            let segments: Vec<_> = path.split("::").map(str::to_owned).collect();
            if segments.len() > 1 {
                self.used.push(segments);
            }
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
        let exports = !matches!(item.vis, syn::Visibility::Inherited);
        self.add_tree(&[], &item.tree, exports);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments = path.segments.iter();
        let segments = segments.map(|segment| segment.ident.to_string());
        self.used.push(segments.collect());
        syn::visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, of: &'ast syn::Macro) {
        self.add_tokens(&of.tokens.to_string());
        syn::visit::visit_macro(self, of);
    }

    /// serde names functions in texts: `#[serde(with = "crate::line::buckets")]`.
    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        if attribute.path().is_ident("serde") {
            self.add_tokens(&quoted(attribute));
        }
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

/// Which modules each module of a crate imports.
fn imports(source: &str) -> BTreeMap<Module, BTreeSet<Module>> {
    let folder = root().join(source);
    let mut files = BTreeMap::new();
    modules(&folder, &Vec::new(), &mut files);
    assert!(files.len() > 10, "{source}: {} files", files.len());
    imports_of(&files)
}

/// The same of these files. A module and those inside it are one room: they may know each other.
fn imports_of(files: &BTreeMap<Module, String>) -> BTreeMap<Module, BTreeSet<Module>> {
    let paths = files
        .iter()
        .map(|(module, text)| (module.clone(), Paths::of(module, text)))
        .collect();
    let targets = |(module, of): (&Module, &Paths)| {
        let targets = of
            .used
            .iter()
            .filter_map(|path| resolve(module, path, &paths));
        let foreign =
            targets.filter(|target| !module.starts_with(target) && !target.starts_with(module));
        (module.clone(), foreign.collect())
    };
    paths.iter().map(targets).collect()
}

/// The module in which what a path names is defined: names that a module re-exports lead on to the module that has them.
fn resolve(from: &Module, path: &[String], files: &BTreeMap<Module, Paths>) -> Option<Module> {
    let first = path.first()?.as_str();
    let mut base = match first {
        "crate" => Vec::new(),
        "self" => from.clone(),
        "super" => from.split_last()?.1.to_vec(),
        child if files.contains_key(&[from.as_slice(), &[child.to_owned()]].concat()) => {
            [from.as_slice(), &[child.to_owned()]].concat()
        }
        // What is imported elsewhere in the file was resolved there.
        name if path.len() > 1 => {
            let imported = files.get(from)?.imported.get(name)?;
            let whole = [imported.as_slice(), &path[1..]].concat();
            return (imported.first() != path.first()).then(|| resolve(from, &whole, files))?;
        }
        _ => return None,
    };
    let mut rest = path[1..].iter();
    for segment in rest.by_ref() {
        if segment == "super" {
            base.pop();
            continue;
        }
        let inner = [base.as_slice(), std::slice::from_ref(segment)].concat();
        if files.contains_key(&inner) || is_folder(&inner, files) {
            base = inner;
            continue;
        }
        let exported = files.get(&base).and_then(|of| of.exported.get(segment));
        if let Some(exported) =
            exported.filter(|exported| exported.last() != Some(segment) || exported.len() > 1)
        {
            return resolve(&base, exported, files).or(Some(base));
        }
        break;
    }
    (files.contains_key(&base)).then_some(base)
}

/// Whether modules lie inside this one, which has no file of its own.
fn is_folder(module: &Module, files: &BTreeMap<Module, Paths>) -> bool {
    files.keys().any(|other| other.starts_with(module))
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
        "tests/lab/src",
    ] {
        assert_eq!(circle(&imports(source)), None, "{source}");
    }
}

/// What imports something above it in the order.
fn upward(imports: &BTreeMap<Module, BTreeSet<Module>>, order: &[&str]) -> Vec<String> {
    let rank = |module: &Module| {
        let place = order.iter().position(|name| *name == module[0]);
        place.unwrap_or_else(|| panic!("{} has no place in the order", module[0]))
    };
    imports
        .iter()
        .flat_map(|(module, targets)| targets.iter().map(move |target| (module, target)))
        .filter(|(module, target)| rank(target) > rank(module))
        .map(|(module, target)| format!("{} imports {}", module.join("::"), target.join("::")))
        .collect()
}

#[test]
fn modules_import_only_what_stands_below() {
    for (source, order) in [
        ("sidecar/screen/src", SCREEN.as_slice()),
        ("sidecar/src", &SIDECAR),
        ("sidecar-ebpf/src", &EBPF),
        ("k8s/src", &K8S),
        ("tests/lab/src", &LAB),
    ] {
        let imports = imports(source);
        let upward = upward(&imports, order);
        assert!(upward.is_empty(), "{source}:\n{}", upward.join("\n"));
        let absent = order
            .iter()
            .find(|name| !imports.keys().any(|module| module[0] == **name));
        assert_eq!(absent, None, "{source} has no such module");
    }
}

/// One `use` for each crate, as rustfmt.toml has it: `crate`, `super` and `self` count as one each.
#[test]
fn each_crate_is_imported_by_one_use() {
    let mut twice = Vec::new();
    for source in [
        "sidecar/screen/src",
        "sidecar/src",
        "sidecar/tests",
        "sidecar-ebpf/src",
        "shared/src",
        "k8s/src",
        "tests/lab/src",
        "tests/src",
        "tests/tests",
    ] {
        for (path, text) in sources(&root().join(source)) {
            let file = syn::parse_file(&text).unwrap_or_else(|error| panic!("{path}: {error}"));
            twice.extend(
                imported_twice(&file.items)
                    .into_iter()
                    .map(|name| format!("{path}: {name}")),
            );
        }
    }
    assert!(twice.is_empty(), "{}", twice.join("\n"));
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All sources below a folder.
fn sources(folder: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a source");
            found.push((path.display().to_string(), text));
        }
    }
    found
}

/// What a module, or a module inside it, imports by more than one private `use` without conditions.
fn imported_twice(items: &[Item]) -> Vec<String> {
    let (mut seen, mut twice) = (BTreeSet::new(), Vec::new());
    for item in items {
        match item {
            Item::Use(of)
                if matches!(of.vis, syn::Visibility::Inherited) && of.attrs.is_empty() =>
            {
                if let UseTree::Path(path) = &of.tree
                    && !seen.insert(path.ident.to_string())
                {
                    twice.push(path.ident.to_string());
                }
            }
            Item::Mod(of) => twice.extend(
                of.content
                    .iter()
                    .flat_map(|(_, items)| imported_twice(items)),
            ),
            _ => {}
        }
    }
    twice
}

/// Files of a crate by their modules.
fn files(of: &[(&str, &str)]) -> BTreeMap<Module, String> {
    let module = |name: &str| name.split("::").map(str::to_owned).collect();
    of.iter()
        .map(|(name, text)| (module(name), (*text).to_owned()))
        .collect()
}

/// Each way in which one file can need another.
#[test]
fn circle_is_found_however_files_name_each_other() {
    for (how, text) in [
        ("an import", "use crate::flow::table::Table;"),
        (
            "an import in a group",
            "use crate::flow::{table::Table, Other};",
        ),
        (
            "an import that is renamed",
            "use super::table::Table as Flows;",
        ),
        ("a re-export", "use super::Table;"),
        (
            "a re-export under another name",
            "use crate::flow::Renamed;",
        ),
        ("a path", "fn f() -> crate::flow::table::Table { todo!() }"),
        (
            "a path through an import",
            "use super::table; fn f() -> table::Table { todo!() }",
        ),
        ("a macro", "fn f() { assert!(super::table::IS_GOOD) }"),
        (
            "an attribute",
            "#[derive(Serialize)] struct A { #[serde(with = \"crate::flow::table::text\")] a: u8 }",
        ),
    ] {
        let files = files(&[
            (
                "flow",
                "mod restored; mod table; pub use table::{Table, Table as Renamed}; pub use restored::Restored;",
            ),
            ("flow::restored", text),
            ("flow::table", "use super::restored::Restored;"),
        ]);
        let found = circle(&imports_of(&files)).unwrap_or_else(|| panic!("{how}: no circle"));
        assert_eq!(found, ["flow::restored", "flow::table"], "{how}");
    }
}

#[test]
fn tests_and_parts_of_a_module_make_no_circle() {
    let files = files(&[
        ("flow", "mod part; pub struct Flow; use part::Part;"),
        (
            "flow::part",
            "use super::Flow; #[cfg(test)] mod tests { use crate::other::Other; }",
        ),
        ("other", "use crate::flow::Flow;"),
    ]);
    assert_eq!(circle(&imports_of(&files)), None);
}

#[test]
fn upward_import_is_found_through_a_re_export() {
    let files = files(&[
        ("flow", "use crate::otlp::Point;"),
        ("otlp", "mod metrics; pub use metrics::Point;"),
        ("otlp::metrics", "pub struct Point;"),
    ]);
    let found = upward(&imports_of(&files), &["flow", "otlp"]);
    assert_eq!(found, ["flow imports otlp::metrics"]);
    assert!(upward(&imports_of(&files), &["otlp", "flow"]).is_empty());
}
