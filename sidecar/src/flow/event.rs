//! What a source reports. Pure.

use super::{CloseEvent, PollContext, Record, SocketSnapshot};

/// What a source reports of one flow.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "one at a time, and a record is the most frequent"
)]
pub enum Event<'a> {
    /// A record of the kernel programs.
    Record(Record),
    /// A socket of a dump. After [`Event::Reconnected`] where [`super::Listing::is_reconnected`].
    Polled(&'a SocketSnapshot, &'a PollContext),
    /// A dump shows another connection on the socket of a listed flow: the flow's close was not reported.
    Reconnected(&'a SocketSnapshot, &'a PollContext),
    /// Dumps show the flow with this cookie no longer, and its close was not delivered.
    Evicted(u64, &'a PollContext),
    /// Dumps show the flow with this cookie no longer, and its application still holds the socket.
    Held(u64),
    /// The kernel destroyed a socket.
    Destroyed(&'a CloseEvent, &'a PollContext),
}

impl From<Record> for Event<'_> {
    fn from(record: Record) -> Self {
        Self::Record(record)
    }
}
