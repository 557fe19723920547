//! Resident memory, and the release of memory that only the start needs.

mod budget;
mod limit;
mod unmodified;

use std::fs;

use nix::unistd::{SysconfVar, sysconf};

pub use self::budget::Budget;
use self::unmodified::unmodified;
use crate::files::read_short;

/// Resident memory, bytes; 0 where there is no /proc. The second field of statm (proc_pid_statm(5)), in pages.
pub fn resident() -> u64 {
    let pages = read_short::<256>("/proc/self/statm")
        .ok()
        .and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok());
    let page = sysconf(SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .unwrap_or(4096);
    pages.unwrap_or(0) * page as u64
}

/// When memory that connections took is given back to the kernel. The allocator keeps what is freed; to give it back it goes through all
/// that it has, which is worth it only once much of it is free.
#[derive(Debug, Default)]
pub struct GiveBack {
    /// The most connections since it was given back last.
    most: usize,
    /// Reports that are to give it back: what is sent of connections that closed is freed later than they are.
    reports: u8,
    /// Reports since the start, as far as they matter.
    first: u8,
}

impl GiveBack {
    /// Fewer connections take too little.
    const LEAST: usize = 1_024;

    /// Reports that give memory back once a load has ended.
    const REPORTS: u8 = 2;

    /// Reports that belong to the start: the first is encoded and connects to its receiver, the second shows how it was taken.
    const FIRST: u8 = 2;

    /// Notes a report. Gives true once: the start is over, and [`release_startup_memory`] is worth it.
    pub fn start_is_over(&mut self) -> bool {
        self.first = self.first.saturating_add(1);
        self.first == Self::FIRST + 1
    }

    /// Notes a report with so many connections, or with series that take as much. Gives whether [`trim`] is worth it.
    pub fn is_due(&mut self, connections: usize) -> bool {
        self.most = self.most.max(connections);
        if self.most >= Self::LEAST && connections <= self.most / 2 {
            self.most = connections;
            self.reports = Self::REPORTS;
        }
        let is_due = self.reports > 0;
        self.reports = self.reports.saturating_sub(1);
        is_due
    }
}

/// Gives free memory of the heap back to the kernel. glibc's allocator does so by itself only at the end of its heap; musl's does always.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: gives free memory back; no pointer becomes invalid.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Releases memory that the start took and following does not need: free heap, and pages of code and constants, of which the start touches
/// a large part. What is needed again comes back from the page cache.
///
/// For a process that starts once and then runs beside others for weeks.
pub fn release_startup_memory() {
    trim();
    let Ok(mappings) = fs::read_to_string("/proc/self/smaps") else {
        return;
    };
    for mapping in unmodified(&mappings, release_startup_memory as fn() as usize) {
        // SAFETY: the mapping is of this program's file and stays as long as it runs, it cannot be written to, and all of its pages are as
        // in the file, so that each can be read again.
        let result = unsafe {
            libc::madvise(
                std::ptr::with_exposed_provenance_mut(mapping.start),
                mapping.len(),
                libc::MADV_DONTNEED,
            )
        };
        if result != 0 {
            tracing::debug!(error = %std::io::Error::last_os_error(), "code stays resident");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_when_half_of_many_connections_have_closed() {
        let mut give_back = GiveBack::default();
        for (connections, is_due) in [
            (100, false),
            (10, false),
            (10_000, false),
            (6_000, false),
            (5_000, true),
            (4_900, true),
            (4_900, false),
            (0, true),
            (0, true),
            (0, false),
            (900, false),
            (0, false),
        ] {
            assert_eq!(give_back.is_due(connections), is_due, "{connections}");
        }
    }

    #[test]
    fn startup_memory_is_released_once_behind_the_first_reports() {
        let mut give_back = GiveBack::default();
        let at: Vec<u32> = (1..=1_000).filter(|_| give_back.start_is_over()).collect();
        assert_eq!(at, [3]);
    }

    /// Released code still runs.
    #[test]
    fn released_code_is_paged_in_again() {
        release_startup_memory();
        assert_eq!(format!("{:>5}", 1.5 + 2.0), "  3.5");
    }
}
