//! Whether the cgroup at a path is still the one that is followed: `systemctl restart` removes a unit's cgroup and creates
//! another of the same name.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::sys::inotify::{AddWatchFlags, WatchDescriptor};
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::{clock, files::Notices};

/// The interval of checks where there are no inotify events.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The same where there are, beside those after an event: with what wakes flowcar anyway.
const WATCHED_INTERVAL: Duration = Duration::from_secs(10);

/// A change of the cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was removed.
    Removed,
    /// Another one is at its path, whatever happened in between.
    Recreated,
}

/// Watches one path. A cgroup's id is its directory's inode number, which is never reused (fs/kernfs/dir.c,
/// __kernfs_new_node), so a cgroup that was created between two checks is distinguished from the one before it.
#[derive(Debug)]
pub struct Watch {
    path: PathBuf,
    /// The id of the cgroup that is followed, or was followed last.
    followed: u64,
    /// Whether its removal was reported.
    removed: bool,
    above: Option<Above>,
    /// Whether the path is checked with what wakes flowcar anyway, and with nothing else.
    is_beside_other_work: bool,
    /// When the path was last checked; none if it is to be checked at once.
    checked: Option<Instant>,
    recheck: Interval,
}

// === impl Watch ===

impl Watch {
    /// Watches the path of the cgroup with this id.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(path: &Path, followed: u64) -> Self {
        let above = Above::open().inspect_err(|error| {
            tracing::debug!(%error, "inotify is not available for the cgroup: it is checked every second");
        });
        Self::watching(path, followed, above.ok())
    }

    /// The same for a cgroup that flowcar itself is below, as a pod's is: it is not removed before flowcar ends. Some seconds of delay are
    /// enough, and no inotify instance is taken: a user has 128 on a node (`fs.inotify.max_user_instances`), and the flowcars of all pods
    /// run as root.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn beside_other_work(path: &Path, followed: u64) -> Self {
        Self {
            is_beside_other_work: true,
            ..Self::watching(path, followed, None)
        }
    }

    fn watching(path: &Path, followed: u64, above: Option<Above>) -> Self {
        let mut recheck = interval(CHECK_INTERVAL);
        recheck.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            path: path.to_owned(),
            followed,
            removed: false,
            above,
            is_beside_other_work: false,
            checked: None,
            recheck,
        }
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sets the cgroup that is followed from here on.
    pub const fn follows(&mut self, id: u64) {
        self.followed = id;
        self.removed = false;
    }

    /// Waits for the next change. A change that is not answered by [`Watch::follows`] is reported again. Nothing is lost if the
    /// future is dropped.
    pub async fn changed(&mut self) -> Change {
        loop {
            if self.is_due()
                && let Some(change) = self.check()
            {
                return change;
            }
            let needs_timer = !self.is_watched() && !self.is_beside_other_work;
            tokio::select! {
                _ = self.recheck.tick(), if needs_timer => {}
                () = came(self.above.as_ref()) => {}
            }
            self.checked = None;
        }
    }

    fn is_due(&self) -> bool {
        let age = self.checked.map(|checked| clock::now() - checked);
        let interval = if self.is_watched() {
            WATCHED_INTERVAL
        } else {
            CHECK_INTERVAL
        };
        age.is_none_or(|age| age >= interval)
    }

    /// Whether events show changes.
    fn is_watched(&self) -> bool {
        self.above.as_ref().is_some_and(Above::is_watching)
    }

    /// Gives a change. Until it is answered the path is checked with each call.
    fn check(&mut self) -> Option<Change> {
        // Before the check, so that no change is missed between the two.
        if let Some(above) = &mut self.above {
            above.move_to(&self.path);
        }
        let change = self.change();
        self.checked = change.is_none().then(clock::now);
        change
    }

    fn change(&mut self) -> Option<Change> {
        match fs::metadata(&self.path) {
            Ok(found) if found.ino() == self.followed => None,
            Ok(_) => Some(Change::Recreated),
            Err(_) if self.removed => None,
            Err(_) => {
                self.removed = true;
                Some(Change::Removed)
            }
        }
    }
}

