//! The programs' links to the cgroups that were followed under one path: one that is removed and recreated is another
//! cgroup.
//!
//! The kernel runs programs of a removed cgroup for the sockets that were made in it until the last is closed, and then
//! detaches them (kernel/bpf/cgroup.c, cgroup_bpf_release). So its links are held until then.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    os::fd::RawFd,
};

use aya::programs::{
    cgroup_skb::CgroupSkbLink, cgroup_sock::CgroupSockLink, cgroup_sock_addr::CgroupSockAddrLink,
    sock_ops::SockOpsLink,
};
use nix::{
    fcntl::AtFlags,
    unistd::{AccessFlags, faccessat},
};

use crate::files::read_short;

/// Removed cgroups that stay attached, at most. Dumps find the closes in an older one.
const MOST: usize = 64;

/// The links to one cgroup. Dropping them detaches the programs.
#[derive(Debug)]
pub(super) struct Links {
    /// The cgroup's id.
    cgroup: u64,
    directory: File,
    /// Descriptors of the links, and the program of each; fewer where the kernel does not show them.
    descriptors: Vec<(RawFd, u32)>,
    packets: Vec<CgroupSkbLink>,
    _release: CgroupSockLink,
    _callbacks: SockOpsLink,
    calls: Vec<CgroupSockAddrLink>,
    binds: Vec<CgroupSockLink>,
}

/// Whether programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// All are, or the cgroup was removed.
    Attached,
    /// Another process detached one, or put another program in its place (BPF_LINK_UPDATE).
    Detached,
    /// The kernel does not show it.
    Unknown,
}

// === impl Links ===

impl Links {
    /// Links of programs that were just attached to the cgroup with this id and directory.
    pub(super) fn new(
        cgroup: u64,
        directory: File,
        packets: Vec<CgroupSkbLink>,
        release: CgroupSockLink,
        callbacks: SockOpsLink,
    ) -> Self {
        Self {
            cgroup,
            directory,
            descriptors: descriptors_of(cgroup),
            packets,
            _release: release,
            _callbacks: callbacks,
            calls: Vec::new(),
            binds: Vec::new(),
        }
    }

    /// The cgroup's directory.
    pub(super) const fn directory(&self) -> &File {
        &self.directory
    }

    /// Adds the links of the programs for `connect()` that were just attached.
    pub(super) fn add_calls(&mut self, calls: Vec<CgroupSockAddrLink>) {
        self.calls = calls;
        self.descriptors = descriptors_of(self.cgroup);
    }

    /// Adds the links of the programs for bound sockets that were just attached.
    pub(super) fn add_binds(&mut self, binds: Vec<CgroupSockLink>) {
        self.binds = binds;
        self.descriptors = descriptors_of(self.cgroup);
    }

    /// Adds the links of the programs for names that were just attached.
    pub(super) fn add_names(&mut self, names: Vec<CgroupSkbLink>) {
        self.packets.extend(names);
        self.descriptors = descriptors_of(self.cgroup);
    }

    fn attachment(&self) -> Attachment {
        const RELEASE_AND_CALLBACKS: usize = 2;
        // Links that were detached before are no longer this cgroup's.
        let others = self.packets.len() + self.calls.len() + self.binds.len();
        if self.descriptors.len() != others + RELEASE_AND_CALLBACKS {
            return Attachment::Unknown;
        }
        let is_ours = |(descriptor, program): &(RawFd, u32)| {
            let text = read_short::<1_024>(format!("/proc/self/fdinfo/{descriptor}")).ok()?;
            let link = Link::of(&text)?;
            Some(link.cgroup == self.cgroup && link.program == *program)
        };
        let each: Option<Vec<bool>> = self.descriptors.iter().map(is_ours).collect();
        match each {
            None => Attachment::Unknown,
            Some(all) if all.iter().all(|is_ours| *is_ours) => Attachment::Attached,
            Some(_) if self.is_removed() => Attachment::Attached,
            Some(_) => Attachment::Detached,
        }
    }

