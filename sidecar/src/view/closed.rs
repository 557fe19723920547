//! Connections that closed, as the control protocol sends them. Pure.

use super::retransmits::RetransmitRow;
use crate::flow::{Flow, Outcome};

/// An established connection that closed. On the wire a protobuf message: a field keeps its number for ever.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ClosedRow {
    /// The kernel's socket cookie.
    #[prost(fixed64, tag = "1")]
    pub cookie: u64,
    /// The series that it was counted in.
    #[prost(uint64, optional, tag = "2")]
    pub series: Option<u64>,
    /// `flowcar.tcp.close.reason`
    #[prost(string, tag = "3")]
    pub reason: String,
    /// Whether it was cut off.
    #[prost(bool, tag = "4")]
    pub is_failure: bool,
    /// Established to closed, nanoseconds.
    #[prost(uint64, optional, tag = "5")]
    pub duration_ns: Option<u64>,
    /// Payload bytes that the peer acknowledged.
    #[prost(uint64, tag = "6")]
    pub bytes_sent: u64,
    /// Payload bytes received.
    #[prost(uint64, tag = "7")]
    pub bytes_received: u64,
    /// Segments sent.
    #[prost(uint64, tag = "8")]
    pub segments_sent: u64,
    /// Segments sent again.
    #[prost(message, required, tag = "9")]
    pub retransmits: RetransmitRow,
}

// === impl ClosedRow ===

impl ClosedRow {
    /// The row of a flow that closed; `None` of one that is open, and of a failed attempt.
    pub fn of(flow: &Flow) -> Option<Self> {
        let Some(Outcome::Closed(reason)) = flow.outcome else {
            return None;
        };
        let volume = &flow.volume;
        Some(Self {
            cookie: flow.cookie,
            series: flow.series.map(|id| id.0),
            reason: reason.name().to_owned(),
            is_failure: flow.is_failure(),
            duration_ns: flow.duration_ns(),
            bytes_sent: volume.bytes_sent,
            bytes_received: volume.bytes_received,
            segments_sent: volume.segments_sent,
            retransmits: (&volume.retransmits).into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use flowcar_screen::answer::RetransmitCounts;
    use prost::Message as _;

    use super::*;
    use crate::flow::{CloseReason, Failure, Retransmits, example};

    #[test]
    fn row_has_what_the_flow_had_when_it_closed() {
        let mut flow = example::closed(7);
        flow.outcome = Some(Outcome::Closed(CloseReason::ResetReceived));
        flow.volume.retransmits = Retransmits {
            syn: 1,
            synack: 2,
            fast: 4,
            timeout: 8,
            tail_loss_probe: 16,
            unknown: 32,
        };
        let row = ClosedRow::of(&flow).expect("a close");
        let sent = ClosedRow::decode(&row.encode_to_vec()[..]).expect("a row");
        assert_eq!(sent, row);
        assert_eq!((sent.cookie, sent.reason.as_str()), (7, "reset_received"));
        assert!(sent.is_failure);
        let counts = RetransmitCounts::from(sent.retransmits);
        let counts = counts.named().map(|(_, count)| count);
        assert_eq!(counts, [1, 2, 4, 8, 16, 32]);
        for outcome in [None, Some(Outcome::Failed(Failure::Refused))] {
            flow.outcome = outcome;
            assert_eq!(ClosedRow::of(&flow), None);
        }
    }
}
