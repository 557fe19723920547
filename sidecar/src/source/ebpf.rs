//! The kernel programs: loaded, attached to one cgroup, and drained.

use std::{
    fs::File,
    io,
    net::{Ipv4Addr, UdpSocket},
    os::{fd::AsRawFd, unix::fs::MetadataExt as _},
    path::Path,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData, MapError, PerCpuArray, RingBuf},
    programs::{
        CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSock, CgroupSockAddr, Program,
        ProgramError, SockOps, cgroup_sock_addr::CgroupSockAddrLink,
    },
};
use caps::{CapSet, Capability};
use flowcar_shared::counter::{COUNTERS, Counter};
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use tokio::io::unix::AsyncFd;

pub use super::generations::Attachment;
use super::{
    Turn,
    cause::{self, Cause},
    generations::{Generations, Links},
    order,
};

use crate::{config::Config, confinement::Surroundings};

/// What `sidecar-ebpf` compiled to; empty where there was no toolchain for it.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/flowcar"));

/// What to load, and how large.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Size of the ring buffer, bytes: a power of two of at least a page.
    pub ring_bytes: u32,
    /// Whether packets are inspected, for exchanges and for who sent a RST.
    pub exchanges: bool,
}

impl From<&Config> for Options {
    fn from(config: &Config) -> Self {
        Self {
            ring_bytes: config.ring_bytes,
            exchanges: config.exchanges,
        }
    }
}

/// The map of the one variable that is written while the programs run: the sample epoch, and whether there is no room.
const USERSPACE: &str = ".bss";

/// The capabilities that loading and attaching need (kernel/bpf/syscall.c).
const NEEDED: [Capability; 2] = [Capability::CAP_BPF, Capability::CAP_NET_ADMIN];

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

/// Bytes of the ring that a short turn takes in: some 1,500 records of short connections, at a microsecond or two each.
const SHORT_TURN: u32 = 128 << 10;

/// Bytes of the header in front of each record (`BPF_RINGBUF_HDR_SZ`, include/uapi/linux/bpf.h).
const RECORD_HEADER: usize = 8;

/// The attached programs. Dropping it detaches them: their link is held by this process alone.
pub struct EbpfSource {
    programs: Ebpf,
    options: Options,
    generations: Generations,
    ring: AsyncFd<RingBuf<MapData>>,
    counters: PerCpuArray<MapData, u64>,
    userspace: Array<MapData, [u32; 2]>,
    sample_epoch: u32,
    is_full: bool,
    /// The name of the program of the callbacks.
    callbacks: &'static str,
    /// Whether the kernel takes the programs for `connect()`.
    observes_calls: bool,
}

/// Programs that the kernel has checked.
pub struct Loaded {
    programs: Ebpf,
    /// The name of the program of the callbacks.
    callbacks: &'static str,
    /// Whether those for `connect()` are among them. Without them all else is reported as with them.
    calls: Result<(), AttachError>,
}

impl EbpfSource {
    /// Loads the programs and attaches them to `cgroup`, a cgroup2 directory: from here on its sockets, and those of
    /// the cgroups below it, are followed.
    ///
    /// # Errors
    /// [`AttachError`], which states what is missing and what to do about it.
    pub fn attach(cgroup: &Path, options: Options) -> Result<Self, AttachError> {
        let loaded = load(options)?;
        if let Err(error) = &loaded.calls {
            log_unobserved_calls(error);
        }
        let mut source = Self::with_maps(loaded, options)?;
        source.follow(cgroup)?;
        Ok(source)
    }

