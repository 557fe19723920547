use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::{
        fd::AsFd,
        unix::{fs::MetadataExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{error::Error, owner::Owner};

const PREFIX: &str = "flowcar-test-";

/// How long a cgroup may take to empty after its processes were killed: they only have to die, but the
/// machine may be busy.
const EMPTY_WITHIN: Duration = Duration::from_secs(10);

const NEEDS_ROOT: &str = "run as root with a writable cgroup2";

/// A cgroup (version 2) of its own; its processes are killed and it is removed on drop.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

// === impl Cgroup ===

impl Cgroup {
    /// Makes a cgroup with a unique name that ends in `name`, directly under the mount of cgroup2.
    ///
    /// The first call in a process also removes what runs that are dead left behind.
    ///
    /// # Errors
    /// No cgroup2 is mounted, or it is not writable.
    pub fn new(name: &str) -> Result<Self, Error> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        static SWEEP: Once = Once::new();

        let mount = cgroup2_mount()?;
        SWEEP.call_once(|| sweep(&mount));
        let owner =
            Owner::current().map_err(Error::at("read the own start time", "mount /proc"))?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self::create(mount.join(format!("{PREFIX}{owner}-{number}-{name}")))
    }

    /// Makes a cgroup inside this one, named exactly `name` (as the kubelet names pods, for example).
    ///
    /// # Errors
    /// It exists, or the tree is not writable.
    pub fn child(&self, name: &str) -> Result<Self, Error> {
        Self::create(self.path.join(name))
    }

    fn create(path: PathBuf) -> Result<Self, Error> {
        fs::create_dir(&path).map_err(Error::at(
            format_args!("make cgroup {}", path.display()),
            NEEDS_ROOT,
        ))?;
        Ok(Self { path })
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its id as the kernel reports it (`bpf_get_current_cgroup_id`, `INET_DIAG_CGROUP_ID`): the inode
    /// number of its directory.
    ///
    /// # Errors
    /// The cgroup was removed.
    pub fn id(&self) -> Result<u64, Error> {
        let metadata = fs::metadata(&self.path).map_err(Error::at(
            format_args!("read cgroup {}", self.path.display()),
            "it was removed by someone else",
        ))?;
        Ok(metadata.ino())
    }

    /// Makes `command` join this cgroup before it runs.
    ///
    /// # Errors
    /// The cgroup was removed, or is not writable.
    pub fn enter(&self, command: &mut Command) -> Result<(), Error> {
        let procs = self.open_procs()?;
        // SAFETY: between fork and exec the closure only calls write(2) on a descriptor opened before.
        unsafe { command.pre_exec(move || (&procs).write_all(b"0")) };
        Ok(())
    }

    /// Starts `command` inside this cgroup.
    ///
    /// # Errors
    /// The command cannot be started.
    pub fn spawn(&self, mut command: Command) -> Result<Child, Error> {
        self.enter(&mut command)?;
        command.spawn().map_err(Error::at(
            format_args!("start {} in a cgroup", command.get_program().display()),
            "is it installed?",
        ))
    }

    /// Moves a running process (all its threads) into this cgroup. Its open sockets stay accounted to
    /// the cgroup in which they were made.
    ///
    /// # Errors
    /// The process has exited, or the cgroup was removed.
    pub fn adopt(&self, pid: u32) -> Result<(), Error> {
        self.open_procs()?
            .write_all(pid.to_string().as_bytes())
            .map_err(Error::at(
                format_args!("move process {pid} into {}", self.path.display()),
                "is it still running?",
            ))
    }

    fn open_procs(&self) -> Result<File, Error> {
        let procs = self.path.join("cgroup.procs");
        OpenOptions::new()
            .write(true)
            .open(&procs)
            .map_err(Error::at(
                format_args!("open {}", procs.display()),
                NEEDS_ROOT,
            ))
    }

    /// Kills every process in this cgroup and below it. They may take a moment to exit.
    ///
    /// # Errors
    /// The cgroup cannot be read.
    pub fn kill_all(&self) -> Result<(), Error> {
        kill_tree(&self.path).map_err(Error::at(
            format_args!("kill the processes of {}", self.path.display()),
            NEEDS_ROOT,
        ))
    }

    /// Waits until no process is left in this cgroup and below it; false when `within` ran out.
    ///
    /// # Errors
    /// The cgroup cannot be read.
    pub fn wait_empty(&self, within: Duration) -> Result<bool, Error> {
        wait_empty(&self.path, within).map_err(Error::at(
            format_args!("watch {}", self.path.display()),
            NEEDS_ROOT,
        ))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&self.path) {
            // Not a panic: this may already run because of one, whose message must not be lost.
            eprintln!("left behind: cgroup {}: {error}", self.path.display());
        }
    }
}

/// Where cgroup2 is mounted, wherever that is (`/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` beside
/// version 1).
///
/// # Errors
/// It is mounted nowhere.
pub fn cgroup2_mount() -> Result<PathBuf, Error> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")
        .map_err(Error::at("read /proc/self/mountinfo", "mount /proc"))?;
    mounts
        .lines()
        .find_map(cgroup2_mount_point)
        .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
        .map_err(Error::at(
            "find cgroup2",
            "mount it: mount -t cgroup2 none /sys/fs/cgroup",
        ))
}

