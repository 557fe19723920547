//! The programs' links to the cgroups that were followed under one path: one that is removed and made anew is another
//! cgroup.
//!
//! The kernel runs programs of a removed cgroup for the sockets that were made in it until the last is gone, and then
//! takes them off by itself (kernel/bpf/cgroup.c, cgroup_bpf_release). So its links are held until then.

use std::{collections::HashSet, fs, io};

use aya::programs::{
    cgroup_skb::CgroupSkbLink, cgroup_sock::CgroupSockLink, sock_ops::SockOpsLink,
};

/// Removed cgroups that are still listened to, at most. What ends in one that is given up is found missing by dumps.
const MOST: usize = 64;

/// The links to one cgroup. Dropping them detaches the programs.
#[derive(Debug)]
pub(super) struct Links {
    /// The cgroup's id.
    pub(super) cgroup: u64,
    pub(super) _packets: Vec<CgroupSkbLink>,
    pub(super) _release: CgroupSockLink,
    pub(super) _callbacks: SockOpsLink,
}

/// The links to all cgroups that still matter, the newest last.
#[derive(Debug, Default)]
pub(super) struct Generations(Vec<Links>);

impl Generations {
    /// Adds the newest, and lets go of those whose last socket is gone.
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

    /// The id of the newest cgroup.
    pub(super) fn newest(&self) -> Option<u64> {
        self.0.last().map(|links| links.cgroup)
    }
}

/// Ids of the cgroups that links of this process are attached to (proc_pid_fdinfo(5); kernel/bpf/cgroup.c,
/// bpf_cgroup_link_show_fdinfo: 0 once a link was taken off).
fn attached() -> io::Result<HashSet<u64>> {
    let mut ids = HashSet::new();
    for entry in fs::read_dir("/proc/self/fdinfo")? {
        // A descriptor may be closed meanwhile.
        let text = fs::read_to_string(entry?.path()).unwrap_or_default();
        ids.extend(cgroup_of(&text));
    }
    Ok(ids)
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
