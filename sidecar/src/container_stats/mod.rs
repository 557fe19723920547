//! The statistics of containers, from the files of their cgroups in the read-only tree: read once a report.
//!
//! Counters report what grew since flowcar began, as those of listeners do. What a container had counted before is left out; one that is
//! made later is reported from its beginning on.

pub mod parse;
mod tree;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use self::{
    parse::Reading,
    tree::{Directory, Found},
};
use crate::{
    flow::ContainerId,
    origin,
    snapshot::{ContainerCounter, ContainerFigures},
};

/// The most containers that are read: a pod has a few, a host may have many.
const MOST: usize = 256;

/// What a cgroup is whose containers are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Root {
    /// Containers are below it.
    Above,
    /// It is a container's, or lies in one: then it is the only one. Under this id, or under `None` where flowcar's resource has the id.
    Within(Option<ContainerId>),
}

/// The containers below one cgroup.
#[derive(Debug)]
pub struct ContainerStats {
    root: PathBuf,
    is: Root,
    known: BTreeMap<Option<ContainerId>, Known>,
    /// Whether every container that was there when flowcar began is known.
    knows_older: bool,
    malformed: u64,
    /// The files that were logged as malformed.
    logged: BTreeSet<&'static str>,
    /// Whether some were left out. One that is taken in later, when there is room, may have counted before.
    left_out: bool,
}

/// What is known of a container.
#[derive(Debug)]
struct Known {
    path: PathBuf,
    cgroup: u64,
    /// Whether it may have counted before flowcar began.
    is_older: bool,
    /// The counters as last read.
    last: BTreeMap<ContainerCounter, u64>,
    figures: ContainerFigures,
}

// === impl Root ===

impl Root {
    /// Of a cgroup that was named, and whether flowcar's resource has the id of its container. Without a name it is a pod's, whose
    /// containers are below it also where the node is a container itself.
    pub fn of(named: Option<&Path>, resource_has_id: bool) -> Self {
        match named.and_then(origin::container_of) {
            Some(id) => Self::Within((!resource_has_id).then_some(id)),
            None => Self::Above,
        }
    }
}

// === impl ContainerStats ===

impl ContainerStats {
    /// Those below a cgroup2 directory, or the cgroup itself. From here on counters count.
    pub fn below(root: &Path, is: Root) -> Self {
        let mut this = Self {
            root: root.to_owned(),
            is,
            known: BTreeMap::new(),
            knows_older: false,
            malformed: 0,
            logged: BTreeSet::new(),
            left_out: false,
        };
        this.read();
        this
    }

    /// The figures of each container that is there now, for the report of this time (nanoseconds since the Unix epoch).
    pub fn report(&mut self, at_unix_ns: u64) -> BTreeMap<Option<ContainerId>, ContainerFigures> {
        self.read();
        let figures = self.known.iter_mut().map(|(id, known)| {
            if known.figures.since_unix_ns == 0 {
                known.figures.since_unix_ns = at_unix_ns;
            }
            (id.clone(), known.figures.clone())
        });
        figures.collect()
    }

    /// How many containers there were at the last reading.
    pub fn count(&self) -> usize {
        self.known.len()
    }

    /// How many files were not understood.
    pub const fn malformed(&self) -> u64 {
        self.malformed
    }

    fn read(&mut self) {
        let root = match Directory::open(&self.root) {
            Ok(root) => root,
            Err(error) => {
                if error.kind() == io::ErrorKind::NotFound {
                    self.known.clear();
                }
                return;
            }
        };
        let found = match &self.is {
            Root::Within(_) => Found {
                containers: Vec::new(),
                is_whole: true,
            },
            Root::Above => tree::search(&self.root),
        };
        let is_whole = found.is_whole;
        self.find(found);
        self.read_all(&root);
        self.knows_older |= is_whole;
    }

    /// Takes in the containers that are new.
    fn find(&mut self, found: Found) {
        let own = match &self.is {
            Root::Within(id) => Some((id.clone(), PathBuf::new())),
            Root::Above => None,
        };
        let below = found.containers.into_iter().map(|(id, at)| (Some(id), at));
        for (id, path) in own.into_iter().chain(below) {
            if let Some(known) = self.known.get_mut(&id) {
                known.path = path;
                continue;
            }
            if self.known.len() >= MOST {
                self.leave_out();
                return;
            }
            let known = Known {
                path,
                cgroup: 0,
                is_older: !self.knows_older || self.left_out,
                last: BTreeMap::new(),
                figures: ContainerFigures::default(),
            };
            self.known.insert(id, known);
        }
    }

    fn leave_out(&mut self) {
        if !std::mem::replace(&mut self.left_out, true) {
            tracing::warn!(
                most = MOST,
                "there are too many containers: the statistics of the rest are left out; follow a cgroup with fewer, or set FLOWCAR_CONTAINERS=off"
            );
        }
    }

