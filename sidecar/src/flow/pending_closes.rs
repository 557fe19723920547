//! Closed sockets whose payload count is uncertain by the peer's FIN, until the other end of the same connection closes, where that is
//! in the same network namespace. Pure.
//!
//! A socket that sent its FIN first, was closed by its application and got the acknowledgement before the peer's FIN leaves a timewait
//! socket that takes the FIN. A socket that got the FIN itself and was closed later leaves the same. The last counts differ by one, and
//! nothing in them shows which it was; the peer's count of what it sent does.

use std::{collections::HashMap, net::SocketAddr};

use super::{Answers, Monotonic, PostCloseState, SocketSnapshot};

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
    /// What else was known when it was taken in.
    pub answers: Answers,
    /// What the other end's close showed.
    pub other_end: OtherEnd,
}

/// What the close of a connection's other end showed of what it sent, where it is in the same network namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OtherEnd {
    /// It has not closed, is elsewhere, or its counts were erased.
    #[default]
    Unknown,
    /// So much payload, and all that it sent was acknowledged, its FIN included.
    Acknowledged(u64),
    /// Part of what it sent, and so its FIN, was never acknowledged.
    Unacknowledged,
}

/// Closes that wait, and what recent closes showed of their other ends.
#[derive(Debug, Default)]
pub struct PendingCloses {
    waiting: Vec<(Monotonic, CloseEvent)>,
    recent: HashMap<Pair, OtherEnd>,
    before: HashMap<Pair, OtherEnd>,
    turned: Monotonic,
}

impl PendingCloses {
    /// Keeps what a closed socket sent, for its other end.
    pub fn note_sent(&mut self, observed: &SocketSnapshot, now: Monotonic) {
        if now.since_ns(self.turned) > 2 * PATIENCE_NS {
            self.before = std::mem::take(&mut self.recent);
            self.turned = now;
        }
        let Some(info) = observed.info.filter(|_| !observed.is_disconnected()) else {
            return;
        };
        let sent = match observed.unacknowledged {
            0 => OtherEnd::Acknowledged(info.payload_sent()),
            _ => OtherEnd::Unacknowledged,
        };
        self.recent.insert((observed.local, observed.peer), sent);
    }

    /// Whether no close waits.
    pub const fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Lets a close wait.
    pub fn wait(&mut self, event: CloseEvent, now: Monotonic) {
        self.waiting.push((now, event));
    }

    /// The closes that have waited long enough, or whose other end has closed.
    pub fn ready(&mut self, now: Monotonic) -> Vec<CloseEvent> {
        let mut ready = Vec::new();
        for (since, event) in std::mem::take(&mut self.waiting) {
            let other_end = self.other_end(&event.observed);
            if other_end != OtherEnd::Unknown || now.since_ns(since) >= PATIENCE_NS {
                ready.push(CloseEvent { other_end, ..event });
            } else {
                self.waiting.push((since, event));
            }
        }
        if now.since_ns(self.turned) > 4 * PATIENCE_NS {
            // Nothing was noted since, so nobody waits for these.
            (self.recent, self.before) = Default::default();
        }
        ready
    }

    fn other_end(&self, observed: &SocketSnapshot) -> OtherEnd {
        let mirrored = (observed.peer, observed.local);
        let found = self.recent.get(&mirrored).or(self.before.get(&mirrored));
        found.copied().unwrap_or_default()
    }
}
