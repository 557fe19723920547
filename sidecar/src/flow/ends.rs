//! Sockets whose end was told and whose payload is open by the peer's FIN, until the other end of the same connection is
//! heard of, where that is in the same network namespace. Pure.
//!
//! A socket that sent its FIN first, was closed by its application and got the acknowledgement before the peer's FIN leaves
//! remains that take the FIN. One that got the FIN itself and was closed later leaves the same. The last counts
//! differ by one, and nothing in them says which it was; the peer's own count of what it sent does.

use std::{collections::HashMap, net::SocketAddr};

use super::{Afterlife, Monotonic, Sight};

/// How long to wait for the other end: it ends a round trip later, which inside a namespace is none.
const PATIENCE_NS: u64 = 50_000_000;

/// A connection by its addresses, as one end has them.
type Pair = (SocketAddr, SocketAddr);

/// The end of a socket, with all that is known of it.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    /// Its last counts.
    pub sight: Sight,
    /// What was under its addresses.
    pub found: Afterlife,
    /// The payload that the other end of the connection sent, where it is known and was all acknowledged.
    pub peers_payload: Option<u64>,
}

/// Ends that wait, and payloads that were sent lately.
#[derive(Debug, Default)]
pub struct Ends {
    waiting: Vec<(Monotonic, Sight, Afterlife)>,
    recent: HashMap<Pair, u64>,
    before: HashMap<Pair, u64>,
    turned: Monotonic,
}

impl Ends {
    /// Keeps what an ended socket sent, for its other end.
    pub fn heard(&mut self, sight: &Sight, now: Monotonic) {
        if now.since_ns(self.turned) > 2 * PATIENCE_NS {
            self.before = std::mem::take(&mut self.recent);
            self.turned = now;
        }
        let whole = sight
            .info
            .filter(|_| sight.unacknowledged == 0 && !sight.is_wiped());
        if let Some(info) = whole {
            self.recent
                .insert((sight.local, sight.peer), info.payload_sent());
        }
    }

    /// Lets an end wait.
    pub fn wait(&mut self, sight: Sight, found: Afterlife, now: Monotonic) {
        self.waiting.push((now, sight, found));
    }

    /// The ends that have waited long enough, or whose other end has been heard of.
    pub fn ready(&mut self, now: Monotonic) -> Vec<Told> {
        let mut ready = Vec::new();
        for (since, sight, found) in std::mem::take(&mut self.waiting) {
            let peers_payload = self.payload_of_peer(&sight);
            if peers_payload.is_some() || now.since_ns(since) >= PATIENCE_NS {
                ready.push(Told {
                    sight,
                    found,
                    peers_payload,
                });
            } else {
                self.waiting.push((since, sight, found));
            }
        }
        ready
    }

    fn payload_of_peer(&self, sight: &Sight) -> Option<u64> {
        let mirrored = (sight.peer, sight.local);
        let found = self.recent.get(&mirrored).or(self.before.get(&mirrored));
        found.copied()
    }
}
