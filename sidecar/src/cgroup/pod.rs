//! The pod's cgroup, found from inside one of its containers.
//!
//! A container sees its own cgroup as the root (cgroup_namespaces(7)), so its path shows nothing; but a cgroup's id
//! is the inode number of its directory in every view of the tree (kernel/cgroup/cgroup.c, cgroup_id). flowcar
//! searches its own id in the host's tree, which is mounted read-only in the container, and takes the nearest cgroup above
//! that is named like a pod's. The result is an ancestor of its own cgroup by construction: never a neighbour, never the
//! parent of all pods, never the root.

use std::{
    collections::VecDeque,
    fs,
    os::unix::fs::{DirEntryExt, MetadataExt},
    path::{Path, PathBuf},
};

use super::{CgroupError, check, own_cgroup};
use crate::files::{self, lacks_descriptor};

/// The most cgroups that are searched: a node has some ten for each of its pods.
const MOST_CGROUPS: usize = 200_000;

/// A pod's cgroup, and the uid in its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodCgroup {
    /// The directory in the host's tree.
    pub path: PathBuf,
    /// The pod's uid as the kubelet names it, with `-`. A static pod's is not the API's.
    pub uid: String,
}

/// Finds the cgroup of the pod that this process is in, in the host's cgroup2 tree mounted at `host`.
///
/// # Errors
/// [`CgroupError`] if there is no such tree, if this process's cgroup is not in it, or if no cgroup above it is a pod's.
pub fn discover(host: &Path) -> Result<PodCgroup, CgroupError> {
    let tree = tree(host)?;
    let own = own_cgroup()?;
    let id = fs::metadata(&own)
        .map_err(|error| CgroupError::Unreadable {
            path: own.display().to_string(),
            error,
        })?
        .ino();
    let container = locate(&tree, id)?.ok_or_else(|| CgroupError::NotInTree {
        id,
        tree: tree.display().to_string(),
    })?;
    let inside = container.strip_prefix(&tree).unwrap_or(&container);
    let (pod, uid) = pod_above(inside).ok_or_else(|| CgroupError::NotInAPod {
        own: inside.display().to_string(),
    })?;
    Ok(PodCgroup {
        path: tree.join(pod),
        uid,
    })
}

/// The path in the host's tree at `host` of the cgroup at `path`, if it is the cgroup of the pod that this process is in, or one
/// below that. The kernel's id of the cgroup decides, whatever links, mounts and `..` lead to it.
///
/// # Errors
/// [`CgroupError`] if it is outside the pod, or if the pod's cgroup is unknown.
pub(super) fn within(path: &Path, host: &Path) -> Result<PathBuf, CgroupError> {
    let named = check(path)?;
    let pod = discover(host).map_err(|error| CgroupError::PodUnknown {
        path: path.display().to_string(),
        why: Box::new(error),
    })?;
    let id = |path: &Path| fs::metadata(path).map(|found| found.ino());
    let wanted = id(&named).map_err(|error| CgroupError::Unreadable {
        path: path.display().to_string(),
        error,
    })?;
    if id(&pod.path).is_ok_and(|id| id == wanted) {
        return Ok(pod.path);
    }
    locate(&pod.path, wanted)?.ok_or_else(|| CgroupError::OutsidePod {
        path: path.display().to_string(),
        pod: pod.path.display().to_string(),
    })
}

/// The cgroup2 tree at `host`, or beside cgroup v1 at `host/unified`.
fn tree(host: &Path) -> Result<PathBuf, CgroupError> {
    match fs::exists(host) {
        Ok(true) => {}
        _ => {
            return Err(CgroupError::NoHostTree {
                path: files::shown(host),
            });
        }
    }
    check(host).or_else(|error| check(&host.join("unified")).map_err(|_| error))
}

/// The directory below `tree` with this inode number, nearest to the top.
fn locate(tree: &Path, id: u64) -> Result<Option<PathBuf>, CgroupError> {
    let mut waiting = VecDeque::from([tree.to_owned()]);
    let mut seen = 0;
    while let Some(directory) = waiting.pop_front() {
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if lacks_descriptor(&error) => return Err(CgroupError::Descriptors),
            // Cgroups come and go meanwhile.
            Err(_) => continue,
        };
        for entry in entries.flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if entry.ino() == id {
                return Ok(Some(entry.path()));
            }
            seen += 1;
            if seen > MOST_CGROUPS {
                return Ok(None);
            }
            waiting.push_back(entry.path());
        }
    }
    Ok(None)
}

/// The nearest cgroup above the container's, itself left out, that is named like a pod's, and the pod's uid.
fn pod_above(container: &Path) -> Option<(&Path, String)> {
    container
        .ancestors()
        .skip(1)
        .find_map(|above| Some((above, pod_uid(above.file_name()?.to_str()?)?)))
}

/// The uid in the name of a pod's cgroup. The kubelet (pkg/kubelet/cm) names it `pod<uid>` under the cgroupfs driver,
/// and under systemd's, which has no hierarchy but in its names, `<parents>-pod<uid>.slice` with the uid's `-` as `_`.
/// A static pod's uid is a hash of 32 digits.
fn pod_uid(name: &str) -> Option<String> {
    let uid = match name.strip_suffix(".slice") {
        Some(slice) => {
            let (before, uid) = slice.rsplit_once("pod")?;
            (before.is_empty() || before.ends_with('-')).then(|| uid.replace('_', "-"))?
        }
        None => name.strip_prefix("pod")?.to_owned(),
    };
    is_uid(&uid).then_some(uid)
}

/// A UUID (RFC 9562), or one without its hyphens.
fn is_uid(text: &str) -> bool {
    let hyphen = |at: usize| matches!(at, 8 | 13 | 18 | 23);
    let hex = |digit: u8| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit);
    match text.len() {
        32 => text.bytes().all(hex),
        36 => text
            .bytes()
            .enumerate()
            .all(|(at, byte)| if hyphen(at) { byte == b'-' } else { hex(byte) }),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
