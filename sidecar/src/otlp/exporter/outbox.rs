//! The unsent rest of one report or batch: parts in order, split if a receiver finds them too large. Pure.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use crate::{
    config::Signal,
    otlp::split::{Chunk, MOST_BYTES},
};

/// A learnt limit of a receiver expires after this time; it may have been raised since.
const BELIEVED_FOR: Duration = Duration::from_secs(3_600);

/// The smallest limit that is kept from one report to the next: a smaller one would give too many parts.
const LEAST_LEARNT: usize = 16 << 10;

/// Parts that wait.
#[derive(Debug)]
pub(super) struct Outbox {
    signal: Signal,
    waiting: VecDeque<Chunk>,
    /// The most bytes of a part of several items.
    most: usize,
    /// The smallest single item that was refused for its size.
    refused_alone: Option<usize>,
    /// The largest part that was taken.
    taken: Option<usize>,
    /// A part was split because it was refused for its size.
    cut: bool,
}

/// The next step.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Send it.
    Send(Chunk),
    /// Drop it unsent: a single item that is as large as one that was refused alone.
    GiveUp(Chunk),
}

/// The learnt size limit of a receiver.
#[derive(Debug, Default)]
pub(super) struct SizeLimit {
    learnt: Option<(usize, Instant)>,
    /// The one that was logged last.
    logged: Option<usize>,
}

// === impl Outbox ===

impl Outbox {
    /// Sends `parts`, those of several items in at most `most` bytes.
    pub(super) fn new(signal: Signal, parts: Vec<Chunk>, most: usize) -> Self {
        Self {
            signal,
            waiting: parts.into(),
            most,
            refused_alone: None,
            taken: None,
            cut: false,
        }
    }

    /// The next step; none once all is done.
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
    pub(super) fn taken(&mut self, part: &Chunk) {
        self.taken = self.taken.max(Some(part.len()));
    }

    /// The part is to be sent later: it is the next again.
    pub(super) fn put_back(&mut self, part: Chunk) {
        self.waiting.push_front(part);
    }

    /// The receiver found the part too large: its halves are the next. Returns it if it is a single item.
    pub(super) fn too_large(&mut self, part: Chunk) -> Option<Chunk> {
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

    /// Whether the receiver has not answered any part yet, so that another report may replace it.
    pub(super) const fn is_untouched(&self) -> bool {
        self.taken.is_none() && self.refused_alone.is_none() && !self.cut
    }

    /// Whether nothing waits any more.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether the receiver took any part.
    pub(super) const fn any_taken(&self) -> bool {
        self.taken.is_some()
    }

    /// Splits a part, and returns the first piece; the others wait.
    fn cut(&mut self, part: &Chunk, most: usize) -> Option<Chunk> {
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
        let learnt = self.learnt;
        self.learnt = learnt.filter(|(_, since)| since.elapsed() < BELIEVED_FOR);
        self.learnt.map_or(MOST_BYTES, |(most, _)| most)
    }

    /// Learns from a finished outbox. A receiver that took nothing has not shown its limit.
    pub(super) fn learn(&mut self, outbox: &Outbox) {
        if let (true, Some(taken)) = (outbox.cut, outbox.taken) {
            let most = taken.max(LEAST_LEARNT).min(self.most());
            self.learnt = Some((most, Instant::now()));
            if self.logged.replace(most) == Some(most) {
                return;
            }
            tracing::info!(
                bytes = most,
                "the receiver refuses larger requests of {} than about this, so smaller ones are sent",
                outbox.signal.name()
            );
        }
    }
}

#[cfg(test)]
mod tests;
