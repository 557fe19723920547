use std::{
    env,
    fs::{self, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use caps::{CapSet, Capability};
use nix::unistd::Uid;

use super::cgroup::cgroup2_mount;

/// True when this process is root, in the initial sense: uid 0 with CAP_SYS_ADMIN. Else the test is
/// skipped with a message: `if !require_root() { return; }`.
///
/// # Panics
/// As every `require_*`: when `CI=true` or `FLOWCAR_NO_SKIP=1`, because a test that was skipped there
/// proves nothing to anyone.
#[must_use]
pub fn require_root() -> bool {
    require(
        Uid::effective().is_root() && has(Capability::CAP_SYS_ADMIN),
        "root",
    )
}

/// True when this process has the capability.
///
/// # Panics
/// As [`require_root`].
#[must_use]
pub fn require_capability(capability: Capability) -> bool {
    require(has(capability), &capability.to_string())
}

/// True when a cgroup2 is mounted.
///
/// # Panics
/// As [`require_root`].
#[must_use]
pub fn require_cgroup2() -> bool {
    require(cgroup2_mount().is_ok(), "a mounted cgroup2")
}

/// True when TUN devices can be made.
///
/// # Panics
/// As [`require_root`].
#[must_use]
pub fn require_tun() -> bool {
    let tun = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun");
    // Without the node the link emulator makes it; without the driver it cannot.
    let driver = Path::new("/sys/class/misc/tun").exists();
    require(
        (tun.is_ok() || driver) && has(Capability::CAP_NET_ADMIN),
        "TUN devices",
    )
}

/// True when the program is on the PATH.
///
/// # Panics
/// As [`require_root`].
#[must_use]
pub fn require_program(name: &str) -> bool {
    require(on_path(name).is_some(), &format!("the program {name}"))
}

/// Where the program is on the PATH.
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut files = env::split_paths(&path).map(|directory| directory.join(name));
    files.find(|file| file.is_file())
}

/// True when the file is there; `command` is what makes it.
///
/// # Panics
/// As [`require_root`].
#[must_use]
pub fn require_file(path: &Path, command: &str) -> bool {
    require(
        path.is_file(),
        &format!("{}, which `{command}` makes", path.display()),
    )
}

/// Whether nothing else is on this machine, as on emulated ones, whose first process sets the variable (tests/kernels/init): settings
/// of the whole machine may be changed, tests run one at a time, and the processor is slow.
pub fn has_own_machine() -> bool {
    env::var_os("OWN_MACHINE").is_some()
}

/// This kernel's version, which flowcar itself never reads: its first two numbers.
///
/// # Panics
/// `/proc` is not mounted.
pub fn kernel_release() -> (u32, u32) {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = text.split('.').map(|part| part.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// Prints which tested feature this kernel lacks, so that the table in docs/kernels.md can be written from the runs.
pub fn lacks(what: &str) {
    // Not println: the test harness would swallow it when the test passes. On a line of its own: the harness has
    // begun one.
    let _ = writeln!(io::stdout(), "\nlacks: {what}");
}

fn has(capability: Capability) -> bool {
    caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false)
}

fn require(there: bool, what: &str) -> bool {
    if there {
        return true;
    }
    let set = |name, value| env::var_os(name).is_some_and(|is| is == value);
    assert!(
        !set("CI", "true") && !set("FLOWCAR_NO_SKIP", "1"),
        "this run may skip nothing, and needs {what}"
    );
    // Not eprintln: the test harness would swallow it when the test passes.
    let _ = writeln!(io::stderr(), "skipped: needs {what}");
    false
}
