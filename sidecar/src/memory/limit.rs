//! The memory limit of this process: the lowest of its own cgroup and the visible cgroups above it.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A controller's hierarchy: where it is mounted, where this process is in it, and which files name limits.
#[derive(Debug, PartialEq, Eq)]
struct Hierarchy {
    mount: PathBuf,
    own: PathBuf,
    files: &'static [&'static str],
}

/// Files of cgroup v2 (Documentation/admin-guide/cgroup-v2.rst): above `memory.high` a process is throttled until it is useless,
/// above `memory.max` it is killed.
const VERSION_2: &[&str] = &["memory.max", "memory.high"];

/// The file of cgroup v1 (Documentation/admin-guide/cgroup-v1/memory.rst).
const VERSION_1: &[&str] = &["memory.limit_in_bytes"];

/// In version 1 the largest number of whole pages means no limit.
const NO_LIMIT: u64 = 1 << 62;

/// The lowest of all limits, bytes; `None` if there is none.
pub(super) fn limit() -> Option<u64> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let cgroup = fs::read_to_string("/proc/self/cgroup").ok()?;
    hierarchies(&mountinfo, &cgroup)
        .iter()
        .filter_map(least)
        .min()
}

/// From files as /proc/self/mountinfo (proc_pid_mountinfo(5)) and /proc/self/cgroup (cgroups(7)).
fn hierarchies(mountinfo: &str, cgroup: &str) -> Vec<Hierarchy> {
    let own = |of: &dyn Fn(&str) -> bool| {
        cgroup.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            of(controllers).then(|| PathBuf::from(path))
        })
    };
    let mounts = mountinfo.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(3);
        let (root, mount) = (fields.next()?, PathBuf::from(fields.next()?));
        let mut fields = after.split(' ');
        let (kind, options) = (fields.next()?, fields.nth(1)?);
        // A container may have the node's tree as well.
        if root.contains("..") {
            return None;
        }
        match kind {
            "cgroup2" => Some(Hierarchy {
                mount,
                own: own(&str::is_empty)?,
                files: VERSION_2,
            }),
            "cgroup" if names_memory(options) => Some(Hierarchy {
                mount,
                own: own(&names_memory)?,
                files: VERSION_1,
            }),
            _ => None,
        }
    });
    mounts.collect()
}

fn names_memory(list: &str) -> bool {
    list.split(',').any(|word| word == "memory")
}

fn least(of: &Hierarchy) -> Option<u64> {
    let Hierarchy { mount, own, files } = of;
    let below = own.strip_prefix("/").unwrap_or(own);
    // Without a cgroup namespace a container's path is not in its mount: the mount shows the container's own cgroup.
    let lowest = mount.join(below);
    let lowest = if lowest.is_dir() {
        lowest
    } else {
        mount.clone()
    };
    lowest
        .ancestors()
        .take_while(|directory| directory.starts_with(mount))
        .flat_map(|directory| files.iter().map(move |file| directory.join(file)))
        .filter_map(|file| read(&file))
        .min()
}

fn read(file: &Path) -> Option<u64> {
    let bytes = fs::read_to_string(file).ok()?.trim().parse().ok()?;
    (bytes < NO_LIMIT).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lowest_ancestor_limit_applies_in_both_cgroup_versions() {
        let directory = tempfile::tempdir().expect("a directory");
        let mount = directory.path();
        let own = mount.join("pods/flowcar");
        fs::create_dir_all(&own).expect("directories");
        let write = |path: &Path, text: &str| fs::write(path, text).expect("a file");
        write(&own.join("memory.max"), "max\n");
        write(&own.join("memory.high"), "200000000\n");
        write(&mount.join("pods/memory.max"), "100000000\n");
        write(&own.join("memory.limit_in_bytes"), "9223372036854771712\n");
        let text = mount.display();
        let cgroup = "4:memory:/pods/flowcar\n1:cpu:/\n0::/pods/flowcar\n";
        for (kind, expected) in [
            ("cgroup2 cgroup2 rw", Some(100_000_000)),
            ("cgroup cgroup rw,memory", None),
        ] {
            let mountinfo = format!("24 30 0:22 / {text} rw,nosuid shared:4 - {kind}\n");
            let found = hierarchies(&mountinfo, cgroup);
            assert_eq!(found.len(), 1, "{kind}");
            assert_eq!(least(&found[0]), expected, "{kind}");
        }
        // As a container without a cgroup namespace sees it.
        let container = Hierarchy {
            mount: own,
            own: "/kubepods/pod1/abc".into(),
            files: VERSION_2,
        };
        assert_eq!(least(&container), Some(200_000_000));
    }

    #[test]
    fn node_tree_and_other_controllers_are_ignored() {
        let mountinfo = "70 60 0:26 /../../.. /run/host-cgroup ro - cgroup2 cgroup rw\n\
                         71 60 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                         72 60 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let found = hierarchies(mountinfo, "2:cpu:/\n0::/\n");
        let mounts: Vec<_> = found
            .iter()
            .map(|of| of.mount.display().to_string())
            .collect();
        assert_eq!(mounts, ["/sys/fs/cgroup/unified"]);
    }
}
