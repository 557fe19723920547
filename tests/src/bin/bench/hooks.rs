//! What the kernel itself counts of BPF programs: calls, and nanoseconds in them.
//!
//! Raw bpf(2), because no library makes a program without an object file. Structures and numbers are those of
//! include/uapi/linux/bpf.h.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::Path,
};

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_ENABLE_STATS: libc::c_long = 32;

/// Where a program of flowcar's is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Hook {
    /// What happens to a connection.
    SockOps,
    /// A socket is closed.
    SockRelease,
    /// A packet goes out.
    Egress,
    /// A packet comes in.
    Ingress,
}

/// The kernel counts for as long as this is held (BPF_ENABLE_STATS, Linux 5.8); then it does as before, which is
/// why `kernel.bpf_stats_enabled` is not touched.
#[derive(Debug)]
pub(crate) struct Counting(#[expect(dead_code, reason = "held for its close")] OwnedFd);

/// A program that only returns, called wherever and whenever flowcar's is that it stands beside: what the kernel counts of it is
/// what a call and its two clock reads cost.
#[derive(Debug)]
pub(crate) struct EmptyProgram {
    hook: Hook,
    program: OwnedFd,
    _link: OwnedFd,
}

/// Calls of a program, and the nanoseconds in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    /// How often it ran.
    pub(crate) calls: u64,
    /// For how long in all.
    pub(crate) ns: u64,
}

/// Counts, by where the programs are called.
pub(crate) type Counts = BTreeMap<Hook, Count>;

#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    instructions: u32,
    instructions_at: u64,
    license_at: u64,
    log_level: u32,
    log_size: u32,
    log_at: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    expected_attach: u32,
}

#[repr(C)]
struct Link {
    program: u32,
    target: u32,
    attach: u32,
    flags: u32,
}

// === impl Hook ===

impl Hook {
    /// All of them.
    const ALL: [Self; 4] = [
        Self::SockOps,
        Self::SockRelease,
        Self::Egress,
        Self::Ingress,
    ];

    /// In the field's words.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::SockOps => "sock_ops",
            Self::SockRelease => "sock_release",
            Self::Egress => "cgroup_skb egress",
            Self::Ingress => "cgroup_skb ingress",
        }
    }

    /// `enum bpf_prog_type`.
    const fn program_type(self) -> u32 {
        match self {
            Self::SockOps => 13,
            Self::SockRelease => 9,
            Self::Egress | Self::Ingress => 8,
        }
    }

    /// `enum bpf_attach_type`.
    const fn attach_type(self) -> u32 {
        match self {
            Self::SockOps => 3,
            Self::SockRelease => 34,
            Self::Egress => 1,
            Self::Ingress => 0,
        }
    }
}

// === impl Counting ===

impl Counting {
    /// Starts counting.
    pub(crate) fn start() -> io::Result<Self> {
        const BPF_STATS_RUN_TIME: u32 = 0;
        bpf(BPF_ENABLE_STATS, &BPF_STATS_RUN_TIME).map(Self)
    }
}

// === impl EmptyProgram ===

impl EmptyProgram {
    /// Loads it and attaches it to a cgroup, behind what is attached already.
    pub(crate) fn attach(cgroup: &Path, hook: Hook) -> io::Result<Self> {
        // r0 = 1; exit. struct bpf_insn: code, registers, offset, and in the upper half the constant.
        const INSTRUCTIONS: [u64; 2] = [0x1_0000_00b7, 0x95];
        let program = bpf(
            BPF_PROG_LOAD,
            &Load {
                kind: hook.program_type(),
                instructions: INSTRUCTIONS.len() as u32,
                instructions_at: INSTRUCTIONS.as_ptr() as u64,
                license_at: c"Apache-2.0".as_ptr() as u64,
                name: *b"bench_empty\0\0\0\0\0",
                expected_attach: hook.attach_type(),
                ..Load::default()
            },
        )?;
        let cgroup = File::open(cgroup)?;
        let link = bpf(
            BPF_LINK_CREATE,
            &Link {
                program: program.as_raw_fd().cast_unsigned(),
                target: cgroup.as_raw_fd().cast_unsigned(),
                attach: hook.attach_type(),
                flags: 0,
            },
        )?;
        Ok(Self {
            hook,
            program,
            _link: link,
        })
    }

