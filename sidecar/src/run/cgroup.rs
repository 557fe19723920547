//! A cgroup for one command, removed however the command ends.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use crate::cgroup::{self, CgroupError};

const PREFIX: &str = "flowcar-run-";

/// The cgroup. It lies below flowcar's own, so that the command stays under every limit that it would have without.
#[derive(Debug)]
pub(super) struct CommandCgroup {
    path: PathBuf,
    parent: PathBuf,
}

impl CommandCgroup {
    /// Creates it, and removes the empty cgroups of killed flowcars beside it.
    pub(super) fn make() -> Result<Self, CgroupError> {
        let parent = cgroup::own_cgroup()?;
        sweep(&parent);
        let path = parent.join(format!("{PREFIX}{}", std::process::id()));
        fs::create_dir(&path).map_err(|error| CgroupError::Make {
            path: path.display().to_string(),
            error,
        })?;
        Ok(Self { path, parent })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// How many processes are in it; 0 where that cannot be read.
    pub(super) fn running(&self) -> usize {
        let members = fs::read_to_string(self.path.join("cgroup.procs"));
        members.map_or(0, |members| members.lines().count())
    }

    /// The parent cgroup, to which remaining processes are moved back.
    pub(super) fn parent(&self) -> &Path {
        &self.parent
    }

    /// A process that writes `0` here joins the cgroup.
    pub(super) fn members(&self) -> io::Result<File> {
        OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_CLOEXEC)
            .open(self.path.join("cgroup.procs"))
    }
}

impl Drop for CommandCgroup {
    /// Processes that the command left running move to flowcar's own cgroup, where they would be without flowcar.
    fn drop(&mut self) {
        for _ in 0..100 {
            match fs::remove_dir(&self.path) {
                Ok(()) => return,
                // The hierarchy's root may be changed only with capabilities, which were dropped; the next flowcar removes it.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    move_members(&self.path, &self.parent);
                    return tracing::debug!(cgroup = %self.path.display(), "the cgroup is left to the next flowcar");
                }
                Err(_) => {}
            }
            move_members(&self.path, &self.parent);
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        tracing::warn!(cgroup = %self.path.display(), "the cgroup could not be removed; rmdir it when its processes have ended");
    }
}

fn move_members(from: &Path, to: &Path) {
    let Ok(members) = fs::read_to_string(from.join("cgroup.procs")) else {
        return;
    };
    for pid in members.lines() {
        let joined = OpenOptions::new()
            .write(true)
            .open(to.join("cgroup.procs"))
            .and_then(|mut file| file.write_all(pid.as_bytes()));
        if let Err(error) = joined {
            tracing::debug!(pid, %error, "a process that the command left cannot be moved");
        }
    }
}

/// Removes the empty cgroups of flowcars that no longer run. One with processes in it is not removed by the kernel.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX))
            .and_then(|pid| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}
