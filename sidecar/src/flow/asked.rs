//! The addresses that `connect()` was asked for, where sockets connect to others: from the bytes of their records to their flows.

use std::{
    collections::HashMap,
    mem::offset_of,
    net::{IpAddr, SocketAddr},
};

use flowcar_shared::asked::{AskedRecord, KIND, RECORD_LEN};

use super::{Flow, Malformed, Monotonic, memory, raw, raw::socket_addr};

/// How long an address waits, at most, for a record of its flow: the SYN retries of an attempt may take minutes.
const WAITS_NS: u64 = 600_000_000_000;

/// What `connect()` was asked for. The flow's records follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The flow's cookie.
    pub cookie: u64,
    /// When the flow started, exactly: a socket may connect again.
    pub started: Monotonic,
    /// The address and port.
    pub address: SocketAddr,
}

impl Asked {
    /// Whether a record of the kernel's is of this kind.
    pub fn is_in(bytes: &[u8]) -> bool {
        bytes.get(offset_of!(AskedRecord, kind)) == Some(&KIND)
    }

    /// Decodes a record.
    ///
    /// # Errors
    /// [`Malformed`] if the bytes are not a record of this version's kernel programs.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let malformed = Malformed::Asked { len: bytes.len() };
        let raw: AskedRecord = raw::read(bytes, RECORD_LEN).ok_or(malformed)?;
        if raw.kind != KIND {
            return Err(malformed);
        }
        Ok(Self {
            cookie: raw.cookie,
            started: Monotonic(raw.started_ns),
            address: socket_addr(raw.address, raw.port),
        })
    }
}

/// Addresses whose flow's record has not come yet, or that a flow over the table's capacity still needs.
#[derive(Debug, Default)]
pub(super) struct AskedAddresses {
    waiting: HashMap<u64, Asked>,
    dropped: u64,
    /// The start of the newest flow when the waiting ones were last searched for such that wait in vain.
    searched: Monotonic,
}

impl AskedAddresses {
    /// Keeps one, if fewer than `capacity` wait.
    pub(super) fn insert(&mut self, asked: Asked, capacity: usize) {
        if self.waiting.len() >= capacity && !self.waiting.contains_key(&asked.cookie) {
            self.forget_old(asked.started);
            if self.waiting.len() >= capacity {
                self.dropped += 1;
                return;
            }
        }
        self.waiting.insert(asked.cookie, asked);
    }

    /// Gives a flow the address that its application asked for. Gives what was kept.
    pub(super) fn give(&mut self, flow: &mut Flow) -> Option<Asked> {
        if self.waiting.is_empty() {
            return None;
        }
        let asked = self.waiting.remove(&flow.cookie)?;
        // Else its flow's records were lost, and this is a later connection of the socket.
        if asked.started != flow.started {
            return None;
        }
        flow.asked = Some(Box::new(named(asked.address, flow.peer.ip())));
        Some(asked)
    }

    /// Gives back the memory of a load that has ended.
    pub(super) fn shrink(&mut self) {
        memory::shrink(&mut self.waiting);
    }

    /// Those that found no room, or waited in vain.
    pub(super) const fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Forgets those that wait in vain: their flows' records were lost.
    fn forget_old(&mut self, now: Monotonic) {
        if now.since_ns(self.searched) < WAITS_NS {
            return;
        }
        self.searched = now;
        let before = self.waiting.len();
        self.waiting
            .retain(|_, asked| now.since_ns(asked.started) < WAITS_NS);
        self.dropped += (before - self.waiting.len()) as u64;
    }
}

/// The unspecified address names no server: the kernel connects to this host instead.
fn named(asked: SocketAddr, peer: IpAddr) -> SocketAddr {
    if asked.ip().is_unspecified() {
        SocketAddr::new(peer, asked.port())
    } else {
        asked
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;
    use crate::flow::example;

    fn asked(cookie: u64, started: u64) -> Asked {
        Asked {
            cookie,
            started: Monotonic(started),
            address: ([10, 96, 0, 1], 80).into(),
        }
    }

    fn flow(cookie: u64, started: u64) -> Flow {
        Flow {
            cookie,
            started: Monotonic(started),
            ..example::closed(1)
        }
    }

    #[test]
    fn address_is_that_of_one_connection_of_its_socket() {
        let mut all = AskedAddresses::default();
        all.insert(asked(1, 5), 8);
        let mut later = flow(1, 6);
        assert_eq!(all.give(&mut later), None);
        assert_eq!(later.asked, None);

        all.insert(asked(1, 5), 8);
        let mut own = flow(1, 5);
        assert!(all.give(&mut own).is_some());
        assert_eq!(own.asked(), ([10, 96, 0, 1], 80).into());
        assert_eq!(own.server_port(), Some(80));
    }

    #[test]
    fn record_is_decoded_and_other_bytes_are_refused() {
        let mut bytes = [0; RECORD_LEN];
        bytes[..8].copy_from_slice(&7_u64.to_ne_bytes());
        bytes[8..16].copy_from_slice(&5_u64.to_ne_bytes());
        bytes[offset_of!(AskedRecord, address)..][..16].copy_from_slice(
            &"::ffff:10.96.0.1"
                .parse::<Ipv6Addr>()
                .expect("one")
                .octets(),
        );
        bytes[offset_of!(AskedRecord, port)..][..2].copy_from_slice(&80_u16.to_ne_bytes());
        let kind = offset_of!(AskedRecord, kind);
        assert!(!Asked::is_in(&bytes));
        assert_eq!(Asked::decode(&bytes), Err(Malformed::Asked { len: 80 }));
        bytes[kind] = KIND;
        assert!(Asked::is_in(&bytes));
        assert_eq!(Asked::decode(&bytes), Ok(asked(7, 5)));
        let longer = [bytes.as_slice(), &[0]].concat();
        for (wrong, len) in [(&bytes[..kind + 1], kind + 1), (&longer, 81)] {
            assert!(Asked::is_in(wrong));
            assert_eq!(Asked::decode(wrong), Err(Malformed::Asked { len }));
        }
    }

    #[test]
    fn unspecified_address_is_the_peers() {
        let mut all = AskedAddresses::default();
        let address = ([0, 0, 0, 0], 80).into();
        let unspecified = Asked {
            address,
            ..asked(1, 5)
        };
        all.insert(unspecified, 8);
        let mut flow = flow(1, 5);
        all.give(&mut flow);
        assert_eq!(flow.asked(), (flow.peer.ip(), 80).into());
    }

    #[test]
    fn waiting_addresses_are_bounded_and_those_lost_are_counted() {
        let mut all = AskedAddresses::default();
        for cookie in 0..10 {
            all.insert(asked(cookie, cookie), 4);
        }
        assert_eq!((all.waiting.len(), all.dropped()), (4, 6));
        let later = WAITS_NS + 10;
        all.insert(asked(20, later), 4);
        assert_eq!((all.waiting.len(), all.dropped()), (1, 10));
        assert!(all.give(&mut flow(20, later)).is_some());
    }
}