    /// Attaches the programs also to the cgroup that is at this path now: the first one, or one made in place of a removed one. Gives its
    /// id.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn follow(&mut self, cgroup: &Path) -> Result<u64, AttachError> {
        let unreadable = |error| AttachError::Cgroup {
            path: cgroup.display().to_string(),
            error,
        };
        let directory = File::open(cgroup).map_err(unreadable)?;
        let id = directory.metadata().map_err(unreadable)?.ino();
        // Attached twice, they would count everything twice.
        if self.generations.newest() != Some(id) {
            self.attach_to(directory, id)?;
        }
        Ok(id)
    }

    fn attach_to(&mut self, directory: File, id: u64) -> Result<(), AttachError> {
        let Self {
            programs,
            options,
            callbacks,
            observes_calls,
            ..
        } = self;
        let mut links = attach_programs(programs, directory, id, *options, callbacks)?;
        if *observes_calls {
            match attach_calls(programs, links.directory()) {
                Ok(calls) => {
                    links.add_calls(calls);
                    log_earlier_calls(programs, links.directory());
                }
                Err(error) => {
                    log_unobserved_calls(&error);
                    // Of a cgroup that is made later the same is true.
                    *observes_calls = false;
                }
            }
        }
        self.generations.add(links);
        Ok(())
    }

    /// Whether the programs are still attached to the cgroup that was followed last. The kernel detaches them from a removed cgroup.
    pub fn attachment(&self) -> Attachment {
        self.generations.attachment()
    }

    /// Attaches the programs to the cgroup that was followed last, after another process detached them. Gives its id.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn attach_again(&mut self) -> Result<u64, AttachError> {
        let (id, directory) = self.generations.detached().ok_or(AttachError::Cgroup {
            path: "that was followed".to_owned(),
            error: io::ErrorKind::NotFound.into(),
        })?;
        self.attach_to(directory, id)?;
        Ok(id)
    }

    /// The id of the cgroup that was followed last.
    pub fn cgroup(&self) -> Option<u64> {
        self.generations.newest()
    }

    /// Whether records of attempts show if they are of flowcar's network namespace.
    pub fn knows_netns(&self) -> bool {
        self.callbacks == CALLBACKS[0]
    }

    /// Whether packets are inspected.
    pub const fn observes_packets(&self) -> bool {
        self.options.exchanges
    }

    /// Loads the programs. They are unloaded when the value is dropped.
    ///
    /// # Errors
    /// As [`EbpfSource::attach`].
    pub fn try_load(options: Options) -> Result<Loaded, AttachError> {
        load(options)
    }

    /// Waits until the kernel asks for a drain of the ring before the next is due.
    pub async fn woken(&self) {
        if let Ok(mut ready) = self.ring.readable().await {
            ready.clear_ready();
        }
    }

    /// Hands over the records that wait, for one turn. Gives whether more may wait: with little CPU time, more records may
    /// come than are taken in.
    pub fn drain(&mut self, turn: Turn, mut take: impl FnMut(&[u8])) -> bool {
        let most = match turn {
            Turn::Short => self.options.ring_bytes.min(SHORT_TURN) as usize,
            Turn::Whole => self.options.ring_bytes as usize,
        };
        let mut taken = 0;
        while let Some(record) = self.ring.get_mut().next() {
            take(&record);
            taken += RECORD_HEADER + record.len();
            if taken >= most {
                return true;
            }
        }
        false
    }

    /// The kernel's own counts so far, summed over its CPUs, by [`Counter::index`].
    ///
    /// # Errors
    /// If the map cannot be read, which a live map always can.
    pub fn counters(&self) -> Result<[u64; COUNTERS], MapError> {
        let mut sums = [0; COUNTERS];
        // Established last: else a connection that is established and lost in between would be lost and never opened.
        for counter in Counter::ALL.into_iter().rev() {
            let values = self.counters.get(&counter.index(), 0)?;
            sums[counter.index() as usize] = values.iter().sum();
        }
        Ok(sums)
    }

    /// The same; all 0 if the map cannot be read.
    pub fn kernel_counters(&self) -> [u64; COUNTERS] {
        self.counters().unwrap_or_else(|error| {
            tracing::error!(%error, "the kernel's counters cannot be read");
            [0; COUNTERS]
        })
    }

    /// Requests one sample of every flow: its next round trip sends it.
    ///
    /// # Errors
    /// If the map cannot be written.
    pub fn ask_for_samples(&mut self) -> Result<(), AttachError> {
        self.sample_epoch = self.sample_epoch.wrapping_add(1);
        self.write_userspace()
            .map_err(|error| AttachError::of("request samples", error))
    }

    /// Sets whether the memory limit has no room for the storage of one more socket. Connections without room are counted by
    /// [`Counter::StorageRefused`].
    ///
    /// # Errors
    /// If the map cannot be written.
    pub fn set_full(&mut self, is_full: bool) -> Result<(), AttachError> {
        if std::mem::replace(&mut self.is_full, is_full) == is_full {
            return Ok(());
        }
        self.write_userspace()
            .map_err(|error| AttachError::of("limit its memory", error))
    }

    fn write_userspace(&mut self) -> Result<(), MapError> {
        self.userspace
            .set(0, [self.sample_epoch, self.is_full.into()], 0)
    }

    fn with_maps(loaded: Loaded, options: Options) -> Result<Self, AttachError> {
        let Loaded {
            mut programs,
            callbacks,
            calls,
        } = loaded;
        let mut take = |name: &str| {
            programs
                .take_map(name)
                .expect("sidecar-ebpf/src/maps.rs declares this map")
        };
        let (ring, counters, userspace) = (take("RECORDS"), take("COUNTERS"), take(USERSPACE));
        let of = |error| AttachError::of("open its maps", error);
        let ring = RingBuf::try_from(ring).map_err(of)?;
        // SAFETY: the ring owns its descriptor, and the AsyncFd owns the ring for as long as it is registered.
        let ring = unsafe { AsyncFd::register_with_interest(ring, tokio::io::Interest::READABLE) }
            .map_err(|error| AttachError::Poll(error.into()))?;
        Ok(Self {
            programs,
            options,
            generations: Generations::default(),
            ring,
            counters: PerCpuArray::try_from(counters).map_err(of)?,
            userspace: Array::try_from(userspace).map_err(of)?,
            sample_epoch: 0,
            is_full: false,
            callbacks,
            observes_calls: calls.is_ok(),
        })
    }
}

