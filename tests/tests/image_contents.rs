//! The contents of the images that `make image` builds, read from their archives.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use flowcar_tests::place::{require_file, require_root};
use serde_json::Value;
use tempfile::TempDir;

/// A small image has no more.
const MOST_BYTES: u64 = 20 << 20;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// An archive (docker image specification 1.2), unpacked.
struct Image {
    name: &'static str,
    archive: PathBuf,
    config: Value,
    tags: Vec<String>,
    /// What a container would have as its root.
    root: TempDir,
}

impl Image {
    /// None, with a message, where it has not been built.
    fn open(name: &'static str) -> Option<Self> {
        let this = env::current_exe().unwrap();
        // TARGET/debug/deps/THIS
        let target = this.ancestors().nth(3).unwrap();
        let archive = target.join("image").join(format!("{name}.tar"));
        if !require_file(&archive, "make image") {
            return None;
        }
        let whole = tempfile::tempdir().unwrap();
        unpack(&archive, whole.path());
        let read = |path: &str| -> Value {
            let text = fs::read_to_string(whole.path().join(path)).unwrap();
            serde_json::from_str(&text).unwrap()
        };
        let manifest = read("manifest.json");
        let [manifest] = &manifest.as_array().unwrap()[..] else {
            panic!("not one image: {manifest}")
        };
        let root = tempfile::tempdir().unwrap();
        for layer in strings(&manifest["Layers"]) {
            unpack(&whole.path().join(layer), root.path());
        }
        Some(Self {
            name,
            archive,
            config: read(manifest["Config"].as_str().unwrap()),
            tags: strings(&manifest["RepoTags"]),
            root,
        })
    }

    fn binary(&self) -> PathBuf {
        self.root.path().join("usr/bin").join(self.name)
    }

    fn document(&self, name: &str) -> String {
        fs::read_to_string(self.root.path().join("usr/share/doc/flowcar").join(name)).unwrap()
    }
}

fn images() -> impl Iterator<Item = Image> {
    ["flowcar", "flowcar-controller"]
        .into_iter()
        .filter_map(Image::open)
}

fn unpack(archive: &Path, into: &Path) {
    let mut tar = Command::new("tar");
    let status = tar
        .arg("-xf")
        .arg(archive)
        .arg("-C")
        .arg(into)
        .status()
        .unwrap();
    assert!(status.success());
}

fn strings(list: &Value) -> Vec<String> {
    let list = list.as_array().unwrap_or_else(|| panic!("no list: {list}"));
    list.iter()
        .map(|text| text.as_str().unwrap().to_owned())
        .collect()
}

fn files(below: &Path, prefix: &Path, into: &mut BTreeSet<String>) {
    for entry in fs::read_dir(below).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, prefix, into);
        } else {
            into.insert(path.strip_prefix(prefix).unwrap().display().to_string());
        }
    }
}

#[test]
fn images_hold_a_binary_its_licences_and_its_bill() {
    for image in images() {
        let mut found = BTreeSet::new();
        files(image.root.path(), image.root.path(), &mut found);
        let expected = [
            format!("usr/bin/{}", image.name),
            "etc/ssl/certs/ca-certificates.crt".into(),
            "usr/share/doc/flowcar/LICENSE".into(),
            "usr/share/doc/flowcar/THIRD-PARTY-LICENCES".into(),
            "usr/share/doc/flowcar/sbom.spdx.json".into(),
        ];
        // `flowcar manual` has a test of its own.
        let manual = found.extract_if(.., |path| path.starts_with("usr/share/man/"));
        let has_manual = manual.count() > 0;
        assert_eq!(has_manual, image.name == "flowcar", "{}", image.name);
        let completions = [
            "usr/share/bash-completion/completions/flowcar",
            "usr/share/fish/vendor_completions.d/flowcar.fish",
            "usr/share/zsh/site-functions/_flowcar",
        ];
        let completions = completions.map(String::from).into_iter();
        let expected: BTreeSet<String> = expected
            .into_iter()
            .chain(completions.filter(|_| has_manual))
            .collect();
        assert_eq!(found, expected, "{}", image.name);
        let authorities = image.root.path().join("etc/ssl/certs/ca-certificates.crt");
        let authorities = pem::parse_many(fs::read(authorities).unwrap()).unwrap();
        let authorities: Vec<_> = authorities.iter().map(pem::Pem::contents).collect();
        // Mozilla's list, and none of the machine that built the image.
        let locked = webpki_root_certs::TLS_SERVER_ROOT_CERTS;
        assert!(
            authorities
                .iter()
                .copied()
                .eq(locked.iter().map(|der| &**der)),
            "{}: {} authorities, and {} in the locked crate",
            image.name,
            authorities.len(),
            locked.len()
        );
        let size = fs::metadata(&image.archive).unwrap().len();
        assert!(size < MOST_BYTES, "{}: {size} bytes", image.name);
    }
}

