//! Containers by the ids of their cgroups, from the names of directories in the read-only tree.
//!
//! A cgroup's id is the inode number of its directory, which is never used again (fs/kernfs/dir.c, __kernfs_new_node). A container's
//! directory may be removed before the first record of its flows is read: directories are read when they are made (inotify(7)), and
//! what was read is kept.

use std::{
    cell::Cell,
    collections::{BTreeMap, HashMap},
    fs, io,
    num::NonZeroU64,
    os::{
        fd::{AsFd as _, AsRawFd, RawFd},
        unix::fs::{DirEntryExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::io::{Interest, unix::AsyncFd};

use crate::{clock, flow::ContainerId, host};

/// The most cgroups that are kept: those of more than a thousand restarts of a pod's containers.
const MOST_KNOWN: usize = 16_384;

/// The most directories that are watched.
const MOST_WATCHED: usize = 2_048;

/// The tree is read as a whole so seldom for cgroups that are not in it.
const WALK_INTERVAL: Duration = Duration::from_millis(250);

/// Why the container of a flow is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unresolved {
    /// No record had the cgroup: it was lost, or nobody saw the call.
    NoCgroup,
    /// The tree did not have the cgroup: it was removed before it was read, or is elsewhere.
    NotInTree,
    /// The tree cannot be read.
    NoTree,
}

impl Unresolved {
    /// Every reason.
    pub const ALL: [Self; 3] = [Self::NoCgroup, Self::NotInTree, Self::NoTree];

    /// The value of `flowcar.self.container.reason`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoCgroup => "no_cgroup",
            Self::NotInTree => "not_in_tree",
            Self::NoTree => "no_tree",
        }
    }
}

/// The containers below one cgroup.
#[derive(Debug)]
pub struct Containers {
    root: Option<PathBuf>,
    /// The container of each cgroup that was seen; `None` of a cgroup that belongs to none.
    known: HashMap<u64, Option<ContainerId>>,
    notices: Option<Notices>,
    walked: Option<Instant>,
    unresolved: BTreeMap<&'static str, u64>,
}

// === impl Containers ===

impl Containers {
    /// Those below a cgroup2 directory; without one no container is known.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn below(root: Option<&Path>) -> Self {
        let notices = root.and_then(|_| {
            Notices::open()
                .inspect_err(|error| {
                    tracing::debug!(%error, "inotify is not available for cgroups: short-lived containers may be missed");
                })
                .ok()
        });
        let mut this = Self {
            root: root.map(Path::to_owned),
            known: HashMap::new(),
            notices,
            walked: None,
            unresolved: BTreeMap::new(),
        };
        this.walk_all();
        this
    }

    /// Waits until a directory was made or removed; for ever where that is not seen.
    pub async fn changed(&self) {
        match &self.notices {
            Some(notices) => notices.came().await,
            None => std::future::pending().await,
        }
    }

    /// Reads the directories that were made.
    pub fn take_notices(&mut self) {
        if self.notices.as_ref().is_some_and(|of| of.is_due.get()) {
            self.read_notices();
        }
    }

    /// Reads the whole tree again: another cgroup has taken the place of the root.
    pub fn walk_all(&mut self) {
        let Some(root) = self.root.clone() else {
            return;
        };
        self.walked = Some(clock::now());
        let Ok(id) = fs::metadata(&root).map(|found| found.ino()) else {
            return;
        };
        if self.known.len() >= MOST_KNOWN {
            self.known.clear();
        }
        let container = container_of(&root);
        self.walk(root, id, container);
    }

    /// The container of a cgroup. Where it is not known, that is counted.
    pub fn of(&mut self, cgroup: Option<NonZeroU64>) -> Option<ContainerId> {
        match self.find(cgroup) {
            Ok(container) => container,
            Err(reason) => {
                *self.unresolved.entry(reason.name()).or_default() += 1;
                None
            }
        }
    }

    /// Flows whose container is not known, by reason.
    pub const fn unresolved(&self) -> &BTreeMap<&'static str, u64> {
        &self.unresolved
    }

    fn find(&mut self, cgroup: Option<NonZeroU64>) -> Result<Option<ContainerId>, Unresolved> {
        let id = cgroup.ok_or(Unresolved::NoCgroup)?.get();
        if self.root.is_none() {
            return Err(Unresolved::NoTree);
        }
        if let Some(known) = self.known.get(&id) {
            return Ok(known.clone());
        }
        self.read_notices();
        let is_due = |walked: Instant| walked.elapsed() >= WALK_INTERVAL;
        if !self.known.contains_key(&id) && self.walked.is_none_or(is_due) {
            self.walk_all();
        }
        self.known.get(&id).cloned().ok_or(Unresolved::NotInTree)
    }

    /// Reads a directory of the tree and those below it. It is watched before it is read, so that none is missed.
    fn walk(&mut self, directory: PathBuf, id: u64, container: Option<ContainerId>) {
        let mut waiting = vec![(directory, id, container)];
        while let Some((directory, id, container)) = waiting.pop() {
            if self.known.len() >= MOST_KNOWN && !self.known.contains_key(&id) {
                return;
            }
            self.known.insert(id, container.clone());
            if let Some(notices) = &mut self.notices {
                notices.watch(&directory, container.as_ref());
            }
            // One that was removed in the meantime has no children.
            let Ok(entries) = fs::read_dir(&directory) else {
                continue;
            };
            for entry in entries.flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    let path = entry.path();
                    let inner = container_in_name(&path).or_else(|| container.clone());
                    waiting.push((path, entry.ino(), inner));
                }
            }
        }
    }

    fn read_notices(&mut self) {
        let made = self.notices.as_mut().map(Notices::read).unwrap_or_default();
        for (path, container) in made {
            // Gone already: only its name was seen.
            if let Ok(found) = fs::symlink_metadata(&path) {
                self.walk(path, found.ino(), container);
            }
        }
    }
}

