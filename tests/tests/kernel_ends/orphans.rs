//! The limit of orphans, which the whole machine has in common: only the initial network namespace has the setting
//! (net/ipv4/sysctl_net_ipv4.c, `ipv4_table`), so that a namespace of its own does not keep it from the machine's other sockets.

use std::fs;

const LIMIT: &str = "/proc/sys/net/ipv4/tcp_max_orphans";

/// No orphan lives on while this does.
pub(crate) struct OrphanLimit(String);

impl OrphanLimit {
    /// # Panics
    /// This is not root in the initial network namespace.
    pub(crate) fn none() -> Self {
        let usual = fs::read_to_string(LIMIT).unwrap();
        // Of zero orphans none is too many (net/ipv4/tcp.c, tcp_too_many_orphans).
        fs::write(LIMIT, "-1").unwrap();
        Self(usual)
    }
}

impl Drop for OrphanLimit {
    fn drop(&mut self) {
        fs::write(LIMIT, &self.0).unwrap();
    }
}
