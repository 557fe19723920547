//! A directory in which other users may write: the entry with flowcar's file name may be a link, a FIFO, a device, or another user's
//! file.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open, openat, renameat},
    sys::{stat::Mode, statvfs::fstatvfs},
    unistd::{UnlinkatFlags, geteuid, unlinkat},
};

/// The largest share of the free space that a file takes.
const SHARE: u64 = 8;

/// An open directory. Files in it are named without a path, so that no link below the directory is followed.
#[derive(Debug)]
pub struct Directory(OwnedFd);

// === impl Directory ===

impl Directory {
    /// Opens it. Links in its path are followed: the operator names that path.
    ///
    /// # Errors
    /// It is absent, or no directory.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(Self(open(path, flags, Mode::empty())?))
    }

    /// The content of a file of at most `most` bytes that this process's user wrote. It never blocks, as on a FIFO without a writer.
    ///
    /// # Errors
    /// It is absent; it is a link, not a regular file, larger, another user's, or writable for everybody; or it cannot be read.
    pub fn read(&self, name: &str, most: u64) -> io::Result<Vec<u8>> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = openat(&self.0, name, flags, Mode::empty()).map_err(|errno| match errno {
            Errno::ELOOP => io::Error::other("it is a symbolic link"),
            errno => errno.into(),
        })?;
        let file = File::from(file);
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        if found.uid() != geteuid().as_raw() {
            return Err(io::Error::other(format!(
                "it belongs to user {}, and flowcar is user {}",
                found.uid(),
                geteuid()
            )));
        }
        if found.mode() & 0o002 != 0 {
            return Err(io::Error::other("every user may write it"));
        }
        let mut content = Vec::new();
        file.take(most + 1).read_to_end(&mut content)?;
        if content.len() as u64 > most {
            return Err(io::Error::other(format!("it has more than {most} bytes")));
        }
        Ok(content)
    }

    /// Replaces the file with this name atomically: a reader finds the old one or the new one.
    /// Links are replaced, not followed. It need not outlive a reboot.
    ///
    /// # Errors
    /// There is too little free space, or it cannot be written.
    pub fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        self.leaves_room(content.len())?;
        let new = format!("{name}.new");
        match unlinkat(&self.0, &*new, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        // With O_EXCL no link is followed, and a file that another process created meanwhile is not written to.
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let file = openat(&self.0, &*new, flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
        File::from(file).write_all(content)?;
        Ok(renameat(&self.0, &*new, &self.0, name)?)
    }

    /// The file system may be shared with an application, for which it must not be full.
    fn leaves_room(&self, bytes: usize) -> io::Result<()> {
        let left = fstatvfs(&self.0)?;
        let left = left.blocks_available().saturating_mul(left.fragment_size());
        if bytes as u64 > left / SHARE {
            let message = format!("it would take {bytes} of {left} free bytes");
            return Err(io::Error::other(message));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, Permissions},
        os::unix::fs::{PermissionsExt as _, symlink},
    };

    use super::*;

    #[test]
    fn only_own_users_file_is_read() {
        let there = tempfile::tempdir().expect("a folder");
        let path = |name: &str| there.path().join(name);
        let directory = Directory::open(there.path()).expect("open");
        directory.write("good", b"12345").expect("written");
        assert_eq!(directory.read("good", 5).expect("read"), b"12345");

        symlink(path("good"), path("link")).expect("a link");
        symlink("/dev/zero", path("endless")).expect("a link");
        symlink(path("none"), path("dangling")).expect("a link");
        nix::unistd::mkfifo(&path("fifo"), Mode::S_IRWXU).expect("a FIFO");
        fs::create_dir(path("folder")).expect("a folder");
        fs::write(path("everybodys"), "1").expect("a file");
        fs::set_permissions(path("everybodys"), Permissions::from_mode(0o666)).expect("changed");
        for (name, why) in [
            ("link", "symbolic link"),
            ("endless", "symbolic link"),
            ("dangling", "symbolic link"),
            ("fifo", "not a regular file"),
            ("folder", "not a regular file"),
            ("everybodys", "every user may write it"),
            ("absent", "No such file"),
        ] {
            let error = directory.read(name, 5).expect_err(name).to_string();
            assert!(error.contains(why), "{name}: {error}");
        }
        let error = directory.read("good", 4).expect_err("too large");
        assert!(error.to_string().contains("more than 4 bytes"), "{error}");
    }

    #[test]
    fn write_replaces_planted_links() {
        let (there, victim) = (tempfile::tempdir(), tempfile::NamedTempFile::new());
        let (there, victim) = (there.expect("a folder"), victim.expect("a file"));
        fs::write(victim.path(), "mine").expect("written");
        let directory = Directory::open(there.path()).expect("open");
        for planted in ["state", "state.new"] {
            symlink(victim.path(), there.path().join(planted)).expect("a link");
            directory.write("state", b"ours").expect("written");
            assert_eq!(
                directory.read("state", 9).expect("read"),
                b"ours",
                "{planted}"
            );
            assert_eq!(fs::read(victim.path()).expect("read"), b"mine", "{planted}");
        }
        nix::unistd::mkfifo(&there.path().join("state.new"), Mode::S_IRWXU).expect("a FIFO");
        directory.write("state", b"then").expect("written");
        assert_eq!(directory.read("state", 9).expect("read"), b"then");
    }
}
