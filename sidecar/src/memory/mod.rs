//! Resident memory, and the release of memory that only the start needs.

mod budget;
mod limit;

use std::{fs, ops::Range};

use nix::unistd::{SysconfVar, sysconf};

pub use self::budget::Budget;

/// Resident memory, bytes; 0 where there is no /proc. The second field of statm (proc_pid_statm(5)), in pages.
pub fn resident() -> u64 {
    let pages = fs::read_to_string("/proc/self/statm")
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
}

impl GiveBack {
    /// Fewer connections take too little.
    const LEAST: usize = 1_024;

    /// Reports that give memory back once a load has ended.
    const REPORTS: u8 = 2;

    /// Notes a report with so many connections. Gives whether [`trim`] is worth it.
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

/// Releases memory that loading and attaching took and following does not need: free heap, and pages of code, of which the
/// start touches a large part. Code that is needed again comes back from the page cache.
///
/// For a process that starts once and then runs beside others for weeks.
pub fn release_startup_memory() {
    trim();
    let Ok(maps) = fs::read_to_string("/proc/self/maps") else {
        return;
    };
    for code in maps.lines().filter_map(code) {
        // SAFETY: an executable mapping of a file is never written to, so each of its pages can be read again.
        let result = unsafe {
            libc::madvise(
                std::ptr::with_exposed_provenance_mut(code.start),
                code.len(),
                libc::MADV_DONTNEED,
            )
        };
        if result != 0 {
            tracing::debug!(error = %std::io::Error::last_os_error(), "code stays resident");
        }
    }
}

/// The addresses of a private executable mapping of a file in a line of /proc/PID/maps (proc_pid_maps(5)).
fn code(line: &str) -> Option<Range<usize>> {
    let mut fields = line.split_whitespace();
    let (place, rights) = (fields.next()?, fields.next()?);
    let (_offset, _device, inode) = (fields.next()?, fields.next()?, fields.next()?);
    if rights != "r-xp" || inode == "0" {
        return None;
    }
    let (start, end) = place.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    Some(address(start)?..address(end)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unmodified_file_code_is_released() {
        let line = "55e4c0a00000-55e4c1200000 r-xp 00200000 fe:00 1311768 /usr/bin/flowcar";
        assert_eq!(code(line), Some(0x55e4_c0a0_0000..0x55e4_c120_0000));
        for other in [
            "55e4c0800000-55e4c0a00000 r--p 00000000 fe:00 1311768 /usr/bin/flowcar",
            "55e4c1200000-55e4c1300000 rw-p 00a00000 fe:00 1311768 /usr/bin/flowcar",
            "7ffd1e5f6000-7ffd1e5f8000 r-xp 00000000 00:00 0 [vdso]",
            "",
        ] {
            assert_eq!(code(other), None, "{other}");
        }
    }

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

    /// Released code still runs.
    #[test]
    fn released_code_is_paged_in_again() {
        release_startup_memory();
        assert_eq!(format!("{:>5}", 1.5 + 2.0), "  3.5");
    }
}
