//! Landlock (landlock(7), Linux 5.13): denies writing and executing files, permanently and for every thread that is started from
//! here on. Reading stays allowed: certificates and headers are read again when they change.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::fs::OpenOptionsExt as _,
    },
    path::Path,
};

/// Numbers of the calls, the same on all processors.
const CREATE_RULESET: libc::c_long = 444;
const ADD_RULE: libc::c_long = 445;
const RESTRICT_SELF: libc::c_long = 446;

const VERSION: u32 = 1;
const PATH_BENEATH: libc::c_int = 1;

/// Rights of include/uapi/linux/landlock.h.
mod right {
    pub(super) const EXECUTE: u64 = 1;
    pub(super) const WRITE_FILE: u64 = 1 << 1;
    pub(super) const REMOVE_DIR: u64 = 1 << 4;
    pub(super) const REMOVE_FILE: u64 = 1 << 5;
    /// From MAKE_CHAR to MAKE_SYM.
    pub(super) const MAKE: u64 = 0b111_1111 << 6;
    pub(super) const MAKE_REG: u64 = 1 << 8;
    /// To another directory, from the second version on; the first version always refuses that.
    pub(super) const REFER: u64 = 1 << 13;
    /// From the third version on.
    pub(super) const TRUNCATE: u64 = 1 << 14;
}

/// `struct landlock_path_beneath_attr`, which is packed.
#[repr(C, packed)]
struct Beneath {
    allowed: u64,
    directory: i32,
}

/// Denies writing all files except those below `writes`; where that is no directory, all files. Returns the version of Landlock.
///
/// # Errors
/// The kernel has none, or it is switched off.
pub(super) fn restrict(writes: Option<&Path>) -> io::Result<i32> {
    // SAFETY: asked for its version, the call takes no pointer.
    let version = result(unsafe { libc::syscall(CREATE_RULESET, 0, 0, VERSION) })?;
    let handled = handled(version);
    let size = size_of_val(&handled);
    // SAFETY: the attributes are one u64, and live through the call.
    let ruleset = result(unsafe { libc::syscall(CREATE_RULESET, &raw const handled, size, 0) })?;
    // SAFETY: a descriptor that the kernel just made, and that nobody else has.
    let ruleset = unsafe { OwnedFd::from_raw_fd(ruleset) };
    if let Some(directory) = writes.and_then(open) {
        allow_files_below(&directory, &ruleset, handled)?;
    }
    // SAFETY: the call takes numbers.
    result(unsafe { libc::syscall(RESTRICT_SELF, ruleset.as_raw_fd(), 0) })?;
    Ok(version)
}

/// Only the directory itself: the rule for a directory above it would let flowcar write to others.
fn open(path: &Path) -> Option<File> {
    let mut options = File::options();
    options
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY);
    let opened = options.open(path).inspect_err(|error| {
        tracing::warn!(
            %error,
            "FLOWCAR_STATE_DIR names no directory that can be opened, so Landlock lets flowcar write no file, and no checkpoint is written: make the directory before flowcar starts"
        );
    });
    opened.ok()
}

fn allow_files_below(directory: &File, ruleset: &OwnedFd, handled: u64) -> io::Result<()> {
    let rule = Beneath {
        allowed: (right::WRITE_FILE
            | right::MAKE_REG
            | right::REMOVE_FILE
            | right::REMOVE_DIR
            | right::TRUNCATE)
            & handled,
        directory: directory.as_raw_fd(),
    };
    let fd = ruleset.as_raw_fd();
    // SAFETY: the rule has the kernel's layout, and lives through the call.
    result(unsafe { libc::syscall(ADD_RULE, fd, PATH_BENEATH, &raw const rule, 0) })?;
    Ok(())
}

/// What this version can refuse.
const fn handled(version: i32) -> u64 {
    let first =
        right::EXECUTE | right::WRITE_FILE | right::REMOVE_DIR | right::REMOVE_FILE | right::MAKE;
    match version {
        ..=1 => first,
        2 => first | right::REFER,
        3.. => first | right::REFER | right::TRUNCATE,
    }
}

fn result(returned: libc::c_long) -> io::Result<i32> {
    match i32::try_from(returned) {
        Ok(value) if value >= 0 => Ok(value),
        _ => Err(io::Error::last_os_error()),
    }
}
