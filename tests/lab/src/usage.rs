//! What a running process uses.

use std::{fs, io, time::Duration};

use nix::{
    time::{clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};

/// CPU time that a process has used, all its threads together.
///
/// # Errors
/// It has exited.
pub fn cpu(process: u32) -> io::Result<Duration> {
    let clock = clock_getcpuclockid(Pid::from_raw(process.cast_signed()))?;
    Ok(clock_gettime(clock)?.into())
}

/// Its resident memory, bytes.
///
/// # Errors
/// It has exited.
pub fn rss(process: u32) -> io::Result<u64> {
    status(process, "VmRSS:")
}

/// The part of its resident memory that belongs to no file, bytes: heap and stacks.
///
/// # Errors
/// It has exited.
pub fn anonymous(process: u32) -> io::Result<u64> {
    status(process, "RssAnon:")
}

/// A value of `/proc/PID/status` that is given in kB (of 1,024 bytes), in bytes.
fn status(process: u32, field: &str) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let value = |line: &str| {
        let kib = line.strip_prefix(field)?.strip_suffix("kB")?;
        kib.trim().parse::<u64>().ok()
    };
    status
        .lines()
        .find_map(value)
        .map(|kib| kib * 1024)
        .ok_or_else(|| io::Error::other(format!("no {field}: process {process} has exited")))
}
