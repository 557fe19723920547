//! The order in which the programs at one hook run.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd as _, RawFd},
};

/// A command of bpf(2), and the flag that has it answer with all programs that run in the cgroup, those of the cgroups above too, in
/// their order (include/uapi/linux/bpf.h).
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_F_QUERY_EFFECTIVE: u32 = 1;

/// Programs at one hook that are looked at. A cgroup takes 64 of its own (kernel/bpf/cgroup.c, BPF_CGROUP_MAX_PROGS).
const MOST: usize = 256;

/// The beginning of `union bpf_attr` for BPF_PROG_QUERY.
#[repr(C)]
struct Query {
    target: RawFd,
    hook: u32,
    flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
}

/// How many programs at a hook (`BPF_CGROUP_*`) run before the one with this id in a cgroup.
///
/// # Errors
/// The kernel does not show the programs, or this one is not among them.
pub(super) fn before(cgroup: &File, hook: u32, id: u32) -> io::Result<usize> {
    let mut ids = [0_u32; MOST];
    let mut query = Query {
        target: cgroup.as_raw_fd(),
        hook,
        flags: BPF_F_QUERY_EFFECTIVE,
        attach_flags: 0,
        ids: ids.as_mut_ptr().expose_provenance() as u64,
        count: MOST as u32,
        padding: 0,
    };
    // SAFETY: the attributes and the array that they point to live through the call, and the kernel writes no more than `count` ids.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_QUERY,
            &raw mut query,
            size_of::<Query>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let all = &ids[..(query.count as usize).min(MOST)];
    let place = all.iter().position(|of| *of == id);
    place.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the program is not among them"))
}
