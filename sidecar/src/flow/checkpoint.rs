//! A checkpoint: the connections that the last report had, with their counts. Pure.
//!
//! A successor that reads it counts a connection that outlives a flowcar once, and counts those that closed while no flowcar followed.
//! A connection is recognized by its socket's cookie, which the kernel gives to no other socket until the next boot.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::{Flow, History, Retransmits, Role, SocketSnapshot, State, Volume};

/// The version of the format.
const VERSION: u32 = 3;

/// Numbers that make up a flow, at most.
const NUMBERS: usize = 15;

/// The boot and network namespace in which a cookie always names the same socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelInstance {
    /// `/proc/sys/kernel/random/boot_id`
    pub boot: String,
    /// The inode of the network namespace.
    pub netns: u64,
}

/// A checkpoint as read.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Checkpoint {
    /// Where it was written.
    pub instance: KernelInstance,
    /// Time of the last acknowledged report, nanoseconds since the Unix epoch.
    pub taken_unix_ns: u64,
    /// The flows of that report.
    pub reported: CheckpointFlows,
}

/// The open flows of a report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointFlows {
    /// Lost closes that are counted and may belong to any of these connections.
    pub lost_closes: u64,
    /// The connections.
    pub flows: Vec<CheckpointFlow>,
}

/// A connection, with its reported counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointFlow {
    /// The socket's cookie.
    pub cookie: u64,
    /// Distinguishes the connection from a later one of the same socket.
    pub(super) fingerprint: u32,
    /// Which end of the handshake it is.
    pub role: Role,
    /// Counts since it began.
    pub volume: Volume,
    /// Time held back by the peer's window, microseconds.
    pub receive_window_limited_us: u64,
    /// Time held back by the send buffer, microseconds.
    pub send_buffer_limited_us: u64,
}

/// How much a checkpoint may hold. It may have been forged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Most {
    /// Its flows.
    pub flows: usize,
}

/// No connection counts more of anything, so that sums stay far from overflowing.
const MOST_COUNTED: u64 = 1 << 48;

/// Why bytes are no checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// They are truncated, or something else.
    #[error("it is truncated, or flowcar did not write it ({0})")]
    Torn(#[from] serde_json::Error),
    /// More flows, or greater counts, than a flowcar writes.
    #[error("it has more flows or greater counts than flowcar writes")]
    TooMuch,
    /// Another version's.
    #[error("it has version {0}, and this flowcar reads version {VERSION}")]
    Version(u32),
}

/// Encodes a checkpoint.
pub fn encode(
    instance: &KernelInstance,
    taken_unix_ns: u64,
    reported: &CheckpointFlows,
) -> Vec<u8> {
    #[derive(Serialize)]
    struct Written<'a> {
        flowcar_checkpoint: u32,
        instance: &'a KernelInstance,
        taken_unix_ns: u64,
        reported: &'a CheckpointFlows,
    }
    let written = Written {
        flowcar_checkpoint: VERSION,
        instance,
        taken_unix_ns,
        reported,
    };
    serde_json::to_vec(&written).expect("texts and numbers in memory are always JSON")
}

/// Reads what [`encode`] wrote.
///
/// # Errors
/// [`Unreadable`].
pub fn decode(bytes: &[u8], most: Most) -> Result<Checkpoint, Unreadable> {
    #[derive(Deserialize)]
    struct Head {
        flowcar_checkpoint: u32,
    }
    let Head { flowcar_checkpoint } = serde_json::from_slice(bytes)?;
    if flowcar_checkpoint != VERSION {
        return Err(Unreadable::Version(flowcar_checkpoint));
    }
    if !most.admits(bytes) {
        return Err(Unreadable::TooMuch);
    }
    let checkpoint: Checkpoint = serde_json::from_slice(bytes)?;
    let counts = |flow: &CheckpointFlow| flow.numbers()[3..].iter().all(|n| *n <= MOST_COUNTED);
    if checkpoint.reported.lost_closes > MOST_COUNTED
        || !checkpoint.reported.flows.iter().all(counts)
    {
        return Err(Unreadable::TooMuch);
    }
    Ok(checkpoint)
}

// === impl Most ===

impl Most {
    /// Bytes that a file may have: numbers have twenty digits at most, and the head a few hundred bytes.
    pub const fn bytes(self) -> u64 {
        4_096 + (self.flows * NUMBERS * 21) as u64
    }

    /// Whether the decoded bytes take no more memory than what a flowcar writes: brackets begin lists, and commas separate their
    /// members.
    fn admits(self, bytes: &[u8]) -> bool {
        let count = |wanted: u8| bytes.iter().filter(|byte| **byte == wanted).count();
        count(b'[') <= self.flows + 1 && count(b',') <= self.flows * (NUMBERS + 1) + 16
    }
}

// === impl CheckpointFlow ===

impl CheckpointFlow {
    /// The checkpoint of a flow, if it is a live connection.
    pub fn of(flow: &Flow) -> Option<Self> {
        let lives = flow.established.is_some() && flow.outcome.is_none();
        let limited = flow.socket.map_or((0, 0), |figures| {
            let sending = figures.send_buffer_limited_us;
            (figures.receive_window_limited_us, sending)
        });
        lives.then(|| Self {
            cookie: flow.cookie,
            fingerprint: fingerprint(flow.local, flow.peer),
            role: flow.role,
            volume: flow.volume,
            receive_window_limited_us: limited.0,
            send_buffer_limited_us: limited.1,
        })
    }

    /// The counts as polls report them, which do not know the cause of retransmissions.
    pub fn volume_of_polls(&self) -> Volume {
        let unknown = self.volume.retransmits.total();
        Volume {
            retransmits: Retransmits {
                unknown,
                ..Retransmits::default()
            },
            ..self.volume
        }
    }

    /// The history of its socket; `None` where its role is not known.
    pub(super) fn history(&self) -> Option<History> {
        (self.role != Role::Unknown).then(|| History::of_role(self.role))
    }

    /// Whether a snapshot of its socket is of this connection.
    pub(super) fn is_of(&self, observed: &SocketSnapshot) -> bool {
        self.fingerprint == fingerprint_of(observed) && observed.state_of_counts() != State::SynSent
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
            self.fingerprint as u64,
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
            fingerprint: u32::try_from(all[1]).ok()?,
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

impl Serialize for CheckpointFlow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let numbers = self.numbers();
        let used = numbers.iter().rposition(|number| *number != 0);
        serializer.collect_seq(&numbers[..used.map_or(0, |last| last + 1)])
    }
}

impl<'de> Deserialize<'de> for CheckpointFlow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let numbers = Vec::<u64>::deserialize(deserializer)?;
        Self::of_numbers(&numbers).ok_or_else(|| D::Error::custom("a flow of other numbers"))
    }
}

/// Distinguishes a connection from a later one of the same socket.
pub(super) fn fingerprint_of(observed: &SocketSnapshot) -> u32 {
    fingerprint(observed.local, observed.peer)
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
