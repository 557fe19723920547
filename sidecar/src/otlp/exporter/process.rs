//! The CPU time of this process.

use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike,
};

/// CPU time used so far, in user and kernel mode, seconds.
pub(super) fn cpu_s() -> f64 {
    getrusage(UsageWho::RUSAGE_SELF).map_or(0.0, |usage| {
        let used = usage.user_time() + usage.system_time();
        used.num_microseconds() as f64 / 1e6
    })
}
