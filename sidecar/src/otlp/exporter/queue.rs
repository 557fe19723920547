//! Spans that wait, to be sent as such or as log records: the current second's sample, and those to be sent; bounded in number and in bytes.

use std::{
    collections::VecDeque,
    time::{Duration, SystemTime},
};

use opentelemetry::{Array, KeyValue, StringValue, Value};
use opentelemetry_sdk::trace::SpanData;
use tokio::time::Instant;

use super::{
    priority::Priority,
    reservoir::{Offer, Reservoir},
};
use crate::{
    clock,
    flow::ContainerId,
    otlp::{exemplars::Candidates, names::attribute},
};

/// Spans of one export, at most: OpenTelemetry's default.
pub(super) const BATCH: usize = 512;

/// The interval of samples; with the export a span is visible within 2 s of the close.
pub(super) const SECOND: Duration = Duration::from_secs(1);

/// A span is retried for this long: a collector's rollout, or a node's restart. No dashboard shows older ones.
pub(super) const RETRY_FOR: Duration = Duration::from_secs(15 * 60);

/// The size of the token bucket in seconds of the rate: a burst after a quiet time may use it at once.
const BURST_S: f64 = 10.0;

/// The limits of spans, or of log records.
#[derive(Clone, Copy, Debug)]
pub(in crate::otlp) struct Bounds {
    /// Spans that wait or are in flight.
    pub(in crate::otlp) items: usize,
    /// Memory of the spans.
    pub(in crate::otlp) bytes: usize,
    /// Spans sent each second, on average.
    pub(in crate::otlp) per_second: u32,
}

/// A span that waits.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) span: SpanData,
    pub(super) candidates: Option<Candidates>,
    /// The container whose resource it is of; `None` of the pod's.
    pub(super) container: Option<ContainerId>,
    /// When flowcar noticed the end of its flow.
    pub(super) observed: SystemTime,
    priority: Priority,
    bytes: usize,
    came: Instant,
}

