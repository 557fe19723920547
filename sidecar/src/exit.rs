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
/// Started again, it can do what it cannot now (EX_TEMPFAIL).
pub const START_AGAIN: u8 = 75;
/// A right is missing (EX_NOPERM).
pub const NO_PERMISSION: u8 = 77;
/// The command was found and cannot be executed (POSIX shell).
pub const NOT_EXECUTABLE: u8 = 126;
/// The command was not found (POSIX shell).
pub const NOT_FOUND: u8 = 127;

/// Why flowcar itself ends without having done what it was asked to.
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
}

impl From<crate::source::ebpf::AttachError> for Failure {
    fn from(error: crate::source::ebpf::AttachError) -> Self {
        Self::new(
            if error.is_missing_right() {
                NO_PERMISSION
            } else {
                SOFTWARE
            },
            error,
        )
    }
}

impl From<crate::source::SourceError> for Failure {
    fn from(error: crate::source::SourceError) -> Self {
        use crate::source::SourceError;
        match error {
            SourceError::Attach(error) => error.into(),
            SourceError::NoCgroup => Self::new(USAGE, error),
            SourceError::Diag(_) => Self::new(SOFTWARE, error),
        }
    }
}

impl From<crate::otlp::exporter::TaskEnded> for Failure {
    fn from(ended: crate::otlp::exporter::TaskEnded) -> Self {
        Self::new(
            SOFTWARE,
            format_args!("{ended}. flowcar ends, so that whoever supervises it starts it again"),
        )
    }
}

impl From<crate::rights::RightsError> for Failure {
    fn from(error: crate::rights::RightsError) -> Self {
        Self::new(SOFTWARE, error)
    }
}

impl From<crate::scope::ScopeError> for Failure {
    fn from(error: crate::scope::ScopeError) -> Self {
        use crate::scope::ScopeError;
        let status = match error {
            ScopeError::Make { .. } => NO_PERMISSION,
            ScopeError::Unreadable { .. } | ScopeError::NotCgroup2 { .. } => USAGE,
            ScopeError::NoHostTree { .. }
            | ScopeError::OutsidePod { .. }
            | ScopeError::PodUnknown { .. }
            | ScopeError::WritableTree { .. } => USAGE,
            ScopeError::NotInTree { .. }
            | ScopeError::NotInAPod { .. }
            | ScopeError::NotMounted
            | ScopeError::Proc { .. } => SOFTWARE,
        };
        Self::new(status, error)
    }
}
