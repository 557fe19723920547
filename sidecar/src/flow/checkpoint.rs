//! A checkpoint: the connections that the last report had, with their counts. Pure.
//!
//! A successor that reads it counts a connection that outlives a flowcar once, and counts those that closed while no flowcar followed.
//! A connection is recognized by its socket's cookie, which the kernel gives to no other socket until the next boot.

mod written;

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use self::written::{ENDS, LONGEST, NUMBERS};
use super::{Flow, History, Name, Retransmits, Role, SocketSnapshot, State, Volume};

/// The version of the format.
const VERSION: u32 = 4;

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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckpointFlows {
    /// Lost closes that are counted and may belong to any of these connections.
    pub lost_closes: u64,
    /// The connections.
    pub flows: Vec<CheckpointFlow>,
}

/// A connection, with its reported counts.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// The name that its application asked a resolver for, of a client.
    pub name: Option<Name>,
    /// What its application asked for in `connect()`, where that is not the peer.
    pub asked: Option<Box<SocketAddr>>,
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
    let reported = &checkpoint.reported;
    let counts = |flow: &CheckpointFlow| flow.counts_at_most(MOST_COUNTED);
    if reported.lost_closes > MOST_COUNTED
        || reported.flows.len() > most.flows
        || !reported.flows.iter().all(counts)
    {
        return Err(Unreadable::TooMuch);
    }
    Ok(checkpoint)
}

// === impl Most ===

impl Most {
    /// Bytes that a file may have: numbers have twenty digits at most, the head a few hundred bytes, and JSON escapes a byte of a name by two.
    pub const fn bytes(self) -> u64 {
        4_096 + (self.flows * NUMBERS * 21 + 2 * self.ends() * (2 * LONGEST + 3)) as u64
    }

    /// Whether the decoded bytes take no more memory than what a flowcar writes: brackets begin lists, and commas separate their
    /// members.
    fn admits(self, bytes: &[u8]) -> bool {
        let count = |wanted: u8| bytes.iter().filter(|byte| **byte == wanted).count();
        // An IPv6 address has a bracket, too.
        count(b'[') <= self.flows + self.ends() + 3
            && count(b',') <= self.flows * (NUMBERS + 1) + 2 * self.ends() + 16
    }

    /// Names, and addresses that were asked for, at most of each.
    const fn ends(self) -> usize {
        if self.flows < ENDS { self.flows } else { ENDS }
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
            name: flow.name.clone(),
            asked: flow.asked.clone(),
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

    /// Gives a flow of this connection what dumps do not show: which server its application asked for.
    pub(super) fn give_server(&self, flow: &mut Flow) {
        flow.name.clone_from(&self.name);
        flow.asked.clone_from(&self.asked);
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