    /// Nothing is found in the directory of a cgroup that was removed.
    fn is_removed(&self) -> bool {
        let (flags, any) = (AccessFlags::F_OK, AtFlags::empty());
        faccessat(&self.directory, "cgroup.procs", flags, any).is_err()
    }
}

/// The links to all cgroups that may still have sockets, the newest last.
#[derive(Debug, Default)]
pub(super) struct Generations(Vec<Links>);

impl Generations {
    /// Adds the newest, and drops those whose last socket is closed.
    pub(super) fn add(&mut self, newest: Links) {
        // Where that cannot be read, the oldest make room.
        if let Ok(attached) = attached() {
            self.0.retain(|links| attached.contains(&links.cgroup));
        }
        if self.0.len() >= MOST {
            self.0.remove(0);
        }
        self.0.push(newest);
    }

    /// Whether the newest are attached.
    pub(super) fn attachment(&self) -> Attachment {
        let newest = self.0.last();
        newest.map_or(Attachment::Unknown, Links::attachment)
    }

    /// Drops the newest, of which another process detached some: the others would count twice beside new ones. Gives the
    /// cgroup's id and directory.
    pub(super) fn detached(&mut self) -> Option<(u64, File)> {
        let Links {
            cgroup, directory, ..
        } = self.0.pop()?;
        Some((cgroup, directory))
    }

    /// The id of the newest cgroup.
    pub(super) fn newest(&self) -> Option<u64> {
        self.0.last().map(|links| links.cgroup)
    }
}

/// What a link attaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Link {
    program: u32,
    /// The id of the cgroup.
    cgroup: u64,
}

/// Descriptors of the links of this process to a cgroup, and their programs.
fn descriptors_of(cgroup: u64) -> Vec<(RawFd, u32)> {
    let links = links().unwrap_or_default();
    let to_cgroup = links.into_iter().filter(|(_, of)| of.cgroup == cgroup);
    to_cgroup
        .map(|(descriptor, of)| (descriptor, of.program))
        .collect()
}

/// Ids of the cgroups that links of this process are attached to.
fn attached() -> io::Result<HashSet<u64>> {
    Ok(links()?.into_iter().map(|(_, of)| of.cgroup).collect())
}

/// Descriptors of this process's links, and what each attaches (proc_pid_fdinfo(5); kernel/bpf/cgroup.c, bpf_cgroup_link_show_fdinfo: the
/// cgroup is 0 once a link was detached).
fn links() -> io::Result<Vec<(RawFd, Link)>> {
    let mut links = Vec::new();
    for entry in fs::read_dir("/proc/self/fdinfo")? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        // A descriptor may be closed meanwhile.
        let text = fs::read_to_string(&path).unwrap_or_default();
        let descriptor = name.and_then(|name| name.parse().ok());
        links.extend(descriptor.zip(Link::of(&text)));
    }
    Ok(links)
}

// === impl Link ===

impl Link {
    /// From a file in /proc/PID/fdinfo.
    fn of(fdinfo: &str) -> Option<Self> {
        let value = |name| fdinfo.lines().find_map(|line| line.strip_prefix(name));
        Some(Self {
            program: value("prog_id:")?.trim().parse().ok()?,
            cgroup: value("cgroup_id:")?.trim().parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_links_program_and_cgroup_are_in_its_fdinfo() {
        let link = "pos:\t0\nflags:\t02000000\nlink_type:\tcgroup\nlink_id:\t7\nprog_tag:\t0a\nprog_id:\t9\ncgroup_id:\t4711\nattach_type:\t3\n";
        let of = Link::of(link).map(|link| (link.program, link.cgroup));
        assert_eq!(of, Some((9, 4711)));
        assert_eq!(Link::of("pos:\t0\nflags:\t02\n"), None);
        assert!(attached().is_ok());
    }
}
