//! Builds the kernel programs (`../sidecar-ebpf`) into `OUT_DIR/flowcar`, which the sidecar embeds.
//!
//! They need a compiler that can build `core` for the BPF target, and `bpf-linker`; `make setup` finds or
//! installs both. Without them, everything that never loads a program (clippy, unit tests, the pure
//! modules) still builds: the object is then empty, and the cfg `flowcar_no_bpf` is set so that the error of
//! loading it names the reason.
//!
//! | variable | meaning |
//! |---|---|
//! | `FLOWCAR_BPF` | `auto` (default): build when the toolchain is there, else an empty object; `require`: fail without the toolchain; `skip`: always an empty object |
//! | `FLOWCAR_BPF_TOOLCHAIN` | the rustup toolchain to build with, or `system`: the distribution's `rustc`, with its unstable features unlocked. Default: the pinned nightly, then `nightly`, then `system` |

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};
use aya_build::{Package, Toolchain};

/// The one file that pins the toolchain; `.ci/setup` reads it as well.
const PINS: &str = include_str!("../.ci/pins");
const PACKAGE: &str = "flowcar-ebpf";
const SOURCE: &str = "../sidecar-ebpf";
/// The sources of the kernel programs besides `SOURCE`, which aya-build names to cargo itself.
const INPUTS: [&str; 4] = ["build.rs", "../.ci/pins", "../Cargo.lock", "../shared"];
const LINKER: &str = "bpf-linker";
const HELP: &str =
    "`make setup` finds or installs it, and `source target/setup/build.env` shows it to cargo";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("cargo::error={error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    println!("cargo::rustc-check-cfg=cfg(flowcar_no_bpf)");
    for name in ["FLOWCAR_BPF", "FLOWCAR_BPF_TOOLCHAIN"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    for path in INPUTS {
        println!("cargo::rerun-if-changed={path}");
    }
    match Mode::from_env()? {
        Mode::Skip => write_stub("FLOWCAR_BPF=skip"),
        Mode::Auto => match Bpf::find() {
            Ok(bpf) => bpf.build(),
            Err(missing) => write_stub(&format!("{missing}; {HELP}")),
        },
        Mode::Require => match Bpf::find() {
            Ok(bpf) => bpf.build(),
            Err(missing) => bail!(
                "FLOWCAR_BPF=require, but the kernel programs cannot be built: {missing}; {HELP}"
            ),
        },
    }
}

/// What to do about the kernel programs.
enum Mode {
    Auto,
    Require,
    Skip,
}

/// A toolchain that has everything that the kernel programs need.
struct Bpf {
    rust: Rust,
    linker: PathBuf,
}

/// The compiler that builds the kernel programs.
enum Rust {
    /// A toolchain of rustup's, by name.
    Rustup(String),
    /// The first one in `PATH` that is not rustup's: a distribution's. `RUSTC_BOOTSTRAP` unlocks its
    /// unstable features.
    System,
}

// === impl Mode ===

impl Mode {
    fn from_env() -> Result<Self> {
        match env::var("FLOWCAR_BPF").as_deref().unwrap_or("auto") {
            "auto" | "" => Ok(Self::Auto),
            "require" => Ok(Self::Require),
            "skip" => Ok(Self::Skip),
            other => bail!("FLOWCAR_BPF={other} is not known; set auto, require or skip"),
        }
    }
}

// === impl Bpf ===

impl Bpf {
    /// Checks the toolchain without building anything; the error names what is missing.
    fn find() -> Result<Self, String> {
        Ok(Self {
            rust: Rust::find()?,
            linker: find_linker()?,
        })
    }

    fn build(self) -> Result<()> {
        let toolchain = match &self.rust {
            Rust::Rustup(name) => Toolchain::Custom(name),
            Rust::System => Toolchain::default(),
        };
        // SAFETY: nothing has started a second thread in this process.
        unsafe {
            env::set_var("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.linker);
            env::set_var("CARGO_TARGET_BPFEB_UNKNOWN_NONE_LINKER", &self.linker);
            // aya-build turns the inner cargo's progress into warnings; only its real ones should show.
            env::set_var("CARGO_TERM_QUIET", "true");
            if matches!(self.rust, Rust::System) {
                env::set_var("RUSTC_BOOTSTRAP", "1");
                env::set_var("PATH", path_without_rustup());
            }
        }
        aya_build::build_ebpf(
            [Package {
                name: PACKAGE,
                root_dir: SOURCE,
                ..Package::default()
            }],
            toolchain,
        )
        .context("the kernel programs (sidecar-ebpf) do not build")
    }
}

// === impl Rust ===

impl Rust {
    fn find() -> Result<Self, String> {
        let wanted = env::var("FLOWCAR_BPF_TOOLCHAIN").unwrap_or_default();
        match wanted.as_str() {
            "" => Self::Rustup(pin("NIGHTLY").to_owned())
                .with_source()
                .or_else(|_| Self::Rustup("nightly".to_owned()).with_source())
                .or_else(|nightly| {
                    let both = |system| format!("{nightly}, and {system}");
                    Self::System.with_source().map_err(both)
                }),
            "system" => Self::System.with_source(),
            name => Self::Rustup(name.to_owned()).with_source(),
        }
    }

    /// Passes the toolchain on if it is there and brings the sources of `core`.
    fn with_source(self) -> Result<Self, String> {
        let (mut rustc, name) = match &self {
            Self::Rustup(name) => {
                let mut rustup = Command::new("rustup");
                rustup.args(["run", name, "rustc"]);
                (rustup, format!("rustup's {name}"))
            }
            Self::System => {
                let mut rustc = Command::new("rustc");
                rustc.env("PATH", path_without_rustup());
                (rustc, "the distribution's rustc".to_owned())
            }
        };
        let answer = rustc
            .args(["--print", "sysroot"])
            .output()
            .map_err(|_| format!("{name} is not installed"))?;
        if !answer.status.success() {
            return Err(format!("{name} is not installed"));
        }
        let sysroot = String::from_utf8_lossy(&answer.stdout);
        let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core");
        if core.is_dir() {
            Ok(self)
        } else {
            Err(format!("{name} lacks the sources of core (rust-src)"))
        }
    }
}

// === helpers ===

fn pin(key: &str) -> &'static str {
    PINS.lines()
        .filter_map(|line| line.split_once('='))
        .find_map(|(name, value)| (name == key).then_some(value.trim()))
        .unwrap_or_else(|| panic!(".ci/pins has no line {key}=..."))
}

/// In `PATH`, or where `cargo install` puts it.
fn find_linker() -> Result<PathBuf, String> {
    let installed = || {
        let home = env::var_os("CARGO_HOME")?;
        let linker = Path::new(&home).join("bin").join(LINKER);
        linker.is_file().then_some(linker)
    };
    find_program(LINKER)
        .or_else(installed)
        .ok_or_else(|| format!("{LINKER} is not in PATH"))
}

fn find_program(name: &str) -> Option<PathBuf> {
    path().map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// aya-build takes rustup wherever it sees it, so a build without rustup must not see it.
fn path_without_rustup() -> OsString {
    let rest = path().filter(|dir| !dir.join("rustup").is_file());
    env::join_paths(rest).expect("pieces of PATH hold no separator")
}

fn path() -> impl Iterator<Item = PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).collect::<Vec<_>>().into_iter()
}

fn write_stub(why: &str) -> Result<()> {
    // A missing tool arrives with a change of PATH or of the variables above.
    println!("cargo::rerun-if-env-changed=PATH");
    println!("cargo::rustc-cfg=flowcar_no_bpf");
    println!("cargo::warning=built without the kernel programs: {why}");
    let object = Path::new(&env::var_os("OUT_DIR").context("cargo sets OUT_DIR")?).join("flowcar");
    fs::write(&object, []).with_context(|| format!("cannot write {}", object.display()))
}
