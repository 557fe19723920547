//! Who the other end is: the name that this pod asked a resolver for. Pure.
//!
//! The kernel programs copy DNS queries and answers of the followed cgroup (RFC 1035, UDP and TCP, port 53). An answer counts only if
//! the pod sent the query that it belongs to. A connection has a name if exactly one name, not expired when the connection was opened,
//! stands for the address that was connected to. A name is never guessed: where the rule gives none, the address stays, and the reason is
//! counted ([`NoName`], [`Unused`]).

mod message;
mod names;
mod queries;
mod record;
mod stream;

use std::{collections::BTreeMap, net::SocketAddr};

pub use self::names::NoName;
use self::{
    message::{Message, Question},
    names::Names,
    queries::{Asked, Queries},
    stream::Streams,
};
use crate::flow::{Monotonic, Name};

/// How a packet travelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// One message a packet.
    Udp,
    /// A segment of a stream of messages.
    Tcp(Segment),
}

/// Where a segment's payload is in its stream (RFC 9293 section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The sequence number of its first byte.
    pub sequence: u32,
    /// The sequence number of the next byte of the other end.
    pub acknowledged: u32,
}

/// A packet to or from port 53 with its payload.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// When the socket sent or received it.
    pub at: Monotonic,
    /// Whether the pod sent it.
    pub is_sent: bool,
    /// How it travelled.
    pub transport: Transport,
    /// The pod's port.
    pub local_port: u16,
    /// The resolver, as the packet names it.
    pub resolver: SocketAddr,
    /// What was copied of its payload.
    pub payload: &'a [u8],
    /// Whether the payload is longer than what was copied.
    pub is_cut: bool,
}

/// Why a message was not used, or not as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unused {
    /// It is no DNS message, or a part of one is missing.
    Malformed,
    /// An answer to a query that this pod did not send, that was answered before, or that is forgotten.
    Unasked,
    /// The resolver had no room for the whole answer, the copy has none, or it has more records than are read.
    Truncated,
}

/// The names of the addresses that this pod asked for.
#[derive(Debug)]
pub struct Resolved {
    queries: Queries,
    streams: Streams,
    names: Names,
    answers: u64,
    unused: BTreeMap<Unused, u64>,
}

// === impl Unused ===

impl Unused {
    /// Every reason.
    pub const ALL: [Self; 3] = [Self::Malformed, Self::Unasked, Self::Truncated];

    /// The value of `flowcar.self.drop.reason`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unasked => "unasked",
            Self::Truncated => "truncated",
        }
    }
}

// === impl Resolved ===

impl Resolved {
    /// No names yet, and at most so many later on.
    pub fn new(most: usize) -> Self {
        Self {
            queries: Queries::default(),
            streams: Streams::default(),
            names: Names::new(most),
            answers: 0,
            unused: BTreeMap::new(),
        }
    }

    /// Takes in a packet.
    pub fn packet(&mut self, packet: &Packet<'_>) {
        match packet.transport {
            Transport::Udp if packet.is_cut => self.unused(Unused::Truncated),
            Transport::Udp => self.message(packet, packet.payload),
            Transport::Tcp(segment) => {
                let Ok(messages) = self.streams.segment(packet, segment) else {
                    return self.unused(Unused::Malformed);
                };
                for message in messages {
                    self.message(packet, &message);
                }
            }
        }
    }

    /// The one name that stood for the address at this time.
    ///
    /// # Errors
    /// [`NoName`].
    pub fn name_of(&self, address: std::net::IpAddr, at: Monotonic) -> Result<Name, NoName> {
        self.names.of(address.to_canonical(), at)
    }

    /// Answers that were taken in.
    pub const fn answers(&self) -> u64 {
        self.answers
    }

    /// Messages that were not used, or not as a whole, by reason.
    pub const fn unused_messages(&self) -> &BTreeMap<Unused, u64> {
        &self.unused
    }

    fn message(&mut self, packet: &Packet<'_>, bytes: &[u8]) {
        let asked = |question: &Question| Asked {
            local_port: packet.local_port,
            resolver: packet.resolver,
            is_tcp: packet.transport != Transport::Udp,
            id: question.id,
            kind: question.kind,
        };
        match Message::read(bytes) {
            Some(Message::Query(question)) if packet.is_sent => {
                self.queries
                    .sent(asked(&question), question.name, packet.at);
            }
            Some(Message::Answer { question, records }) if !packet.is_sent => {
                let asked = asked(&question);
                if !self.queries.is_asked(&asked, &question.name, packet.at) {
                    return self.unused(Unused::Unasked);
                }
                // As for the resolver's client, a malformed answer is none.
                let Some(found) = records.addresses(&question) else {
                    return self.unused(Unused::Malformed);
                };
                self.queries.answered(&asked);
                self.answers += 1;
                if found.is_truncated {
                    self.unused(Unused::Truncated);
                }
                let name = Name::from(question.name);
                for (address, ttl) in found.addresses {
                    self.names.learn(&name, address, packet.at, ttl);
                }
            }
            // A resolver in the pod answers others, and asks none here.
            Some(_) => {}
            None => self.unused(Unused::Malformed),
        }
    }

    fn unused(&mut self, reason: Unused) {
        *self.unused.entry(reason).or_default() += 1;
    }
}

#[cfg(test)]
mod tests;
