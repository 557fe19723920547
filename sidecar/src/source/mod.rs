//! The sources of flows. The only module that uses aya and netlink, and the only one that knows which source there is: others ask what the
//! source can report ([`Capabilities`]), and take in what comes ([`Records`], [`Sockets`]).

mod access;
mod attach_error;
pub mod cause;
mod diag;
mod ebpf;
mod generations;
pub mod namespace;
pub mod namespace_counts;
mod order;
mod programs;
mod records;
mod ring;
mod sockets;
mod turn;
pub mod verified;

use std::path::Path;

use caps::Capability;
use flowcar_shared::counter::{COUNTERS, Counter};

pub use self::{
    attach_error::AttachError,
    diag::{DiagError, Dumping, Pace, SocketCounts, try_dump},
    generations::Attachment,
    programs::{Loaded, Options, load as load_programs, missing_capabilities, own_netns},
    records::Records,
    sockets::{Purpose, Sockets},
    turn::{More, Taken, Turn},
};
use self::{cause::Cause, diag::DiagSource, ebpf::EbpfSource};
use crate::{config::SourceChoice, origin::ProcNumbers};

/// The source of flows: the records of the kernel programs, the sockets, or both. Beside programs the sockets add older flows, and show which
/// closes were lost.
pub struct Source {
    records: Records,
    sockets: Sockets,
    /// Open records that had found the ring full before the programs were attached, until a dump adopts the sockets that are older.
    adopts: Option<u64>,
}

/// What a source can report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Handshakes, measured RTTs and every close, as they happen. Without: polls show connections, RTTs are smoothed, and closes come as
    /// destroy events.
    pub handshakes: bool,
    /// The sockets that are open, by dumps: connections that were open before flowcar, and closes whose record was lost.
    pub dumps: bool,
    /// Processes, as /proc shows them: whose numbers it has. `None` where it cannot be known which one it shows is meant.
    pub processes: Option<ProcNumbers>,
}

/// What the kernel woke flowcar for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// The first record after some time, or a ring that fills up.
    ByRecords,
    /// Destroy events.
    ByEvents,
    /// A directory below the followed cgroup was made or removed.
    ByDirectories,
}

/// Why no source can be opened.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The programs cannot be attached.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The sockets cannot be polled.
    #[error(transparent)]
    Diag(#[from] DiagError),
    /// Both are refused.
    #[error("{ebpf}; without eBPF flowcar would use inet_diag, and {diag}")]
    Neither {
        /// Why the programs cannot be attached.
        ebpf: AttachError,
        /// Why the sockets cannot be polled.
        diag: DiagError,
    },
    /// The programs need a cgroup to be attached to.
    #[error(
        "the eBPF source follows a cgroup: give one with --cgroup, or set FLOWCAR_SOURCE=inet_diag to follow the whole network namespace"
    )]
    NoCgroup,
}

/// Logs in one line why inet_diag is used.
pub fn log_refusal(cause: &Cause, error: &dyn std::error::Error) {
    tracing::warn!(
        reason = cause.name(),
        %error,
        "the eBPF source is refused, so flowcar uses inet_diag: handshakes are not seen, and RTTs are smoothed"
    );
}

