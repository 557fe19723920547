//! Exit statuses, from sysexits.h and the shell's conventions.

/// A probe's answer is no.
pub const NO: u8 = 1;
/// A setting or an argument is wrong (EX_USAGE).
pub const USAGE: u8 = 64;
/// Nothing here can follow flows (EX_UNAVAILABLE).
pub const UNAVAILABLE: u8 = 69;
/// The kernel cannot do it, or something broke (EX_SOFTWARE).
pub const SOFTWARE: u8 = 70;
/// A file cannot be written (EX_CANTCREAT).
pub const CANNOT_CREATE: u8 = 73;
/// A restart may succeed (EX_TEMPFAIL).
pub const START_AGAIN: u8 = 75;
/// A capability is missing (EX_NOPERM).
pub const NO_PERMISSION: u8 = 77;
/// The command was found and cannot be executed (POSIX shell).
pub const NOT_EXECUTABLE: u8 = 126;
/// The command was not found (POSIX shell).
pub const NOT_FOUND: u8 = 127;

/// Why flowcar itself exits before it has done its task.
#[derive(Debug)]
pub struct Failure {
    /// The process's exit status.
    pub status: u8,
    /// What happened, why, and what to do.
    pub message: String,
}

impl Failure {
    /// A failure with this status.
    pub fn new(status: u8, message: impl ToString) -> Self {
        Self {
            status,
            message: message.to_string(),
        }
    }

    /// The main loop has no timer.
    pub fn no_timer(error: std::io::Error) -> Self {
        use crate::files::{NO_DESCRIPTOR, lacks_descriptor};
        if lacks_descriptor(&error) {
            Self::new(SOFTWARE, format_args!("cannot start: {NO_DESCRIPTOR}"))
        } else {
            Self::new(SOFTWARE, format_args!("cannot start its timer: {error}"))
        }
    }
}

impl From<crate::source::SourceError> for Failure {
    fn from(error: crate::source::SourceError) -> Self {
        use crate::source::SourceError;
        let status = match &error {
            SourceError::Attach(ebpf) | SourceError::Neither { ebpf, .. }
                if ebpf.is_missing_right() =>
            {
                NO_PERMISSION
            }
            SourceError::NoCgroup => USAGE,
            SourceError::Attach(_) | SourceError::Neither { .. } | SourceError::Diag(_) => SOFTWARE,
        };
        Self::new(status, error)
    }
}

impl From<crate::task::TaskEnded> for Failure {
    fn from(ended: crate::task::TaskEnded) -> Self {
        Self::new(
            SOFTWARE,
            format_args!("{ended}. flowcar exits, so that its supervisor restarts it"),
        )
    }
}

impl From<crate::capabilities::CapabilityError> for Failure {
    fn from(error: crate::capabilities::CapabilityError) -> Self {
        Self::new(SOFTWARE, error)
    }
}

impl From<crate::cgroup::CgroupError> for Failure {
    fn from(error: crate::cgroup::CgroupError) -> Self {
        use crate::cgroup::CgroupError;
        let status = match error {
            CgroupError::Make { .. } => NO_PERMISSION,
            CgroupError::Unreadable { .. } | CgroupError::NotCgroup2 { .. } => USAGE,
            CgroupError::NoHostTree { .. }
            | CgroupError::OutsidePod { .. }
            | CgroupError::PodUnknown { .. }
            | CgroupError::WritableTree { .. } => USAGE,
            CgroupError::NotInTree { .. }
            | CgroupError::NotInAPod { .. }
            | CgroupError::NotMounted
            | CgroupError::Descriptors
            | CgroupError::Proc { .. } => SOFTWARE,
        };
        Self::new(status, error)
    }
}