const EGRESS: &str = "flowcar_egress";
const INGRESS: &str = "flowcar_ingress";
const RELEASE: &str = "flowcar_sock_release";
/// The programs for `connect()`, and their hooks: BPF_CGROUP_INET4_CONNECT and BPF_CGROUP_INET6_CONNECT (include/uapi/linux/bpf.h).
const CALLS: [(&str, u32); 2] = [("flowcar_connect4", 10), ("flowcar_connect6", 11)];
/// The callbacks: one program for kernels that return a socket's network namespace, and one for others.
const CALLBACKS: [&str; 2] = ["flowcar_sock_ops_netns", "flowcar_sock_ops"];

/// Creates the maps and has the kernel check the programs.
fn load(options: Options) -> Result<Loaded, AttachError> {
    if OBJECT.is_empty() {
        return Err(AttachError::BuiltWithout);
    }
    let missing = missing_capabilities();
    if !missing.is_empty() {
        return Err(AttachError::Missing(missing));
    }
    raise_memlock();
    let netns = own_netns();
    let mut programs = create_maps(options, netns)?;
    let callbacks = load_callbacks(&mut programs, netns)?;
    program::<CgroupSock>(&mut programs, RELEASE)
        .load()
        .map_err(|error| AttachError::of("load its sock_release program", error))?;
    if options.exchanges {
        for name in [EGRESS, INGRESS] {
            program::<CgroupSkb>(&mut programs, name)
                .load()
                .map_err(|error| AttachError::of("load its cgroup_skb program", error))?;
        }
    }
    let calls = CALLS.into_iter().try_for_each(|(name, _)| {
        program::<CgroupSockAddr>(&mut programs, name)
            .load()
            .map_err(|error| AttachError::of("load its connect programs", error))
    });
    Ok(Loaded {
        programs,
        callbacks,
        calls,
    })
}

fn log_unobserved_calls(error: &AttachError) {
    tracing::warn!(
        %error,
        "calls of connect() are not observed: server.address is the address that the socket connects to, and attempts that fail before a SYN are not counted"
    );
}