/// A line's mount point if it is a cgroup2 (proc_pid_mountinfo(5): optional fields end at a lone dash).
fn cgroup2_mount_point(line: &str) -> Option<PathBuf> {
    let (mount, filesystem) = line.split_once(" - ")?;
    filesystem.starts_with("cgroup2 ").then_some(())?;
    mount.split(' ').nth(4).map(PathBuf::from)
}

/// Removes the cgroups whose owner is dead. What cannot be removed is left for the next run.
fn sweep(mount: &Path) {
    for entry in fs::read_dir(mount).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX)?.parse::<Owner>().ok());
        if owner.is_some_and(|owner| owner.is_dead())
            && let Err(error) = remove_tree(&entry.path())
        {
            eprintln!(
                "leftover of a dead run stays: cgroup {}: {error}",
                entry.path().display()
            );
        }
    }
}

/// Kills, waits, and removes the whole tree, the leaves first. A tree that is removed already is no error.
fn remove_tree(path: &Path) -> io::Result<()> {
    let deadline = Instant::now() + EMPTY_WITHIN;
    loop {
        let removed = kill_tree(path)
            .and_then(|()| wait_empty(path, deadline.saturating_duration_since(Instant::now())))
            .and_then(|_| remove_directories(path));
        match removed {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // ENODEV: a file of the cgroup was open while someone else removed it.
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) && !path.exists() => {
                return Ok(());
            }
            Err(error)
                if error.kind() != io::ErrorKind::ResourceBusy || Instant::now() > deadline =>
            {
                return Err(error);
            }
            Err(_) => std::thread::yield_now(),
        }
    }
}

fn remove_directories(path: &Path) -> io::Result<()> {
    for child in children(path)? {
        remove_directories(&child)?;
    }
    fs::remove_dir(path)
}

fn children(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut directories = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            directories.push(entry.path());
        }
    }
    Ok(directories)
}

/// `cgroup.kill` where the kernel has it (5.14), else one signal to each process.
fn kill_tree(path: &Path) -> io::Result<()> {
    match fs::write(path.join("cgroup.kill"), "1") {
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.exists() => kill_each(path),
        // Opening with O_CREAT is refused on cgroupfs where the file does not exist.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => kill_each(path),
        result => result,
    }
}

fn kill_each(path: &Path) -> io::Result<()> {
    for child in children(path)? {
        kill_each(&child)?;
    }
    for pid in fs::read_to_string(path.join("cgroup.procs"))?.lines() {
        if let Ok(pid) = pid.parse() {
            // It may have exited by now.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    Ok(())
}

/// Waits for `populated 0` in `cgroup.events`, which the kernel announces by POLLPRI.
fn wait_empty(path: &Path, within: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + within;
    let events = File::open(path.join("cgroup.events"))?;
    loop {
        if io::read_to_string(&events)?
            .lines()
            .any(|line| line == "populated 0")
        {
            return Ok(true);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        poll(
            &mut [PollFd::new(events.as_fd(), PollFlags::POLLPRI)],
            timeout,
        )?;
        nix::unistd::lseek(&events, 0, nix::unistd::Whence::SeekSet)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_cgroup2_among_version_1() {
        let v1 = "38 31 0:34 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids";
        let v2 = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw";
        assert_eq!(cgroup2_mount_point(v1), None);
        assert_eq!(
            cgroup2_mount_point(v2),
            Some(PathBuf::from("/sys/fs/cgroup/unified"))
        );
    }

    /// What kernels before 5.14 need, tried on whichever this is.
    #[test]
    fn processes_can_be_killed_one_by_one() {
        if !crate::place::require_root() || !crate::place::require_cgroup2() {
            return;
        }
        let cgroup = Cgroup::new("one-by-one").unwrap();
        let below = cgroup.child("below").unwrap();
        let mut sleep = Command::new("sleep");
        sleep.arg("1000");
        let mut sleep = below.spawn(sleep).unwrap();
        kill_each(cgroup.path()).unwrap();
        assert!(!sleep.wait().unwrap().success());
        assert!(cgroup.wait_empty(EMPTY_WITHIN).unwrap());
    }
}