// === impl Source ===

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
            return Ok(Self::alone(cgroup)?);
        }
        let path = cgroup.ok_or(SourceError::NoCgroup)?;
        match EbpfSource::attach(path, options) {
            Ok(ebpf) => Ok(Self::beside(ebpf, path)),
            Err(ebpf) if choice == SourceChoice::Auto => match Self::alone(cgroup) {
                Ok(source) => {
                    log_refusal(&ebpf.cause(), &ebpf);
                    Ok(source)
                }
                Err(diag) => Err(SourceError::Neither { ebpf, diag }),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// Sockets that close before the first poll are reported, too.
    fn alone(cgroup: Option<&Path>) -> Result<Self, DiagError> {
        let mut diag = DiagSource::open(cgroup)?;
        diag.subscribe()?;
        Ok(Self::of(None, Some(diag)))
    }

    /// Flows can be followed without polls; older connections and lost closes are not seen then.
    fn beside(ebpf: EbpfSource, cgroup: &Path) -> Self {
        let diag = DiagSource::open(Some(cgroup)).inspect_err(|error| {
            tracing::warn!(%error, "connections that are open already are not followed");
        });
        Self::of(Some(ebpf), diag.ok())
    }

    fn of(programs: Option<EbpfSource>, diag: Option<DiagSource>) -> Self {
        let adopts = programs.is_some().then_some(0);
        Self {
            records: Records { programs },
            sockets: Sockets { diag },
            adopts,
        }
    }

    /// What it reports: the records of the programs, and the sockets. Either may have nothing.
    pub const fn parts(&mut self) -> (&mut Records, &mut Sockets) {
        (&mut self.records, &mut self.sockets)
    }

    /// The sockets.
    pub const fn sockets(&self) -> &Sockets {
        &self.sockets
    }

    /// A dump of the sockets is about to begin. Gives what the dump is for.
    pub const fn next_purpose(&mut self) -> Purpose {
        if !self.records.are_sent() {
            return Purpose::Report;
        }
        match self.adopts.take() {
            Some(open_dropped) => Purpose::Adopt { open_dropped },
            None => Purpose::Update,
        }
    }

    /// The capabilities that following flows needs after the start, and why: none on newer kernels, and none without programs.
    /// `again` is whether the cgroup may be removed and recreated.
    pub fn still_needs(&self, again: bool) -> Vec<(Capability, &'static str)> {
        let Some(ebpf) = self.ebpf() else {
            return Vec::new();
        };
        let maps = access::still_needed().map(|capability| (capability, access::WHY));
        // The other programs' attachment needs no capability (kernel/bpf/syscall.c, bpf_prog_attach_check_attach_type).
        let packets = (again && ebpf.observes_packets()).then_some((
            Capability::CAP_NET_ADMIN,
            "with FLOWCAR_EXCHANGE=on it is needed to follow the cgroup of --cgroup when that is removed and recreated",
        ));
        maps.into_iter().chain(packets).collect()
    }

    /// Follows the cgroup that is at this path now, beside the previous one. The next dump adopts the connections that the new one has
    /// already. Gives its id.
    ///
    /// # Errors
    /// [`SourceError`]: then all is as it was.
    pub fn follow(&mut self, cgroup: &Path) -> Result<u64, SourceError> {
        let id = match self.attach(|ebpf| ebpf.follow(cgroup)) {
            Some(followed) => followed?,
            None => diag::id_of(cgroup)?,
        };
        if let Some(diag) = &mut self.sockets.diag {
            diag.follow(id);
        }
        Ok(id)
    }

    /// Attaches the programs to the followed cgroup again, after another process detached them. The next dump adopts the connections that
    /// are open by then. Gives the cgroup's id.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn attach_again(&mut self) -> Result<u64, SourceError> {
        let attached = self.attach(EbpfSource::attach_again);
        Ok(attached.ok_or(SourceError::NoCgroup)??)
    }

    /// Attaches the programs; `None` where there are none.
    fn attach(
        &mut self,
        attach: impl FnOnce(&mut EbpfSource) -> Result<u64, AttachError>,
    ) -> Option<Result<u64, AttachError>> {
        let before = self.counters();
        let attached = attach(self.ebpf_mut()?);
        if attached.is_ok() {
            self.adopts = Some(before[Counter::OpenDropped.index() as usize]);
        }
        Some(attached)
    }

    /// The id of the cgroup that is followed, if one is.
    pub fn cgroup(&self) -> Option<u64> {
        match self.ebpf() {
            Some(ebpf) => ebpf.cgroup(),
            None => self.diag()?.cgroup(),
        }
    }

    /// The value of `flowcar.source`.
    pub const fn name(&self) -> &'static str {
        if self.records.are_sent() {
            "ebpf"
        } else {
            "inet_diag"
        }
    }

    /// Waits until the kernel wakes flowcar before the next drain is due. Gives what for.
    pub async fn woken(&self) -> Woken {
        let records = async {
            match self.ebpf() {
                Some(ebpf) => ebpf.woken().await,
                None => std::future::pending().await,
            }
        };
        let events = async {
            match self.diag() {
                Some(diag) => diag.woken().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = records => Woken::ByRecords,
            () = events => Woken::ByEvents,
        }
    }

    /// Has the next record wake flowcar, as the next destroy event does anyway. Gives whether it will.
    pub fn sleep(&mut self) -> bool {
        match self.ebpf_mut().map(EbpfSource::sleep) {
            Some(Err(error)) => {
                tracing::debug!(%error, "flowcar does not sleep");
                false
            }
            _ => true,
        }
    }

    /// Flowcar is awake.
    pub const fn awake(&mut self) {
        if let Some(ebpf) = self.ebpf_mut() {
            ebpf.awake();
        }
    }

    /// What was taken in so far.
    pub fn taken(&self) -> Taken {
        Taken {
            records: self.ebpf().map_or(0, EbpfSource::taken),
            events: self.diag().map_or(0, DiagSource::taken),
        }
    }

    /// What is taken in once all is that can wait now.
    pub fn upto(&self) -> Taken {
        Taken {
            records: self.ebpf().map_or(0, EbpfSource::upto),
            events: self.diag().map_or(0, DiagSource::upto),
        }
    }

    /// What it can report.
    pub const fn capabilities(&self) -> Capabilities {
        Capabilities {
            handshakes: self.records.are_sent(),
            dumps: self.sockets.are_shown(),
            processes: match self.ebpf() {
                Some(ebpf) => ebpf.proc_numbers(),
                None => None,
            },
        }
    }

    /// The kernel's own counts so far, by [`flowcar_shared::counter::Counter::index`]; all 0 without the programs.
    pub fn counters(&self) -> [u64; COUNTERS] {
        self.records.counters()
    }

    /// Requests one sample of every flow with its next round trip.
    pub fn ask_for_samples(&mut self) {
        let asked = self.ebpf_mut().map(EbpfSource::ask_for_samples);
        if let Some(Err(error)) = asked {
            tracing::warn!(%error, "open flows are not sampled");
        }
    }

    /// Sets whether the kernel must not allocate storage for one more socket.
    pub fn set_full(&mut self, is_full: bool) {
        let set = self.ebpf_mut().map(|ebpf| ebpf.set_full(is_full));
        if let Some(Err(error)) = set {
            tracing::warn!(%error, "the kernel may keep more than the memory limit has room for");
        }
    }

    /// Whether the programs are still attached; `None` without programs.
    pub fn attachment(&self) -> Option<Attachment> {
        self.ebpf().map(EbpfSource::attachment)
    }

    /// Closed sockets of the network namespace that may or may not have been in the cgroup; `None` where the cgroup of each is known.
    pub fn unscoped(&self) -> Option<u64> {
        match self.ebpf() {
            Some(_) => None,
            None => self.diag().map(DiagSource::unscoped),
        }
    }

    /// Beside the programs destroy events are not needed once the last adopted flow has closed.
    pub fn adopted_closed(&mut self) {
        if self.records.are_sent()
            && let Some(diag) = &mut self.sockets.diag
            && diag.is_subscribed()
        {
            diag.unsubscribe();
        }
    }

    /// Whether packets are inspected, for exchanges.
    pub fn observes_packets(&self) -> bool {
        self.ebpf().is_some_and(EbpfSource::observes_packets)
    }

    const fn ebpf(&self) -> Option<&EbpfSource> {
        self.records.programs.as_ref()
    }

    const fn ebpf_mut(&mut self) -> Option<&mut EbpfSource> {
        self.records.programs.as_mut()
    }

    const fn diag(&self) -> Option<&DiagSource> {
        self.sockets.diag.as_ref()
    }
}