/// Waits for an event; for ever where there are none.
async fn came(above: Option<&Above>) {
    match above {
        Some(above) => above.came().await,
        None => std::future::pending().await,
    }
}

/// The nearest existing directory above a path, which is watched.
#[derive(Debug)]
struct Above {
    notices: Notices,
    directory: Option<(PathBuf, u64, WatchDescriptor)>,
}

// === impl Above ===

impl Above {
    fn open() -> io::Result<Self> {
        Ok(Self {
            notices: Notices::open()?,
            directory: None,
        })
    }

    /// Moves the watch to the nearest existing directory above the path.
    fn move_to(&mut self, path: &Path) {
        for above in path.ancestors().skip(1) {
            let Ok(id) = fs::metadata(above).map(|found| found.ino()) else {
                continue;
            };
            if let Some((known, known_id, watch)) = &self.directory {
                if known == above && *known_id == id {
                    return;
                }
                self.notices.forget(*watch);
            }
            let events = AddWatchFlags::IN_CREATE
                | AddWatchFlags::IN_DELETE
                | AddWatchFlags::IN_DELETE_SELF
                | AddWatchFlags::IN_MOVED_TO;
            let watch = self.notices.watch(above, events);
            self.directory = watch.map(|watch| (above.to_owned(), id, watch));
            if self.directory.is_some() {
                return;
            }
        }
    }

    /// Whether changes are reported.
    const fn is_watching(&self) -> bool {
        self.directory.is_some()
    }

    /// Waits for events. Their content is not used: the check after them reads the path.
    async fn came(&self) {
        self.notices.came().await;
        self.notices.read();
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn id(path: &Path) -> u64 {
        fs::metadata(path).expect("a directory").ino()
    }

    async fn next(watch: &mut Watch) -> Change {
        let change = timeout(LIMIT, watch.changed()).await;
        change.expect("a change in time")
    }

    /// Whether nothing is reported for a while.
    async fn is_quiet(watch: &mut Watch) -> bool {
        let change = timeout(Duration::from_millis(50), watch.changed()).await;
        change.is_err()
    }

    /// A directory serves as a cgroup: VFS sends the events of both.
    #[tokio::test]
    async fn removal_and_recreation_are_reported_with_parents_removed() {
        let directory = tempfile::tempdir().expect("a directory");
        let parent = directory.path().join("system.slice");
        let path = parent.join("nginx.service");
        fs::create_dir_all(&path).expect("made");
        // While it is open its inode number is not reused, as a cgroup's never is.
        let _held = fs::File::open(&path).expect("open");
        let mut watch = Watch::new(&path, id(&path));
        assert!(is_quiet(&mut watch).await, "nothing has changed");
        fs::remove_dir(&path).expect("removed");
        assert_eq!(next(&mut watch).await, Change::Removed);
        fs::remove_dir(&parent).expect("removed");
        assert!(is_quiet(&mut watch).await, "reported once");
        fs::create_dir_all(&path).expect("made");
        assert_eq!(next(&mut watch).await, Change::Recreated);
        assert_eq!(
            next(&mut watch).await,
            Change::Recreated,
            "until it is followed"
        );
        watch.follows(id(&path));
        assert!(is_quiet(&mut watch).await);
    }

    /// The caller asks again with what else it does.
    #[tokio::test]
    async fn without_events_a_change_is_reported_when_it_is_asked_for() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("pod");
        fs::create_dir(&path).expect("made");
        let mut watch = Watch::beside_other_work(&path, id(&path));
        assert!(is_quiet(&mut watch).await, "nothing has changed");
        fs::remove_dir(&path).expect("removed");
        watch.checked = None;
        assert_eq!(next(&mut watch).await, Change::Removed);
    }

    #[tokio::test]
    async fn recreated_cgroup_of_same_name_is_reported() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("nginx.service");
        fs::create_dir(&path).expect("made");
        let first = id(&path);
        let mut watch = Watch::new(&path, first);
        let _held = fs::File::open(&path).expect("open");
        fs::remove_dir(&path).expect("removed");
        fs::create_dir(&path).expect("made");
        assert_ne!(id(&path), first);
        assert_eq!(next(&mut watch).await, Change::Recreated);
    }
}
