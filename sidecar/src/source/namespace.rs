//! The kernel's counters of flowcar's network namespace, and how it ends attempts.

use std::{
    fs::File,
    io::{self, Read},
    net::IpAddr,
    os::unix::fs::FileExt,
    sync::OnceLock,
};

use super::namespace_counts::{Counts, Group, sum_of_lines};
use crate::{
    clock::Anchor,
    flow::{Flow, Monotonic, NamespaceCounts, Unanswered},
};

/// The counters, as files that stay open and are read again and again: some 100 us of CPU time for all, as the kernel adds up each figure
/// over its CPUs. `thread-self` and not `self`: a thread may be in a namespace of its own.
#[derive(Debug)]
pub struct NamespaceCounters {
    snmp: File,
    netstat: File,
    /// None where IPv6 is off.
    snmp6: Option<File>,
    icmp: Group<3>,
    tcp: Group<2>,
    extended: Group<5>,
    buffer: Vec<u8>,
}

/// One reading of the counters.
#[derive(Clone, Copy, Debug)]
pub struct NamespaceReading {
    /// When it began.
    pub from: Monotonic,
    /// When it was over: on a busy machine it may take long, and what happens meanwhile is in the counts or not.
    pub to: Monotonic,
    /// By what closes are judged; `None` where that cannot be read.
    pub counts: Option<Counts>,
    /// By what attempts are judged; `None` where that cannot be read.
    pub of_attempts: Option<NamespaceCounts>,
}

/// The figures of each group.
struct Figures {
    icmp: [u64; 3],
    /// The sum; `None` if it cannot be read.
    icmp6: Option<u64>,
    tcp: [u64; 2],
    extended: [u64; 5],
}

/// More than each of the files had on the kernels that were tried; the buffer grows where it does not suffice.
const BUFFER: usize = 8 << 10;

/// ICMPv6 errors, in `/proc/net/snmp6`.
const ICMP6: [&str; 3] = [
    "Icmp6InDestUnreachs",
    "Icmp6InTimeExcds",
    "Icmp6InParmProblems",
];

// === impl NamespaceReading ===

impl NamespaceReading {
    /// A reading that shows nothing.
    pub fn none() -> Self {
        let now = Anchor::now().monotonic();
        Self {
            from: now,
            to: now,
            counts: None,
            of_attempts: None,
        }
    }

    /// Whether nothing by which closes and attempts are judged was counted between this one and another.
    pub fn has_same_counts(&self, other: &Self) -> bool {
        let of_attempts = |of: &Self| {
            let counts = of.of_attempts;
            counts.map(|of| (of.icmp, of.icmp6, of.kept, of.failed))
        };
        self.counts == other.counts && of_attempts(self) == of_attempts(other)
    }
}

// === impl NamespaceCounters ===

impl NamespaceCounters {
    /// Opens the counters of the network namespace that this thread is in.
    ///
    /// # Errors
    /// `/proc` is not there, or does not show them.
    pub fn open() -> io::Result<Self> {
        let (snmp, netstat) = (
            File::open("/proc/thread-self/net/snmp")?,
            File::open("/proc/thread-self/net/netstat")?,
        );
        let lacks = || io::Error::other("a figure is missing in /proc/net/snmp or netstat");
        let mut buffer = vec![0; BUFFER];
        let text = text(&snmp, &mut buffer)?;
        let icmp = ["InDestUnreachs", "InTimeExcds", "InParmProbs"];
        let icmp = Group::find(text, "Icmp:", icmp).ok_or_else(lacks)?;
        let tcp = Group::find(text, "Tcp:", ["AttemptFails", "OutRsts"]).ok_or_else(lacks)?;
        let extended = [
            "LockDroppedIcmps",
            "TCPAbortOnTimeout",
            "TCPAbortOnMemory",
            "TCPTimeWaitOverflow",
            "TCPAbortOnData",
        ];
        let text = self::text(&netstat, &mut buffer)?;
        let extended = Group::find(text, "TcpExt:", extended).ok_or_else(lacks)?;
        Ok(Self {
            snmp,
            netstat,
            snmp6: File::open("/proc/thread-self/net/snmp6").ok(),
            icmp,
            tcp,
            extended,
            buffer,
        })
    }

    /// Reads them.
    pub fn read(&mut self) -> NamespaceReading {
        let from = Anchor::now().monotonic();
        let figures = self.figures();
        let to = Anchor::now().monotonic();
        let Some(figures) = figures else {
            return NamespaceReading {
                from,
                ..NamespaceReading::none()
            };
        };
        let [failed, resets_sent] = figures.tcp;
        let [
            kept,
            on_timeout,
            on_memory,
            timewait_overflows,
            aborted_on_data,
        ] = figures.extended;
        NamespaceReading {
            from,
            to,
            counts: Some(Counts {
                aborted_by_timer: on_timeout + on_memory,
                resets_sent,
                timewait_overflows,
                aborted_on_data,
                attempts_failed: failed,
            }),
            of_attempts: figures.icmp6.map(|icmp6| NamespaceCounts {
                begun: from,
                at: to,
                icmp: figures.icmp.iter().sum(),
                icmp6,
                kept,
                failed,
            }),
        }
    }

    fn figures(&mut self) -> Option<Figures> {
        let buffer = &mut self.buffer;
        let snmp = text(&self.snmp, buffer).ok()?;
        let (icmp, tcp) = (self.icmp.figures(snmp)?, self.tcp.figures(snmp)?);
        let icmp6 = match &self.snmp6 {
            Some(file) => text(file, buffer)
                .ok()
                .and_then(|text| sum_of_lines(text, &ICMP6)),
            None => Some(0),
        };
        let netstat = text(&self.netstat, buffer).ok()?;
        Some(Figures {
            icmp,
            icmp6,
            tcp,
            extended: self.extended.figures(netstat)?,
        })
    }
}

/// A file of /proc as it stands. The kernel writes it anew for each read from its start, so one read is to take all.
fn text<'a>(file: &File, buffer: &'a mut Vec<u8>) -> io::Result<&'a [u8]> {
    loop {
        let length = file.read_at(buffer, 0)?;
        if length < buffer.len() {
            return Ok(&buffer[..length]);
        }
        buffer.resize(2 * length, 0);
    }
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
        let mut counters = NamespaceCounters::open().unwrap();
        let (one, other) = (counters.read(), counters.read());
        assert!(one.from <= one.to && one.to <= other.from);
        let (before, after) = (one.counts.unwrap(), other.counts.unwrap());
        assert!(before.resets_sent <= after.resets_sent);
        let (before, after) = (one.of_attempts.unwrap(), other.of_attempts.unwrap());
        assert!(before.failed <= after.failed && before.kept <= after.kept);
    }

    #[test]
    fn file_that_is_longer_than_the_buffer_is_read_as_a_whole() {
        let file = File::open("/proc/self/net/netstat").unwrap();
        let mut buffer = vec![0; 16];
        let text = text(&file, &mut buffer).unwrap();
        assert!(Group::find(text, "TcpExt:", ["TCPTimeWaitOverflow"]).is_some());
        assert!(text.ends_with(b"\n"));
    }
}
