//! The file of the checkpoint (`FLOWCAR_STATE_DIR`), which the next flowcar reads.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::unistd::geteuid;

use crate::{
    clock,
    files::{self, Directory},
    flow::checkpoint::{Checkpoint, CheckpointFlows, KernelInstance, Most, decode, encode},
};

/// Its name in the directory.
const FILE: &str = "checkpoint.json";

/// A failed write is logged once in this time.
const QUIET: Duration = Duration::from_secs(600);

/// Reads and writes the file.
#[derive(Debug)]
pub struct CheckpointFile {
    directory: PathBuf,
    most: Most,
    instance: KernelInstance,
    last_warned: Option<Instant>,
}

impl CheckpointFile {
    /// A file in `directory`, which need not exist, with at most so many flows.
    ///
    /// # Errors
    /// The kernel does not report this boot and network namespace.
    pub fn open(directory: &Path, flows: usize) -> io::Result<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        Ok(Self {
            directory: directory.to_owned(),
            most: Most { flows },
            instance: KernelInstance {
                boot: boot.trim().to_owned(),
                netns: fs::metadata("/proc/self/ns/net")?.ino(),
            },
            last_warned: None,
        })
    }

    /// The boot and network namespace of this process.
    pub const fn instance(&self) -> &KernelInstance {
        &self.instance
    }

    /// The checkpoint of the flowcar before this one. An unreadable one is logged and counts as none. An application may share the
    /// directory, so a file is read only if flowcar's own user wrote it.
    pub fn read(&self) -> Option<Checkpoint> {
        let unreadable = |error: &dyn std::error::Error| {
            tracing::warn!(
                file = %self.shown(),
                %error,
                "the checkpoint of the previous flowcar cannot be read, so this counts as a first start: connections that are open count as adopted by startup"
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

    /// Writes the flows of an acknowledged report that was made at this time (nanoseconds since the Unix epoch).
    pub fn keep(&mut self, taken_unix_ns: u64, reported: &CheckpointFlows) {
        let Err(error) = self.write(&encode(&self.instance, taken_unix_ns, reported)) else {
            self.last_warned = None;
            return;
        };
        let quiet = |at: Instant| at.elapsed() < QUIET;
        if !self.last_warned.is_some_and(quiet) {
            self.last_warned = Some(clock::now());
            tracing::warn!(
                file = %self.shown(),
                %error,
                "cannot write the checkpoint, so the next flowcar would count open connections twice; FLOWCAR_STATE_DIR must be a directory with free space that user {} may write to",
                geteuid()
            );
        }
    }

    /// Its path in the log.
    fn shown(&self) -> String {
        format!("{}/{FILE}", files::shown(&self.directory))
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
    fn checkpoint_is_read_back_and_invalid_file_is_a_first_start() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut file = CheckpointFile::open(directory.path(), FLOWS).expect("a instance");
        assert_eq!(file.read(), None);
        file.keep(7, &CheckpointFlows::default());
        let expected = Checkpoint {
            instance: file.instance().clone(),
            taken_unix_ns: 7,
            reported: CheckpointFlows::default(),
        };
        assert_eq!(file.read(), Some(expected));
        assert!(!file.instance().boot.is_empty() && file.instance().netns > 0);
        let names = fs::read_dir(directory.path()).expect("a directory").count();
        assert_eq!(names, 1, "nothing else is left");
        fs::write(
            directory.path().join(FILE),
            b"{\"flowcar_checkpoint\":1,\"in",
        )
        .expect("written");
        assert_eq!(file.read(), None);
    }

    #[test]
    fn key_in_place_of_the_directory_is_not_logged() {
        let key = Path::new("glc_s3cretOiIxMjM0NTY3ODkwMTIzNDU2Nzg5MCJ9");
        let file = CheckpointFile::open(key, FLOWS).expect("a instance");
        assert_eq!(file.shown(), "(hidden)/checkpoint.json");
    }

    #[test]
    fn missing_directory_is_logged_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut file =
            CheckpointFile::open(&directory.path().join("none"), FLOWS).expect("a instance");
        file.keep(7, &CheckpointFlows::default());
        let last_warned = file.last_warned.expect("a warning");
        file.keep(8, &CheckpointFlows::default());
        assert_eq!(file.last_warned, Some(last_warned));
        assert_eq!(file.read(), None);
        fs::create_dir(directory.path().join("none")).expect("a directory");
        file.keep(9, &CheckpointFlows::default());
        assert_eq!(file.last_warned, None);
        assert_eq!(file.read().map(|left| left.taken_unix_ns), Some(9));
    }
}
