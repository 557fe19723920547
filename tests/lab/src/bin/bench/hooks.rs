//! What the kernel itself counts of BPF programs: calls, and nanoseconds in them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::bpf::{self, ProgramInfo};

/// Where a program of flowcar's is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Hook {
    /// What happens to a connection.
    SockOps,
    /// A socket is closed.
    SockRelease,
    /// `connect()` to an IPv4 address.
    Connect4,
    /// `connect()` to an IPv6 address.
    Connect6,
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

// === impl Hook ===

impl Hook {
    /// All of them.
    pub(crate) const ALL: [Self; 6] = [
        Self::SockOps,
        Self::SockRelease,
        Self::Connect4,
        Self::Connect6,
        Self::Egress,
        Self::Ingress,
    ];

    /// In the field's words.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::SockOps => "sock_ops",
            Self::SockRelease => "sock_release",
            Self::Connect4 => "connect4",
            Self::Connect6 => "connect6",
            Self::Egress => "cgroup_skb egress",
            Self::Ingress => "cgroup_skb ingress",
        }
    }

    /// `enum bpf_prog_type`.
    const fn program_type(self) -> u32 {
        match self {
            Self::SockOps => 13,
            Self::SockRelease => 9,
            Self::Connect4 | Self::Connect6 => 18,
            Self::Egress | Self::Ingress => 8,
        }
    }

    /// `enum bpf_attach_type`.
    const fn attach_type(self) -> u32 {
        match self {
            Self::SockOps => 3,
            Self::SockRelease => 34,
            Self::Connect4 => 10,
            Self::Connect6 => 11,
            Self::Egress => 1,
            Self::Ingress => 0,
        }
    }
}

// === impl Counting ===

impl Counting {
    /// Starts counting.
    pub(crate) fn start() -> io::Result<Self> {
        bpf::enable_stats().map(Self)
    }
}

// === impl EmptyProgram ===

impl EmptyProgram {
    /// Loads it and attaches it to a cgroup, behind what is attached already.
    pub(crate) fn attach(cgroup: &Path, hook: Hook) -> io::Result<Self> {
        let program = bpf::load_empty(hook.program_type(), hook.attach_type())?;
        let cgroup = File::open(cgroup)?;
        let link = bpf::link(program.as_fd(), cgroup.as_fd(), hook.attach_type())?;
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
    let mut hooks = Counts::new();
    for (hook, program) in attached(process)? {
        let sum = hooks.entry(hook).or_default();
        sum.calls += program.run_count;
        sum.ns += program.run_time_ns;
    }
    Ok(hooks)
}

/// The programs that a process holds attached to a cgroup, in the order in which they were loaded.
pub(crate) fn attached(process: u32) -> io::Result<Vec<(Hook, ProgramInfo)>> {
    let mut attached = BTreeMap::new();
    for fields in descriptors(process)? {
        if let (Some(id), Some(attach)) = (field(&fields, "prog_id"), field(&fields, "attach_type"))
        {
            attached.insert(id, hook(attach)?);
        }
    }
    if attached.is_empty() {
        return Err(io::Error::other("flowcar has no program attached"));
    }
    let info = |(id, hook): (u64, _)| Ok((hook, program_info(id)?));
    attached.into_iter().map(info).collect()
}

/// The sum of all programs that a process holds, attached or not, wherever they are called.
pub(crate) fn count_of_all(process: u32) -> io::Result<Count> {
    let mut sum = Count::default();
    for id in program_ids(process)? {
        let program = program_info(id)?;
        sum.calls += program.run_count;
        sum.ns += program.run_time_ns;
    }
    Ok(sum)
}

/// The ids of all programs that a process holds, by itself or by a link.
pub(crate) fn program_ids(process: u32) -> io::Result<BTreeSet<u64>> {
    let ids = descriptors(process)?.into_iter();
    // A link that is not attached yet has the id 0.
    Ok(ids
        .filter_map(|fields| field(&fields, "prog_id"))
        .filter(|id| *id > 0)
        .collect())
}

fn program_info(id: u64) -> io::Result<ProgramInfo> {
    bpf::program_info(u32::try_from(id).map_err(io::Error::other)?)
}

/// What the kernel shows of each descriptor of a process.
fn descriptors(process: u32) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(format!("/proc/{process}/fdinfo"))?;
    // Other descriptors come and go while this reads; those of programs stay.
    entries
        .map(|entry| Ok(fs::read_to_string(entry?.path()).unwrap_or_default()))
        .collect()
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
