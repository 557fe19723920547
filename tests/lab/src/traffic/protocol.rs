use std::time::Duration;

/// Bytes of a request's header. They count as sent and received payload like the rest.
pub(super) const HEADER: usize = 32;

/// The client's command to the server, before each request's bytes; big-endian, in the order of the fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Header {
    /// Bytes of request that follow the header.
    pub(super) request: u64,
    /// Bytes of response that are wanted.
    pub(super) response: u64,
    /// How long the server waits before it responds.
    pub(super) delay: Duration,
    /// How long the server stops reading in the middle of the request.
    pub(super) stall: Duration,
    /// What the server does after the response.
    pub(super) then: Then,
}

/// What the server does after a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u32)]
pub(super) enum Then {
    /// It waits for the next request.
    #[default]
    Continue,
    /// It closes.
    Close,
    /// It resets the connection, once the response is acknowledged.
    Reset,
    /// It closes its own direction and goes on reading.
    CloseOwnSide,
}

// === impl Header ===

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(&self.request.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.response.to_be_bytes());
        bytes[16..20].copy_from_slice(&micros(self.delay).to_be_bytes());
        bytes[20..24].copy_from_slice(&micros(self.stall).to_be_bytes());
        bytes[24..28].copy_from_slice(&(self.then as u32).to_be_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; HEADER]) -> Self {
        let word = |at: usize| {
            u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let long = |at| u64::from(word(at)) << 32 | u64::from(word(at + 4));
        let then = [Then::Continue, Then::Close, Then::Reset, Then::CloseOwnSide];
        Self {
            request: long(0),
            response: long(8),
            delay: Duration::from_micros(word(16).into()),
            stall: Duration::from_micros(word(20).into()),
            then: then.get(word(24) as usize).copied().unwrap_or_default(),
        }
    }
}

/// At most 71 minutes.
fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_has_the_documented_layout() {
        let header = Header {
            request: 0x1_0000_0002,
            response: 3,
            delay: Duration::from_millis(1),
            stall: Duration::from_micros(2),
            then: Then::Reset,
        };
        let mut expected = [0; HEADER];
        expected[3] = 1;
        expected[7] = 2;
        expected[15] = 3;
        expected[18..20].copy_from_slice(&[3, 232]);
        expected[23] = 2;
        expected[27] = 2;
        assert_eq!(header.encode(), expected);
        assert_eq!(Header::decode(&expected), header);
    }
}
