//! Local addresses whose sockets dumps show. Pure.

use std::{collections::HashSet, net::IpAddr};

use super::Flow;

/// Addresses that are remembered: more than a pod has.
const MOST: usize = 1_024;

/// Local addresses whose sockets dumps show: those of flowcar's own network namespace.
#[derive(Debug, Default)]
pub(super) struct ShownAddresses(HashSet<IpAddr>);

impl ShownAddresses {
    /// Remembers the address of a socket that a dump has shown.
    pub(super) fn insert(&mut self, ip: IpAddr) {
        if self.0.len() < MOST {
            self.0.insert(ip);
        }
    }

    /// Whether dumps are known to show sockets of this address.
    pub(super) fn has(&self, ip: IpAddr) -> bool {
        self.0.contains(&ip)
    }

    /// Whether dumps show sockets of a flow's address: if one flow of the address is known to be in this namespace, so is the address.
    pub(super) fn would_show(&mut self, flow: &Flow, is_here: impl FnOnce(&Flow) -> bool) -> bool {
        let ip = flow.local.ip();
        let known = self.0.contains(&ip) || is_here(flow);
        if known {
            self.insert(ip);
        }
        known
    }
}
