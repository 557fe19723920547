//! The file in which a flowcar leaves what the one after it needs to know (`FLOWCAR_STATE`).

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::unistd::geteuid;

use crate::{
    files::Directory,
    flow::handover::{Handover, Leaving, Most, Place, decode, encode},
};

/// Its name in the directory.
const FILE: &str = "handover.json";

/// What cannot be written is spoken of once in this time.
const QUIET: Duration = Duration::from_secs(600);

/// Keeps the file.
#[derive(Debug)]
pub struct Keeper {
    directory: PathBuf,
    most: Most,
    place: Place,
    complained: Option<Instant>,
}

impl Keeper {
    /// Keeps it in `directory`, which need not be there, with at most so many flows.
    ///
    /// # Errors
    /// The kernel does not say where this process is.
    pub fn open(directory: &Path, flows: usize) -> io::Result<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        Ok(Self {
            directory: directory.to_owned(),
            most: Most { flows },
            place: Place {
                boot: boot.trim().to_owned(),
                netns: fs::metadata("/proc/self/ns/net")?.ino(),
            },
            complained: None,
        })
    }

    /// Where this process is.
    pub const fn place(&self) -> &Place {
        &self.place
    }

    /// What the flowcar before this one left. What cannot be read is as good as nothing, and is told. An application may share the
    /// directory, so a file is taken only if flowcar's own user wrote it.
    pub fn read(&self) -> Option<Handover> {
        let unreadable = |error: &dyn std::error::Error| {
            tracing::warn!(
                file = %self.directory.join(FILE).display(),
                %error,
                "what the flowcar before this one left cannot be read, so this is taken for a first start: connections that are open count as new"
            );
        };
        let read =
            Directory::open(&self.directory).and_then(|open| open.read(FILE, self.most.bytes()));
        match read {
            Ok(bytes) => decode(&bytes, self.most)
                .inspect_err(|error| unreadable(error))
                .ok(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                unreadable(&error);
                None
            }
        }
    }

    /// Leaves what a report told of that was made at this time (nanoseconds since the Unix epoch) and that a receiver took.
    pub fn keep(&mut self, taken_unix_ns: u64, leaving: &Leaving) {
        let Err(error) = self.write(&encode(&self.place, taken_unix_ns, leaving)) else {
            self.complained = None;
            return;
        };
        let quiet = |at: Instant| at.elapsed() < QUIET;
        if !self.complained.is_some_and(quiet) {
            self.complained = Some(Instant::now());
            tracing::warn!(
                file = %self.directory.join(FILE).display(),
                %error,
                "cannot leave what was reported for the flowcar after this one, so it would count connections that are open twice; FLOWCAR_STATE must be a directory with room that user {} may write to",
                geteuid()
            );
        }
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        Directory::open(&self.directory)?.write(FILE, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOWS: usize = 100;

    #[test]
    fn what_is_kept_is_read_again_and_all_else_is_a_first_start() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut keeper = Keeper::open(directory.path(), FLOWS).expect("a place");
        assert_eq!(keeper.read(), None);
        keeper.keep(7, &Leaving::default());
        let expected = Handover {
            place: keeper.place().clone(),
            taken_unix_ns: 7,
            leaving: Leaving::default(),
        };
        assert_eq!(keeper.read(), Some(expected));
        assert!(!keeper.place().boot.is_empty() && keeper.place().netns > 0);
        let names = fs::read_dir(directory.path()).expect("a directory").count();
        assert_eq!(names, 1, "nothing else is left");
        fs::write(directory.path().join(FILE), b"{\"flowcar_handover\":1,\"pl").expect("written");
        assert_eq!(keeper.read(), None);
    }

    #[test]
    fn a_directory_that_is_not_there_is_spoken_of_and_no_more() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut keeper = Keeper::open(&directory.path().join("none"), FLOWS).expect("a place");
        keeper.keep(7, &Leaving::default());
        let complained = keeper.complained.expect("a complaint");
        keeper.keep(8, &Leaving::default());
        assert_eq!(keeper.complained, Some(complained));
        assert_eq!(keeper.read(), None);
        fs::create_dir(directory.path().join("none")).expect("a directory");
        keeper.keep(9, &Leaving::default());
        assert_eq!(keeper.complained, None);
        assert_eq!(keeper.read().map(|left| left.taken_unix_ns), Some(9));
    }
}
