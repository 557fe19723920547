//! Files that the settings name: read whole within a bound, and read again when they change.

mod directory;
mod notices;

use std::{
    fs::{self, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

pub use directory::Directory;
pub use notices::Notices;

/// A file with wrong content or type.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{} {wrong}; {remedy}", path.display())]
pub struct FileError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it; never its content.
    pub wrong: String,
    /// What to do.
    pub remedy: String,
}

/// What is wrong where no descriptor is left, and what to do.
pub const NO_DESCRIPTOR: &str = "no file descriptor is left: raise the limit of open files (ulimit -n, LimitNOFILE=), or see who uses them up";

/// The state of a file when it was read: device, inode, size, time of the last change.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

/// The state of files, to detect changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamps(Vec<Stamp>);

/// A file of /proc of a few lines, in one read: the kernel writes it anew for each read from its start. Reading up to its end takes several.
///
/// # Errors
/// It cannot be read, is no text, or may be longer than `N` bytes.
pub fn read_short<const N: usize>(path: impl AsRef<Path>) -> io::Result<String> {
    let mut buffer = [0; N];
    let length = fs::File::open(path)?.read(&mut buffer)?;
    if length == N {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    String::from_utf8(buffer[..length].to_vec()).map_err(io::Error::other)
}

// === impl FileError ===

impl FileError {
    /// The error of the file at `path`, and what to do.
    pub fn new(path: &Path, wrong: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            wrong: wrong.into(),
            remedy: remedy.into(),
        }
    }
}

// === impl Stamps ===

impl Stamps {
    /// The state of the files, for a later comparison.
    pub fn of<'a>(paths: impl Iterator<Item = &'a Path>) -> Self {
        Self(paths.map(stamp).collect())
    }
}

fn stamp(path: &Path) -> Stamp {
    let meta = fs::metadata(path).ok()?;
    Some((
        meta.dev(),
        meta.ino(),
        meta.size(),
        meta.ctime(),
        meta.ctime_nsec(),
    ))
}

/// A path from a setting as far as it may be shown: a key may have been pasted there.
pub fn shown(path: &Path) -> String {
    if path.exists() || resembles_path(path) {
        path.display().to_string().escape_debug().to_string()
    } else {
        "(hidden)".to_owned()
    }
}

/// Keys in base64 may begin with a slash. They have a + or long parts.
fn resembles_path(path: &Path) -> bool {
    const LONGEST: usize = 128;
    /// That of a pod's uid.
    const LONGEST_PART: usize = 36;
    let text = path.to_str().unwrap_or_default();
    let begins = ["/", "./", "../"]
        .iter()
        .any(|start| text.starts_with(start));
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let mut parts = text.split('/');
    begins
        && text.len() <= LONGEST
        && parts.all(|part| part.len() <= LONGEST_PART && part.chars().all(plain))
}

/// Whether the process, or the machine, has no file descriptor left.
pub fn lacks_descriptor(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// Whether the process may have so many file descriptors more.
pub fn has_descriptors(count: usize) -> bool {
    let one = || {
        OpenOptions::new()
            .custom_flags(libc::O_PATH)
            .read(true)
            .open("/")
    };
    let all: io::Result<Vec<_>> = (0..count).map(|_| one()).collect();
    !all.is_err_and(|error| lacks_descriptor(&error))
}

/// The content of a regular file of at most `most` bytes. It never blocks, as on a FIFO without a writer.
///
/// # Errors
/// It cannot be opened or read, is something else than a regular file, is empty, or is larger.
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>, FileError> {
    let wrong = |wrong: String| {
        FileError::new(path, wrong, "give the path of a file that flowcar may read")
    };
    let unreadable = |error: io::Error| wrong(format!("cannot be read ({error})"));
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(unreadable)?;
    let meta = file.metadata().map_err(unreadable)?;
    if meta.is_dir() {
        return Err(wrong("is a directory".to_owned()));
    }
    if !meta.is_file() {
        return Err(wrong("is not a regular file".to_owned()));
    }
    let mut content = Vec::new();
    file.take(most + 1)
        .read_to_end(&mut content)
        .map_err(unreadable)?;
    if content.is_empty() {
        return Err(wrong("is empty".to_owned()));
    }
    if content.len() as u64 > most {
        return Err(wrong(format!("has more than {most} bytes")));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_file_is_read_whole_or_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, "1234567").unwrap();
        assert_eq!(read_short::<8>(&file).unwrap(), "1234567");
        let refused = read_short::<7>(&file).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn key_is_not_shown_as_a_path() {
        for (path, is_shown) in [
            ("/run/absent/ca.crt", true),
            ("../state", true),
            (
                "/var/lib/kubelet/pods/0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9/v",
                true,
            ),
            ("src", true),
            ("glc_s3cretOiIxMjM0NTY3ODkwMTIzNDU2Nzg5MCJ9", false),
            ("s3cret", false),
            ("/9s3cret+AAQSkZJRgABAQ", false),
            (
                "/9j4AAQSkZJRgABAQAASABIAADs3cretAQAASABI12345678901234567",
                false,
            ),
            ("/s3cret=", false),
            ("/s3\ncret", false),
        ] {
            assert_eq!(shown(Path::new(path)) == path, is_shown, "{path}");
        }
    }

    #[test]
    fn replaced_file_of_same_name_and_size_has_a_new_stamp() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("ca.crt");
        let stamps = || Stamps::of(std::iter::once(path.as_path()));
        let absent = stamps();
        fs::write(&path, "one").expect("a file");
        let first = stamps();
        assert_ne!(absent, first);
        assert_eq!(first, stamps());
        // As Kubernetes replaces a mounted secret: by a rename.
        let next = dir.path().join("next");
        fs::write(&next, "two").expect("a file");
        fs::rename(&next, &path).expect("a file");
        assert_ne!(first, stamps());
    }

    #[test]
    fn only_regular_file_within_the_bound_is_read() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = |name: &str| dir.path().join(name);
        fs::write(path("good"), "12345").expect("a file");
        fs::write(path("large"), "123456").expect("a file");
        fs::write(path("empty"), "").expect("a file");
        nix::unistd::mkfifo(&path("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
        assert_eq!(read(&path("good"), 5).expect("a file"), b"12345");
        for (name, why) in [
            ("large", "has more than 5 bytes"),
            ("empty", "is empty"),
            ("fifo", "is not a regular file"),
            ("", "is a directory"),
            ("absent", "cannot be read (No such file"),
            ("good/below", "cannot be read (Not a directory"),
        ] {
            let error = read(&path(name), 5).expect_err(name);
            assert!(error.wrong.starts_with(why), "{name}: {error}");
        }
        let error = read(Path::new("/dev/zero"), 5).expect_err("endless");
        assert_eq!(error.wrong, "is not a regular file");
    }
}