    /// What the kernel counted so far of each of these.
    pub(crate) fn counts(programs: &[Self]) -> io::Result<Counts> {
        let counts = programs.iter();
        counts
            .map(|program| Ok((program.hook, program.count()?)))
            .collect()
    }

    fn count(&self) -> io::Result<Count> {
        let path = format!("/proc/self/fdinfo/{}", self.program.as_raw_fd());
        let fields = fs::read_to_string(path)?;
        Count::read(&fields).ok_or_else(|| io::Error::other("this kernel does not count programs"))
    }
}

// === impl Count ===

impl Count {
    fn read(fdinfo: &str) -> Option<Self> {
        Some(Self {
            calls: field(fdinfo, "run_cnt")?,
            ns: field(fdinfo, "run_time_ns")?,
        })
    }

    /// What came since.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            calls: self.calls - earlier.calls,
            ns: self.ns - earlier.ns,
        }
    }

    /// Nanoseconds of a call.
    pub(crate) fn ns_per_call(self) -> f64 {
        self.ns as f64 / self.calls as f64
    }
}

/// The counts of all programs that a process holds attached, by hook.
pub(crate) fn counts(process: u32) -> io::Result<Counts> {
    let mut programs = BTreeMap::new();
    let mut attached = Vec::new();
    for entry in fs::read_dir(format!("/proc/{process}/fdinfo"))? {
        // Other descriptors come and go while this reads; those of programs stay.
        let fields = fs::read_to_string(entry?.path()).unwrap_or_default();
        let Some(id) = field(&fields, "prog_id") else {
            continue;
        };
        match (field(&fields, "attach_type"), Count::read(&fields)) {
            (Some(attach), _) => attached.push((id, hook(attach)?)),
            (None, Some(count)) => drop(programs.insert(id, count)),
            (None, None) => {}
        }
    }
    if attached.is_empty() {
        return Err(io::Error::other("flowcar has no program attached"));
    }
    let mut hooks = Counts::new();
    for (id, hook) in attached {
        let count = programs.get(&id).copied().unwrap_or_default();
        let sum = hooks.entry(hook).or_default();
        sum.calls += count.calls;
        sum.ns += count.ns;
    }
    Ok(hooks)
}

fn hook(attach_type: u64) -> io::Result<Hook> {
    Hook::ALL
        .into_iter()
        .find(|hook| u64::from(hook.attach_type()) == attach_type)
        .ok_or_else(|| {
            io::Error::other(format!(
                "flowcar has a program attached as type {attach_type}, which nothing is measured against"
            ))
        })
}

fn field(fdinfo: &str, name: &str) -> Option<u64> {
    fdinfo.lines().find_map(|line| {
        line.strip_prefix(name)?
            .strip_prefix(':')?
            .trim()
            .parse()
            .ok()
    })
}

fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads as many bytes as the call gives, and what they point to lives through the call.
    let descriptor = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    match i32::try_from(descriptor) {
        // SAFETY: the kernel has just given this descriptor to nobody else.
        Ok(descriptor) if descriptor >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_those_of_the_kernels_text() {
        let fdinfo = "pos:\t0\nprog_type:\t13\nprog_id:\t77\nrun_time_ns:\t1200\nrun_cnt:\t10\n";
        assert_eq!(field(fdinfo, "prog_id"), Some(77));
        assert_eq!(
            Count::read(fdinfo),
            Some(Count {
                calls: 10,
                ns: 1200
            })
        );
        assert_eq!(Count::read("pos:\t0\n"), None);
    }
}
