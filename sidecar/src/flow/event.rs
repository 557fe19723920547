//! What a source reports, and how the table takes it in. Pure.

use super::{Change, CloseEvent, Flow, PollContext, Record, SocketSnapshot, Table};

/// What a source reports of one flow.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "one at a time, and a record is the most frequent"
)]
pub enum Event<'a> {
    /// A record of the kernel programs.
    Record(Record),
    /// A socket of a dump. After [`Event::Reconnected`] where [`Table::is_reconnected`].
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

impl Table {
    /// Takes in an event. Gives what it changed; `None` if it is of no listed flow and makes none.
    pub fn apply(&mut self, event: Event<'_>) -> Option<Change> {
        match event {
            Event::Record(record) => Some(self.record(record)),
            Event::Polled(observed, poll) => self.polled(observed, poll),
            Event::Reconnected(observed, poll) => self.reconnected(observed.cookie, poll.at),
            Event::Evicted(cookie, poll) => self.evict(cookie, poll),
            Event::Held(cookie) => self.close_held(cookie),
            Event::Destroyed(event, poll) => self.destroyed(event, poll),
        }
    }

    /// Keeps the series that a listed flow is counted in, its name and its origin.
    pub fn keep_identity(&mut self, flow: &Flow) {
        if let Some(entry) = self.flows.get_mut(&flow.cookie) {
            entry.flow.series = flow.series;
            entry.flow.name.clone_from(&flow.name);
            entry.flow.origin.clone_from(&flow.origin);
        }
    }
}

impl From<Record> for Event<'_> {
    fn from(record: Record) -> Self {
        Self::Record(record)
    }
}

impl Change {
    /// The flow that closed or failed, if the change is its end.
    pub fn into_closed(self) -> Option<Flow> {
        self.now.outcome.is_some().then_some(self.now)
    }
}
