//! Messages in TCP streams: each behind its length in two bytes (RFC 1035 section 4.2.2).

use std::{collections::HashMap, net::SocketAddr};

use super::{Packet, Segment};
use crate::flow::Monotonic;

/// Connections at once.
const MOST: usize = 64;

/// A connection without a segment for so long is forgotten.
const IDLE_NS: u64 = 60 * 1_000_000_000;

/// Bytes of unfinished messages in all connections together: 16 of the longest.
const MOST_WAITING: usize = 1 << 20;

/// The connections to resolvers.
#[derive(Debug, Default)]
pub(super) struct Streams(HashMap<Key, Connection>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    local_port: u16,
    resolver: SocketAddr,
}

#[derive(Debug)]
struct Connection {
    sent: Stream,
    received: Stream,
    last: Monotonic,
}

#[derive(Debug)]
struct Stream {
    /// The sequence number of the next byte.
    next: u32,
    /// What has come of the next message, its length included: 64 KiB at most.
    waiting: Vec<u8>,
}

/// A segment is missing, or a part of one: the message that it belongs to cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap;

// === impl Streams ===

impl Streams {
    /// Takes in a segment with payload. Gives the messages that it completes.
    ///
    /// What the pod sends begins a connection and shows where the resolver's stream goes on, so that a segment that somebody else forges
    /// must have the right sequence number, as for the kernel.
    ///
    /// # Errors
    /// [`Gap`].
    pub(super) fn segment(
        &mut self,
        packet: &Packet<'_>,
        segment: Segment,
    ) -> Result<Vec<Vec<u8>>, Gap> {
        let key = Key {
            local_port: packet.local_port,
            resolver: packet.resolver,
        };
        if packet.is_sent {
            return self.sent(key, packet, segment);
        }
        let waiting: usize = self.0.values().map(|of| of.received.waiting.len()).sum();
        let connection = self.0.get_mut(&key).ok_or(Gap)?;
        if packet.is_cut || waiting + packet.payload.len() > MOST_WAITING {
            return Err(Gap);
        }
        let messages = connection.received.add(segment.sequence, packet.payload)?;
        connection.last = packet.at;
        Ok(messages)
    }

    fn sent(
        &mut self,
        key: Key,
        packet: &Packet<'_>,
        segment: Segment,
    ) -> Result<Vec<Vec<u8>>, Gap> {
        let goes_on = |known: &&mut Connection| known.sent.has(segment.sequence);
        if self.0.get_mut(&key).filter(goes_on).is_none() {
            self.make_room(packet.at);
            let begin = |next| Stream {
                next,
                waiting: Vec::new(),
            };
            let connection = Connection {
                sent: begin(segment.sequence),
                received: begin(segment.acknowledged),
                last: packet.at,
            };
            self.0.insert(key, connection);
        }
        let connection = self.0.get_mut(&key).ok_or(Gap)?;
        if packet.is_cut {
            self.0.remove(&key);
            return Err(Gap);
        }
        connection.last = packet.at;
        connection.sent.add(segment.sequence, packet.payload)
    }

    /// Forgets idle connections, and the one that has been idle longest if that gives no room.
    fn make_room(&mut self, now: Monotonic) {
        self.0.retain(|_, of| now.since_ns(of.last) < IDLE_NS);
        if self.0.len() >= MOST
            && let Some((&oldest, _)) = self.0.iter().min_by_key(|(_, of)| of.last)
        {
            self.0.remove(&oldest);
        }
    }
}

// === impl Stream ===

impl Stream {
    /// Whether a segment with this sequence number is of this stream: the next one, or one of the last 64 KiB sent again.
    const fn has(&self, sequence: u32) -> bool {
        // RFC 9293 section 3.4: sequence numbers are compared modulo 2^32.
        self.next.wrapping_sub(sequence) < 1 << 16
    }

    fn add(&mut self, sequence: u32, payload: &[u8]) -> Result<Vec<Vec<u8>>, Gap> {
        if !self.has(sequence) {
            return Err(Gap);
        }
        // What was sent again, and is known.
        let known = self.next.wrapping_sub(sequence) as usize;
        let new = payload.get(known..).unwrap_or_default();
        self.waiting.extend_from_slice(new);
        self.next = self.next.wrapping_add(new.len() as u32);
        let mut messages = Vec::new();
        let mut rest = &self.waiting[..];
        while let Some((length, behind)) = rest.split_first_chunk() {
            let length = usize::from(u16::from_be_bytes(*length));
            let Some((message, behind)) = behind.split_at_checked(length) else {
                break;
            };
            messages.push(message.to_vec());
            rest = behind;
        }
        self.waiting = rest.to_vec();
        Ok(messages)
    }
}
