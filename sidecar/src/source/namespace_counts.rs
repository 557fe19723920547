//! The kernel's counts of all TCP sockets of this process's network namespace (/proc/net/snmp and /proc/net/netstat).

use std::fs;

/// Counts since the namespace was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections and attempts that the kernel aborted: `TcpExt.TCPAbortOnTimeout`, which every timer counts
    /// (net/ipv4/tcp_timer.c, tcp_write_err), and `TcpExt.TCPAbortOnMemory`, which the limits of orphans do.
    pub aborted_by_timer: u64,
    /// Segments sent with RST: `Tcp.OutRsts`.
    pub resets_sent: u64,
    /// Sockets that left no timewait socket because there was no room: `TcpExt.TCPTimeWaitOverflow`.
    pub timewait_overflows: u64,
}

impl Counts {
    /// As they stand; `None` where they cannot be read.
    pub fn read() -> Option<Self> {
        let extended = fs::read_to_string("/proc/self/net/netstat").ok()?;
        let tcp = fs::read_to_string("/proc/self/net/snmp").ok()?;
        Self::parse(&extended, &tcp)
    }

    fn parse(extended: &str, tcp: &str) -> Option<Self> {
        let of_extended = |name| value(extended, "TcpExt:", name);
        Some(Self {
            aborted_by_timer: of_extended("TCPAbortOnTimeout")? + of_extended("TCPAbortOnMemory")?,
            resets_sent: value(tcp, "Tcp:", "OutRsts")?,
            timewait_overflows: of_extended("TCPTimeWaitOverflow")?,
        })
    }
}

/// A count by its name: each group has a line of names and below it one of values.
fn value(text: &str, group: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|line| line.starts_with(group));
    let (names, values) = (lines.next()?, lines.next()?);
    let at = names.split(' ').position(|is| is == name)?;
    values.split(' ').nth(at)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_found_by_their_names() {
        let extended = "TcpExt: SyncookiesSent TCPAbortOnTimeout TCPAbortOnMemory TCPTimeWaitOverflow\nTcpExt: 5 7 2 3\nIpExt: InNoRoutes\nIpExt: 3\n";
        let tcp = "Ip: Forwarding\nIp: 1\nTcp: MaxConn OutRsts\nTcp: -1 4\n";
        let counts = Counts::parse(extended, tcp).unwrap();
        let expected = Counts {
            aborted_by_timer: 9,
            resets_sent: 4,
            timewait_overflows: 3,
        };
        assert_eq!(counts, expected);
        assert_eq!(Counts::parse("TcpExt: A\nTcpExt: 1\n", tcp), None);
    }

    #[test]
    fn this_namespace_has_them() {
        assert!(Counts::read().is_some());
    }
}
