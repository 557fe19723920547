//! Retransmits by type, as the control protocol sends them. Pure.

use flowcar_screen::answer::RetransmitCounts;

use crate::flow::Retransmits;

/// Segments sent again, by `flowcar.tcp.retransmit.type`. On the wire a protobuf message: a field keeps its number for ever.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct RetransmitRow {
    #[prost(uint64, tag = "1")]
    syn: u64,
    #[prost(uint64, tag = "2")]
    synack: u64,
    #[prost(uint64, tag = "3")]
    fast: u64,
    #[prost(uint64, tag = "4")]
    timeout: u64,
    #[prost(uint64, tag = "5")]
    tail_loss_probe: u64,
    #[prost(uint64, tag = "6")]
    unknown: u64,
}

// === impl RetransmitRow ===

impl From<&Retransmits> for RetransmitRow {
    fn from(of: &Retransmits) -> Self {
        Self {
            syn: of.syn,
            synack: of.synack,
            fast: of.fast,
            timeout: of.timeout,
            tail_loss_probe: of.tail_loss_probe,
            unknown: of.unknown,
        }
    }
}

impl From<RetransmitRow> for RetransmitCounts {
    fn from(of: RetransmitRow) -> Self {
        Self {
            syn: of.syn,
            synack: of.synack,
            fast: of.fast,
            timeout: of.timeout,
            tail_loss_probe: of.tail_loss_probe,
            unknown: of.unknown,
        }
    }
}
