//! The kernel programs: how they are loaded, and attached to a cgroup.

use std::{
    fs::File,
    io,
    net::{Ipv4Addr, UdpSocket},
    os::fd::AsRawFd,
    path::Path,
};

use aya::{
    Ebpf, EbpfLoader,
    programs::{
        CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSock, CgroupSockAddr, Program,
        SockOps, cgroup_skb::CgroupSkbLink, cgroup_sock::CgroupSockLink,
        cgroup_sock_addr::CgroupSockAddrLink,
    },
};
use caps::{CapSet, Capability};
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

use super::{attach_error::AttachError, generations::Links, order};
use crate::{
    config::Config,
    origin::{PidNamespace, ProcNumbers, proc_numbers},
};

/// What `sidecar-ebpf` compiled to; empty where there was no toolchain for it.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/flowcar"));

/// What to load, and how large.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Size of the ring buffer, bytes: a power of two of at least a page.
    pub ring_bytes: u32,
    /// Whether packets are inspected, for exchanges and for who sent a RST.
    pub exchanges: bool,
    /// Whether DNS messages are copied, for names.
    pub names: bool,
    /// Whether the cgroup and the process of clients and listeners are reported.
    pub origins: bool,
    /// Whether processes that connect are reported at once, to read what they are called while they run: whose numbers /proc shows them
    /// by, if they are.
    pub callers: Option<ProcNumbers>,
}

impl From<&Config> for Options {
    fn from(config: &Config) -> Self {
        Self {
            ring_bytes: config.ring_bytes,
            exchanges: config.measures_exchanges(),
            names: config.names,
            origins: config.containers || config.processes,
            callers: proc_numbers().filter(|_| config.processes),
        }
    }
}

// === impl Options ===

