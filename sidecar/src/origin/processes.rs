//! What processes are called, by /proc.
//!
//! A number is used again once its process has ended. A process that started before a connection and is still there after it is the
//! connection's; one that started later is not (`starttime` of proc_pid_stat(5), in hundredths of a second). So each name is valid for
//! connections from its process's start until it was last read, and is read again for later ones.
//!
//! The process may have ended by then. Its name is valid still as long as no other process can have its number: the kernel gives numbers
//! in ascending order, and begins again behind the greatest (`idr_alloc_cyclic()` in kernel/pid.c), and /proc/loadavg shows the last one.
//!
//! In a container /proc has the numbers of the container's PID namespace, and loadavg its last one. The kernel programs report a process
//! with both numbers when it calls (6.10). There a number of the initial namespace may be another process's as soon as all others can have
//! been given.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read as _},
    num::NonZeroU32,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
};

use nix::sys::stat::{major, minor};

use crate::{
    clock::Anchor,
    flow::{Caller, Monotonic, SharedText},
};

/// The inode number of the initial PID namespace (`PROC_PID_INIT_INO`, include/linux/proc_ns.h).
const INITIAL: u64 = 0xefff_fffc;

/// The unit of `starttime`: `USER_HZ` is 100 on every processor that programs run on.
const TICK_NS: u64 = 10_000_000;

/// The least number of numbers that a machine has as the kernel comes (`PID_MAX_DEFAULT`, include/linux/threads.h).
const LEAST_NUMBERS: u64 = 32_768;

/// The greatest number of a process, plus one.
const PID_MAX: &str = "/proc/sys/kernel/pid_max";

/// More processes and threads than this do not start in a second: with so many the kernel's counter comes round, which then cannot be
/// seen. A process takes some 50 us of a processor, and numbers are given under one lock.
const MOST_STARTS_PER_SECOND: u64 = 50_000;

/// The most processes that are kept.
const MOST: usize = 1_024;

/// The most that are read in a turn, at some 20 us each.
const MOST_READS: u32 = 512;

/// The kernel cuts a name behind so many bytes (`TASK_COMM_LEN` less one).
const CUT_AT: usize = 15;

/// The most bytes of a name.
const LONGEST: usize = 128;

/// Whose numbers /proc shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcNumbers {
    /// Those of the initial PID namespace, which the kernel's records have.
    Initial,
    /// Those of the PID namespace that flowcar is in.
    Own(PidNamespace),
}

/// A PID namespace, as the kernel compares it (`ns_match()` in fs/nsfs.c).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PidNamespace {
    /// The device of nsfs, as the kernel's `dev_t`.
    pub device: u64,
    /// The inode number.
    pub inode: u64,
}

/// Whose numbers /proc shows; `None` where it shows no processes, or those of a namespace that flowcar is not in.
pub fn proc_numbers() -> Option<ProcNumbers> {
    // What /proc calls this process is what this process calls itself only if both are of one namespace.
    let own = fs::read_link("/proc/self").ok()?;
    if own.to_str()?.parse() != Ok(std::process::id()) {
        return None;
    }
    let namespace = fs::metadata("/proc/self/ns/pid").ok()?;
    if namespace.ino() == INITIAL {
        return Some(ProcNumbers::Initial);
    }
    let device = namespace.dev();
    Some(ProcNumbers::Own(PidNamespace {
        // `MKDEV()`, include/linux/kdev_t.h.
        device: (major(device) << 20) | minor(device),
        inode: namespace.ino(),
    }))
}

/// The names of processes.
#[derive(Debug)]
pub struct Processes {
    /// The directory, and whose numbers it has; `None` where it does not show them.
    proc: Option<(PathBuf, ProcNumbers)>,
    known: HashMap<NonZeroU32, Known>,
    reads_left: u32,
    /// How many numbers there are.
    numbers: u64,
}

#[derive(Clone, Debug)]
struct Known {
    /// When it started, in ticks since the boot.
    start: u64,
    name: SharedText,
    /// Until when no other process had the number.
    until: Monotonic,
    /// The last number that was given when the process was last seen.
    seen: Option<Given>,
    /// Its number in /proc.
    shown: NonZeroU32,
}

/// Where /proc shows a process.
#[derive(Clone, Copy, Debug)]
struct Shown {
    number: NonZeroU32,
    /// When the process with this number has to have started; `None` where the number is certain.
    start: Option<u64>,
}

/// The last number that the kernel gave to a process.
#[derive(Clone, Copy, Debug)]
struct Given {
    /// `None` where nothing shows it.
    pid: Option<u64>,
    at: Monotonic,
}

// === impl Processes ===