    /// Reads each container. Those whose directory was removed have ended.
    fn read_all(&mut self, root: &Directory) {
        let mut known = std::mem::take(&mut self.known);
        known.retain(|_, known| match root.below(&known.path) {
            Ok(directory) => {
                let files = directory.files();
                let files = files.iter().map(|(place, content)| (*place, &**content));
                let (reading, malformed) = Reading::of(files);
                self.log_malformed(&known.path, &malformed);
                known.take(directory.id, reading);
                true
            }
            // Without a descriptor nothing new is known.
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        });
        self.known = known;
    }

    fn log_malformed(&mut self, path: &Path, malformed: &[&'static str]) {
        self.malformed += malformed.len() as u64;
        for file in malformed {
            if self.logged.insert(file) {
                tracing::warn!(
                    cgroup = %self.root.join(path).display(),
                    file,
                    "a file of a container's cgroup was not understood, and its statistics are left out: please report this with the file's content and the kernel's version"
                );
            }
        }
    }
}

// === impl Known ===

impl Known {
    /// Takes in what was read. Another cgroup under the same name has counted from 0 on.
    fn take(&mut self, cgroup: u64, reading: Reading) {
        if self.cgroup != cgroup {
            self.is_older &= self.cgroup == 0;
            self.cgroup = cgroup;
            self.last.clear();
        }
        for (counter, now) in reading.counters {
            let first = if self.is_older { now } else { 0 };
            let before = self.last.insert(counter, now).unwrap_or(first);
            // That of a device that was removed is less.
            *self.figures.counters.entry(counter).or_default() += now.saturating_sub(before);
        }
        self.figures.levels = reading.levels;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::snapshot::ContainerLevel;

    const ONE: &str = "8e2c9d1f0a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5";
    const TWO: &str = "9e2c9d1f0a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5";

    /// A tree of plain files.
    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new() -> Self {
            Self(tempfile::tempdir().expect("a directory"))
        }

        fn directory(id: &str) -> String {
            format!("cri-containerd-{id}.scope")
        }

        fn write(&self, id: &str, file: &str, text: &str) {
            let directory = self.0.path().join(Self::directory(id));
            fs::create_dir_all(&directory).expect("made");
            fs::write(directory.join(file), text).expect("written");
        }

        fn user(&self, id: &str, us: u64) {
            self.write(id, "cpu.stat", &format!("user_usec {us}\nsystem_usec 0\n"));
        }

        /// Makes another directory in its place. It has another inode number, because both are there for a moment.
        fn replace(&self, id: &str) {
            let new = self.0.path().join("new");
            fs::create_dir(&new).expect("made");
            self.remove(id);
            fs::rename(new, self.0.path().join(Self::directory(id))).expect("renamed");
        }

        fn remove(&self, id: &str) {
            fs::remove_dir_all(self.0.path().join(Self::directory(id))).expect("removed");
        }

        fn stats(&self) -> ContainerStats {
            ContainerStats::below(self.0.path(), Root::Above)
        }
    }

    /// Each container's time in user mode, and since when it is reported.
    fn user(stats: &mut ContainerStats, at: u64) -> BTreeMap<String, (u64, u64)> {
        let report = stats.report(at).into_iter();
        let each = report.map(|(id, of)| {
            let user = of.counters[&ContainerCounter::CpuUser];
            (
                id.map_or_else(String::new, |id| id.to_string()),
                (user, of.since_unix_ns),
            )
        });
        each.collect()
    }

    fn expected(of: &[(&str, u64, u64)]) -> BTreeMap<String, (u64, u64)> {
        of.iter()
            .map(|(id, user, since)| ((*id).to_owned(), (*user, *since)))
            .collect()
    }

    #[test]
    fn counters_count_since_flowcar_or_the_container_began() {
        let tree = Tree::new();
        tree.user(ONE, 1_000);
        let mut stats = tree.stats();
        assert_eq!(user(&mut stats, 10), expected(&[(ONE, 0, 10)]));
        tree.user(ONE, 1_007);
        tree.user(TWO, 5);
        let both = expected(&[(ONE, 7, 10), (TWO, 5, 20)]);
        assert_eq!(user(&mut stats, 20), both);
        // Removed and made again between two reports, as by a restart of a container that keeps its id.
        tree.replace(ONE);
        tree.user(ONE, 4);
        tree.user(TWO, 6);
        let both = expected(&[(ONE, 11, 10), (TWO, 6, 20)]);
        assert_eq!(user(&mut stats, 30), both);
        tree.remove(ONE);
        assert_eq!(user(&mut stats, 40), expected(&[(TWO, 6, 20)]));
        tree.user(ONE, 3);
        let both = expected(&[(ONE, 3, 50), (TWO, 6, 20)]);
        assert_eq!(user(&mut stats, 50), both);
    }

