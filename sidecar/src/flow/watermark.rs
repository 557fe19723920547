//! How much payload a poll of an open socket proves. Pure.

use super::Volume;

/// Payload bytes, sent and received, by the previous poll.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PayloadWatermark([u64; 2]);

impl PayloadWatermark {
    /// The payload that a poll proves. The kernel reads the state before the counts (net/ipv4/tcp.c, tcp_get_info, takes the lock in
    /// between), so a FIN that comes just then is among the counts and not in the state. That is one byte at most, and none where
    /// a count is the same as in the previous poll.
    pub(super) fn settle(&mut self, polled: Volume) -> Volume {
        let now = [polled.bytes_sent, polled.bytes_received];
        let before = std::mem::replace(&mut self.0, now);
        let settled = |way: usize| now[way] - u64::from(now[way] > 0 && now[way] != before[way]);
        Volume {
            bytes_sent: settled(0),
            bytes_received: settled(1),
            ..polled
        }
    }
}
