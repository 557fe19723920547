//! The first step of the process: other processes of the same user cannot read its memory or take its descriptors, and
//! it leaves no core dump.

use std::sync::OnceLock;

use nix::{
    errno::Errno,
    sys::{
        prctl,
        resource::{Resource, getrlimit, rlim_t, setrlimit},
    },
};

/// RLIMIT_CORE as this process was started with it, bytes, soft and hard.
#[derive(Clone, Copy, Debug)]
pub struct CoreLimit {
    soft: rlim_t,
    hard: rlim_t,
}

static AT_START: OnceLock<CoreLimit> = OnceLock::new();

/// Makes the process not dumpable (PR_SET_DUMPABLE), so that ptrace(2), process_vm_readv(2), pidfd_getfd(2) and `/proc/PID/mem` are
/// refused without CAP_SYS_PTRACE, and sets its core limit to 0. To be called before anything is read.
///
/// # Errors
/// The kernel refused.
pub fn at_start() -> Result<(), Errno> {
    prctl::set_dumpable(false)?;
    let (soft, hard) = getrlimit(Resource::RLIMIT_CORE)?;
    AT_START.get_or_init(|| CoreLimit { soft, hard });
    setrlimit(Resource::RLIMIT_CORE, 0, hard)
}

// === impl CoreLimit ===

impl CoreLimit {
    /// The limit that the process was started with; `None` before [`at_start`].
    pub fn at_start() -> Option<Self> {
        AT_START.get().copied()
    }

    /// Gives a command the limit that it would have without flowcar. One system call: safe between fork and exec.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn restore(self) -> Result<(), Errno> {
        setrlimit(Resource::RLIMIT_CORE, self.soft, self.hard)
    }
}