    /// A counter that was not there at first counts from there on, and one that is not there any more stays as it was.
    #[test]
    fn counters_that_come_and_go_never_jump() {
        let tree = Tree::new();
        tree.user(ONE, 1_000);
        let mut stats = tree.stats();
        tree.write(ONE, "io.stat", "8:0 rbytes=100 wbytes=0 rios=1 wios=0\n");
        let read = |stats: &mut ContainerStats, at| {
            let report = stats.report(at);
            report[&Some(ONE.into())].counters[&ContainerCounter::BytesRead]
        };
        assert_eq!(read(&mut stats, 10), 0);
        tree.write(ONE, "io.stat", "8:0 rbytes=150 wbytes=0 rios=1 wios=0\n");
        assert_eq!(read(&mut stats, 20), 50);
        tree.write(ONE, "io.stat", "");
        assert_eq!(read(&mut stats, 30), 50, "the device was removed");
        tree.write(ONE, "io.stat", "8:0 rbytes=2 wbytes=0 rios=1 wios=0\n");
        assert_eq!(read(&mut stats, 40), 52);
        let file = tree.0.path().join(Tree::directory(ONE)).join("io.stat");
        fs::remove_file(file).expect("removed");
        assert_eq!(read(&mut stats, 50), 52);
    }

    #[test]
    fn files_that_are_absent_or_malformed_leave_out_their_figures() {
        let tree = Tree::new();
        tree.write(ONE, "memory.current", "4096\n");
        tree.write(ONE, "pids.current", "many\n");
        let mut stats = tree.stats();
        let report = stats.report(10);
        let figures = &report[&Some(ONE.into())];
        assert!(figures.counters.is_empty());
        let levels = BTreeMap::from([(ContainerLevel::MemoryUsage, 4_096)]);
        assert_eq!(figures.levels, levels);
        assert_eq!(stats.malformed(), 2, "at the start and for the report");
    }

    /// A link to a file of another place is not followed, and a file without an end is not read.
    #[test]
    fn links_and_endless_files_are_not_read() {
        let tree = Tree::new();
        tree.write(ONE, "memory.current", "4096\n");
        let directory = tree.0.path().join(Tree::directory(ONE));
        std::os::unix::fs::symlink(
            directory.join("memory.current"),
            directory.join("pids.current"),
        )
        .expect("a link");
        tree.write(ONE, "io.stat", &"8:0 \n".repeat(100_000));
        let figures = &tree.stats().report(10)[&Some(ONE.into())];
        let levels = BTreeMap::from([(ContainerLevel::MemoryUsage, 4_096)]);
        assert_eq!((&figures.levels, figures.counters.len()), (&levels, 0));
    }

    /// A cgroup that is in a container has the figures under the container's id, as it has the flows; the resource of one that is named by the
    /// container has the id itself.
    #[test]
    fn cgroup_in_a_container_has_the_containers_id() {
        let scope = format!("/sys/fs/cgroup/system.slice/docker-{ONE}.scope");
        let inner = format!("{scope}/init.scope");
        let id = || Some(ONE.into());
        for (named, resource_has_id, expected) in [
            (Some(&*scope), true, Root::Within(None)),
            (Some(&*inner), false, Root::Within(id())),
            (Some("/sys/fs/cgroup/system.slice"), false, Root::Above),
            (None, false, Root::Above),
        ] {
            let root = Root::of(named.map(Path::new), resource_has_id);
            assert_eq!(root, expected, "{named:?}");
        }
    }

    /// Containers in slices of the tree, and not those inside containers; a cgroup that is a container itself.
    #[test]
    fn containers_are_found_once() {
        let tree = Tree::new();
        let below = tree.0.path().join("a.slice/b.slice");
        let outer = below.join(format!("crio-{ONE}.scope"));
        let inner = outer.join("container").join(TWO);
        fs::create_dir_all(&inner).expect("made");
        for directory in [&below, &outer, &inner] {
            fs::write(directory.join("cpu.stat"), "user_usec 9\n").expect("written");
        }
        let ids = |mut stats: ContainerStats| stats.report(10).into_keys().collect::<Vec<_>>();
        assert_eq!(ids(tree.stats()), [Some(ONE.into())]);
        for id in [None, Some(ONE.into())] {
            let within = Root::Within(id.clone());
            assert_eq!(ids(ContainerStats::below(&outer, within)), [id]);
        }
        let none = tree.0.path().join("none");
        assert_eq!(ids(ContainerStats::below(&none, Root::Above)), []);
    }

    #[test]
    fn containers_past_the_bound_are_left_out_until_there_is_room() {
        let tree = Tree::new();
        let id = |number: usize| format!("{number:064x}");
        for number in 0..=MOST {
            tree.user(&id(number), 100);
        }
        let mut stats = tree.stats();
        assert_eq!(user(&mut stats, 10).len(), MOST);
        tree.remove(&id(0));
        assert_eq!(user(&mut stats, 20).len(), MOST - 1);
        let report = user(&mut stats, 30);
        assert_eq!(report[&id(MOST)], (0, 30), "it may be older than flowcar");
    }
}
