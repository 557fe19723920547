//! Records that do not decode.

use flowcar_shared::{
    asked::RECORD_LEN as ASKED_LEN,
    origin::RECORD_LEN as ORIGIN_LEN,
    record::{BRIEF_CLOSE_LEN, BRIEF_OPEN_LEN, HEADER_LEN, INLINE_SAMPLES, OPEN_LEN, SHORT_LEN},
};

/// A record that the kernel programs of this version cannot have sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Too short or too long, or not of the length that its header gives.
    #[error(
        "a kernel record of {len} bytes: a short one has {SHORT_LEN} ({OPEN_LEN} when it opens), a brief one {BRIEF_OPEN_LEN} or {BRIEF_CLOSE_LEN}, any other {HEADER_LEN} and 4 for each histogram slot, of which it names {slots}"
    )]
    Length {
        /// Bytes received.
        len: usize,
        /// Slots that the header names; 0 if there is no whole header.
        slots: usize,
    },
    /// No such kind.
    #[error("a kernel record of unknown kind {0}")]
    Kind(u8),
    /// More inline samples than there is room for.
    #[error("a kernel record with {0} inline RTT samples, where {INLINE_SAMPLES} have room")]
    InlineSamples(u32),
    /// The least RTT sample is greater than the greatest.
    #[error("a kernel record with RTT samples from {min_us} us up to {max_us} us")]
    Extremes {
        /// The least.
        min_us: u32,
        /// The greatest.
        max_us: u32,
    },
    /// No such role.
    #[error("a kernel record of unknown role {0}")]
    Role(u8),
    /// No record of what `connect()` was asked for.
    #[error(
        "a kernel record of the address asked for has {len} bytes, where it should have {ASKED_LEN}"
    )]
    Asked {
        /// Bytes received.
        len: usize,
    },
    /// No record of who called `connect()` or `listen()`.
    #[error(
        "a kernel record of a listener or of a process has {len} bytes, where it should have {ORIGIN_LEN}"
    )]
    Origin {
        /// Bytes received.
        len: usize,
    },
    /// A DNS message that does not hold together.
    #[error("a kernel record of a DNS message of {len} bytes that contradicts itself")]
    Dns {
        /// Bytes received.
        len: usize,
    },
    /// Exchanges that do not hold together.
    #[error("a kernel record of exchanges of {len} bytes that contradicts itself")]
    Exchanges {
        /// Bytes received.
        len: usize,
    },
}
