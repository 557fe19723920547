//! The queue of spans and the task that sends them.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use opentelemetry_sdk::trace::SpanData;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until, timeout_at},
};

use super::{Complaints, Ledger, metrics::wait, settle};
use crate::{
    config::{Signal, Target},
    otlp::{
        error::{Accepted, ExportError},
        resource::Resource,
        retry::Backoff,
        span_client::SpanClient,
    },
};

/// Spans of one export, at most: OpenTelemetry's default.
const BATCH: usize = 512;

/// A span waits for others for this long: with the export it is to be seen within 2 s of the close.
const LINGER: Duration = Duration::from_secs(1);

/// Seconds of the rate that a burst after a quiet time may take at once.
const BURST_S: f64 = 10.0;

/// What limits spans.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) queue: usize,
    pub(super) per_second: u32,
}

/// The main loop's end.
#[derive(Debug)]
pub(super) struct SpanLane {
    queue: Arc<Queue>,
    rate: Rate,
    ledger: Ledger,
    hurry: watch::Sender<bool>,
    /// With it the task ends.
    _open: watch::Sender<()>,
}

/// Spans that wait, shared by both ends.
#[derive(Debug)]
struct Queue {
    spans: Mutex<Waiting>,
    bound: usize,
    /// Something came, or is to be sent at once.
    came: Notify,
    /// All that waited is sent.
    idle: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    spans: VecDeque<SpanData>,
    /// When the oldest came.
    since: Option<Instant>,
    in_flight: usize,
}

/// A token bucket: a second's worth of tokens each second, [`BURST_S`] seconds' at most.
#[derive(Debug)]
struct Rate {
    per_second: f64,
    tokens: f64,
    at: Instant,
}

// === impl SpanLane ===

impl SpanLane {
    pub(super) fn start(
        target: Target,
        resource: Resource,
        bounds: Bounds,
        ledger: Ledger,
    ) -> Self {
        let queue = Arc::new(Queue {
            spans: Mutex::default(),
            bound: bounds.queue,
            came: Notify::new(),
            idle: Notify::new(),
        });
        let (hurry, hurried) = watch::channel(false);
        let (open, closed) = watch::channel(());
        let sender = Sender {
            queue: Arc::clone(&queue),
            hurry: hurried,
            closed,
            target,
            client: None,
            resource,
            ledger: ledger.clone(),
            complaints: Complaints::default(),
        };
        tokio::spawn(sender.run());
        Self {
            queue,
            rate: Rate::new(bounds.per_second),
            ledger,
            hurry,
            _open: open,
        }
    }

    /// Queues the span that `make` makes, if there may be one now.
    pub(super) fn send(&mut self, make: impl FnOnce() -> SpanData) {
        if self.rate.take(Instant::now()) {
            let dropped = self.queue.push(make());
            self.ledger.dropped("queue_full", dropped);
        } else {
            self.ledger.dropped("rate_limit", 1);
        }
    }

    pub(super) fn queued(&self) -> usize {
        self.queue.lock().len()
    }

    pub(super) async fn flush(&self, deadline: Instant) -> bool {
        self.hurry.send_replace(true);
        self.queue.came.notify_one();
        let all = async {
            loop {
                let idle = self.queue.idle.notified();
                if self.queue.lock().len() == 0 {
                    return;
                }
                idle.await;
            }
        };
        if timeout_at(deadline, all).await.is_ok() {
            return true;
        }
        let left = self.queue.lock().clear();
        self.ledger.dropped("shutdown", left);
        tracing::warn!(
            spans = left,
            "spans are lost: the receiver did not take them in time; raise FLOWCAR_SHUTDOWN_TIMEOUT if it can"
        );
        false
    }
}

// === impl Queue ===

impl Queue {
    /// Adds a span, in place of the oldest if there is no room. Gives how many were dropped.
    fn push(&self, span: SpanData) -> usize {
        let mut waiting = self.lock();
        let full = waiting.len() >= self.bound;
        if full && waiting.spans.pop_front().is_none() {
            return 1;
        }
        waiting.spans.push_back(span);
        waiting.since.get_or_insert_with(Instant::now);
        if waiting.spans.len() == 1 || waiting.spans.len() >= BATCH {
            self.came.notify_one();
        }
        usize::from(full)
    }

    /// The next batch, once it is full, has lingered, or is wanted now.
    async fn batch(&self, hurry: &watch::Receiver<bool>) -> Vec<SpanData> {
        loop {
            let since = {
                let mut waiting = self.lock();
                let due = waiting
                    .since
                    .is_some_and(|since| since.elapsed() >= LINGER || *hurry.borrow());
                if due || waiting.spans.len() >= BATCH {
                    return waiting.take();
                }
                waiting.since
            };
            match since {
                Some(since) => tokio::select! {
                    () = sleep_until(since + LINGER) => {}
                    () = self.came.notified() => {}
                },
                None => self.came.notified().await,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn len(&self) -> usize {
        self.spans.len() + self.in_flight
    }

    fn take(&mut self) -> Vec<SpanData> {
        let count = self.spans.len().min(BATCH);
        let batch: Vec<_> = self.spans.drain(..count).collect();
        self.in_flight = batch.len();
        // What stays has been waiting as well: it goes next, without lingering.
        self.since = self.since.filter(|_| !self.spans.is_empty());
        batch
    }

    fn clear(&mut self) -> usize {
        let count = self.len();
        *self = Self::default();
        count
    }
}

// === impl Rate ===

impl Rate {
    fn new(per_second: u32) -> Self {
        let per_second = f64::from(per_second);
        Self {
            per_second,
            tokens: per_second * BURST_S,
            at: Instant::now(),
        }
    }

    fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.tokens = (self.tokens + passed * self.per_second).min(self.per_second * BURST_S);
        let allowed = self.tokens >= 1.0;
        if allowed {
            self.tokens -= 1.0;
        }
        allowed
    }
}

/// The task's end.
struct Sender {
    queue: Arc<Queue>,
    hurry: watch::Receiver<bool>,
    closed: watch::Receiver<()>,
    target: Target,
    client: Option<SpanClient>,
    resource: Resource,
    ledger: Ledger,
    complaints: Complaints,
}

impl Sender {
    async fn run(mut self) {
        let mut closed = self.closed.clone();
        tokio::select! {
            () = self.send_all() => {}
            _ = closed.changed() => {}
        }
    }

    async fn send_all(&mut self) {
        loop {
            let batch = self.queue.batch(&self.hurry).await;
            self.send(batch).await;
            self.queue.lock().in_flight = 0;
            self.queue.idle.notify_one();
        }
    }

    /// Sends a batch until it is taken or refused for good.
    async fn send(&mut self, batch: Vec<SpanData>) {
        let mut backoff = Backoff::new();
        loop {
            let started = Instant::now();
            let outcome = self.export(batch.clone()).await;
            let took = started.elapsed();
            let complaints = &mut self.complaints;
            settle(&self.ledger, complaints, Signal::Traces, took, &outcome);
            match outcome {
                Ok(_) => return,
                Err(error) if error.retryable() => {
                    wait(&mut backoff, error.retry_after, &mut self.hurry).await;
                }
                Err(_) => return self.ledger.dropped("refused", batch.len()),
            }
        }
    }

    async fn export(&mut self, batch: Vec<SpanData>) -> Result<Accepted, ExportError> {
        let client = match &mut self.client {
            Some(client) => client,
            none => none.insert(SpanClient::new(self.target.clone(), &self.resource)?),
        };
        client.export(batch).await
    }
}
