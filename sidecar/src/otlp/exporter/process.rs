//! What this process costs.

use std::fs;

use nix::{
    sys::{
        resource::{UsageWho, getrusage},
        time::TimeValLike,
    },
    unistd::{SysconfVar, sysconf},
};

/// CPU time used so far, in user and kernel mode, seconds.
pub(super) fn cpu_s() -> f64 {
    getrusage(UsageWho::RUSAGE_SELF).map_or(0.0, |usage| {
        let used = usage.user_time() + usage.system_time();
        used.num_microseconds() as f64 / 1e6
    })
}

/// Resident memory, bytes; 0 where there is no /proc. The second field of statm (proc_pid_statm(5)), in pages.
pub(super) fn rss_bytes() -> u64 {
    let pages = fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok());
    let page = sysconf(SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .unwrap_or(4096);
    pages.unwrap_or(0) * page as u64
}
