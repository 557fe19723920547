//! Whether maps can be used without rights.

use std::{io, os::fd::AsFd as _, thread};

use caps::{CapSet, Capability};

use super::cause::{create_small_map, read_first};

/// The capability that reading and writing maps goes on to need once programs are attached, if any.
///
/// Older kernels (5.10 is one, 6.1 is not) let whoever lacks CAP_BPF call nothing of bpf(2) while
/// kernel.unprivileged_bpf_disabled is set, not even to read a map that is open (kernel/bpf/syscall.c, __sys_bpf). It is
/// asked of the kernel: by a thread that has given its capabilities away, and that ends.
pub(super) fn still_needed() -> Option<Capability> {
    // Without a map there is nothing to be asked; whoever could attach can make one.
    let map = create_small_map().ok()?;
    let answer = thread::scope(|scope| {
        let reader = scope.spawn(|| -> io::Result<()> {
            caps::clear(None, CapSet::Effective).map_err(io::Error::other)?;
            read_first(map.as_fd()).map(drop)
        });
        reader.join().unwrap_or(Ok(()))
    });
    let refused = answer.is_err_and(|error| error.raw_os_error() == Some(libc::EPERM));
    refused.then_some(Capability::CAP_BPF)
}
