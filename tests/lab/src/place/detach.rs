//! Takes programs off a cgroup, or puts others in their place, as somebody who holds their links.

use std::{
    fs, io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use super::{
    bpf::{Instruction, call, load, owned},
    cgroup::Cgroup,
    error::Error,
};

/// Commands of bpf(2) (include/uapi/linux/bpf.h).
const BPF_LINK_UPDATE: libc::c_int = 29;
const BPF_LINK_GET_FD_BY_ID: libc::c_int = 30;
const BPF_LINK_GET_NEXT_ID: libc::c_int = 31;
const BPF_LINK_DETACH: libc::c_int = 34;

const BPF_PROG_TYPE_SOCK_OPS: u32 = 13;
const BPF_CGROUP_SOCK_OPS: u32 = 3;

impl Cgroup {
    /// Detaches every program that is attached to this very cgroup by a link (BPF_LINK_DETACH), and gives how many they were.
    ///
    /// # Errors
    /// Not root.
    pub fn detach_programs(&self) -> Result<usize, Error> {
        let detach = |link: &OwnedFd| {
            let attributes = [link.as_raw_fd().cast_unsigned()];
            let pointer = attributes.as_ptr().cast();
            call(BPF_LINK_DETACH, pointer, size_of_val(&attributes)).map(|_| true)
        };
        let id = self.id()?;
        each_link(id, detach).map_err(Error::at("detach programs", "run as root"))
    }

    /// Puts a program that does nothing in the place of each `sock_ops` program that is attached to this very cgroup by a link
    /// (BPF_LINK_UPDATE), and gives how many they were.
    ///
    /// # Errors
    /// Not root.
    pub fn replace_callbacks(&self) -> Result<usize, Error> {
        let id = self.id()?;
        replace(id).map_err(Error::at("replace programs", "run as root"))
    }
}

/// How many programs flowcar attaches to a cgroup besides those of exchanges: for names two, for `connect()` two, `sock_release` and
/// `sock_ops`; two more for bound sockets where callbacks may not ask for the current task (before 6.10).
pub fn attached_programs() -> usize {
    let asks = [
        Instruction::new(0x85, 0, 0, 0, 80), // r0 = bpf_get_current_cgroup_id()
        Instruction::new(0xb7, 0, 0, 0, 1),  // r0 = 1
        Instruction::new(0x95, 0, 0, 0, 0),  // exit
    ];
    let may_ask = load(BPF_PROG_TYPE_SOCK_OPS, BPF_CGROUP_SOCK_OPS, &asks).is_ok();
    if may_ask { 6 } else { 8 }
}

fn replace(cgroup: u64) -> io::Result<usize> {
    let nothing = [
        Instruction::new(0xb7, 0, 0, 0, 1), // r0 = 1
        Instruction::new(0x95, 0, 0, 0, 0), // exit
    ];
    let program = load(BPF_PROG_TYPE_SOCK_OPS, BPF_CGROUP_SOCK_OPS, &nothing)?;
    each_link(cgroup, |link| {
        let fds = [link.as_raw_fd(), program.as_raw_fd()].map(libc::c_int::cast_unsigned);
        // link_fd, new_prog_fd, flags, old_prog_fd
        let attributes = [fds[0], fds[1], 0, 0];
        let pointer = attributes.as_ptr().cast();
        match call(BPF_LINK_UPDATE, pointer, size_of_val(&attributes)) {
            Ok(_) => Ok(true),
            // A link of programs of another type.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
            Err(error) => Err(error),
        }
    })
}

/// Does it with each link to a cgroup, and gives with how many it could be done.
fn each_link(cgroup: u64, act: impl Fn(&OwnedFd) -> io::Result<bool>) -> io::Result<usize> {
    let (mut last, mut done) = (0_u32, 0);
    loop {
        // start_id, next_id, open_flags
        let mut attributes = [last, 0, 0];
        let pointer = attributes.as_mut_ptr().cast();
        match call(BPF_LINK_GET_NEXT_ID, pointer, size_of_val(&attributes)) {
            Ok(_) => last = attributes[1],
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(done),
            Err(error) => return Err(error),
        }
        let attributes = [last, 0, 0];
        let pointer = attributes.as_ptr().cast();
        let link = match call(BPF_LINK_GET_FD_BY_ID, pointer, size_of_val(&attributes)) {
            Ok(link) => owned(link)?,
            // It was removed meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => continue,
            Err(error) => return Err(error),
        };
        let fd = link.as_raw_fd();
        let info = fs::read_to_string(format!("/proc/thread-self/fdinfo/{fd}"))?;
        let of = info
            .lines()
            .find_map(|line| line.strip_prefix("cgroup_id:"));
        if of.and_then(|of| of.trim().parse().ok()) == Some(cgroup) {
            done += usize::from(act(&link)?);
        }
    }
}
