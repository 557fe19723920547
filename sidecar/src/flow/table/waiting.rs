//! What records say of flows whose own records follow. Pure.

use std::collections::HashMap;

use super::Hasher;
use crate::{
    flow::{Asked, Exchanges, Flow, asked::AskedAddresses, memory},
    histogram::Histogram,
};

/// Details that wait for the record of their flow, at most so many of a kind as flows may be listed.
#[derive(Debug, Default)]
pub(super) struct WaitingDetails {
    exchanges: HashMap<u64, Histogram, Hasher>,
    exchanges_dropped: u64,
    asked: AskedAddresses,
}

// === impl WaitingDetails ===

impl WaitingDetails {
    /// Gives a flow all that waited for its record. Gives the address that was asked for, which the flow's next record needs again if the
    /// table does not list the flow.
    pub(super) fn give(&mut self, flow: &mut Flow) -> Option<Asked> {
        if let Some(exchanges) = self.exchanges.remove(&flow.cookie) {
            flow.exchanges = exchanges;
        }
        self.asked.give(flow)
    }

    /// Keeps what `connect()` was asked for.
    pub(super) fn keep_asked(&mut self, asked: Asked, capacity: usize) {
        self.asked.insert(asked, capacity);
    }

    /// Keeps a flow's exchanges. Those whose flow's record was dropped wait for the next one.
    pub(super) fn keep_exchanges(&mut self, new: Exchanges, capacity: usize) {
        if self.exchanges.len() < capacity || self.exchanges.contains_key(&new.cookie) {
            self.exchanges.insert(new.cookie, new.durations);
        } else {
            self.exchanges_dropped += 1;
        }
    }

    /// Addresses asked for that found no room, or whose flow's records were lost.
    pub(super) const fn asked_dropped(&self) -> u64 {
        self.asked.dropped()
    }

    /// Records of exchanges that found no room.
    pub(super) const fn exchanges_dropped(&self) -> u64 {
        self.exchanges_dropped
    }

    /// Gives back the memory of a load that has ended.
    pub(super) fn shrink(&mut self) {
        memory::shrink(&mut self.exchanges);
        self.asked.shrink();
    }
}
