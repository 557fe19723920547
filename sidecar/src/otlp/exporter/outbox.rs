//! What is still to be sent of one report or batch: parts in their order, cut smaller where a receiver finds them too
//! large. Pure.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use crate::{
    config::Signal,
    otlp::split::{MOST_BYTES, Part},
};

/// A receiver's limit that was learnt is believed for this long; it may have been raised since.
const BELIEVED_FOR: Duration = Duration::from_secs(3_600);

/// No smaller limit is taken over from one report to the next: parts that are smaller still would be very many.
const LEAST_LEARNT: usize = 16 << 10;

/// Parts that wait.
#[derive(Debug)]
pub(super) struct Outbox {
    signal: Signal,
    waiting: VecDeque<Part>,
    /// Bytes of a part of several items, at most.
    most: usize,
    /// The smallest single item that was refused for its size.
    refused_alone: Option<usize>,
    /// The largest part that was taken.
    taken: Option<usize>,
    /// A part was cut smaller because it was refused for its size.
    cut: bool,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Send it.
    Send(Part),
    /// Give it up unsent: a single item that is as large as one that was refused alone.
    GiveUp(Part),
}

/// How large a receiver lets requests be, as far as is known.
#[derive(Debug, Default)]
pub(super) struct SizeLimit(Option<(usize, Instant)>);

// === impl Outbox ===

impl Outbox {
    /// Sends `parts`, those of several items in at most `most` bytes.
    pub(super) fn new(signal: Signal, parts: Vec<Part>, most: usize) -> Self {
        Self {
            signal,
            waiting: parts.into(),
            most,
            refused_alone: None,
            taken: None,
            cut: false,
        }
    }

    /// What to do next; nothing once all is done.
    pub(super) fn next(&mut self) -> Option<Next> {
        let mut part = self.waiting.pop_front()?;
        if part.items > 1 && part.len() > self.most {
            part = self.cut(&part, self.most)?;
        }
        let alone = part.items == 1;
        let hopeless = self.refused_alone.is_some_and(|least| part.len() >= least);
        Some(if alone && hopeless {
            Next::GiveUp(part)
        } else {
            Next::Send(part)
        })
    }

    /// The receiver took it.
    pub(super) fn taken(&mut self, part: &Part) {
        self.taken = self.taken.max(Some(part.len()));
    }

    /// The receiver is to have it later: it is the next again.
    pub(super) fn put_back(&mut self, part: Part) {
        self.waiting.push_front(part);
    }

    /// The receiver found it too large: its halves are the next. Gives it back if it is a single item.
    pub(super) fn too_large(&mut self, part: Part) -> Option<Part> {
        if part.items == 1 {
            let least = self.refused_alone.unwrap_or(usize::MAX);
            self.refused_alone = Some(least.min(part.len()));
            return Some(part);
        }
        self.cut = true;
        self.most = self.most.min(part.len() / 2);
        let first = self.cut(&part, self.most)?;
        self.waiting.push_front(first);
        None
    }

    /// Whether the receiver has had no say in it yet, so that another report may as well take its place.
    pub(super) const fn is_untouched(&self) -> bool {
        self.taken.is_none() && self.refused_alone.is_none() && !self.cut
    }

    /// Whether the receiver took any part.
    pub(super) const fn any_taken(&self) -> bool {
        self.taken.is_some()
    }

    /// Cuts a part, and gives the first of what it makes; the others wait.
    fn cut(&mut self, part: &Part, most: usize) -> Option<Part> {
        let mut parts = part.cut(self.signal, most).into_iter();
        let first = parts.next();
        for part in parts.rev() {
            self.waiting.push_front(part);
        }
        first
    }
}

// === impl SizeLimit ===

impl SizeLimit {
    /// Bytes of a request, at most.
    pub(super) fn most(&mut self) -> usize {
        self.0 = self.0.filter(|(_, since)| since.elapsed() < BELIEVED_FOR);
        self.0.map_or(MOST_BYTES, |(most, _)| most)
    }

    /// Learns from what became of an outbox. A receiver that took nothing has said nothing of its limit.
    pub(super) fn learn(&mut self, outbox: &Outbox) {
        if let (true, Some(taken)) = (outbox.cut, outbox.taken) {
            let most = taken.max(LEAST_LEARNT).min(self.most());
            self.0 = Some((most, Instant::now()));
            tracing::info!(
                bytes = most,
                "the receiver takes no larger requests of {} than about this, so smaller ones are sent",
                outbox.signal.name()
            );
        }
    }
}

#[cfg(test)]
mod tests;
