//! The directories of containers in the read-only tree, and the files in them.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open, openat},
    sys::stat::Mode,
};

use super::parse::FILES;
use crate::{flow::ContainerId, origin};

/// The most directories that are searched for containers.
const MOST_SEARCHED: usize = 1_024;

/// The most bytes of a file: io.stat has some 100 for each device.
const MOST_BYTES: u64 = 256 * 1024;

/// What a search found: containers by their directories below the root, none below another.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) containers: Vec<(ContainerId, PathBuf)>,
    /// Whether the whole tree was searched.
    pub(super) is_whole: bool,
}

/// Searches the tree below a directory.
pub(super) fn search(root: &Path) -> Found {
    let mut found = Found {
        containers: Vec::new(),
        is_whole: true,
    };
    let (mut waiting, mut searched) = (vec![PathBuf::new()], 0);
    while let Some(directory) = waiting.pop() {
        searched += 1;
        if searched > MOST_SEARCHED {
            found.is_whole = false;
            break;
        }
        let entries = match fs::read_dir(root.join(&directory)) {
            Ok(entries) => entries,
            Err(error) => {
                // It was removed in the meantime.
                found.is_whole &= error.kind() == io::ErrorKind::NotFound;
                continue;
            }
        };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let path = directory.join(entry.file_name());
                match origin::container_in_name(&path) {
                    Some(id) => found.containers.push((id, path)),
                    None => waiting.push(path),
                }
            }
        }
    }
    found.containers.sort_unstable();
    found
}

/// An open directory of a cgroup. Its files are those of this cgroup also where another one is made in its place.
#[derive(Debug)]
pub(super) struct Directory {
    descriptor: OwnedFd,
    /// The cgroup's id: its inode number.
    pub(super) id: u64,
}

// === impl Directory ===

impl Directory {
    /// The root of the search. Links in its path are followed: the operator names that path.
    ///
    /// # Errors
    /// It is not there, or no descriptor is left.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Self::of(open(path, flags, Mode::empty())?)
    }

    /// One below it; itself where the path is empty.
    ///
    /// # Errors
    /// It is not there, or no descriptor is left.
    pub(super) fn below(&self, path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        Self::of(openat(&self.descriptor, path, flags, Mode::empty())?)
    }

    fn of(descriptor: OwnedFd) -> io::Result<Self> {
        let file = File::from(descriptor);
        let id = file.metadata()?.ino();
        Ok(Self {
            descriptor: file.into(),
            id,
        })
    }

    /// The contents of its files, each by its place in [`FILES`]. What it does not have, or the kernel does not give, is left out:
    /// a controller that is not enabled, pressure that is switched off.
    pub(super) fn files(&self) -> Vec<(usize, Vec<u8>)> {
        let read = |(place, (name, _)): (usize, &(&str, _))| Some((place, self.read(name).ok()?));
        FILES.iter().enumerate().filter_map(read).collect()
    }

    /// The beginning of a file, whole unless it is longer than the kernel writes one.
    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = File::from(openat(&self.descriptor, name, flags, Mode::empty())?);
        let mut content = Vec::new();
        file.take(MOST_BYTES + 1).read_to_end(&mut content)?;
        if content.len() as u64 > MOST_BYTES {
            return Err(Errno::EFBIG.into());
        }
        Ok(content)
    }
}