impl Options {
    /// The programs for `connect()`, and their hooks.
    const fn calls(self) -> [(&'static str, u32); 2] {
        match self.callers {
            Some(ProcNumbers::Own(_)) => CALLS_OF_OWN,
            Some(ProcNumbers::Initial) | None => CALLS,
        }
    }
}

/// The capabilities that loading and attaching need (kernel/bpf/syscall.c).
const NEEDED: [Capability; 2] = [Capability::CAP_BPF, Capability::CAP_NET_ADMIN];

/// Programs that the kernel has checked.
pub struct Loaded {
    pub(super) programs: Ebpf,
    /// The name of the program of the callbacks.
    pub(super) callbacks: &'static str,
    /// Whether those for `connect()` are among them. Without them all else is reported as with them.
    pub(super) calls: Result<(), AttachError>,
    /// Whether those for bound sockets are: where the callbacks do not report listeners, and these are wanted.
    pub(super) binds: Result<bool, AttachError>,
    /// Whether those for names are, where they are wanted.
    pub(super) names: Result<(), AttachError>,
    /// What was loaded: what this kernel lacks is not among it.
    pub(super) options: Options,
}

/// The programs that see packets: those of exchanges, and those of names.
const EXCHANGES: [(&str, CgroupSkbAttachType); 2] = [
    ("flowcar_egress", CgroupSkbAttachType::Egress),
    ("flowcar_ingress", CgroupSkbAttachType::Ingress),
];
const NAMES: [(&str, CgroupSkbAttachType); 2] = [
    ("flowcar_dns_egress", CgroupSkbAttachType::Egress),
    ("flowcar_dns_ingress", CgroupSkbAttachType::Ingress),
];
const RELEASE: &str = "flowcar_sock_release";
/// The programs for `connect()`, and their hooks: BPF_CGROUP_INET4_CONNECT and BPF_CGROUP_INET6_CONNECT (include/uapi/linux/bpf.h).
const CALLS: [(&str, u32); 2] = [("flowcar_connect4", 10), ("flowcar_connect6", 11)];
/// The same in a PID namespace of its own, for kernels that name its processes (6.10).
const CALLS_OF_OWN: [(&str, u32); 2] = [("flowcar_connect4_own", 10), ("flowcar_connect6_own", 11)];
/// The programs for bound sockets.
const BINDS: [&str; 2] = ["flowcar_post_bind4", "flowcar_post_bind6"];
/// The callbacks: one program for kernels that tell them who calls (6.10), one for kernels that return a socket's network namespace
/// (5.15), and one for others.
pub(super) const CALLBACKS: [&str; 3] = [
    "flowcar_sock_ops_origin",
    "flowcar_sock_ops_netns",
    "flowcar_sock_ops",
];

/// Creates the maps and has the kernel check the programs. They are unloaded when the value is dropped.
///
/// # Errors
/// [`AttachError`], which states what is missing and what to do about it.
pub fn load(options: Options) -> Result<Loaded, AttachError> {
    let netns = own_netns();
    let mut programs = prepare(options, netns)?;
    let callbacks = load_callbacks(&mut programs, netns, options.origins)?;
    if matches!(options.callers, Some(ProcNumbers::Own(_))) && callbacks != CALLBACKS[0] {
        // The kernel names no processes of a PID namespace for these programs before it tells callbacks who calls.
        return load(Options {
            callers: None,
            ..options
        });
    }
    program::<CgroupSock>(&mut programs, RELEASE)
        .load()
        .map_err(|error| AttachError::of("load its sock_release program", error))?;
    for (name, _) in EXCHANGES.into_iter().filter(|_| options.exchanges) {
        program::<CgroupSkb>(&mut programs, name)
            .load()
            .map_err(|error| AttachError::of("load its cgroup_skb program", error))?;
    }
    let calls = options.calls().into_iter().try_for_each(|(name, _)| {
        program::<CgroupSockAddr>(&mut programs, name)
            .load()
            .map_err(|error| AttachError::of("load its connect programs", error))
    });
    let wants_binds = options.origins && callbacks != CALLBACKS[0];
    let binds = if wants_binds {
        load_binds(&mut programs).map(|()| true)
    } else {
        Ok(false)
    };
    let names = if options.names {
        load_names(&mut programs)
    } else {
        Ok(())
    };
    Ok(Loaded {
        programs,
        callbacks,
        calls,
        binds,
        names,
        options,
    })
}

/// Programs that are ready to be loaded: their maps are created.
pub(super) fn prepare(options: Options, netns: u64) -> Result<Ebpf, AttachError> {
    if OBJECT.is_empty() {
        return Err(AttachError::BuiltWithout);
    }
    let missing = missing_capabilities();
    if !missing.is_empty() {
        return Err(AttachError::Missing(missing));
    }
    raise_memlock();
    create_maps(options, netns)
}

/// Loads the programs for bound sockets.
fn load_binds(programs: &mut Ebpf) -> Result<(), AttachError> {
    BINDS.into_iter().try_for_each(|name| {
        program::<CgroupSock>(programs, name)
            .load()
            .map_err(|error| AttachError::of("load its post_bind programs", error))
    })
}

/// Loads the programs for names.
fn load_names(programs: &mut Ebpf) -> Result<(), AttachError> {
    for (name, _) in NAMES {
        program::<CgroupSkb>(programs, name)
            .load()
            .map_err(|error| AttachError::of("load its programs for names", error))?;
    }
    Ok(())
}

pub(super) fn log_unobserved_calls(error: &AttachError) {
    tracing::warn!(
        %error,
        "calls of connect() are not observed: server.address is the address that the socket connects to, and attempts that fail before a SYN are not counted"
    );
}

pub(super) fn log_unobserved_binds(error: &AttachError) {
    tracing::warn!(
        %error,
        "listeners are not observed: connections of servers have no process, and their container only once a poll has shown their listener"
    );
}

pub(super) fn log_unobserved_names(error: &AttachError) {
    tracing::warn!(
        %error,
        "DNS messages are not observed: server.address is an address, not a name"
    );
}

/// Loads the program of the callbacks that this kernel takes, and gives its name.
fn load_callbacks(
    programs: &mut Ebpf,
    netns: u64,
    origins: bool,
) -> Result<&'static str, AttachError> {
    let [newest, newer, older] = CALLBACKS;
    if netns != 0 && origins {
        match program::<SockOps>(programs, newest).load() {
            Ok(()) => return Ok(newest),
            Err(error) => {
                tracing::debug!(%error, "this kernel passes no task to callbacks");
            }
        }
    }
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
pub fn own_netns() -> u64 {
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
    let origins = u8::from(options.origins);
    let callers = u8::from(options.callers.is_some());
    let namespace = match options.callers {
        Some(ProcNumbers::Own(namespace)) => namespace,
        Some(ProcNumbers::Initial) | None => PidNamespace {
            device: 0,
            inode: 0,
        },
    };
    let wake_level = options.ring_bytes / 4;
    let mut loader = EbpfLoader::new();
    loader
        .map_max_entries("RECORDS", options.ring_bytes)
        .override_global("FLOWCAR_EXCHANGES", exchanges, true)
        .override_global("FLOWCAR_WAKE_LEVEL", &wake_level, true)
        .override_global("FLOWCAR_ORIGINS", &origins, true)
        .override_global("FLOWCAR_CALLERS", &callers, true)
        .override_global("FLOWCAR_PIDNS_DEVICE", &namespace.device, true)
        .override_global("FLOWCAR_PIDNS_INODE", &namespace.inode, true)
        .override_global("FLOWCAR_NETNS", &netns, true);
    if !options.exchanges {
        loader.map_max_entries("TURNS", 1);
    }
    if options.callers.is_none() {
        loader.map_max_entries("CALLERS", 1);
    }
    loader
        .load(OBJECT)
        .map_err(|error| AttachError::of("create its maps", error))
}

/// The packet programs come first, so that no connection is followed whose first request they did not see.
pub(super) fn attach_programs(
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
    for (name, way) in EXCHANGES.into_iter().filter(|_| options.exchanges) {
        let program = program::<CgroupSkb>(programs, name);
        let link = program.attach(&cgroup, way, MODE);
        let link = link.and_then(|link| program.take_link(link));
        packets.push(link.map_err(refused("attach its cgroup_skb program"))?);
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

/// Attaches the programs for bound sockets.
pub(super) fn attach_binds(
    programs: &mut Ebpf,
    cgroup: &File,
) -> Result<Vec<CgroupSockLink>, AttachError> {
    let attach = |name| {
        let program = program::<CgroupSock>(programs, name);
        let link = program.attach(cgroup, CgroupAttachMode::Single);
        let link = link.and_then(|link| program.take_link(link));
        link.map_err(|error| AttachError::of_attachment("attach its post_bind programs", error))
    };
    BINDS.into_iter().map(attach).collect()
}

/// Attaches the programs for names.
pub(super) fn attach_names(
    programs: &mut Ebpf,
    cgroup: &File,
) -> Result<Vec<CgroupSkbLink>, AttachError> {
    let attach = |(name, way)| {
        let program = program::<CgroupSkb>(programs, name);
        let link = program.attach(cgroup, way, CgroupAttachMode::Single);
        let link = link.and_then(|link| program.take_link(link));
        link.map_err(|error| AttachError::of_attachment("attach its programs for names", error))
    };
    NAMES.into_iter().map(attach).collect()
}

/// Attaches the programs for `connect()`. After the others: a call whose SYN they did not see would count as failed.
pub(super) fn attach_calls(
    programs: &mut Ebpf,
    cgroup: &File,
    options: Options,
) -> Result<Vec<CgroupSockAddrLink>, AttachError> {
    let attach = |(name, _)| {
        let program = program::<CgroupSockAddr>(programs, name);
        let link = program.attach(cgroup, CgroupAttachMode::Single);
        let link = link.and_then(|link| program.take_link(link));
        link.map_err(|error| AttachError::of_attachment("attach its connect programs", error))
    };
    options.calls().into_iter().map(attach).collect()
}

/// How many programs at `connect()` run before flowcar's in this cgroup, to which those are attached; `None` where the kernel does not
/// show it.
fn earlier_calls(programs: &mut Ebpf, cgroup: &File, options: Options) -> Option<usize> {
    let before = |(name, hook)| {
        let info = program::<CgroupSockAddr>(programs, name).info().ok()?;
        order::before(cgroup, hook, info.id()).ok()
    };
    let each: Option<Vec<_>> = options.calls().into_iter().map(before).collect();
    each?.into_iter().max()
}

pub(super) fn log_earlier_calls(programs: &mut Ebpf, cgroup: &File, options: Options) {
    let earlier = earlier_calls(programs, cgroup, options).unwrap_or_default();
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

fn open(cgroup: &Path) -> Result<File, AttachError> {
    File::open(cgroup).map_err(AttachError::of_cgroup(cgroup))
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

/// The capabilities that loading and attaching need and that the process does not hold.
pub fn missing_capabilities() -> Vec<Capability> {
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
        let directory = open(cgroup)?;
        let _links = attach_calls(&mut self.programs, &directory, self.options)?;
        Ok(earlier_calls(&mut self.programs, &directory, self.options))
    }

    /// Whether the kernel takes the programs for `connect()`.
    pub const fn calls(&self) -> Result<(), &AttachError> {
        match &self.calls {
            Ok(()) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether the kernel takes the programs for names, where they are wanted. With a cgroup they are attached to it for a moment.
    ///
    /// # Errors
    /// The kernel refused them, or they cannot be attached.
    pub fn try_names(&mut self, cgroup: Option<&Path>) -> Result<(), AttachError> {
        std::mem::replace(&mut self.names, Ok(()))?;
        let (true, Some(path)) = (self.options.names, cgroup) else {
            return Ok(());
        };
        let directory = open(path)?;
        attach_names(&mut self.programs, &directory).map(drop)
    }
}
