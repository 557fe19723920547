//! The circumstances of a poll, and what a dump leaves to be done. Pure.

use crate::flow::{Monotonic, SocketName};

/// Which sockets that the table does not know become flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adopt {
    /// None.
    Nothing,
    /// Established ones that the checkpoint has. Others may be older than the programs, or their open record may have found the ring
    /// full: they are counted.
    Restored,
    /// Established ones: records will report those that are still connecting.
    Connected,
    /// All: there are no records.
    All,
}

/// The circumstances of a poll.
#[derive(Clone, Copy, Debug)]
pub struct PollContext {
    /// When; for a dump, when it began.
    pub at: Monotonic,
    /// The number of the dump, from 1.
    pub dump: u64,
    /// What becomes of unknown sockets.
    pub adopt: Adopt,
    /// Destroy events that were dropped so far.
    pub overruns: u64,
    /// Close records that were lost before the poll began.
    pub lost_closes: u64,
    /// Makes ids of flows without a handshake differ from process to process.
    pub seed: u64,
}

/// Flows that a dump did not show.
#[derive(Debug, Default)]
pub struct Absent {
    /// Their closes were not delivered: to be applied as [`crate::flow::Event::Evicted`].
    pub evicted: Vec<u64>,
    /// They have closed while their applications still hold the sockets: to be applied as [`crate::flow::Event::Held`].
    pub held: Vec<u64>,
    /// Adopted flows whose addresses were not queried yet: the state under them shows how they closed
    /// ([`super::Listing::set_post_close`]).
    pub unqueried: Vec<SocketName>,
}

/// How many dumps in a row must not show a flow before it is evicted: a dump walks a hash table that changes under it,
/// and may miss a socket whose bucket moved.
pub const ABSENT: u8 = 2;