/// Loads the program of the callbacks that this kernel takes, and gives its name.
fn load_callbacks(programs: &mut Ebpf, netns: u64) -> Result<&'static str, AttachError> {
    let [newer, older] = CALLBACKS;
    if netns != 0 {
        match program::<SockOps>(programs, newer).load() {
            Ok(()) => return Ok(newer),
            Err(error) => {
                tracing::debug!(%error, "this kernel does not return the network namespace of a socket");
            }
        }
    }
    program::<SockOps>(programs, older)
        .load()
        .map_err(|error| AttachError::of("load its sock_ops program", error))?;
    Ok(older)
}

/// The cookie of the network namespace that this thread is in (SO_NETNS_COOKIE, since 5.14); 0, which no namespace has, where it is
/// not known.
fn own_netns() -> u64 {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0));
    socket
        .and_then(|socket| netns_cookie(&socket))
        .unwrap_or_default()
}

fn netns_cookie(socket: &UdpSocket) -> io::Result<u64> {
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which is the size of what the pointer points to.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(cookie)
    } else {
        Err(io::Error::last_os_error())
    }
}

fn create_maps(options: Options, netns: u64) -> Result<Ebpf, AttachError> {
    let exchanges: &u8 = if options.exchanges { &1 } else { &0 };
    let wake_level = options.ring_bytes / 4;
    let mut loader = EbpfLoader::new();
    loader
        .map_max_entries("RECORDS", options.ring_bytes)
        .override_global("FLOWCAR_EXCHANGES", exchanges, true)
        .override_global("FLOWCAR_WAKE_LEVEL", &wake_level, true)
        .override_global("FLOWCAR_NETNS", &netns, true);
    if !options.exchanges {
        loader.map_max_entries("TURNS", 1);
    }
    loader
        .load(OBJECT)
        .map_err(|error| AttachError::of("create its maps", error))
}

/// The packet programs come first, so that no connection is followed whose first request they did not see.
fn attach_programs(
    programs: &mut Ebpf,
    cgroup: File,
    id: u64,
    options: Options,
    callbacks: &'static str,
) -> Result<Links, AttachError> {
    // Single is flags 0: with cgroup bpf_link, which always allows several programs, the kernel takes no others.
    const MODE: CgroupAttachMode = CgroupAttachMode::Single;
    let refused = |what| move |error| AttachError::of_attachment(what, error);
    let mut packets = Vec::new();
    if options.exchanges {
        for (name, way) in [
            (EGRESS, CgroupSkbAttachType::Egress),
            (INGRESS, CgroupSkbAttachType::Ingress),
        ] {
            let program = program::<CgroupSkb>(programs, name);
            let link = program.attach(&cgroup, way, MODE);
            let link = link.and_then(|link| program.take_link(link));
            packets.push(link.map_err(refused("attach its cgroup_skb program"))?);
        }
    }
    let release = program::<CgroupSock>(programs, RELEASE);
    let link = release.attach(&cgroup, MODE);
    let link = link.and_then(|link| release.take_link(link));
    let release = link.map_err(refused("attach its sock_release program"))?;
    let callbacks = program::<SockOps>(programs, callbacks);
    let link = callbacks.attach(&cgroup, MODE);
    let link = link.and_then(|link| callbacks.take_link(link));
    let callbacks = link.map_err(refused("attach its sock_ops program"))?;
    Ok(Links::new(id, cgroup, packets, release, callbacks))
}

/// Attaches the programs for `connect()`. After the others: a call whose SYN they did not see would count as failed.
fn attach_calls(
    programs: &mut Ebpf,
    cgroup: &File,
) -> Result<Vec<CgroupSockAddrLink>, AttachError> {
    let attach = |(name, _)| {
        let program = program::<CgroupSockAddr>(programs, name);
        let link = program.attach(cgroup, CgroupAttachMode::Single);
        let link = link.and_then(|link| program.take_link(link));
        link.map_err(|error| AttachError::of_attachment("attach its connect programs", error))
    };
    CALLS.into_iter().map(attach).collect()
}

/// How many programs at `connect()` run before flowcar's in this cgroup, to which those are attached; `None` where the kernel does not
/// show it.
fn earlier_calls(programs: &mut Ebpf, cgroup: &File) -> Option<usize> {
    let before = |(name, hook)| {
        let info = program::<CgroupSockAddr>(programs, name).info().ok()?;
        order::before(cgroup, hook, info.id()).ok()
    };
    let each: Option<Vec<_>> = CALLS.into_iter().map(before).collect();
    each?.into_iter().max()
}

