//! The file in which a flowcar leaves what the one after it needs to know (`FLOWCAR_STATE`).

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{sys::statvfs::statvfs, unistd::geteuid};

use crate::flow::handover::{Handover, Leaving, Place, decode, encode};

/// Its name in the directory.
const FILE: &str = "handover.json";

/// A file that is larger is not ours: a million flows take less.
const MOST_BYTES: u64 = 256 << 20;

/// The file takes no more than this part of the room that is left.
const SHARE: u64 = 8;

/// What cannot be written is spoken of once in this time.
const QUIET: Duration = Duration::from_secs(600);

/// Keeps the file.
#[derive(Debug)]
pub struct Keeper {
    file: PathBuf,
    place: Place,
    complained: Option<Instant>,
}

impl Keeper {
    /// Keeps it in `directory`, which need not be there.
    ///
    /// # Errors
    /// The kernel does not say where this process is.
    pub fn open(directory: &Path) -> io::Result<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        Ok(Self {
            file: directory.join(FILE),
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

    /// What the flowcar before this one left. What cannot be read is as good as nothing, and is told.
    pub fn read(&self) -> Option<Handover> {
        let unreadable = |error: &dyn std::error::Error| {
            tracing::warn!(
                file = %self.file.display(),
                %error,
                "what the flowcar before this one left cannot be read, so this is taken for a first start: connections that are open count as new"
            );
        };
        let read = || match fs::metadata(&self.file)?.len() {
            0..=MOST_BYTES => fs::read(&self.file),
            _ => Err(io::Error::other("it is too large to be a flowcar's")),
        };
        match read() {
            Ok(bytes) => decode(&bytes).inspect_err(|error| unreadable(error)).ok(),
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
                file = %self.file.display(),
                %error,
                "cannot leave what was reported for the flowcar after this one, so it would count connections that are open twice; FLOWCAR_STATE must be a directory with room that user {} may write to",
                geteuid()
            );
        }
    }

    /// Whole or not at all: whoever reads it finds the old one or the new one. It need not outlive the machine's start, as
    /// no connection does.
    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let directory = self.file.parent().unwrap_or(&self.file);
        leaves_room(directory, bytes.len())?;
        let new = self.file.with_extension("new");
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        io::Write::write_all(&mut file, bytes)?;
        fs::rename(&new, &self.file)
    }
}

/// The place may be shared with an application, which is not to find it full.
fn leaves_room(directory: &Path, bytes: usize) -> io::Result<()> {
    let left = statvfs(directory)?;
    let left = left.blocks_available().saturating_mul(left.fragment_size());
    if bytes as u64 > left / SHARE {
        let message = format!("it would take {bytes} bytes of {left} that are left");
        return Err(io::Error::other(message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_again_and_all_else_is_a_first_start() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut keeper = Keeper::open(directory.path()).expect("a place");
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
        let mut keeper = Keeper::open(&directory.path().join("none")).expect("a place");
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
