//! Whether maps can be used without capabilities.

use std::os::fd::AsFd as _;

use caps::{CapSet, Capability};

use super::cause::{create_small_map, read_first};

/// Why a capability is kept.
pub(super) const WHY: &str = "this kernel (as 5.10, unlike 6.1) lets maps be read and written only with it while kernel.unprivileged_bpf_disabled is set";

/// The capability that reading and writing maps needs after programs are attached, if any.
///
/// Older kernels (5.10 is one, 6.1 is not) let a process without CAP_BPF call nothing of bpf(2) while
/// kernel.unprivileged_bpf_disabled is set, not even to read a map that is open (kernel/bpf/syscall.c, __sys_bpf). This
/// function tries it while this thread's capabilities are not effective (they stay permitted). Another thread would not do: one
/// that has been joined can still be seen in /proc for a while, with its capabilities.
pub(super) fn still_needed() -> Option<Capability> {
    // Without a map nothing can be tried; a process that could attach can make one.
    let map = create_small_map().ok()?;
    let effective = caps::read(None, CapSet::Effective).ok()?;
    caps::clear(None, CapSet::Effective).ok()?;
    let answer = read_first(map.as_fd());
    if let Err(error) = caps::set(None, CapSet::Effective, &effective) {
        tracing::warn!(%error, "permitted capabilities cannot be made effective again");
    }
    let refused = answer.is_err_and(|error| error.raw_os_error() == Some(libc::EPERM));
    refused.then_some(Capability::CAP_BPF)
}
