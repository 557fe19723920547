//! How far a look at a socket that lives can be trusted. Pure.

use super::Volume;

/// Payload bytes, sent and received, that the look before told of.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Looked([u64; 2]);

impl Looked {
    /// What a look may say of payload. The kernel reads the state before the counts (net/ipv4/tcp.c, tcp_get_info, takes the
    /// lock in between), so that a FIN which comes just then is among them and not told of. That is one byte at most, and
    /// none where a count is the same as a look before.
    pub(super) fn settle(&mut self, told: Volume) -> Volume {
        let now = [told.bytes_sent, told.bytes_received];
        let before = std::mem::replace(&mut self.0, now);
        let settled = |way: usize| now[way] - u64::from(now[way] > 0 && now[way] != before[way]);
        Volume {
            bytes_sent: settled(0),
            bytes_received: settled(1),
            ..told
        }
    }
}