impl Processes {
    /// Those that /proc shows, by these numbers; without, none.
    pub fn of_proc(numbers: Option<ProcNumbers>) -> Self {
        Self::of(numbers.map(|numbers| (PathBuf::from("/proc"), numbers)))
    }

    /// Those that this directory shows.
    pub(super) fn of(proc: Option<(PathBuf, ProcNumbers)>) -> Self {
        let numbers = match proc {
            // Each namespace has its own (6.14), and the initial one's cannot be read.
            Some((_, ProcNumbers::Own(_))) => numbers().min(LEAST_NUMBERS),
            _ => numbers(),
        };
        Self {
            proc,
            known: HashMap::new(),
            reads_left: MOST_READS,
            numbers,
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

    /// What a process is called that called.
    pub fn name_of_caller(&mut self, caller: &Caller) -> Option<SharedText> {
        let pid = caller.pid?;
        let number = match self.proc.as_ref()?.1 {
            ProcNumbers::Initial => pid,
            ProcNumbers::Own(_) => caller.own_pid?,
        };
        if self.known.get(&pid).is_some_and(|of| of.shown != number) {
            // Another process has the number in the initial namespace.
            self.known.remove(&pid);
        }
        let start = None;
        self.name_in_proc(pid, Shown { number, start }, caller.at)
    }

    /// What the process is called that had this number at this time; `None` where that cannot be known any more.
    pub fn name(&mut self, pid: NonZeroU32, at: Monotonic) -> Option<SharedText> {
        let shown = match self.proc.as_ref()?.1 {
            ProcNumbers::Initial => Shown {
                number: pid,
                start: None,
            },
            ProcNumbers::Own(_) => self.known.get(&pid)?.shown_again(),
        };
        self.name_in_proc(pid, shown, at)
    }

    fn name_in_proc(&mut self, pid: NonZeroU32, shown: Shown, at: Monotonic) -> Option<SharedText> {
        let anchor = Anchor::now();
        let now = anchor.monotonic();
        let at_ticks = (at.0 + anchor.suspended_ns()) / TICK_NS;
        let known = self.known.get(&pid).filter(|known| at <= known.until);
        if known.is_none() {
            self.reads_left = self.reads_left.checked_sub(1)?;
            match self.read(shown, now) {
                Some(known) => self.keep(pid, known),
                None => self.ended(pid, now),
            }
        }
        let known = self.known.get(&pid).filter(|known| at <= known.until)?;
        (known.start <= at_ticks).then(|| known.name.clone())
    }

    fn read(&self, shown: Shown, now: Monotonic) -> Option<Known> {
        let directory = self.proc.as_ref()?.0.join(shown.number.to_string());
        let read = |file: &str| read_start(&directory.join(file)).ok();
        let start = start_of(&read("stat")?)?;
        if shown.start.is_some_and(|expected| expected != start) {
            return None;
        }
        // A process may have taken an empty name.
        let name = read("comm").filter(|name| !name.trim_ascii().is_empty())?;
        let name = name_of(name.trim_ascii_end(), || read("cmdline"));
        // Before the process is seen for the last time.
        let seen = self.given(now);
        // It is the same process that was read all the time.
        (start_of(&read("stat")?)? == start).then(|| Known {
            start,
            name: name.into(),
            until: now,
            seen,
            shown: shown.number,
        })
    }

    /// There is no process of this number now. The one that was known had it until now, unless another one can have had it since.
    fn ended(&mut self, pid: NonZeroU32, now: Monotonic) {
        let given = self.given(now);
        let numbers = self.numbers;
        let Some(known) = self.known.get_mut(&pid) else {
            return;
        };
        let seen = known.seen.zip(given);
        if seen.is_some_and(|(seen, given)| !seen.may_have_given(pid, given, numbers)) {
            known.until = now;
        } else {
            self.known.remove(&pid);
        }
    }

    /// The last number that was given.
    fn given(&self, at: Monotonic) -> Option<Given> {
        let (proc, numbers) = self.proc.as_ref()?;
        if matches!(numbers, ProcNumbers::Own(_)) {
            return Some(Given { pid: None, at });
        }
        let text = read_start(&proc.join("loadavg")).ok()?;
        let pid = std::str::from_utf8(&text).ok()?.split_ascii_whitespace();
        let pid = Some(pid.last()?.parse().ok()?);
        Some(Given { pid, at })
    }

    fn keep(&mut self, pid: NonZeroU32, known: Known) {
        if self.known.len() >= MOST && !self.known.contains_key(&pid) {
            let mut read: Vec<_> = self.known.values().map(|of| of.until).collect();
            let (_, median, _) = read.select_nth_unstable(MOST / 2);
            let median = *median;
            self.known.retain(|_, of| of.until > median);
        }
        self.known.insert(pid, known);
    }
}

// === impl Known ===

impl Known {
    /// Where the same process is shown, if it has not ended.
    const fn shown_again(&self) -> Shown {
        Shown {
            number: self.shown,
            start: Some(self.start),
        }
    }
}

// === impl Given ===

impl Given {
    /// Whether the number may have been given to another process from here to `later`, of so many numbers. That the numbers came round
    /// is not seen, so it must be impossible in the time.
    fn may_have_given(self, pid: NonZeroU32, later: Self, numbers: u64) -> bool {
        let elapsed_ns = u128::from(later.at.0.saturating_sub(self.at.0));
        let at_most = elapsed_ns * u128::from(MOST_STARTS_PER_SECOND) / 1_000_000_000;
        // The first numbers are not given again (`RESERVED_PIDS` in kernel/pid.c).
        if at_most >= u128::from(numbers.saturating_sub(300)) {
            return true;
        }
        let (Some(before), Some(last)) = (self.pid, later.pid) else {
            return false;
        };
        let ahead = |of: u64| (of % numbers + numbers - before % numbers) % numbers;
        // The number itself, if it was the last one, comes again after all others.
        let until_pid = match ahead(pid.get().into()) {
            0 => numbers,
            ahead => ahead,
        };
        ahead(last) >= until_pid
    }
}

/// How many numbers there are: the least where that cannot be read.
fn numbers() -> u64 {
    let text = fs::read_to_string(PID_MAX).ok();
    let read = text.and_then(|text| text.trim().parse().ok());
    read.filter(|numbers| *numbers > 0).unwrap_or(LEAST_NUMBERS)
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

/// The name that the process has, or, where the kernel has cut it, the file name of its first argument. A process may have replaced its
/// arguments by a title, with whatever is in it (setproctitle(3bsd)): only what has no other characters than a file's name as a rule is one.
/// Empty where it has none.
fn name_of(comm: &[u8], cmdline: impl FnOnce() -> Option<Vec<u8>>) -> String {
    let short = String::from_utf8_lossy(comm).into_owned();
    if comm.len() < CUT_AT {
        return short;
    }
    let whole = cmdline().and_then(|arguments| {
        let first = arguments.split(|byte| *byte == 0).next()?;
        let file = first.rsplit(|byte| *byte == b'/').next()?;
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.+@".contains(byte);
        let is_whole = file.starts_with(comm) && file.len() <= LONGEST && file.iter().all(is_plain);
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
        let title = b"worker: tenant-";
        let titled = arguments(b"worker: tenant-42 token=s3cret\0\0");
        assert_eq!(name_of(title, titled), "worker: tenant-");
        let titled = arguments(b"kube-controller?token=s3cret\0");
        assert_eq!(name_of(cut, titled), "kube-controller");
    }

    #[test]
    fn process_that_started_later_gives_no_name() {
        // This process's own number is in it, whatever namespace it is of.
        let mut processes = Processes::of(Some((PathBuf::from("/proc"), ProcNumbers::Initial)));
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

    /// A directory as /proc is, with one process and the last number that was given.
    struct Proc(tempfile::TempDir);

    impl Proc {
        const PID: u32 = 4_000;

        fn new() -> (Self, Processes) {
            let proc = Self(tempfile::tempdir().expect("a directory"));
            let mut processes =
                Processes::of(Some((proc.0.path().to_owned(), ProcNumbers::Initial)));
            processes.numbers = 32_768;
            (proc, processes)
        }

        fn runs(&self, name: &str, start_ticks: u64) {
            let directory = self.0.path().join(Self::PID.to_string());
            fs::create_dir_all(&directory).expect("a directory");
            let rest = format!("S 1 2 2 0 -1 0 1 0 0 0 1 2 0 0 20 0 1 0 {start_ticks} 0 0");
            let stat = format!("{} ({name}) {rest}\n", Self::PID);
            fs::write(directory.join("stat"), stat).expect("a file");
            fs::write(directory.join("comm"), format!("{name}\n")).expect("a file");
        }

        fn ends(&self) {
            fs::remove_dir_all(self.0.path().join(Self::PID.to_string())).expect("it runs");
        }

        fn gave(&self, last: u32) {
            let text = format!("0.10 0.20 0.30 2/345 {last}\n");
            fs::write(self.0.path().join("loadavg"), text).expect("a file");
        }
    }

    fn name_now(processes: &mut Processes) -> Option<String> {
        let pid = NonZeroU32::new(Proc::PID).expect("a number");
        let name = processes.name(pid, Anchor::now().monotonic());
        name.map(|name| name.to_string())
    }

    #[test]
    fn name_of_a_process_that_ended_stays_until_its_number_may_be_given_again() {
        let named = Some("first".to_owned());
        for (seen, later, expected) in [
            (4_000, 4_000, &named),
            (4_000, 5_000, &named),
            (3_999, 3_999, &named),
            (32_767, 3_999, &named),
            (3_999, 4_000, &None),
            (3_990, 4_001, &None),
            (32_000, 5_000, &None),
            // The counter was set back (ns_last_pid).
            (5_000, 4_000, &None),
        ] {
            let (proc, mut processes) = Proc::new();
            proc.runs("first", 1);
            proc.gave(seen);
            assert_eq!(name_now(&mut processes), named);
            proc.ends();
            proc.gave(later);
            assert_eq!(name_now(&mut processes), *expected, "{seen} to {later}");
            proc.gave(3_999);
            assert_eq!(name_now(&mut processes), *expected, "{seen} to {later}");
        }
    }

    /// A container's /proc: the process 90,000 of the machine is number 4,000 there.
    #[test]
    fn process_of_a_container_is_found_by_its_number_there() {
        const NAMESPACE: PidNamespace = PidNamespace {
            device: 4,
            inode: 4_026_532_000,
        };
        let (proc, _) = Proc::new();
        let directory = proc.0.path().to_owned();
        let mut processes = Processes::of(Some((directory, ProcNumbers::Own(NAMESPACE))));
        let pid = NonZeroU32::new(90_000).expect("a number");
        let called = |own_pid| Caller {
            at: Anchor::now().monotonic(),
            cgroup: None,
            pid: Some(pid),
            own_pid: NonZeroU32::new(own_pid),
        };
        let named = |name: Option<SharedText>| name.map(|name| name.to_string());
        let now = || Anchor::now().monotonic();
        proc.runs("first", 1);
        assert_eq!(processes.name(pid, now()), None, "no number is known");
        let deeper = processes.name_of_caller(&called(0));
        assert_eq!(deeper, None, "it is of a namespace below");
        let first = Some("first".to_owned());
        assert_eq!(named(processes.name_of_caller(&called(Proc::PID))), first);
        assert_eq!(named(processes.name(pid, now())), first);
        // Whether the machine gave the number again cannot be seen, but it cannot have yet.
        proc.ends();
        assert_eq!(named(processes.name(pid, now())), first);
        let seen = processes.known.get_mut(&pid).expect("one").seen.as_mut();
        seen.expect("a time").at.0 -= 1_000_000_000;
        assert_eq!(processes.name(pid, now()), None, "it may have by now");
        // Another process of the container has the number there, and yet another one that of the machine.
        proc.runs("first", 1);
        assert_eq!(named(processes.name_of_caller(&called(Proc::PID))), first);
        proc.runs("second", 2);
        let seen = processes.known.get_mut(&pid).expect("one").seen.as_mut();
        seen.expect("a time").at.0 -= 1_000_000_000;
        assert_eq!(processes.name(pid, now()), None, "it is the second's");
        let second = processes.name_of_caller(&called(Proc::PID));
        assert_eq!(named(second), Some("second".to_owned()));
        let third = processes.name_of_caller(&called(Proc::PID + 1));
        assert_eq!(third, None, "it has ended");
        assert_eq!(processes.name(pid, now()), None, "nor is it the second");
    }

    #[test]
    fn number_of_another_process_has_neither_name() {
        let (proc, mut processes) = Proc::new();
        proc.runs("first", 1);
        proc.gave(4_000);
        let pid = NonZeroU32::new(Proc::PID).expect("a number");
        assert_eq!(name_now(&mut processes).as_deref(), Some("first"));
        let between = Anchor::now().monotonic();
        proc.runs("second", u64::MAX / TICK_NS);
        assert_eq!(processes.name(pid, between), None);
        proc.ends();
        assert_eq!(name_now(&mut processes), None);
    }

    #[test]
    fn numbers_come_round_in_a_time_that_depends_on_how_many_there_are() {
        let given = |seconds: u64| Given {
            pid: Some(10),
            at: Monotonic(seconds * 1_000_000_000),
        };
        let pid = NonZeroU32::new(9).expect("a number");
        for (seconds, numbers, expected) in [
            (0, 32_768, false),
            (1, 32_768, true),
            (80, 4_194_304, false),
            (84, 4_194_304, true),
            (0, 300, true),
        ] {
            let may = given(0).may_have_given(pid, given(seconds), numbers);
            assert_eq!(may, expected, "{seconds} s of {numbers}");
        }
    }
}