#[test]
fn image_configuration_names_entrypoint_and_user() {
    for image in images() {
        let config = &image.config["config"];
        assert_eq!(
            strings(&config["Entrypoint"]),
            [format!("/usr/bin/{}", image.name)]
        );
        assert_eq!(config["User"], "65532:65532");
        assert_eq!(strings(&config["Env"]), ["PATH=/usr/bin"]);
        let labels = &config["Labels"];
        assert_eq!(labels["org.opencontainers.image.version"], VERSION);
        assert_eq!(labels["org.opencontainers.image.licenses"], "Apache-2.0");
        assert_eq!(labels["org.opencontainers.image.title"], image.name);
        assert_eq!(image.config["os"], "linux");
        // As the injector and the chart name them.
        assert_eq!(
            image.tags,
            [format!("ghcr.io/flowcar/{}:{VERSION}", image.name)]
        );
    }
}

/// Run with the files of the image alone.
#[test]
fn image_binaries_are_static() {
    if !require_root() {
        return;
    }
    for image in images() {
        assert!(
            !wants_an_interpreter(&fs::read(image.binary()).unwrap()),
            "{}",
            image.name
        );
        let mut chroot = Command::new("chroot");
        let chroot = chroot
            .arg(image.root.path())
            .arg(format!("/usr/bin/{}", image.name));
        let output = chroot
            .arg("--version")
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin")
            .output()
            .unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        assert_eq!(printed.trim(), format!("{} {VERSION}", image.name));
    }
}

/// Whether an ELF file (elf(5), 64 bits, little-endian) has a segment that names a dynamic linker.
fn wants_an_interpreter(elf: &[u8]) -> bool {
    const PT_INTERP: u64 = 3;
    let number = |at: usize, bytes: usize| {
        let mut word = [0; 8];
        word[..bytes].copy_from_slice(&elf[at..at + bytes]);
        u64::from_le_bytes(word)
    };
    assert_eq!(&elf[..5], b"\x7fELF\x02");
    let (start, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    assert!(count > 0);
    (0..count)
        .map(|index| usize::try_from(start + index * size).unwrap())
        .any(|at| number(at, 4) == PT_INTERP)
}

/// Every crate of the bill is locked at that version, and its licence is in the image; the standard library is the pinned compiler's.
#[test]
fn bill_of_materials_matches_the_lock_file() {
    let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.lock");
    let lock = fs::read_to_string(lock).unwrap();
    let pins = include_str!("../../.ci/pins");
    let pinned = pins
        .lines()
        .find_map(|line| line.strip_prefix("RUST_IMAGE="));
    let pinned = pinned.unwrap();
    for image in images() {
        let bill: Value = serde_json::from_str(&image.document("sbom.spdx.json")).unwrap();
        assert_eq!(bill["spdxVersion"], "SPDX-2.3");
        let packages = bill["packages"].as_array().unwrap();
        let licences = image.document("THIRD-PARTY-LICENCES");
        let (mut identifiers, mut names) = (BTreeSet::new(), BTreeSet::new());
        for package in packages {
            let text = |key: &str| package[key].as_str().unwrap();
            let (name, version) = (text("name"), text("versionInfo"));
            assert!(identifiers.insert(text("SPDXID")), "{package}");
            names.insert(name);
            assert_ne!(text("licenseDeclared"), "NOASSERTION", "{package}");
            if name == "rust-std" {
                assert_eq!(version, pinned, "{package}");
            }
            if ["rust-std", "musl"].contains(&name) {
                continue;
            }
            let locked = format!("name = \"{name}\"\nversion = \"{version}\"\n");
            assert!(lock.contains(&locked), "{package}");
            assert!(
                licences.contains(&format!("\n{name} {version}: ")),
                "{package}"
            );
        }
        for relation in bill["relationships"].as_array().unwrap() {
            assert!(identifiers.contains(relation["relatedSpdxElement"].as_str().unwrap()));
        }
        let linked: &[&str] = match image.name {
            "flowcar" => &[
                "flowcar",
                "aya",
                "tonic",
                "opentelemetry-proto",
                "ring",
                // In the kernel programs that it embeds.
                "flowcar-ebpf",
                "aya-ebpf",
            ],
            _ => &["flowcar-k8s", "kube-client", "k8s-openapi", "ring"],
        };
        assert!(linked.iter().all(|name| names.contains(name)), "{names:?}");
        // Where the certificate authorities are from.
        assert!(names.contains("webpki-root-certs"), "{names:?}");
        assert!(!names.contains("proptest"), "tests' crates are not linked");
        assert!(
            licences.contains("Apache License")
                && licences.contains("Permission is hereby granted")
        );
    }
}
