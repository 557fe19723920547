//! Containers by the ids of their cgroups, from the names of directories in the read-only tree.
//!
//! A cgroup's id is the inode number of its directory, which is never used again (fs/kernfs/dir.c, __kernfs_new_node). A container's
//! directory may be removed before the first record of its flows is read: directories are read when they are made (inotify(7)), and
//! what was read is kept.

use std::{
    cell::Cell,
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    fs, io,
    num::NonZeroU64,
    os::unix::fs::{DirEntryExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::sys::inotify::{AddWatchFlags, WatchDescriptor};

use crate::{clock, files::Notices, flow::ContainerId, host};

/// The most cgroups that are kept: those of more than a thousand restarts of a pod's containers.
const MOST_KNOWN: usize = 16_384;

/// The most directories that are watched.
const MOST_WATCHED: usize = 2_048;

/// The tree is read as a whole so seldom for cgroups that are not in it,
const WALK_INTERVAL: Duration = Duration::from_millis(250);

/// and takes so little of the time, whoever makes many cgroups in it: one part in this many.
const WALK_SHARE: u32 = 20;

/// New directories that are read in one turn, at some 30 us each.
const MOST_READS: usize = 256;

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
    /// The most cgroups that are kept.
    most: usize,
    /// Cgroups that were not in the tree when it was read as a whole, and no directory was made since.
    missing: HashSet<u64>,
    watched: Option<Watched>,
    /// Directories that were made, and are not read yet.
    made: VecDeque<(PathBuf, Option<ContainerId>)>,
    walked: Option<Instant>,
    /// The CPU time that it took.
    walk_took: Duration,
    unresolved: BTreeMap<&'static str, u64>,
}

// === impl Containers ===

impl Containers {
    /// Those below a cgroup2 directory; without one no container is known.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn below(root: Option<&Path>) -> Self {
        let watched = root.and_then(|_| {
            Watched::open()
                .inspect_err(|error| {
                    tracing::debug!(%error, "inotify is not available for cgroups: short-lived containers may be missed");
                })
                .ok()
        });
        let mut this = Self {
            root: root.map(Path::to_owned),
            known: HashMap::new(),
            most: MOST_KNOWN,
            missing: HashSet::new(),
            watched,
            made: VecDeque::new(),
            walked: None,
            walk_took: Duration::ZERO,
            unresolved: BTreeMap::new(),
        };
        this.walk_all();
        this
    }

    /// Waits until a directory was made or removed; for ever where that is not seen.
    pub async fn changed(&self) {
        if !self.made.is_empty() {
            return;
        }
        match &self.watched {
            Some(watched) => watched.came().await,
            None => std::future::pending().await,
        }
    }

    /// Reads the directories that were made, or some of them if they are many.
    pub fn take_notices(&mut self) {
        if !self.made.is_empty() || self.watched.as_ref().is_some_and(|of| of.is_due.get()) {
            self.read_notices();
        }
    }

    /// Another cgroup has taken the place of the root.
    pub fn root_changed(&mut self) {
        self.missing.clear();
        self.walk_all();
    }

    /// Reads the whole tree.
    fn walk_all(&mut self) {
        let Some(root) = self.root.clone() else {
            return;
        };
        let began = clock::thread_cpu_time();
        self.walked = Some(clock::now());
        let Ok(id) = fs::metadata(&root).map(|found| found.ino()) else {
            return;
        };
        if self.known.len() >= self.most {
            self.known.clear();
        }
        let container = container_of(&root);
        self.walk(root, id, container);
        self.walk_took = clock::thread_cpu_time().saturating_sub(began);
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
        let seldom = WALK_INTERVAL.max(self.walk_took * WALK_SHARE);
        let is_due = |walked: Instant| walked.elapsed() >= seldom;
        let is_new = !self.known.contains_key(&id) && !self.missing.contains(&id);
        if is_new && self.walked.is_none_or(is_due) {
            self.walk_all();
            self.note_missing(id);
        }
        self.known.get(&id).cloned().ok_or(Unresolved::NotInTree)
    }

    /// Only a directory that is made can have the id of one that was not in the tree, and it is seen where every directory is watched.
    fn note_missing(&mut self, id: u64) {
        let sees_all = self.watched.as_ref().is_some_and(Watched::has_room);
        if sees_all && !self.known.contains_key(&id) && self.missing.len() < self.most {
            self.missing.insert(id);
        }
    }

    /// Reads a directory of the tree and those below it. It is watched before it is read, so that none is missed.
    fn walk(&mut self, directory: PathBuf, id: u64, container: Option<ContainerId>) {
        let mut waiting = vec![(directory, id, container)];
        while let Some((directory, id, container)) = waiting.pop() {
            if self.known.len() >= self.most && !self.known.contains_key(&id) {
                return;
            }
            self.known.insert(id, container.clone());
            if let Some(watched) = &mut self.watched {
                watched.watch(&directory, container.as_ref());
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
        if self.made.is_empty() {
            let made = self.watched.as_mut().map(Watched::read);
            self.made = made.unwrap_or_default().into();
            if !self.made.is_empty() {
                self.missing.clear();
            }
        }
        let most = self.made.len().min(MOST_READS);
        for (path, container) in self.made.drain(..most).collect::<Vec<_>>() {
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

/// The directories of the tree that are watched.
#[derive(Debug)]
struct Watched {
    notices: Notices,
    directories: HashMap<WatchDescriptor, (PathBuf, Option<ContainerId>)>,
    /// Whether events wait.
    is_due: Cell<bool>,
}

// === impl Watched ===

impl Watched {
    fn open() -> io::Result<Self> {
        Ok(Self {
            notices: Notices::open()?,
            directories: HashMap::new(),
            is_due: Cell::new(false),
        })
    }

    fn has_room(&self) -> bool {
        self.directories.len() < MOST_WATCHED
    }

    async fn came(&self) {
        self.notices.came().await;
        self.is_due.set(true);
    }

    fn watch(&mut self, directory: &Path, container: Option<&ContainerId>) {
        if !self.has_room() {
            return;
        }
        if let Some(watch) = self.notices.watch(directory, AddWatchFlags::IN_CREATE) {
            self.directories
                .insert(watch, (directory.to_owned(), container.cloned()));
        }
    }

    /// The directories that were made, each with the container that it is of or lies in.
    fn read(&mut self) -> Vec<(PathBuf, Option<ContainerId>)> {
        self.is_due.set(false);
        let mut made = Vec::new();
        for event in self.notices.read() {
            if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                self.directories.remove(&event.wd);
                continue;
            }
            let is_directory = event.mask.contains(AddWatchFlags::IN_ISDIR);
            let name = event.name.filter(|_| is_directory);
            if let Some((name, (directory, container))) = name.zip(self.directories.get(&event.wd))
            {
                let path = directory.join(name);
                let container = container_in_name(&path).or_else(|| container.clone());
                made.push((path, container));
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

    #[tokio::test]
    async fn many_new_directories_are_read_in_several_turns() {
        let root = tempfile::tempdir().expect("a directory");
        let mut containers = Containers::below(Some(root.path()));
        let count = 2 * MOST_READS + 10;
        for number in 0..count {
            fs::create_dir(root.path().join(format!("docker-{number:064x}.scope")))
                .expect("a directory");
        }
        for expected in [MOST_READS, 2 * MOST_READS, count] {
            containers.changed().await;
            containers.take_notices();
            // The root is one.
            assert_eq!(containers.known.len(), 1 + expected);
        }
        let last = fs::metadata(root.path().join(format!("docker-{:064x}.scope", count - 1)));
        let last = NonZeroU64::new(last.expect("there").ino());
        assert!(containers.of(last).is_some());
    }

    /// Reading a large tree takes a twentieth of the time at most.
    #[tokio::test]
    async fn tree_that_takes_long_to_read_is_read_more_seldom() {
        let root = tempfile::tempdir().expect("a directory");
        let mut containers = Containers::below(Some(root.path()));
        let of = |containers: &mut Containers, id| {
            let before = containers.walked;
            containers.of(NonZeroU64::new(id));
            containers.walked != before
        };
        let ago = |ms| clock::now().checked_sub(Duration::from_millis(ms));
        for (took_ms, ago_ms, is_read) in [(0, 0, false), (0, 300, true), (1_000, 300, false)] {
            containers.walk_took = Duration::from_millis(took_ms);
            containers.walked = ago(ago_ms);
            let id = u64::MAX - took_ms - ago_ms;
            assert_eq!(of(&mut containers, id), is_read, "{took_ms} {ago_ms}");
        }
    }

    #[tokio::test]
    async fn tree_is_read_once_for_a_cgroup_that_is_not_in_it() {
        let root = tempfile::tempdir().expect("a directory");
        let mut containers = Containers::below(Some(root.path()));
        let elsewhere = NonZeroU64::new(u64::MAX);
        let is_read = |containers: &mut Containers| {
            containers.walked = None;
            assert_eq!(containers.of(elsewhere), None);
            containers.walked.is_some()
        };
        assert!(is_read(&mut containers));
        assert!(!is_read(&mut containers));
        fs::create_dir(root.path().join("new")).expect("a directory");
        assert!(is_read(&mut containers), "it may be that one's");
    }

    #[tokio::test]
    async fn new_containers_are_known_beyond_the_most_that_are_kept() {
        let root = tempfile::tempdir().expect("a directory");
        let mut containers = Containers::below(Some(root.path()));
        containers.most = 4;
        // While they are open their inode numbers are not reused, as a cgroup's never is.
        let mut held = Vec::new();
        for number in 0..20 {
            let id = format!("{number:064x}");
            let scope = root.path().join(format!("docker-{id}.scope"));
            fs::create_dir(&scope).expect("a directory");
            held.push(fs::File::open(&scope).expect("open"));
            let cgroup = NonZeroU64::new(fs::metadata(&scope).expect("there").ino());
            containers.walked = None;
            assert_eq!(containers.of(cgroup).as_deref(), Some(id.as_str()));
            fs::remove_dir(&scope).expect("removed");
            assert!(containers.known.len() <= 4);
        }
    }
}
