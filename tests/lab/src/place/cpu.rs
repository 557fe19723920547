use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use super::{cgroup::Cgroup, error::Error};

const NEEDS_ROOT: &str = "run as root with a writable cgroup tree";

/// What bounds the CPU time of a process: its share of each period, which the kernel enforces (CFS bandwidth control).
#[derive(Debug)]
pub struct CpuQuota {
    /// The cgroup of version 1 that was made for it. With version 2 the process's own has the limit.
    made: Option<PathBuf>,
}

// === impl CpuQuota ===

impl CpuQuota {
    /// Bounds a process that is in this cgroup, with all its threads. `None` where neither version of cgroups has the controller
    /// `cpu`.
    ///
    /// # Errors
    /// The controller is there, and the tree is not writable.
    pub fn of(
        pid: u32,
        cgroup: &Cgroup,
        quota: Duration,
        period: Duration,
    ) -> Result<Option<Self>, Error> {
        let found = match version_1_mount().map_err(Error::at("read mounts", "mount /proc"))? {
            Some(mount) => Self::version_1(&mount, pid, cgroup, quota, period).map(Some),
            None => Self::version_2(cgroup, quota, period),
        };
        found.map_err(Error::at("limit CPU time", NEEDS_ROOT))
    }

    /// Makes `command` share it.
    ///
    /// # Errors
    /// The tree is not writable.
    pub fn enter(&self, command: &mut Command) -> Result<(), Error> {
        let Some(path) = &self.made else {
            return Ok(());
        };
        let procs = OpenOptions::new()
            .write(true)
            .open(path.join("cgroup.procs"));
        let procs = procs.map_err(Error::at("enter a CPU limit", NEEDS_ROOT))?;
        // SAFETY: between fork and exec the closure only calls write(2) on a descriptor opened before.
        unsafe { command.pre_exec(move || (&procs).write_all(b"0")) };
        Ok(())
    }

    /// The name of the process's cgroup is the only one in its tree, and so it is here.
    fn version_1(
        mount: &Path,
        pid: u32,
        cgroup: &Cgroup,
        quota: Duration,
        period: Duration,
    ) -> io::Result<Self> {
        let name = cgroup.path().file_name().ok_or(io::ErrorKind::NotFound)?;
        let path = mount.join(name);
        fs::create_dir(&path)?;
        let this = Self {
            made: Some(path.clone()),
        };
        fs::write(
            path.join("cpu.cfs_period_us"),
            period.as_micros().to_string(),
        )?;
        fs::write(path.join("cpu.cfs_quota_us"), quota.as_micros().to_string())?;
        fs::write(path.join("cgroup.procs"), pid.to_string())?;
        Ok(this)
    }

    fn version_2(cgroup: &Cgroup, quota: Duration, period: Duration) -> io::Result<Option<Self>> {
        let above = cgroup.path().parent().ok_or(io::ErrorKind::NotFound)?;
        let controllers = fs::read_to_string(above.join("cgroup.controllers"))?;
        if !controllers.split_whitespace().any(|name| name == "cpu") {
            return Ok(None);
        }
        fs::write(above.join("cgroup.subtree_control"), "+cpu")?;
        let limit = format!("{} {}", quota.as_micros(), period.as_micros());
        fs::write(cgroup.path().join("cpu.max"), limit)?;
        Ok(Some(Self { made: None }))
    }
}

impl Drop for CpuQuota {
    /// The process has been killed by then.
    fn drop(&mut self) {
        if let Some(path) = &self.made
            && let Err(error) = fs::remove_dir(path)
        {
            eprintln!("left behind: cgroup {}: {error}", path.display());
        }
    }
}

/// Where the controller `cpu` of version 1 is mounted (proc_pid_mountinfo(5): the controllers are among the options behind the dash).
fn version_1_mount() -> io::Result<Option<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let mount = mounts.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - cgroup ")?;
        let mut options = filesystem.split(' ').nth(1)?.split(',');
        options.any(|option| option == "cpu").then_some(())?;
        mount.split(' ').nth(4).map(PathBuf::from)
    });
    Ok(mount)
}
