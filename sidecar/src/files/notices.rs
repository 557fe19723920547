//! The kernel's events in directories (inotify(7)), for a task that waits for them.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd, RawFd},
    path::Path,
};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use tokio::io::{Interest, unix::AsyncFd};

/// One inotify instance. A user has 128 of them, unless the node has more (`fs.inotify.max_user_instances`).
#[derive(Debug)]
pub struct Notices(AsyncFd<Descriptor>);

#[derive(Debug)]
struct Descriptor(Inotify);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

// === impl Notices ===

impl Notices {
    /// Makes an instance, in a tokio runtime.
    ///
    /// # Errors
    /// There are no more instances or descriptors, or the kernel has none.
    pub fn open() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let descriptor = Descriptor(inotify);
        // SAFETY: the descriptor is owned, and the AsyncFd owns its owner for as long as it is registered.
        let registered = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
        Ok(Self(registered.map_err(io::Error::from)?))
    }

    /// Watches a directory for these events. Watched twice, it has one watch. `None` where it cannot be watched.
    pub fn watch(&self, directory: &Path, events: AddWatchFlags) -> Option<WatchDescriptor> {
        let flags = events | AddWatchFlags::IN_ONLYDIR;
        self.0.get_ref().0.add_watch(directory, flags).ok()
    }

    /// Watches a directory no more. The kernel does that by itself where it is removed.
    pub fn forget(&self, watch: WatchDescriptor) {
        let _ = self.0.get_ref().0.rm_watch(watch);
    }

    /// Waits until there are events. They are to be read then: it waits for others after that.
    pub async fn came(&self) {
        match self.0.readable().await {
            Ok(mut ready) => ready.clear_ready(),
            // The runtime ends.
            Err(_) => std::future::pending().await,
        }
    }

    /// The events that have come.
    pub fn read(&self) -> Vec<InotifyEvent> {
        let mut all = Vec::new();
        while let Ok(events) = self.0.get_ref().0.read_events()
            && !events.is_empty()
        {
            all.extend(events);
        }
        all
    }
}
