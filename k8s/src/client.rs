//! Who connects to a listener.

use std::net::{IpAddr, Ipv6Addr};

/// Where connections come from: an IPv4 address, or the /64 that an IPv6 host has to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source(IpAddr);

// === impl Source ===

impl Source {
    pub(crate) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(v6) => {
                let prefix = v6.to_bits() & (u128::MAX << 64);
                Self(IpAddr::V6(Ipv6Addr::from_bits(prefix)))
            }
            v4 @ IpAddr::V4(_) => Self(v4),
        }
    }
}
