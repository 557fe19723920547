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

/// Removed cgroups that stay attached, at most. Dumps find the closes in an older one.
const MOST: usize = 64;

/// The links to one cgroup. Dropping them detaches the programs.
#[derive(Debug)]
pub(super) struct Links {
    /// The cgroup's id.
    cgroup: u64,
    directory: File,
    /// Descriptors of the links; fewer where the kernel does not show them.
    descriptors: Vec<RawFd>,
    packets: Vec<CgroupSkbLink>,
    _release: CgroupSockLink,
    _callbacks: SockOpsLink,
    calls: Vec<CgroupSockAddrLink>,
}

/// Whether programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// All are, or the cgroup was removed.
    Attached,
    /// Another process detached one.
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

    /// Adds the links of the programs for names that were just attached.
    pub(super) fn add_names(&mut self, names: Vec<CgroupSkbLink>) {
        self.packets.extend(names);
        self.descriptors = descriptors_of(self.cgroup);
    }

    fn attachment(&self) -> Attachment {
        const RELEASE_AND_CALLBACKS: usize = 2;
        // Links that were detached before are no longer this cgroup's.
        if self.descriptors.len() != self.packets.len() + self.calls.len() + RELEASE_AND_CALLBACKS {
            return Attachment::Unknown;
        }
        let of = |descriptor: &RawFd| {
            let text = fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}"));
            text.ok().and_then(|text| cgroup_of(&text))
        };
        let cgroups: Option<Vec<u64>> = self.descriptors.iter().map(of).collect();
        match cgroups {
            None => Attachment::Unknown,
            Some(all) if all.iter().all(|id| *id == self.cgroup) => Attachment::Attached,
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

/// Descriptors of the links of this process to a cgroup.
fn descriptors_of(cgroup: u64) -> Vec<RawFd> {
    let links = links().unwrap_or_default();
    let to_cgroup = links.into_iter().filter(|(_, of)| *of == cgroup);
    to_cgroup.map(|(descriptor, _)| descriptor).collect()
}

/// Ids of the cgroups that links of this process are attached to.
fn attached() -> io::Result<HashSet<u64>> {
    Ok(links()?.into_iter().map(|(_, cgroup)| cgroup).collect())
}

/// Descriptors of this process's links, and the id of the cgroup that each is attached to (proc_pid_fdinfo(5); kernel/bpf/cgroup.c,
/// bpf_cgroup_link_show_fdinfo: 0 once a link was detached).
fn links() -> io::Result<Vec<(RawFd, u64)>> {
    let mut links = Vec::new();
    for entry in fs::read_dir("/proc/self/fdinfo")? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        // A descriptor may be closed meanwhile.
        let text = fs::read_to_string(&path).unwrap_or_default();
        let descriptor = name.and_then(|name| name.parse().ok());
        links.extend(descriptor.zip(cgroup_of(&text)));
    }
    Ok(links)
}

fn cgroup_of(fdinfo: &str) -> Option<u64> {
    let mut lines = fdinfo.lines();
    let value = lines.find_map(|line| line.strip_prefix("cgroup_id:"))?;
    value.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_links_cgroup_is_in_its_fdinfo() {
        let link = "pos:\t0\nflags:\t02000000\nlink_type:\tcgroup\nlink_id:\t7\nprog_tag:\t0a\nprog_id:\t9\ncgroup_id:\t4711\nattach_type:\t3\n";
        assert_eq!(cgroup_of(link), Some(4711));
        assert_eq!(cgroup_of("pos:\t0\nflags:\t02\n"), None);
        assert!(attached().is_ok());
    }
}
