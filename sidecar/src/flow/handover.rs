//! What one flowcar leaves for the one after it: which connections its last report told of, and how much of each. Pure.
//!
//! Who knows that counts a connection that outlives a flowcar once, and says how many ended while nobody followed. A
//! connection is known again by its socket's cookie, which the kernel gives to no other until it boots.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::{Flow, History, Retransmits, Role, Sight, State, Volume};

/// The version of what is written.
const VERSION: u32 = 2;

/// Numbers that make up a flow, at most.
const NUMBERS: usize = 15;

/// Where a cookie always names the same socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// `/proc/sys/kernel/random/boot_id`
    pub boot: String,
    /// The inode of the network namespace.
    pub netns: u64,
}

/// What a flowcar left.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Handover {
    /// Where it was.
    pub place: Place,
    /// When its last report that a receiver took was made, nanoseconds since the Unix epoch.
    pub taken_unix_ns: u64,
    /// What that report told of.
    pub leaving: Leaving,
}

/// What a report told of that goes on after it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaving {
    /// Ends that are lost, so counted, and may be those of any of these connections: the news of them did not come through.
    pub unheard: u64,
    /// The connections on the list.
    pub flows: Vec<Left>,
}

/// A connection, and what was told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// The socket's cookie.
    pub cookie: u64,
    /// Tells the connection from a later one of the same socket.
    pub(super) ends: u32,
    /// Which end of the handshake it is.
    pub role: Role,
    /// Counts since it began.
    pub volume: Volume,
    /// Time held back by the peer's window, microseconds.
    pub receive_window_limited_us: u64,
    /// Time held back by the send buffer, microseconds.
    pub send_buffer_limited_us: u64,
}

/// How much a handover may hold. It may have been forged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Most {
    /// Flows on its list.
    pub flows: usize,
}

/// No connection counts more of anything: what is added up stays far from overflowing.
const MOST_COUNTED: u64 = 1 << 48;

/// Why bytes are no handover.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// They are torn, or something else.
    #[error("it is torn, or no flowcar wrote it ({0})")]
    Torn(#[from] serde_json::Error),
    /// More flows, or more of something, than a flowcar writes down.
    #[error("it tells of more than there can be")]
    TooMuch,
    /// Another version's.
    #[error("it is of version {0}, and this flowcar reads version {VERSION}")]
    Version(u32),
}

/// Writes a handover down.
pub fn encode(place: &Place, taken_unix_ns: u64, leaving: &Leaving) -> Vec<u8> {
    #[derive(Serialize)]
    struct Written<'a> {
        flowcar_handover: u32,
        place: &'a Place,
        taken_unix_ns: u64,
        leaving: &'a Leaving,
    }
    let written = Written {
        flowcar_handover: VERSION,
        place,
        taken_unix_ns,
        leaving,
    };
    serde_json::to_vec(&written).expect("texts and numbers in memory are always JSON")
}

/// Reads what [`encode`] wrote.
///
/// # Errors
/// [`Unreadable`].
pub fn decode(bytes: &[u8], most: Most) -> Result<Handover, Unreadable> {
    #[derive(Deserialize)]
    struct Head {
        flowcar_handover: u32,
    }
    let Head { flowcar_handover } = serde_json::from_slice(bytes)?;
    if flowcar_handover != VERSION {
        return Err(Unreadable::Version(flowcar_handover));
    }
    if !most.admits(bytes) {
        return Err(Unreadable::TooMuch);
    }
    let handover: Handover = serde_json::from_slice(bytes)?;
    let counts = |left: &Left| left.numbers()[3..].iter().all(|n| *n <= MOST_COUNTED);
    if handover.leaving.unheard > MOST_COUNTED || !handover.leaving.flows.iter().all(counts) {
        return Err(Unreadable::TooMuch);
    }
    Ok(handover)
}

// === impl Most ===

impl Most {
    /// Bytes that a file may have: numbers have twenty digits at most, and the head a few hundred bytes.
    pub const fn bytes(self) -> u64 {
        4_096 + (self.flows * NUMBERS * 21) as u64
    }

    /// Whether what the bytes would become takes no more memory than what a flowcar writes down: lists are begun by brackets, and
    /// their members are told apart by commas.
    fn admits(self, bytes: &[u8]) -> bool {
        let count = |wanted: u8| bytes.iter().filter(|byte| **byte == wanted).count();
        count(b'[') <= self.flows + 1 && count(b',') <= self.flows * (NUMBERS + 1) + 16
    }
}