/// The container that a directory is of, or lies in: by the nearest name.
pub fn container_of(directory: &Path) -> Option<ContainerId> {
    directory.ancestors().find_map(container_in_name)
}

/// The container that a directory is named by. The monitor of a container has its id, too, and is not in it.
pub fn container_in_name(directory: &Path) -> Option<ContainerId> {
    let name = directory.file_name()?.to_str()?;
    let (before, id) = host::container(name.strip_suffix(".scope").unwrap_or(name))?;
    (!before.ends_with("conmon-")).then(|| ContainerId::from(id))
}

/// The kernel's events in directories (inotify(7)).
#[derive(Debug)]
struct Notices {
    inotify: AsyncFd<Descriptor>,
    watched: HashMap<WatchDescriptor, (PathBuf, Option<ContainerId>)>,
    /// Whether some wait.
    is_due: Cell<bool>,
}

#[derive(Debug)]
struct Descriptor(Inotify);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

// === impl Notices ===

impl Notices {
    fn open() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        Ok(Self {
            // SAFETY: the descriptor is owned, and the AsyncFd owns its owner for as long as it is registered.
            inotify: unsafe {
                AsyncFd::register_with_interest(Descriptor(inotify), Interest::READABLE)
            }
            .map_err(io::Error::from)?,
            watched: HashMap::new(),
            is_due: Cell::new(false),
        })
    }

    async fn came(&self) {
        if let Ok(mut ready) = self.inotify.readable().await {
            ready.clear_ready();
            self.is_due.set(true);
        }
    }

    /// Watches a directory. Watched twice, it has one watch.
    fn watch(&mut self, directory: &Path, container: Option<&ContainerId>) {
        if self.watched.len() >= MOST_WATCHED {
            return;
        }
        let flags = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_ONLYDIR;
        if let Ok(watch) = self.inotify.get_ref().0.add_watch(directory, flags) {
            self.watched
                .insert(watch, (directory.to_owned(), container.cloned()));
        }
    }

    /// The directories that were made, each with the container that it is of or lies in.
    fn read(&mut self) -> Vec<(PathBuf, Option<ContainerId>)> {
        self.is_due.set(false);
        let mut made = Vec::new();
        while let Ok(events) = self.inotify.get_ref().0.read_events() {
            for event in events {
                if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                    self.watched.remove(&event.wd);
                    continue;
                }
                let Some((directory, container)) = self.watched.get(&event.wd) else {
                    continue;
                };
                if let Some(name) = event
                    .name
                    .filter(|_| event.mask.contains(AddWatchFlags::IN_ISDIR))
                {
                    let path = directory.join(name);
                    let container = container_in_name(&path).or_else(|| container.clone());
                    made.push((path, container));
                }
            }
        }
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "8e2c9d1f0a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5";

    #[test]
    fn nearest_directory_that_is_named_by_a_container_decides() {
        let pod = "/sys/fs/cgroup/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod3d2f.slice";
        let directories = [
            (format!("{pod}/cri-containerd-{ID}.scope"), true),
            (format!("{pod}/crio-{ID}.scope"), true),
            (format!("{pod}/crio-{ID}.scope/container/init.scope"), true),
            (
                format!("{pod}/docker-{ID}.scope/system.slice/a.service"),
                true,
            ),
            (
                format!("/sys/fs/cgroup/kubepods/burstable/pod3d2f/{ID}"),
                true,
            ),
            (format!("{pod}/crio-conmon-{ID}.scope"), false),
            (pod.to_owned(), false),
            (format!("{pod}/cri-containerd-{}.scope", &ID[1..]), false),
            (
                "/sys/fs/cgroup/system.slice/nginx.service".to_owned(),
                false,
            ),
        ];
        for (directory, is_container) in directories {
            let found = container_of(Path::new(&directory));
            assert_eq!(found.as_deref(), is_container.then_some(ID), "{directory}");
        }
    }

    #[tokio::test]
    async fn removed_directories_are_remembered_and_unknown_ones_are_counted() {
        let root = tempfile::tempdir().expect("a directory");
        let scope = root.path().join(format!("cri-containerd-{ID}.scope"));
        let mut containers = Containers::below(Some(root.path()));
        fs::create_dir_all(scope.join("inner")).expect("directories");
        let id_of = |path: &Path| NonZeroU64::new(fs::metadata(path).expect("there").ino());
        let ids = [id_of(&scope), id_of(&scope.join("inner"))];
        containers.changed().await;
        containers.take_notices();
        fs::remove_dir_all(&scope).expect("removed");
        for id in ids {
            assert_eq!(containers.of(id).as_deref(), Some(ID));
        }
        assert_eq!(
            containers.of(id_of(root.path())),
            None,
            "it is no container"
        );
        assert!(containers.unresolved().is_empty());
        assert_eq!(containers.of(NonZeroU64::new(u64::MAX)), None);
        assert_eq!(containers.of(None), None);
        let expected = BTreeMap::from([("no_cgroup", 1), ("not_in_tree", 1)]);
        assert_eq!(*containers.unresolved(), expected);
    }
}
