//! Hardening, so that an attacker in flowcar gains little: other processes cannot read its memory, it leaves no core dump, and once
//! programs are attached it has no capability, only the system calls that following and exporting need, and no file to write but its own.

mod calls;
mod landlock;
mod start;

use std::path::Path;

use seccompiler::{BackendError, BpfProgram, Error as ApplyError, SeccompAction, SeccompFilter};

pub use self::start::{CoreLimit, at_start};

/// What a command needs after its start.
#[derive(Clone, Copy, Debug)]
pub struct Needs<'a> {
    /// The directory that it writes to. It has to be there: else nothing can be written.
    pub writes: Option<&'a Path>,
    /// Whether it has a child to wait for, and to signal.
    pub child: bool,
    /// Whether it attaches its programs again where they were detached, or where the followed cgroup was made anew. Attaching needs no
    /// capability, and whoever takes flowcar over could choose another cgroup: in a pod flowcar ends instead, and is started again.
    pub attaches: bool,
}

/// Why system calls are not filtered.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// No filter for this processor.
    #[error("no filter of system calls can be built: {0}")]
    Build(#[from] BackendError),
    /// The kernel refuses a filter.
    #[error("the kernel refuses a filter of system calls: {0}")]
    Apply(#[from] ApplyError),
}

/// Filters system calls and file accesses of all threads from here on. To be called once all capabilities are dropped. If the kernel
/// lacks one of both, flowcar logs that and uses the other.
pub fn confine(needs: &Needs<'_>) {
    let landlock = landlock::restrict(needs.writes).unwrap_or_else(|error| {
        tracing::info!(%error, "Landlock does not restrict files");
        0
    });
    match filter_calls(needs) {
        Ok(()) => tracing::debug!(landlock, "system calls are filtered"),
        Err(error) => tracing::warn!(%error, "system calls are not filtered"),
    }
}

/// Three filters, of which the strictest answer wins (seccomp(2)): calls that flowcar never makes from here on kill the process;
/// clone3(2), whose arguments no filter can read, fails with ENOSYS, so that threads are created by clone(2); all other calls that are
/// not needed fail with EPERM, which a library that tries a new call accepts.
fn filter_calls(needs: &Needs<'_>) -> Result<(), FilterError> {
    let of = |calls, otherwise, answer| -> Result<BpfProgram, BackendError> {
        let arch = std::env::consts::ARCH.try_into()?;
        SeccompFilter::new(calls, otherwise, answer, arch)?.try_into()
    };
    let (allow, refuse) = (
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM as u32),
    );
    let unknown = SeccompAction::Errno(libc::ENOSYS as u32);
    let filters = [
        of(calls::unknown(), allow.clone(), unknown)?,
        of(calls::hostile(), allow.clone(), SeccompAction::KillProcess)?,
        of(calls::needed(needs)?, refuse, allow)?,
    ];
    for filter in &filters {
        // The last one refuses seccomp(2) itself.
        seccompiler::apply_filter_all_threads(filter)?;
    }
    Ok(())
}
