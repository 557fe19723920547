//! What flowcar takes from itself, so that whoever takes it over has little: memory that nobody else may read, no core dump, and once
//! programs are attached no right, no system call but those that following and exporting need, and no file to write but its own.

mod calls;
mod landlock;
mod start;

use std::path::Path;

use seccompiler::{BackendError, BpfProgram, Error as ApplyError, SeccompAction, SeccompFilter};

pub use self::start::{CoreLimit, at_start};

/// What a command goes on to do.
#[derive(Clone, Copy, Debug)]
pub struct Needs<'a> {
    /// The directory that it writes to.
    pub writes: Option<&'a Path>,
    /// Whether it has a child to wait for, and to signal.
    pub child: bool,
}

/// Why system calls are not filtered.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// No filter for this processor.
    #[error("no filter of system calls can be made: {0}")]
    Build(#[from] BackendError),
    /// The kernel takes none.
    #[error("the kernel takes no filter of system calls: {0}")]
    Apply(#[from] ApplyError),
}

/// Filters system calls and file accesses of all threads from here on. To be called once no right is left. A kernel without one of
/// both is told of: flowcar goes on with the other.
pub fn confine(needs: &Needs<'_>) {
    let landlock = landlock::restrict(needs.writes).unwrap_or_else(|error| {
        tracing::info!(%error, "files are not shut by Landlock on this kernel");
        0
    });
    match filter_calls(needs) {
        Ok(()) => tracing::debug!(landlock, "system calls are filtered"),
        Err(error) => tracing::warn!(%error, "system calls are not filtered"),
    }
}

/// Three filters, of which the strictest answer holds (seccomp(2)): those that nobody honest makes from here on kill the process;
/// clone3(2), whose arguments no filter can read, does not exist, so that threads are made by clone(2); all that is not needed
/// is refused with EPERM, which a library that tries something new takes for an answer.
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
        of(calls::needed(needs.child)?, refuse, allow)?,
    ];
    for filter in &filters {
        // The last one refuses seccomp(2) itself.
        seccompiler::apply_filter_all_threads(filter)?;
    }
    Ok(())
}
