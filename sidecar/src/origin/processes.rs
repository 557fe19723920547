//! What processes are called, by /proc.
//!
//! A number is used again once its process has ended. A process that started before a connection and is still there after it is the
//! connection's; one that started later is not (`starttime` of proc_pid_stat(5), in hundredths of a second). So each name is valid for
//! connections from its process's start until it was last read, and is read again for later ones.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read as _},
    num::NonZeroU32,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
};

use crate::{
    clock::Anchor,
    flow::{Monotonic, SharedText},
};

/// The inode number of the initial PID namespace (`PROC_PID_INIT_INO`, include/linux/proc_ns.h).
const INITIAL: u64 = 0xefff_fffc;

/// The unit of `starttime`: `USER_HZ` is 100 on every processor that programs run on.
const TICK_NS: u64 = 10_000_000;

/// The most processes that are kept.
const MOST: usize = 1_024;

/// The most that are read in a turn, at some 20 us each.
const MOST_READS: u32 = 512;

/// The kernel cuts a name behind so many bytes (`TASK_COMM_LEN` less one).
const CUT_AT: usize = 15;

/// The most bytes of a name.
const LONGEST: usize = 128;

/// Whether /proc shows processes by their numbers in the initial PID namespace.
pub fn shows_processes() -> bool {
    fs::metadata("/proc/self/ns/pid").is_ok_and(|found| found.ino() == INITIAL)
}

/// The names of processes.
#[derive(Debug)]
pub struct Processes {
    /// `None` where /proc does not show them.
    proc: Option<PathBuf>,
    known: HashMap<NonZeroU32, Known>,
    reads_left: u32,
}

#[derive(Clone, Debug)]
struct Known {
    /// When it started, in ticks since the boot.
    start: u64,
    name: SharedText,
    /// When it was last there.
    read: Monotonic,
}

// === impl Processes ===

impl Processes {
    /// Those that /proc shows.
    pub fn of_proc() -> Self {
        Self::of(shows_processes().then(|| PathBuf::from("/proc")))
    }

    /// Those that this directory shows.
    pub(super) fn of(proc: Option<PathBuf>) -> Self {
        Self {
            proc,
            known: HashMap::new(),
            reads_left: MOST_READS,
        }
    }

    /// Whether /proc shows them.
    pub const fn can_read(&self) -> bool {
        self.proc.is_some()
    }

    /// A turn begins.
    pub const fn begin_turn(&mut self) {
        self.reads_left = MOST_READS;
    }

    /// What the process is called that had this number at this time; `None` where that cannot be read any more.
    pub fn name(&mut self, pid: NonZeroU32, at: Monotonic) -> Option<SharedText> {
        let anchor = Anchor::now();
        let now = anchor.monotonic();
        let at_ticks = (at.0 + anchor.suspended_ns()) / TICK_NS;
        let known = self.known.get(&pid).filter(|known| at <= known.read);
        if let Some(known) = known {
            return (known.start <= at_ticks).then(|| known.name.clone());
        }
        self.reads_left = self.reads_left.checked_sub(1)?;
        let read = self.read(pid, now);
        match read {
            Some(known) => {
                let name = (known.start <= at_ticks).then(|| known.name.clone());
                self.keep(pid, known);
                name
            }
            None => {
                self.known.remove(&pid);
                None
            }
        }
    }

    fn read(&self, pid: NonZeroU32, now: Monotonic) -> Option<Known> {
        let directory = self.proc.as_ref()?.join(pid.to_string());
        let read = |file: &str| read_start(&directory.join(file)).ok();
        let start = start_of(&read("stat")?)?;
        let name = read("comm")?;
        let name = name_of(name.trim_ascii_end(), || read("cmdline"));
        // It is the same process that was read all the time.
        (start_of(&read("stat")?)? == start).then(|| Known {
            start,
            name: name.into(),
            read: now,
        })
    }

    fn keep(&mut self, pid: NonZeroU32, known: Known) {
        if self.known.len() >= MOST && !self.known.contains_key(&pid) {
            let mut read: Vec<_> = self.known.values().map(|of| of.read).collect();
            let (_, median, _) = read.select_nth_unstable(MOST / 2);
            let median = *median;
            self.known.retain(|_, of| of.read > median);
        }
        self.known.insert(pid, known);
    }
}

/// Nobody but the process itself decides how long these files are.
fn read_start(path: &std::path::Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(512);
    File::open(path)?.take(4_096).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Field 22 of /proc/PID/stat. The name in field 2 may have blanks and brackets.
fn start_of(stat: &[u8]) -> Option<u64> {
    let behind = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let text = std::str::from_utf8(&stat[behind..]).ok()?;
    // The next field is the third.
    text.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

/// The name that the process has, or, where the kernel has cut it, the file name of its first argument.
fn name_of(comm: &[u8], cmdline: impl FnOnce() -> Option<Vec<u8>>) -> String {
    let short = String::from_utf8_lossy(comm).into_owned();
    if comm.len() < CUT_AT {
        return short;
    }
    let whole = cmdline().and_then(|arguments| {
        let first = arguments.split(|byte| *byte == 0).next()?;
        let file = first.rsplit(|byte| *byte == b'/').next()?;
        let is_whole = file.starts_with(comm) && file.len() <= LONGEST;
        is_whole.then(|| String::from_utf8_lossy(file).into_owned())
    });
    whole.unwrap_or(short)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_is_read_behind_any_name() {
        let rest = "S 1 2 2 0 -1 4194560 100 0 0 0 1 2 0 0 20 0 1 0 987654 1000 5";
        for name in ["(sh)", "(a) b)", "(x (y) 1 2 3)"] {
            let stat = format!("42 {name} {rest}\n");
            assert_eq!(start_of(stat.as_bytes()), Some(987_654), "{name}");
        }
        assert_eq!(start_of(b"42 (sh"), None);
        assert_eq!(start_of(b"42 (sh) S 1"), None);
    }

    #[test]
    fn name_that_was_cut_is_completed_by_the_first_argument() {
        let arguments = |text: &'static [u8]| move || Some(text.to_vec());
        let cut = b"kube-controller";
        assert_eq!(name_of(b"curl", || panic!("not read")), "curl");
        let whole = arguments(b"/usr/bin/kube-controller-manager\0--v=2\0");
        assert_eq!(name_of(cut, whole), "kube-controller-manager");
        assert_eq!(name_of(cut, arguments(b"other\0")), "kube-controller");
        assert_eq!(name_of(cut, || None), "kube-controller");
    }

    #[test]
    fn process_that_started_later_gives_no_name() {
        // This process's own number is in it, whatever namespace it is of.
        let mut processes = Processes::of(Some(PathBuf::from("/proc")));
        let pid = NonZeroU32::new(std::process::id()).expect("a number");
        let anchor = Anchor::now();
        let now = anchor.monotonic();
        let name = processes.name(pid, now).expect("it runs");
        let comm = fs::read_to_string("/proc/self/comm").expect("a name");
        assert!(name.starts_with(comm.trim_end()), "{name}");
        let start = processes.known[&pid].start * TICK_NS;
        let before = start - 2 * TICK_NS - anchor.suspended_ns();
        assert_eq!(processes.name(pid, Monotonic(before)), None);
        let none = NonZeroU32::new(u32::MAX).expect("a number");
        assert_eq!(processes.name(none, now), None);
        processes.reads_left = 0;
        assert!(processes.name(pid, now).is_some(), "it was read");
        let later = Monotonic(now.0 + 1_000_000_000);
        assert_eq!(processes.name(pid, later), None, "no more are read");
    }
}
