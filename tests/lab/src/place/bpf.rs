//! bpf(2), called directly, so that the kernel itself answers what it allows.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use caps::Capability;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::{caps::with_only_caps, error::Error};

pub(super) const BPF_MAP_CREATE: libc::c_int = 0;
pub(super) const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
const BPF_PROG_LOAD: libc::c_int = 5;
pub(super) const BPF_PROG_ATTACH: libc::c_int = 8;
pub(super) const BPF_PROG_DETACH: libc::c_int = 9;
const BPF_MAP_TYPE_ARRAY: u32 = 2;

/// The capabilities that flowcar may have.
const TWO: [Capability; 2] = [Capability::CAP_BPF, Capability::CAP_NET_ADMIN];

const NEEDS_ROOT: &str = "run as root";

/// Whether this kernel lets nobody without CAP_BPF read a map that is open: as 5.10 and unlike 6.1, while
/// kernel.unprivileged_bpf_disabled is set.
///
/// # Errors
/// Not root.
pub fn maps_ask_for_a_right() -> Result<bool, Error> {
    let map = make_array(8, 1).map_err(Error::at("make a map", NEEDS_ROOT))?;
    let read = with_only_caps(&[], || {
        let (key, mut value) = (0_u32, 0_u64);
        lookup(&map, &key, (&raw mut value).cast())
    })?;
    refused(read).map_err(Error::at("read a map", NEEDS_ROOT))
}

/// Whether maps count against RLIMIT_MEMLOCK, as before 5.11: one of twice `limit` (bytes) cannot be made under it, with
/// flowcar's two capabilities.
///
/// # Errors
/// Not root.
pub fn maps_count_against(limit: u64) -> Result<bool, Error> {
    let change = || -> io::Result<_> {
        let (soft, hard) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
        setrlimit(Resource::RLIMIT_MEMLOCK, limit, hard)?;
        Ok((soft, hard))
    };
    let (soft, hard) = change().map_err(Error::at("change RLIMIT_MEMLOCK", NEEDS_ROOT))?;
    let entries = u32::try_from(2 * limit / 8).unwrap_or(u32::MAX);
    let made = with_only_caps(&TWO, || make_array(8, entries))?;
    setrlimit(Resource::RLIMIT_MEMLOCK, soft, hard)
        .map_err(io::Error::from)
        .map_err(Error::at("restore RLIMIT_MEMLOCK", NEEDS_ROOT))?;
    refused(made).map_err(Error::at("make a map", NEEDS_ROOT))
}

fn refused<T>(answer: io::Result<T>) -> io::Result<bool> {
    match answer {
        Ok(_) => Ok(false),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(true),
        Err(error) => Err(error),
    }
}

/// An array of `entries` values of `size` bytes.
pub(super) fn make_array(size: u32, entries: u32) -> io::Result<OwnedFd> {
    // The beginning of `union bpf_attr` (include/uapi/linux/bpf.h): map_type, key_size, value_size, max_entries.
    let attributes = [BPF_MAP_TYPE_ARRAY, 4, size, entries];
    owned(call(
        BPF_MAP_CREATE,
        attributes.as_ptr().cast(),
        size_of_val(&attributes),
    )?)
}

/// `value` has room for a value of the map.
pub(super) fn lookup(map: &OwnedFd, key: &u32, value: *mut u8) -> io::Result<()> {
    let pointers = [(&raw const *key).addr() as u64, value.addr() as u64];
    // map_fd and padding, key, value, flags.
    let attributes = [
        u64::from(map.as_raw_fd().cast_unsigned()),
        pointers[0],
        pointers[1],
        0,
    ];
    call(
        BPF_MAP_LOOKUP_ELEM,
        attributes.as_ptr().cast(),
        size_of_val(&attributes),
    )
    .map(drop)
}

pub(super) fn owned(fd: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: a descriptor that bpf(2) just made, and that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The caller vouches for the attributes, and for what they point to.
pub(super) fn call(
    command: libc::c_int,
    attributes: *const u8,
    size: usize,
) -> io::Result<libc::c_int> {
    // SAFETY: the attributes, and what they point to, live through the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size) };
    match libc::c_int::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Instruction {
    code: u8,
    /// Source in the upper half.
    registers: u8,
    offset: i16,
    immediate: i32,
}

// === impl Instruction ===

impl Instruction {
    pub(super) const fn new(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> Self {
        Self {
            code,
            registers: src << 4 | dst,
            offset,
            immediate,
        }
    }
}

/// Loads a program of a type for a kind of attachment (0 where the type has one).
pub(super) fn load(kind: u32, attach: u32, program: &[Instruction]) -> io::Result<OwnedFd> {
    /// The beginning of `union bpf_attr` for BPF_PROG_LOAD.
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        /// log_level, log_size, log_buf, kern_version, prog_flags, prog_name and prog_ifindex: all zero.
        between: [u32; 11],
        attach: u32,
    }
    let attributes = Load {
        kind,
        count: u32::try_from(program.len()).map_err(io::Error::other)?,
        instructions: program.as_ptr().addr() as u64,
        license: c"GPL".as_ptr().addr() as u64,
        between: [0; 11],
        attach,
    };
    owned(call(
        BPF_PROG_LOAD,
        (&raw const attributes).cast(),
        size_of::<Load>(),
    )?)
}

/// Attaches a program to a cgroup, or detaches it.
pub(super) fn attachment(
    command: libc::c_int,
    cgroup: &File,
    program: &OwnedFd,
    attach: u32,
    flags: u32,
) -> io::Result<()> {
    // target_fd, attach_bpf_fd, attach_type, attach_flags.
    let fds = [cgroup.as_raw_fd(), program.as_raw_fd()].map(libc::c_int::cast_unsigned);
    let attributes = [fds[0], fds[1], attach, flags];
    call(
        command,
        attributes.as_ptr().cast(),
        size_of_val(&attributes),
    )
    .map(drop)
}
