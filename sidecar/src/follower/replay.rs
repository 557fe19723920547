//! The follower without a kernel, to count what its work takes.

use flowcar_shared::counter::COUNTERS;

use super::{Limits, flows::Flows};
use crate::{
    flow::{Flow, PollContext, SocketSnapshot},
    snapshot::{SelfMetrics, Snapshot},
};

/// Takes in records and sockets as the sources bring them. What only the kernel can answer stays open.
pub struct Replay(Flows);

impl Replay {
    /// Nothing followed yet.
    pub fn new(limits: &Limits) -> Self {
        Self(Flows::new(limits))
    }

    /// Takes in a record of the kernel programs.
    pub fn record(&mut self, bytes: &[u8]) {
        // Without socket dumps no record waits for others.
        self.0.take_or_hold_back(bytes, None, &mut Vec::new());
    }

    /// Takes in one socket of a dump.
    pub fn polled(&mut self, observed: &SocketSnapshot, poll: &PollContext) {
        self.0.poll_sockets(observed, poll);
    }

    /// The flows that closed or failed since this was last called.
    pub fn take_closed(&mut self) -> Vec<Flow> {
        self.0.take_closed()
    }

    /// The report as it stands.
    pub fn snapshot(&mut self) -> Snapshot {
        self.0
            .snapshot(&[0; COUNTERS], None, SelfMetrics::default())
    }
}
