//! Which cgroup is followed.

mod pod;
mod watch;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::sys::{
    statfs::{CGROUP2_SUPER_MAGIC, statfs},
    statvfs::{FsFlags, statvfs},
};
pub use pod::{PodCgroup, discover};
pub use watch::{Change, Watch};

use crate::files::{NO_DESCRIPTOR, lacks_descriptor};

/// The mounts that this process sees (proc_pid_mountinfo(5)).
const MOUNTS: &str = "/proc/self/mountinfo";

/// Why there is no cgroup to follow.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The path cannot be read.
    #[error("cannot read the cgroup {path}: {error}; give the directory of a cgroup2 cgroup")]
    Unreadable {
        /// The path as given.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// The path is on another file system.
    #[error(
        "{path} is no directory on a cgroup2 file system; give the directory of a cgroup2 cgroup, one below {mount}"
    )]
    NotCgroup2 {
        /// The path as given.
        path: String,
        /// Where cgroup2 is mounted, if it is.
        mount: String,
    },
    /// The host's tree is absent.
    #[error(
        "no pod's cgroup can be found: the host's cgroup tree is not at {path}. In a pod, mount the node's /sys/fs/cgroup there, read-only (the injector does), or name the mount in FLOWCAR_HOST_CGROUP; elsewhere give --cgroup PATH"
    )]
    NoHostTree {
        /// The path that was searched.
        path: String,
    },
    /// This process's cgroup is not in the host's tree.
    #[error(
        "the cgroup of this process (id {id}) is not in the tree at {tree}: that must be the whole cgroup tree of this very node, not a container's view of it"
    )]
    NotInTree {
        /// The cgroup's id: its directory's inode number.
        id: u64,
        /// The tree that was searched.
        tree: String,
    },
    /// No cgroup above this process's is a pod's.
    #[error(
        "this process is in the cgroup {own}, and no cgroup above it is named like a pod's (pod<uid>, or ...-pod<uid>.slice), so nothing is followed; outside a pod give --cgroup PATH"
    )]
    NotInAPod {
        /// This process's cgroup in the host's tree.
        own: String,
    },
    /// In a pod, a cgroup that is not the pod's.
    #[error(
        "--cgroup {path} is refused: flowcar is in a pod (FLOWCAR_POD_UID, _NAME or _NAMESPACE is set), where it follows the pod's own cgroup {pod} or one below it. Leave --cgroup out to follow the pod"
    )]
    OutsidePod {
        /// The path as given.
        path: String,
        /// The pod's cgroup.
        pod: String,
    },
    /// In a pod, and the pod's cgroup is unknown.
    #[error(
        "--cgroup {path} is refused: flowcar is in a pod (FLOWCAR_POD_UID, _NAME or _NAMESPACE is set), where it follows the pod's own cgroup only, and {why}. Leave --cgroup out, or outside of pods run flowcar without these variables"
    )]
    PodUnknown {
        /// The path as given.
        path: String,
        /// Why the pod's cgroup is not known.
        why: Box<CgroupError>,
    },
    /// An attacker in flowcar could freeze and kill other pods.
    #[error(
        "{mount}, a part of the node's cgroup tree, is mounted writable, so an attacker in flowcar could freeze or kill other pods: mount the tree with readOnly and recursiveReadOnly (readOnly alone does not reach mounts below)"
    )]
    WritableTree {
        /// Where.
        mount: String,
    },
    /// No file descriptor is left.
    #[error("cannot find the cgroup: {NO_DESCRIPTOR}")]
    Descriptors,
    /// No cgroup2 is mounted here.
    #[error("no cgroup2 file system is mounted; mount one: mount -t cgroup2 none /sys/fs/cgroup")]
    NotMounted,
    /// A file of the process's own cannot be read.
    #[error("cannot read {path}: {error}")]
    Proc {
        /// The file.
        path: &'static str,
        /// Why.
        error: io::Error,
    },
    /// The cgroup for a command cannot be made.
    #[error(
        "cannot make the cgroup {path}: {error}; run flowcar as root, or in a cgroup that is delegated to you (systemd-run --user --scope -p Delegate=yes)"
    )]
    Make {
        /// The directory.
        path: String,
        /// Why.
        error: io::Error,
    },
}

/// The full path of the cgroup that was named: any cgroup2 directory, but in a pod (`in_pod`) only the pod's own or one below it, by
/// the host's tree at `host`.
///
/// # Errors
/// [`CgroupError`].
pub fn named(path: &Path, in_pod: bool, host: &Path) -> Result<PathBuf, CgroupError> {
    if in_pod {
        pod::within(path, host)
    } else {
        check(path)
    }
}

/// Checks that `path` is a cgroup2 directory, and returns its full path.
///
/// # Errors
/// [`CgroupError::Unreadable`] and [`CgroupError::NotCgroup2`].
pub fn check(path: &Path) -> Result<PathBuf, CgroupError> {
    let unreadable = |error| CgroupError::Unreadable {
        path: path.display().to_string(),
        error,
    };
    let full = fs::canonicalize(path).map_err(unreadable)?;
    let kind = statfs(&full)
        .map_err(|errno| unreadable(errno.into()))?
        .filesystem_type();
    if kind != CGROUP2_SUPER_MAGIC || !full.is_dir() {
        let mount = mount_point().map_or_else(
            |_| "/sys/fs/cgroup".into(),
            |mount| mount.display().to_string(),
        );
        return Err(CgroupError::NotCgroup2 {
            path: path.display().to_string(),
            mount,
        });
    }
    Ok(full)
}

