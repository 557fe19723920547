//! Takes programs off a cgroup, as somebody who holds their links.

use std::{fs, io, os::fd::AsRawFd as _};

use super::{
    bpf::{call, owned},
    cgroup::Cgroup,
    error::Error,
};

/// Commands of bpf(2) (include/uapi/linux/bpf.h).
const BPF_LINK_GET_FD_BY_ID: libc::c_int = 30;
const BPF_LINK_GET_NEXT_ID: libc::c_int = 31;
const BPF_LINK_DETACH: libc::c_int = 34;

impl Cgroup {
    /// Detaches every program that is attached to this very cgroup by a link (BPF_LINK_DETACH), and gives how many they were.
    ///
    /// # Errors
    /// Not root.
    pub fn detach_programs(&self) -> Result<usize, Error> {
        let id = self.id()?;
        detach(id).map_err(Error::at("detach programs", "run as root"))
    }
}

fn detach(cgroup: u64) -> io::Result<usize> {
    let (mut last, mut detached) = (0_u32, 0);
    loop {
        // start_id, next_id, open_flags
        let mut attributes = [last, 0, 0];
        let pointer = attributes.as_mut_ptr().cast();
        match call(BPF_LINK_GET_NEXT_ID, pointer, size_of_val(&attributes)) {
            Ok(_) => last = attributes[1],
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(detached),
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
            let attributes = [fd.cast_unsigned()];
            let pointer = attributes.as_ptr().cast();
            call(BPF_LINK_DETACH, pointer, size_of_val(&attributes))?;
            detached += 1;
        }
    }
}