fn log_earlier_calls(programs: &mut Ebpf, cgroup: &File) {
    let earlier = earlier_calls(programs, cgroup).unwrap_or_default();
    if earlier > 0 {
        tracing::warn!(
            programs = earlier,
            "other programs at connect() run before flowcar's: where one of them replaces the address, server.address is the address that it chose"
        );
    }
}

fn program<'a, P>(programs: &'a mut Ebpf, name: &str) -> &'a mut P
where
    &'a mut P: TryFrom<&'a mut Program>,
{
    programs
        .program_mut(name)
        .and_then(|program| program.try_into().ok())
        .expect("sidecar-ebpf declares this program")
}

/// Before 5.11 maps count against RLIMIT_MEMLOCK; raising it past its hard limit may be refused, and then map creation
/// fails.
fn raise_memlock() {
    let limit = Resource::RLIMIT_MEMLOCK;
    let raised = setrlimit(limit, rlim_t::MAX, rlim_t::MAX).or_else(|_| {
        let (_, hard) = getrlimit(limit)?;
        setrlimit(limit, hard, hard)
    });
    if let Err(error) = raised {
        tracing::debug!(%error, "RLIMIT_MEMLOCK stays as it is; only kernels before 5.11 need it raised");
    }
}

/// Those of [`NEEDED`] that the process does not hold.
pub(crate) fn missing_capabilities() -> Vec<Capability> {
    let held = caps::read(None, CapSet::Effective).unwrap_or_default();
    // CAP_SYS_ADMIN stands in for CAP_BPF (include/linux/capability.h, bpf_capable).
    let stands_in =
        |needed| needed == Capability::CAP_BPF && held.contains(&Capability::CAP_SYS_ADMIN);
    NEEDED
        .into_iter()
        .filter(|needed| !held.contains(needed) && !stands_in(*needed))
        .collect()
}

// === impl Loaded ===

impl Loaded {
    /// Attaches the programs for `connect()` to a cgroup for a moment, and gives how many others run before them; `None` where the
    /// kernel does not show it.
    ///
    /// # Errors
    /// The kernel refused them, or they cannot be attached.
    pub fn try_calls(mut self, cgroup: &Path) -> Result<Option<usize>, AttachError> {
        self.calls?;
        let directory = File::open(cgroup).map_err(|error| AttachError::Cgroup {
            path: cgroup.display().to_string(),
            error,
        })?;
        let _links = attach_calls(&mut self.programs, &directory)?;
        Ok(earlier_calls(&mut self.programs, &directory))
    }

    /// Whether the kernel takes the programs for `connect()`.
    pub const fn calls(&self) -> Result<(), &AttachError> {
        match &self.calls {
            Ok(()) => Ok(()),
            Err(error) => Err(error),
        }
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
            Self::Cgroup { error, .. } if cause::no_descriptor(error) => Cause::Descriptors,
            Self::Descriptors(_) => Cause::Descriptors,
            Self::Cgroup { .. } => Cause::Cgroup,
            Self::BuiltWithout => Cause::Build,
        }
    }

    fn of<E: std::error::Error + Send + Sync + 'static>(what: &'static str, error: E) -> Self {
        if let Some(message) = verifier_message(&error) {
            return Self::Verifier(message);
        }
        let code = errno(&error);
        if matches!(code, Some(libc::EMFILE | libc::ENFILE)) {
            return Self::Descriptors(what);
        }
        let refused = code.is_some_and(|code| code == libc::EPERM || code == libc::EACCES);
        let error = chain(&error).into();
        if refused {
            let cause = Cause::of_refusal();
            Self::Forbidden { what, error, cause }
        } else {
            Self::Unsupported { what, error }
        }
    }

    fn of_attachment(what: &'static str, error: ProgramError) -> Self {
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
fn errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(code) = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::raw_os_error)
        {
            return Some(code);
        }
        if let Some(ProgramError::LoadError { io_error, .. }) = error.downcast_ref() {
            return io_error.raw_os_error();
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
