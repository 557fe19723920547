//! Closed sockets whose payload count is uncertain by the peer's FIN, until the other end of the same connection closes, where that is
//! in the same network namespace. Pure.
//!
//! A socket that sent its FIN first, was closed by its application and got the acknowledgement before the peer's FIN leaves a timewait
//! socket that takes the FIN. A socket that got the FIN itself and was closed later leaves the same. The last counts differ by one, and
//! nothing in them shows which it was; the peer's count of what it sent does.

use std::{collections::HashMap, net::SocketAddr};

use super::{Monotonic, PostCloseState, SocketSnapshot};

/// How long to wait for the other end: it closes a round trip later, which inside a namespace is none, once its process gets a
/// processor.
const PATIENCE_NS: u64 = 200_000_000;

/// A connection by its addresses, as one end has them.
type Pair = (SocketAddr, SocketAddr);

/// The close of a socket, with all that is known of it.
#[derive(Clone, Copy, Debug)]
pub struct CloseEvent {
    /// Its last counts.
    pub observed: SocketSnapshot,
    /// What was under its addresses.
    pub found: PostCloseState,
    /// The payload that the other end of the connection sent, where it is known and was all acknowledged.
    pub peers_payload: Option<u64>,
}

/// Closes that wait, and payloads that were sent lately.
#[derive(Debug, Default)]
pub struct PendingCloses {
    waiting: Vec<(Monotonic, SocketSnapshot, PostCloseState)>,
    recent: HashMap<Pair, u64>,
    before: HashMap<Pair, u64>,
    turned: Monotonic,
}

impl PendingCloses {
    /// Keeps how much payload a closed socket sent, for its other end.
    pub fn note_sent(&mut self, observed: &SocketSnapshot, now: Monotonic) {
        if now.since_ns(self.turned) > 2 * PATIENCE_NS {
            self.before = std::mem::take(&mut self.recent);
            self.turned = now;
        }
        let whole = observed
            .info
            .filter(|_| observed.unacknowledged == 0 && !observed.is_disconnected());
        if let Some(info) = whole {
            self.recent
                .insert((observed.local, observed.peer), info.payload_sent());
        }
    }

    /// Lets a close wait.
    pub fn wait(&mut self, observed: SocketSnapshot, found: PostCloseState, now: Monotonic) {
        self.waiting.push((now, observed, found));
    }

    /// The closes that have waited long enough, or whose other end has closed.
    pub fn ready(&mut self, now: Monotonic) -> Vec<CloseEvent> {
        let mut ready = Vec::new();
        for (since, observed, found) in std::mem::take(&mut self.waiting) {
            let peers_payload = self.payload_of_peer(&observed);
            if peers_payload.is_some() || now.since_ns(since) >= PATIENCE_NS {
                ready.push(CloseEvent {
                    observed,
                    found,
                    peers_payload,
                });
            } else {
                self.waiting.push((since, observed, found));
            }
        }
        ready
    }

    fn payload_of_peer(&self, observed: &SocketSnapshot) -> Option<u64> {
        let mirrored = (observed.peer, observed.local);
        let found = self.recent.get(&mirrored).or(self.before.get(&mirrored));
        found.copied()
    }
}
