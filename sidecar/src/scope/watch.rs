//! Whether the cgroup under a path is still the one that is followed: `systemctl restart` removes a unit's cgroup and makes
//! another of the same name.

use std::{
    fs, io,
    os::{
        fd::{AsFd as _, AsRawFd, RawFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Interval, MissedTickBehavior, interval},
};

/// How often it is looked, besides when the kernel tells of a change; where that is not to be had, alone.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What has become of the cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was removed, and nothing is in its place.
    Removed,
    /// Another is in its place, by whatever number of steps.
    MadeAnew,
}

/// Looks at one path. A cgroup's id is its directory's inode number, which is not given twice (fs/kernfs/dir.c,
/// __kernfs_new_node), so that a cgroup that was made between two looks is told from the one before it.
#[derive(Debug)]
pub struct Watch {
    path: PathBuf,
    /// The id of the cgroup that is followed, or was last.
    followed: u64,
    /// Whether it is known to be gone.
    removed: bool,
    notices: Option<Notices>,
    look: Interval,
}

// === impl Watch ===

impl Watch {
    /// Watches the path of the cgroup with this id.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(path: &Path, followed: u64) -> Self {
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let notices = Notices::open().inspect_err(|error| {
            tracing::debug!(%error, "the kernel does not tell of changes to the cgroup: it is looked at every second");
        });
        Self {
            path: path.to_owned(),
            followed,
            removed: false,
            notices: notices.ok(),
            look,
        }
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes in that the cgroup with this id is followed from here on.
    pub const fn follows(&mut self, id: u64) {
        self.followed = id;
        self.removed = false;
    }

    /// Waits for the next change. One that is not answered by [`Watch::follows`] is told again. Nothing is lost if the wait is
    /// dropped.
    pub async fn changed(&mut self) -> Change {
        loop {
            // Before the look, so that nothing falls between the two.
            if let Some(notices) = &mut self.notices {
                notices.move_to(&self.path);
            }
            if let Some(change) = self.change() {
                return change;
            }
            match &self.notices {
                Some(notices) => tokio::select! {
                    _ = self.look.tick() => {}
                    () = notices.came() => {}
                },
                None => {
                    self.look.tick().await;
                }
            }
        }
    }

    fn change(&mut self) -> Option<Change> {
        match fs::metadata(&self.path) {
            Ok(found) if found.ino() == self.followed => None,
            Ok(_) => Some(Change::MadeAnew),
            Err(_) if self.removed => None,
            Err(_) => {
                self.removed = true;
                Some(Change::Removed)
            }
        }
    }
}

/// The kernel's word of what happens in the nearest directory above a path that is there (inotify(7)).
#[derive(Debug)]
struct Notices {
    inotify: AsyncFd<Descriptor>,
    above: Option<(PathBuf, u64, WatchDescriptor)>,
}

#[derive(Debug)]
struct Descriptor(Inotify);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Notices {
    fn open() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let descriptor = Descriptor(inotify);
        Ok(Self {
            // SAFETY: the descriptor is owned, and the AsyncFd owns its owner for as long as it is registered.
            inotify: unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }
                .map_err(io::Error::from)?,
            above: None,
        })
    }

    /// Sees to it that the nearest directory above is the one that is listened to.
    fn move_to(&mut self, path: &Path) {
        let inotify = &self.inotify.get_ref().0;
        for above in path.ancestors().skip(1) {
            let Ok(id) = fs::metadata(above).map(|found| found.ino()) else {
                continue;
            };
            if let Some((known, known_id, descriptor)) = &self.above {
                if known == above && *known_id == id {
                    return;
                }
                // That of a directory that is gone is gone, too.
                let _ = inotify.rm_watch(*descriptor);
            }
            let flags = AddWatchFlags::IN_CREATE
                | AddWatchFlags::IN_DELETE
                | AddWatchFlags::IN_DELETE_SELF
                | AddWatchFlags::IN_MOVED_TO
                | AddWatchFlags::IN_ONLYDIR;
            let added = inotify.add_watch(above, flags);
            self.above = added
                .ok()
                .map(|descriptor| (above.to_owned(), id, descriptor));
            if self.above.is_some() {
                return;
            }
        }
    }

    /// Waits until something happens there.
    async fn came(&self) {
        let Ok(mut ready) = self.inotify.readable().await else {
            return std::future::pending().await;
        };
        // What it is, is looked at.
        while self
            .inotify
            .get_ref()
            .0
            .read_events()
            .is_ok_and(|events| !events.is_empty())
        {}
        ready.clear_ready();
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

    /// A directory is as good as a cgroup: both are told of by VFS.
    #[tokio::test]
    async fn removal_and_return_are_told_whatever_is_removed_with_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let parent = directory.path().join("system.slice");
        let path = parent.join("nginx.service");
        fs::create_dir_all(&path).expect("made");
        // While it is open its inode number is not given again, as a cgroup's never is.
        let _held = fs::File::open(&path).expect("open");
        let mut watch = Watch::new(&path, id(&path));
        assert!(
            timeout(Duration::from_millis(50), watch.changed())
                .await
                .is_err(),
            "nothing has changed"
        );
        fs::remove_dir(&path).expect("removed");
        assert_eq!(next(&mut watch).await, Change::Removed);
        fs::remove_dir(&parent).expect("removed");
        assert!(
            timeout(Duration::from_millis(50), watch.changed())
                .await
                .is_err(),
            "told once"
        );
        fs::create_dir_all(&path).expect("made");
        assert_eq!(next(&mut watch).await, Change::MadeAnew);
        assert_eq!(
            next(&mut watch).await,
            Change::MadeAnew,
            "until it is followed"
        );
        watch.follows(id(&path));
        assert!(
            timeout(Duration::from_millis(50), watch.changed())
                .await
                .is_err()
        );
    }

    #[tokio::test]
    async fn another_of_the_same_name_is_another() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("nginx.service");
        fs::create_dir(&path).expect("made");
        let first = id(&path);
        let mut watch = Watch::new(&path, first);
        let _held = fs::File::open(&path).expect("open");
        fs::remove_dir(&path).expect("removed");
        fs::create_dir(&path).expect("made");
        assert_ne!(id(&path), first);
        assert_eq!(next(&mut watch).await, Change::MadeAnew);
    }
}
