//! Where flows are learnt of. The only room that knows aya and netlink.

mod access;
pub mod cause;
pub mod diag;
pub mod ebpf;
mod generations;
pub mod given_up;
pub mod namespace;

use std::path::Path;

use caps::Capability;

use self::{
    cause::Cause,
    diag::{DiagError, DiagSource},
    ebpf::{AttachError, EbpfSource, Options},
};
use crate::config::SourceChoice;

/// Where flows are learnt of.
#[expect(clippy::large_enum_variant, reason = "a process has one of them")]
pub enum Source {
    /// The kernel programs tell of flows that begin from now on.
    Ebpf(EbpfSource),
    /// The sockets tell of themselves, when looked at and when they end.
    Diag(DiagSource),
    /// The programs tell; looks add the flows that are older, and keep the list right.
    Both(EbpfSource, DiagSource),
}

/// How much of what waits is taken in at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Some milliseconds of CPU time at most: reports, signals and probes wait meanwhile, and with 1 % of a CPU for a hundred
    /// times as long.
    Short,
    /// As much as the kernel can keep, and so all that waits when it begins.
    Whole,
}

/// Why there is nothing to learn of flows from.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The programs cannot be attached.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The sockets cannot be looked at.
    #[error(transparent)]
    Diag(#[from] DiagError),
    /// The programs need a cgroup to be attached to.
    #[error(
        "the eBPF source follows a cgroup: give one with --cgroup, or set FLOWCAR_SOURCE=inet_diag to follow the whole network namespace"
    )]
    NoCgroup,
}

/// Says in one line why flows are learnt of in the lesser way.
pub fn tell_refusal(cause: &Cause, error: &dyn std::error::Error) {
    tracing::warn!(
        reason = cause.name(),
        %error,
        "the eBPF source is refused, so flows are learnt of by inet_diag: handshakes are not seen, and RTTs are smoothed"
    );
}

impl Source {
    /// Opens the source that is chosen, for the flows of `cgroup` and of the cgroups below it.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn open(
        choice: SourceChoice,
        cgroup: Option<&Path>,
        options: Options,
    ) -> Result<Self, SourceError> {
        if choice == SourceChoice::InetDiag {
            return Self::alone(cgroup);
        }
        let path = cgroup.ok_or(SourceError::NoCgroup)?;
        match EbpfSource::attach(path, options) {
            Ok(ebpf) => Ok(Self::beside(ebpf, path)),
            Err(error) if choice == SourceChoice::Auto => {
                let source = Self::alone(cgroup)?;
                tell_refusal(&Cause::of(&error), &error);
                Ok(source)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Sockets that end before the first look are told of, too.
    fn alone(cgroup: Option<&Path>) -> Result<Self, SourceError> {
        let mut diag = DiagSource::open(cgroup)?;
        diag.subscribe()?;
        Ok(Self::Diag(diag))
    }

    /// Flows can be followed without looks; connections that are older, and closes that are lost, are not seen then.
    fn beside(ebpf: EbpfSource, cgroup: &Path) -> Self {
        match DiagSource::open(Some(cgroup)) {
            Ok(diag) => Self::Both(ebpf, diag),
            Err(error) => {
                tracing::warn!(%error, "connections that are open already are not followed");
                Self::Ebpf(ebpf)
            }
        }
    }

    /// The capabilities that following flows goes on to need, and why: none on newer kernels, and none without programs.
    /// `again` is whether the cgroup may be removed and made anew.
    pub fn still_needs(&self, again: bool) -> Vec<(Capability, &'static str)> {
        let Some(ebpf) = self.ebpf() else {
            return Vec::new();
        };
        let maps = access::still_needed().map(|capability| (capability, access::WHY));
        // The other programs' attachment asks for no right (kernel/bpf/syscall.c, bpf_prog_attach_check_attach_type).
        let packets = (again && ebpf.looks_at_packets()).then_some((
            Capability::CAP_NET_ADMIN,
            "with FLOWCAR_EXCHANGE=on it is needed to follow the cgroup of --cgroup when that is removed and made anew",
        ));
        maps.into_iter().chain(packets).collect()
    }

    /// Follows the cgroup that is at this path now, and what is left of the one that was there before. Gives its id.
    ///
    /// # Errors
    /// [`SourceError`]: then all is as it was.
    pub fn follow(&mut self, cgroup: &Path) -> Result<u64, SourceError> {
        let id = match self.ebpf_mut() {
            Some(ebpf) => ebpf.follow(cgroup)?,
            None => diag::id_of(cgroup)?,
        };
        if let Some(diag) = self.diag_mut() {
            diag.follow(id);
        }
        Ok(id)
    }

    /// Attaches the programs to the followed cgroup again, after somebody took them off. Gives its id.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn attach_again(&mut self) -> Result<u64, SourceError> {
        let ebpf = self.ebpf_mut().ok_or(SourceError::NoCgroup)?;
        Ok(ebpf.attach_again()?)
    }

    /// The id of the cgroup that is followed, if one is.
    pub fn cgroup(&self) -> Option<u64> {
        match self {
            Self::Ebpf(ebpf) | Self::Both(ebpf, _) => ebpf.cgroup(),
            Self::Diag(diag) => diag.cgroup(),
        }
    }

    /// The value of `flowcar.source`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Ebpf(_) | Self::Both(..) => "ebpf",
            Self::Diag(_) => "inet_diag",
        }
    }

    /// Waits until the kernel wants to be heard before its time.
    pub async fn woken(&self) {
        match self {
            Self::Ebpf(ebpf) => ebpf.woken().await,
            Self::Diag(diag) => diag.woken().await,
            Self::Both(ebpf, diag) => {
                tokio::select! {
                    () = ebpf.woken() => {}
                    () = diag.woken() => {}
                }
            }
        }
    }

    /// The programs.
    pub const fn ebpf(&self) -> Option<&EbpfSource> {
        match self {
            Self::Ebpf(ebpf) | Self::Both(ebpf, _) => Some(ebpf),
            Self::Diag(_) => None,
        }
    }

    /// The programs.
    pub const fn ebpf_mut(&mut self) -> Option<&mut EbpfSource> {
        match self {
            Self::Ebpf(ebpf) | Self::Both(ebpf, _) => Some(ebpf),
            Self::Diag(_) => None,
        }
    }

    /// The looks.
    pub const fn diag(&self) -> Option<&DiagSource> {
        match self {
            Self::Diag(diag) | Self::Both(_, diag) => Some(diag),
            Self::Ebpf(_) => None,
        }
    }

    /// The looks.
    pub const fn diag_mut(&mut self) -> Option<&mut DiagSource> {
        match self {
            Self::Diag(diag) | Self::Both(_, diag) => Some(diag),
            Self::Ebpf(_) => None,
        }
    }
}
