//! Why the kernel's flows cannot be followed by eBPF.

use std::{io, path::Path};

use aya::programs::ProgramError;
use caps::Capability;

use super::cause::{self, Cause};
use crate::{confinement::Surroundings, files::lacks_descriptor};

/// Why the kernel's flows cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The binary holds no programs.
    #[error(
        "this flowcar was built without its BPF programs, so it can follow nothing: run `make setup`, then build it again"
    )]
    BuiltWithout,
    /// The process lacks a capability.
    #[error(
        "missing {}: following flows needs CAP_BPF and CAP_NET_ADMIN. Run it with sudo, or give it them: sudo setcap cap_bpf,cap_net_admin+ep FILE (Kubernetes: securityContext.capabilities.add)",
        .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
    )]
    Missing(Vec<Capability>),
    /// The kernel refuses although the capabilities are held.
    #[error(
        "the kernel refused to {what} although CAP_BPF and CAP_NET_ADMIN are held ({error}): {cause}"
    )]
    Forbidden {
        /// What was refused.
        what: &'static str,
        /// The kernel's answer.
        error: Box<dyn std::error::Error + Send + Sync>,
        /// Why.
        cause: Cause,
    },
    /// The kernel cannot do what is asked.
    #[error(
        "this kernel cannot {what} ({error}): flowcar needs Linux 5.10 or later with CONFIG_BPF_SYSCALL and CONFIG_CGROUP_BPF"
    )]
    Unsupported {
        /// What it cannot do.
        what: &'static str,
        /// The kernel's answer.
        error: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No file descriptor is left.
    #[error("cannot {0}: {cause}", cause = Cause::Descriptors)]
    Descriptors(&'static str),
    /// The kernel's verifier does not accept a program.
    #[error(
        "this kernel's verifier refuses flowcar's program: {0}. Please report this line with the output of `uname -r`"
    )]
    Verifier(String),
    /// The cgroup's directory cannot be opened.
    #[error("cannot open the cgroup {path}: {error}")]
    Cgroup {
        /// The directory.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// The ring buffer cannot be waited on.
    #[error("cannot wait for the ring buffer: {0}")]
    Poll(io::Error),
}

impl AttachError {
    /// Whether more capabilities would help.
    pub const fn is_missing_right(&self) -> bool {
        matches!(self, Self::Missing(_) | Self::Forbidden { .. })
    }
}

// === impl AttachError ===

impl AttachError {
    /// Why the programs are refused.
    pub fn cause(&self) -> Cause {
        match self {
            Self::Forbidden { cause, .. } => cause.clone(),
            Self::Missing(_) if Surroundings::read().user_namespace => Cause::UserNamespace,
            Self::Missing(_) => Cause::Capability,
            Self::Unsupported { .. } if cause::seccomp_answers() => Cause::Seccomp,
            Self::Unsupported { .. } | Self::Verifier(_) | Self::Poll(_) => Cause::Kernel,
            Self::Descriptors(_) => Cause::Descriptors,
            Self::Cgroup { .. } => Cause::Cgroup,
            Self::BuiltWithout => Cause::Build,
        }
    }

    pub(super) fn of_cgroup(path: &Path) -> impl Fn(io::Error) -> Self {
        move |error| match lacks_descriptor(&error) {
            true => Self::Descriptors("open the cgroup"),
            false => Self::Cgroup {
                path: path.display().to_string(),
                error,
            },
        }
    }

    pub(super) fn of<E: std::error::Error + Send + Sync + 'static>(
        what: &'static str,
        error: E,
    ) -> Self {
        if let Some(message) = verifier_message(&error) {
            return Self::Verifier(message);
        }
        let code = errno(&error);
        if code.as_ref().is_some_and(lacks_descriptor) {
            return Self::Descriptors(what);
        }
        let refused = code.is_some_and(|code| code.kind() == io::ErrorKind::PermissionDenied);
        let error = chain(&error).into();
        if refused {
            let cause = Cause::of_refusal();
            Self::Forbidden { what, error, cause }
        } else {
            Self::Unsupported { what, error }
        }
    }

    pub(super) fn of_attachment(what: &'static str, error: ProgramError) -> Self {
        match Self::of(what, error) {
            Self::Forbidden { what, error, .. } => Self::Forbidden {
                what,
                error,
                cause: Cause::of_refused_attachment(),
            },
            other => other,
        }
    }
}

/// The verifier's last message, if any: the line before its statistics.
fn verifier_message(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let Some(ProgramError::LoadError { verifier_log, .. }) = error.downcast_ref() else {
        return None;
    };
    let log = verifier_log.to_string();
    let lines = log.lines().map(str::trim).filter(|line| !line.is_empty());
    lines
        .take_while(|line| !line.starts_with("verification time") && !line.starts_with("processed"))
        .last()
        .map(str::to_owned)
}

/// The system call's error at the bottom of the chain.
fn errno(error: &(dyn std::error::Error + 'static)) -> Option<io::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(code) = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::raw_os_error)
        {
            return Some(io::Error::from_raw_os_error(code));
        }
        if let Some(ProgramError::LoadError { io_error, .. }) = error.downcast_ref() {
            return io_error.raw_os_error().map(io::Error::from_raw_os_error);
        }
        next = error.source();
    }
    None
}

/// The error and its causes on one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        next = error.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
