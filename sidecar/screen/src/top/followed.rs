//! One connection, on which the screen stays while others come and go. Pure.

use std::collections::VecDeque;

use super::{
    merged::{Found, Merged, SPARKS, State},
    source::Connection,
};
use crate::answer::{ClosedCounts, ConnectionCounts, Key, RetransmitCounts};

/// The connection, by its flowcar and its socket cookie.
#[derive(Clone, Debug)]
pub(super) struct Followed {
    /// The flowcar that has it.
    pub(super) source: String,
    /// The peer that it is counted for.
    pub(super) peer: Key,
    /// As the last answer had it.
    pub(super) connection: Connection,
    pub(super) standing: Standing,
    /// The mean of the round trips from one answer to the next, seconds.
    pub(super) rtt: VecDeque<Option<f64>>,
    /// Payload bytes a second.
    pub(super) sent: VecDeque<Option<f64>>,
    pub(super) received: VecDeque<Option<f64>>,
    /// What it had when it was chosen.
    first: ConnectionCounts,
    /// The time of the last answer, nanoseconds since the Unix epoch.
    at_unix_ns: u64,
}

/// What is known of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Standing {
    Open,
    /// It is open no more; with its close, where flowcar has that.
    Closed(Option<ClosedCounts>),
    /// Its flowcar has no peer of this name any more: a restarted one may have another name for it.
    NoPeer,
    /// Its flowcar has not answered for a while.
    NoAnswer,
    /// Its flowcar is shown no more.
    NoFlowcar,
}

impl Followed {
    /// Follows a connection of a flowcar from now on.
    pub(super) fn new(source: &str, peer: Key, connection: &Connection) -> Self {
        Self {
            source: source.to_owned(),
            peer,
            first: connection.counts.clone(),
            connection: connection.clone(),
            standing: Standing::Open,
            rtt: VecDeque::new(),
            sent: VecDeque::new(),
            received: VecDeque::new(),
            at_unix_ns: 0,
        }
    }

    /// The kernel's socket cookie.
    pub(super) const fn cookie(&self) -> u64 {
        self.first.cookie
    }

    /// Takes in what its flowcar answered last.
    pub(super) fn refresh(&mut self, merged: &Merged) {
        // A close that is known stays known.
        if self.close().is_some() {
            return;
        }
        let (at_unix_ns, state) = match merged.connection(&self.source, &self.peer, &self.first) {
            Found::Answered(at_unix_ns, state) => (at_unix_ns, state),
            Found::NoFlowcar if matches!(self.standing, Standing::Open | Standing::NoAnswer) => {
                self.standing = Standing::NoFlowcar;
                return;
            }
            Found::NoFlowcar | Found::NotAsked => return,
        };
        // A refresh may be that of another flowcar's answer.
        if at_unix_ns == self.at_unix_ns {
            return;
        }
        self.at_unix_ns = at_unix_ns;
        match state {
            State::Open(connection) => self.advance(connection),
            State::Closed(close) => self.standing = Standing::Closed(close.cloned()),
            State::NoPeer if self.standing == Standing::Closed(None) => {}
            State::NoPeer => self.standing = Standing::NoPeer,
        }
    }

    /// Its flowcar has not answered for a while. Whether that is new.
    pub(super) fn miss_answer(&mut self) -> bool {
        let is_new = self.standing == Standing::Open;
        if is_new {
            self.standing = Standing::NoAnswer;
        }
        is_new
    }

    fn advance(&mut self, connection: &Connection) {
        self.standing = Standing::Open;
        push(&mut self.rtt, connection.rtt_s);
        push(&mut self.sent, Some(connection.sent));
        push(&mut self.received, Some(connection.received));
        self.connection = connection.clone();
    }

    /// Its close, where it is known.
    pub(super) const fn close(&self) -> Option<&ClosedCounts> {
        match &self.standing {
            Standing::Closed(close) => close.as_ref(),
            _ => None,
        }
    }

    /// Segments sent again by type since it was opened, and their sum.
    pub(super) fn retransmits(&self) -> (Option<RetransmitCounts>, u64) {
        match self.close() {
            Some(close) => (Some(close.retransmits), close.retransmits.total()),
            None => of_counts(&self.connection.counts),
        }
    }

    /// The same since it was chosen.
    pub(super) fn new_retransmits(&self) -> (Option<RetransmitCounts>, u64) {
        let ((types, sum), (types_before, before)) = (self.retransmits(), of_counts(&self.first));
        let since = types.map(|of| of.since(&types_before.unwrap_or_default()));
        (since, sum.saturating_sub(before))
    }
}

const fn of_counts(counts: &ConnectionCounts) -> (Option<RetransmitCounts>, u64) {
    (counts.retransmits_by_type, counts.retransmits)
}

fn push(values: &mut VecDeque<Option<f64>>, value: Option<f64>) {
    if values.len() == SPARKS {
        values.pop_front();
    }
    values.push_back(value);
}
