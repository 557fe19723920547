//! The follower without a kernel, to count what its work takes.

use flowcar_shared::counter::COUNTERS;

use super::{Limits, flows::Flows};
use crate::{
    flow::{Flow, PollContext, SocketSnapshot},
    snapshot::{SelfMetrics, Snapshot},
    source::Sockets,
};

/// Takes in records and sockets as the source brings them. What only the kernel can answer stays open.
pub struct Replay {
    flows: Flows,
    sockets: Sockets,
}

impl Replay {
    /// Nothing followed yet.
    pub fn new(limits: &Limits) -> Self {
        Self {
            flows: Flows::new(limits),
            sockets: Sockets::none(),
        }
    }

    /// Takes in a record of the kernel programs.
    pub fn record(&mut self, bytes: &[u8]) {
        // Without socket dumps no record waits for others.
        self.flows
            .take_or_hold_back(bytes, &mut self.sockets, &mut Vec::new());
    }

    /// Takes in one socket of a dump.
    pub fn polled(&mut self, observed: &SocketSnapshot, poll: &PollContext) {
        self.flows.take_socket(observed, poll);
    }

    /// The flows that closed or failed since this was last called.
    pub fn take_closed(&mut self) -> Vec<Flow> {
        self.flows.take_closed()
    }

    /// The report as it stands.
    pub fn snapshot(&mut self) -> Snapshot {
        self.flows
            .snapshot(&[0; COUNTERS], &self.sockets, SelfMetrics::default())
    }
}