/// Why spans are dropped, and how many.
pub(super) type Dropped = (&'static str, usize);

/// All spans that wait.
#[derive(Debug)]
pub(super) struct Waiting {
    bounds: Bounds,
    rate: Rate,
    window: Option<(Instant, Reservoir<Entry>)>,
    normal: VecDeque<Entry>,
    high: VecDeque<Entry>,
    /// Spans in flight.
    in_flight: usize,
    /// Memory of all of these.
    bytes: usize,
}

// === impl Entry ===

impl Entry {
    pub(super) fn new(
        mut span: SpanData,
        candidates: Option<Candidates>,
        container: Option<ContainerId>,
        priority: Priority,
        came: Instant,
    ) -> Self {
        // One attribute is added later: the probability.
        span.attributes.reserve_exact(1);
        span.attributes.shrink_to(span.attributes.len() + 1);
        Self {
            bytes: bytes(&span) + size_of::<Self>(),
            span,
            candidates,
            container,
            observed: clock::wall_time(),
            priority,
            came,
        }
    }
}

// === impl Waiting ===

impl Waiting {
    pub(super) fn new(bounds: Bounds, now: Instant) -> Self {
        Self {
            rate: Rate::new(bounds.per_second, now),
            bounds,
            window: None,
            normal: VecDeque::new(),
            high: VecDeque::new(),
            in_flight: 0,
            bytes: 0,
        }
    }

    /// Spans that wait or are in flight.
    pub(super) fn len(&self) -> usize {
        let window = self.window.as_ref().map_or(0, |(_, window)| window.kept());
        window + self.ready() + self.in_flight
    }

    /// How many may wait.
    pub(super) const fn most(&self) -> usize {
        self.bounds.items
    }

    /// Memory of the spans.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// When the current second is over.
    pub(super) fn due(&self) -> Option<Instant> {
        self.window.as_ref().map(|(since, _)| *since + SECOND)
    }

    /// Offers a span. Returns which spans were dropped for it, or that it was dropped itself.
    pub(super) fn offer(
        &mut self,
        priority: Priority,
        rank: u64,
        now: Instant,
        make: impl FnOnce() -> Entry,
    ) -> [Dropped; 2] {
        self.close_if_due(now);
        let rate = &mut self.rate;
        let (_, window) = self
            .window
            .get_or_insert_with(|| (now, Reservoir::new(rate.budget(now))));
        let mut added = 0;
        let offer = window.offer(priority, rank, || {
            let entry = make();
            added = entry.bytes;
            entry
        });
        self.bytes += added;
        let limited = match offer {
            Offer::Kept => 0,
            Offer::Refused => 1,
            Offer::Replaced(entry) => {
                self.bytes -= entry.bytes;
                1
            }
        };
        [("rate_limit", limited), ("queue_full", self.make_room())]
    }

    /// Ends the current second if it is over.
    pub(super) fn close_if_due(&mut self, now: Instant) {
        if self.due().is_some_and(|due| now >= due) {
            self.close();
        }
    }

    /// Ends the current second: its spans are queued, each with its probability.
    pub(super) fn close(&mut self) {
        let Some((_, window)) = self.window.take() else {
            return;
        };
        self.rate.take(window.kept());
        let mut kept: Vec<_> = window.close().collect();
        // The sample is sorted by rank.
        kept.sort_by_key(|(_, _, entry)| entry.came);
        for (_, probability, mut entry) in kept {
            if probability < 1.0 {
                let probability = KeyValue::new(attribute::SAMPLE_PROBABILITY, probability);
                entry.span.attributes.push(probability);
            }
            self.of(entry.priority).push_back(entry);
        }
    }

    /// The next spans to send, high priority first, and how many have expired.
    pub(super) fn take(&mut self, now: Instant) -> (Vec<Entry>, Dropped) {
        let mut batch = Vec::new();
        let mut expired = 0;
        while batch.len() < BATCH
            && let Some(entry) = self.high.pop_front().or_else(|| self.normal.pop_front())
        {
            if now.duration_since(entry.came) > RETRY_FOR {
                self.bytes -= entry.bytes;
                expired += 1;
            } else {
                batch.push(entry);
            }
        }
        self.in_flight = batch.len();
        (batch, ("expired", expired))
    }

    /// These spans in flight have arrived, or never will.
    pub(super) fn settled(&mut self, spans: &[Entry]) {
        // A flush that timed out has cleared all.
        if self.in_flight > 0 {
            self.in_flight -= spans.len();
            self.bytes -= spans.iter().map(|entry| entry.bytes).sum::<usize>();
        }
    }

    /// Queues the spans in flight again. Returns how many were dropped for want of room.
    pub(super) fn requeue(&mut self, batch: Vec<Entry>) -> Dropped {
        if std::mem::take(&mut self.in_flight) > 0 {
            for entry in batch.into_iter().rev() {
                self.of(entry.priority).push_front(entry);
            }
        }
        ("queue_full", self.make_room())
    }

    /// Drops everything. Returns how many those were.
    pub(super) fn clear(&mut self) -> usize {
        let count = self.len();
        self.window = None;
        self.normal.clear();
        self.high.clear();
        (self.in_flight, self.bytes) = (0, 0);
        count
    }

    /// Spans that are to be sent.
    pub(super) fn ready(&self) -> usize {
        self.normal.len() + self.high.len()
    }

    fn of(&mut self, priority: Priority) -> &mut VecDeque<Entry> {
        match priority {
            Priority::Normal => &mut self.normal,
            Priority::High => &mut self.high,
        }
    }

    /// Drops the oldest of normal priority, then the oldest of high priority, until the bounds hold.
    fn make_room(&mut self) -> usize {
        let mut dropped = 0;
        while self.len() > self.bounds.items || self.bytes > self.bounds.bytes {
            let entry = self
                .normal
                .pop_front()
                .or_else(|| self.shed(Priority::Normal))
                .or_else(|| self.high.pop_front())
                .or_else(|| self.shed(Priority::High));
            // Spans in flight cannot be dropped.
            let Some(entry) = entry else { break };
            self.bytes -= entry.bytes;
            dropped += 1;
        }
        dropped
    }

    fn shed(&mut self, priority: Priority) -> Option<Entry> {
        self.window.as_mut()?.1.shed(priority)
    }
}

/// A token bucket: a second's worth of tokens each second, [`BURST_S`] seconds' at most.
#[derive(Debug)]
struct Rate {
    per_second: f64,
    tokens: f64,
    at: Instant,
}

// === impl Rate ===

impl Rate {
    fn new(per_second: u32, at: Instant) -> Self {
        let per_second = f64::from(per_second);
        Self {
            per_second,
            tokens: per_second * BURST_S,
            at,
        }
    }

    /// How many tokens may be taken now.
    fn budget(&mut self, now: Instant) -> usize {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.tokens = (self.tokens + passed * self.per_second).min(self.per_second * BURST_S);
        self.tokens as usize
    }

    fn take(&mut self, count: usize) {
        self.tokens -= count as f64;
    }
}

/// The approximate memory of a span.
fn bytes(span: &SpanData) -> usize {
    let attributes = &span.attributes;
    let texts = attributes
        .iter()
        .map(|attribute| value_bytes(&attribute.value));
    span.name.len() + attributes.capacity() * size_of::<KeyValue>() + texts.sum::<usize>()
}

fn value_bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.as_str().len(),
        Value::Array(Array::String(texts)) => {
            let each = |text: &StringValue| text.as_str().len() + size_of::<StringValue>();
            texts.iter().map(each).sum()
        }
        _ => 0,
    }
}
