use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
};

use super::error::Error;

const NEEDS_ROOT: &str = "run as root with a writable cgroup tree";

/// A memory cgroup of its own, of version 1 or 2; it is removed on drop, when its processes have ended.
#[derive(Debug)]
pub struct MemoryCgroup {
    path: PathBuf,
    version_1: bool,
}

// === impl MemoryCgroup ===

impl MemoryCgroup {
    /// Makes one, with this limit in bytes if any. `None` where neither version of cgroups has the controller `memory`.
    ///
    /// # Errors
    /// The controller is there, and the tree is not writable.
    pub fn new(name: &str, limit: Option<u64>) -> Result<Option<Self>, Error> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("flowcar-memory-{name}-{}-{number}", process::id());
        let (version_1, version_2) = (
            Path::new("/sys/fs/cgroup/memory"),
            Path::new("/sys/fs/cgroup"),
        );
        let controllers = fs::read_to_string(version_2.join("cgroup.subtree_control"));
        let is_delegated = controllers.is_ok_and(|text| text.contains("memory"));
        let memory = if version_1.join("memory.limit_in_bytes").is_file() {
            Self {
                path: version_1.join(name),
                version_1: true,
            }
        } else if is_delegated {
            Self {
                path: version_2.join(name),
                version_1: false,
            }
        } else {
            return Ok(None);
        };
        let failed = || Error::at("make a memory cgroup", NEEDS_ROOT);
        fs::create_dir(&memory.path).map_err(failed())?;
        if let Some(limit) = limit {
            let file = memory.limit_file();
            fs::write(memory.path.join(file), limit.to_string()).map_err(failed())?;
        }
        Ok(Some(memory))
    }

    const fn limit_file(&self) -> &'static str {
        if self.version_1 {
            "memory.limit_in_bytes"
        } else {
            "memory.max"
        }
    }

    /// Makes `command` join it before it runs.
    ///
    /// # Errors
    /// The cgroup was removed, or is not writable.
    pub fn enter(&self, command: &mut Command) -> Result<(), Error> {
        let processes = OpenOptions::new()
            .write(true)
            .open(self.path.join("cgroup.procs"))
            .map_err(Error::at("enter a memory cgroup", NEEDS_ROOT))?;
        // SAFETY: between fork and exec the closure only calls write(2) on a descriptor opened before.
        unsafe { command.pre_exec(move || (&processes).write_all(b"0")) };
        Ok(())
    }

    /// Bytes of the kernel's memory that are charged to it: maps of BPF programs and what they keep beside sockets, page tables,
    /// sockets, stacks.
    ///
    /// # Errors
    /// This kernel does not count them (version 2 before Linux 5.18).
    pub fn kernel_bytes(&self) -> Result<u64, Error> {
        let read = || {
            let value = if self.version_1 {
                fs::read_to_string(self.path.join("memory.kmem.usage_in_bytes"))?
            } else {
                let stat = fs::read_to_string(self.path.join("memory.stat"))?;
                let kernel = stat.lines().find_map(|line| line.strip_prefix("kernel "));
                kernel.unwrap_or_default().to_owned()
            };
            value.trim().parse().map_err(io::Error::other)
        };
        read().map_err(Error::at(
            "read the kernel's memory of a cgroup",
            "does this kernel count it?",
        ))
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        // Its process has ended.
        let _ = fs::remove_dir(&self.path);
    }
}