// === impl Left ===

impl Left {
    /// What is told of a flow, if it is a connection that lives.
    pub fn of(flow: &Flow) -> Option<Self> {
        let lives = flow.established.is_some() && flow.outcome.is_none();
        let limited = flow.socket.map_or((0, 0), |figures| {
            let sending = figures.send_buffer_limited_us;
            (figures.receive_window_limited_us, sending)
        });
        lives.then(|| Self {
            cookie: flow.cookie,
            ends: fingerprint(flow.local, flow.peer),
            role: flow.role,
            volume: flow.volume,
            receive_window_limited_us: limited.0,
            send_buffer_limited_us: limited.1,
        })
    }

    /// The counts as looks tell them, which know of no cause for what is sent again.
    pub fn volume_of_looks(&self) -> Volume {
        let unknown = self.volume.retransmits.total();
        Volume {
            retransmits: Retransmits {
                unknown,
                ..Retransmits::default()
            },
            ..self.volume
        }
    }

    /// What is remembered of its socket; nothing where its role is not known.
    pub(super) fn history(&self) -> Option<History> {
        (self.role != Role::Unknown).then(|| History::of_role(self.role))
    }

    /// Whether what is seen of its socket is of this connection.
    pub(super) fn is_of(&self, sight: &Sight) -> bool {
        self.ends == ends(sight) && sight.state_of_counts() != State::SynSent
    }

    const fn numbers(&self) -> [u64; NUMBERS] {
        let Volume {
            bytes_sent,
            bytes_received,
            segments_sent,
            segments_received,
            retransmits,
        } = self.volume;
        // Most of the last ones are 0, and not written.
        [
            self.cookie,
            self.ends as u64,
            self.role as u64,
            bytes_sent,
            bytes_received,
            segments_sent,
            segments_received,
            self.receive_window_limited_us,
            self.send_buffer_limited_us,
            retransmits.unknown,
            retransmits.tail_loss_probe,
            retransmits.fast,
            retransmits.timeout,
            retransmits.syn,
            retransmits.synack,
        ]
    }

    fn of_numbers(numbers: &[u64]) -> Option<Self> {
        let mut all = [0; NUMBERS];
        all.get_mut(..numbers.len())?.copy_from_slice(numbers);
        Some(Self {
            cookie: all[0],
            ends: u32::try_from(all[1]).ok()?,
            role: Role::from_u8(u8::try_from(all[2]).ok()?)?,
            volume: Volume {
                bytes_sent: all[3],
                bytes_received: all[4],
                segments_sent: all[5],
                segments_received: all[6],
                retransmits: Retransmits {
                    unknown: u64::from(u32::try_from(all[9]).ok()?),
                    tail_loss_probe: u64::from(u32::try_from(all[10]).ok()?),
                    fast: u64::from(u32::try_from(all[11]).ok()?),
                    timeout: u64::from(u32::try_from(all[12]).ok()?),
                    syn: u64::from(u32::try_from(all[13]).ok()?),
                    synack: u64::from(u32::try_from(all[14]).ok()?),
                },
            },
            receive_window_limited_us: all[7],
            send_buffer_limited_us: all[8],
        })
    }
}

impl Serialize for Left {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let numbers = self.numbers();
        let used = numbers.iter().rposition(|number| *number != 0);
        serializer.collect_seq(&numbers[..used.map_or(0, |last| last + 1)])
    }
}

impl<'de> Deserialize<'de> for Left {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let numbers = Vec::<u64>::deserialize(deserializer)?;
        Self::of_numbers(&numbers).ok_or_else(|| D::Error::custom("a flow of other numbers"))
    }
}

/// What tells a connection from a later one of the same socket.
pub(super) fn ends(sight: &Sight) -> u32 {
    fingerprint(sight.local, sight.peer)
}

/// FNV-1a over both ends, by addresses as they are on the wire.
fn fingerprint(local: SocketAddr, peer: SocketAddr) -> u32 {
    let mut hash = 0x811c_9dc5_u32;
    let mut add = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    };
    for end in [local, peer] {
        match end.ip() {
            IpAddr::V4(ip) => add(&ip.octets()),
            IpAddr::V6(ip) => add(&ip.octets()),
        }
        add(&end.port().to_be_bytes());
    }
    hash
}

#[cfg(test)]
mod tests;
