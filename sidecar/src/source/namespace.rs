//! The kernel's counters of flowcar's network namespace, and how it ends attempts.

use std::{
    fs::File,
    io::{self, Read},
    net::IpAddr,
    os::unix::fs::FileExt,
    sync::OnceLock,
};

use crate::{
    clock::Anchor,
    flow::{Flow, NamespaceCounts, Unanswered},
};

/// The counters, as files that are read again and again: some 100 us for all. `thread-self` and not `self`: a thread may be in a
/// namespace of its own.
#[derive(Debug)]
pub struct NamespaceCounters {
    snmp: File,
    netstat: File,
    /// None where IPv6 is off.
    snmp6: Option<File>,
}

/// More than either file has.
const MOST: usize = 64 * 1024;

// === impl NamespaceCounters ===

impl NamespaceCounters {
    /// Opens the counters of the network namespace that this thread is in.
    ///
    /// # Errors
    /// `/proc` is not there, or does not show them.
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            snmp: File::open("/proc/thread-self/net/snmp")?,
            netstat: File::open("/proc/thread-self/net/netstat")?,
            snmp6: File::open("/proc/thread-self/net/snmp6").ok(),
        })
    }

    /// Reads them; `None` where they cannot be, or lack a figure.
    pub fn read(&self) -> Option<NamespaceCounts> {
        let snmp = text(&self.snmp)?;
        let icmp = ["InDestUnreachs", "InTimeExcds", "InParmProbs"];
        let icmp6 = [
            "Icmp6InDestUnreachs",
            "Icmp6InTimeExcds",
            "Icmp6InParmProblems",
        ];
        let snmp6 = match &self.snmp6 {
            Some(file) => text(file)?,
            None => String::new(),
        };
        let netstat = text(&self.netstat)?;
        Some(NamespaceCounts {
            at: Anchor::now().monotonic(),
            kept: column(&netstat, "TcpExt:", "LockDroppedIcmps")?,
            icmp: icmp
                .iter()
                .map(|name| column(&snmp, "Icmp:", name))
                .sum::<Option<u64>>()?,
            icmp6: match &self.snmp6 {
                Some(_) => icmp6
                    .iter()
                    .map(|name| line(&snmp6, name))
                    .sum::<Option<u64>>()?,
                None => 0,
            },
            failed: column(&snmp, "Tcp:", "AttemptFails")?,
        })
    }
}

fn text(file: &File) -> Option<String> {
    let mut bytes = vec![0; MOST];
    let mut length = 0;
    while length < MOST {
        match file.read_at(&mut bytes[length..], length as u64).ok()? {
            0 => break,
            more => length += more,
        }
    }
    bytes.truncate(length);
    String::from_utf8(bytes).ok()
}

/// A figure of `/proc/net/snmp`, where a line of names goes before each line of values.
fn column(text: &str, protocol: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|line| line.starts_with(protocol));
    let (names, values) = (lines.next()?, lines.next()?);
    let at = names.split(' ').position(|is| is == name)?;
    values.split(' ').nth(at)?.parse().ok()
}

/// A figure of `/proc/net/snmp6`, which has one to a line.
fn line(text: &str, name: &str) -> Option<u64> {
    let words = text.lines().map(str::split_whitespace);
    let mut found = words.filter_map(|mut words| (words.next()? == name).then(|| words.next()));
    found.next()??.parse().ok()
}

/// Whether this kernel discards what a socket has queued before it ends the socket's attempt for an ICMP error: it does where it has
/// the function `tcp_done_with_error` (since 6.10, and where that was ported back). False where its types are not shown.
pub fn discards_first() -> bool {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    *KNOWN.get_or_init(|| {
        File::open("/sys/kernel/btf/vmlinux")
            .and_then(|file| holds(file, b"\0tcp_done_with_error\0"))
            .unwrap_or(false)
    })
}

/// Whether these bytes are in a file, which is read piece by piece.
fn holds(mut file: impl Read, bytes: &[u8]) -> io::Result<bool> {
    let mut piece = vec![0; 64 * 1024];
    let mut kept = 0;
    loop {
        let read = file.read(&mut piece[kept..])?;
        if read == 0 {
            return Ok(false);
        }
        let end = kept + read;
        if piece[..end].windows(bytes.len()).any(|is| is == bytes) {
            return Ok(true);
        }
        kept = (bytes.len() - 1).min(end);
        piece.copy_within(end - kept..end, 0);
    }
}

/// Decides by an attempt's address whether it is in this network namespace, if the kernel programs could not.
pub fn locate(attempt: Unanswered, flow: &Flow) -> Unanswered {
    let is_here = attempt.is_here.or_else(|| has_address(flow.local.ip()));
    Unanswered { is_here, ..attempt }
}

/// Whether this network namespace has an address; `None` of those that every one may have.
fn has_address(address: IpAddr) -> Option<bool> {
    let everywhere = match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local() || v4.is_unspecified(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unspecified(),
    };
    (!everywhere).then(|| super::diag::own_addresses().contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_found_wherever_a_piece_ends() {
        let needle = b"\0needle\0";
        for before in [0, 1, 64 * 1024 - 8, 64 * 1024 - 4, 64 * 1024, 200_000] {
            let mut bytes = vec![b'x'; before];
            bytes.extend_from_slice(needle);
            assert!(holds(bytes.as_slice(), needle).unwrap(), "{before}");
            bytes.pop();
            assert!(!holds(bytes.as_slice(), needle).unwrap(), "{before}");
        }
    }

    #[test]
    fn this_kernels_counters_are_found() {
        let counters = NamespaceCounters::open().unwrap();
        let one = counters.read().unwrap();
        let other = counters.read().unwrap();
        assert!(one.at < other.at && one.failed <= other.failed && one.kept <= other.kept);
    }
}
