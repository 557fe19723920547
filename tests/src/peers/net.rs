//! Where a peer lives: an address, in this network namespace or in another one, and ports that are its own.

use std::{
    hash::{BuildHasher, RandomState},
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr as UnixAddr, UnixListener},
    },
    process::Command,
    sync::Arc,
};

use crate::place::Netns;

/// Below the kernel's default range for outgoing connections (32768 to 60999), so that no client on the machine
/// takes a peer's port between its choice and its use, or while the peer is down for a restart.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

/// An address for peers, and the network namespace that it belongs to.
#[derive(Clone, Debug)]
pub struct Net {
    address: IpAddr,
    namespace: Option<Arc<Netns>>,
}

/// A TCP port that no other test on this machine is given for as long as this value lives.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _claim: UnixListener,
}

// === impl Net ===

impl Default for Net {
    fn default() -> Self {
        Self::loopback()
    }
}

impl Net {
    /// 127.0.0.1 of the caller's network namespace.
    pub fn loopback() -> Self {
        Self {
            address: Ipv4Addr::LOCALHOST.into(),
            namespace: None,
        }
    }

    /// `address` in this network namespace, which lives at least as long as this value.
    pub const fn in_namespace(namespace: Arc<Netns>, address: IpAddr) -> Self {
        Self {
            address,
            namespace: Some(namespace),
        }
    }

    /// The address that peers listen on.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The socket address of one of this net's ports.
    pub fn socket(&self, port: &Port) -> SocketAddr {
        SocketAddr::new(self.address, port.number)
    }

    /// Does `work` with the sockets that it opens belonging to this net's namespace.
    ///
    /// # Panics
    /// When the namespace cannot be entered (that needs CAP_SYS_ADMIN), or when `work` panics.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        match &self.namespace {
            Some(namespace) => {
                let done = namespace.run(work);
                done.unwrap_or_else(|error| panic!("{error}"))
            }
            None => work(),
        }
    }

    /// Makes `command` enter the namespace before it runs.
    pub(super) fn enter(&self, command: &mut Command) -> io::Result<()> {
        match &self.namespace {
            Some(namespace) => Ok(namespace.enter(command)?),
            None => Ok(()),
        }
    }

    /// A free port of this net, kept from other tests until the value is dropped.
    ///
    /// # Panics
    /// When none is free.
    pub fn claim_port(&self) -> Port {
        self.within(|| {
            let tries = u64::from(PORTS.end - PORTS.start);
            let first = RandomState::new().hash_one(std::process::id());
            (0..tries)
                .map(|step| PORTS.start + (first.wrapping_add(step) % tries) as u16)
                .find_map(|number| self.try_claim(number))
                .expect("a free TCP port below 32768")
        })
    }

    fn try_claim(&self, number: u16) -> Option<Port> {
        // Abstract socket names belong to a network namespace, as ports do, and vanish with their process:
        // a lock among all test processes that never has to be cleaned up.
        let name = format!("flowcar-tests-port-{number}");
        let claim = UnixListener::bind_addr(&UnixAddr::from_abstract_name(name).ok()?).ok()?;
        TcpListener::bind((self.address, number)).ok()?;
        Some(Port {
            number,
            _claim: claim,
        })
    }
}

// === impl Port ===

impl Port {
    /// The port's number.
    pub fn number(&self) -> u16 {
        self.number
    }
}