/// Where cgroup2 is mounted: /sys/fs/cgroup, or /sys/fs/cgroup/unified beside cgroup v1.
///
/// # Errors
/// [`CgroupError::NotMounted`], [`CgroupError::Proc`].
pub fn mount_point() -> Result<PathBuf, CgroupError> {
    cgroup2_mount(&read(MOUNTS)?).ok_or(CgroupError::NotMounted)
}

/// Checks that this process can write to no part of the tree at `host`: a read-only mount may have writable ones below it, as beside
/// cgroup v1.
///
/// # Errors
/// [`CgroupError::WritableTree`]; and as [`mount_point`] if that cannot be seen.
pub fn check_read_only(host: &Path) -> Result<(), CgroupError> {
    // Mounts are listed by their full paths.
    let full = fs::canonicalize(host).map_err(|error| CgroupError::Unreadable {
        path: host.display().to_string(),
        error,
    })?;
    let text = read(MOUNTS)?;
    let mounts = text.lines().filter_map(|line| line.split(' ').nth(4));
    let below = mounts.map(unescape).filter(|at| at.starts_with(&full));
    // It may lie below a mount point.
    let mut all = std::iter::once(full.clone()).chain(below);
    match all.find(|at| !is_read_only(at)) {
        Some(at) => Err(CgroupError::WritableTree {
            mount: at.display().to_string(),
        }),
        None => Ok(()),
    }
}

fn is_read_only(path: &Path) -> bool {
    statvfs(path).is_ok_and(|of| of.flags().contains(FsFlags::ST_RDONLY))
}

/// Whether no cgroup2 is mounted anywhere that this process can see.
pub fn is_version_1_only() -> bool {
    matches!(mount_point(), Err(CgroupError::NotMounted))
}

/// The directory of the cgroup that this process is in.
///
/// # Errors
/// [`CgroupError::NotMounted`], [`CgroupError::Proc`].
pub fn own_cgroup() -> Result<PathBuf, CgroupError> {
    let text = read("/proc/self/cgroup")?;
    let mount = mount_point()?;
    let own = cgroup2_path(&text).unwrap_or("/");
    Ok(mount.join(own.trim_start_matches('/')))
}

/// A file of the process's own.
fn read(path: &'static str) -> Result<String, CgroupError> {
    fs::read_to_string(path).map_err(|error| match lacks_descriptor(&error) {
        true => CgroupError::Descriptors,
        false => CgroupError::Proc { path, error },
    })
}

/// The cgroup2 mount in a mountinfo file (proc_pid_mountinfo(5)) that shows the tree from this process's root on: in a
/// container that has the node's tree as well, that one is shown from some `/../..` on. Else the first.
fn cgroup2_mount(mountinfo: &str) -> Option<PathBuf> {
    let mounts = || {
        mountinfo.lines().filter_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let mut fields = before.split(' ').skip(3);
            let (root, mount) = (fields.next()?, fields.next()?);
            (after.split(' ').next() == Some("cgroup2")).then_some((root, mount))
        })
    };
    let own = mounts().find(|(root, _)| *root == "/");
    own.or_else(|| mounts().next())
        .map(|(_, mount)| unescape(mount))
}

/// The unified hierarchy's line of a /proc/PID/cgroup file (cgroups(7)).
fn cgroup2_path(cgroup: &str) -> Option<&str> {
    cgroup.lines().find_map(|line| line.strip_prefix("0::"))
}

/// Undoes the kernel's octal escapes of blanks in paths.
fn unescape(path: &str) -> PathBuf {
    PathBuf::from(
        path.replace("\\040", " ")
            .replace("\\011", "\t")
            .replace("\\012", "\n")
            .replace("\\134", "\\"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_usual_mounts_are_found() {
        let unified =
            "24 30 0:22 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let hybrid = "30 24 0:26 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                      31 24 0:27 / /sys/fs/cgroup/unified rw,relatime - cgroup2 none rw\n";
        assert_eq!(cgroup2_mount(unified), Some("/sys/fs/cgroup".into()));
        assert_eq!(cgroup2_mount(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(cgroup2_mount("1 2 0:3 / /tmp rw - tmpfs tmpfs rw\n"), None);
    }

    #[test]
    fn container_ignores_the_nodes_tree() {
        let mountinfo = "70 60 0:26 /../../../.. /run/host-cgroup ro - cgroup2 cgroup rw\n\
                         71 60 0:26 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        assert_eq!(cgroup2_mount(mountinfo), Some("/sys/fs/cgroup".into()));
    }

    #[test]
    fn unified_line_is_read_among_version_1_lines() {
        assert_eq!(
            cgroup2_path("9:name=systemd:/a\n1:cpu:/b\n0::/user.slice/c.scope\n"),
            Some("/user.slice/c.scope")
        );
        assert_eq!(cgroup2_path("9:name=systemd:/a\n"), None);
    }
}
