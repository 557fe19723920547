//! The lane of what is sent for each flow, spans or log records: the main loop's end, and the batches that its task sends. Both wait as
//! spans, and only requests differ.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use opentelemetry_proto::{
    tonic::collector::{logs::v1::ExportLogsServiceRequest, trace::v1::ExportTraceServiceRequest},
    transform::{
        common::tonic::ResourceAttributesWithSchema,
        trace::tonic::group_spans_by_resource_and_scope,
    },
};
use opentelemetry_sdk::trace::SpanData;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    Delivery, Exemplary, ExportStats,
    outbox::Outbox,
    priority::Priority,
    queue::{Bounds, Dropped, Entry, Waiting},
    sender::{Hurry, Outgoing, Pause, Sender, left_alone_beyond, why_late},
};
use crate::{
    config::Signal,
    flow::ContainerId,
    otlp::{
        exemplars::Candidates,
        log_records,
        resource::Resource,
        split::{self, Chunk},
        transport::{ExportRequest, Transport},
    },
    snapshot::ItemQueue,
    task::{Task, TaskEnded},
};

/// The main loop's end.
#[derive(Debug)]
pub(super) struct FlowLane {
    signal: Signal,
    queue: Arc<Queue>,
    stats: ExportStats,
    hurry: watch::Sender<Hurry>,
    pause: watch::Receiver<Pause>,
    /// With it the task ends.
    _open: watch::Sender<()>,
    task: Task,
}

/// The items that wait, shared by both ends.
#[derive(Debug)]
struct Queue {
    waiting: Mutex<Waiting>,
    /// A second has begun, or all items are to be sent at once.
    came: Notify,
    /// All items that waited are sent.
    idle: Notify,
    /// Items that the receiver refused permanently, or rejected, since the flush began.
    refused: AtomicU64,
}

// === impl FlowLane ===

impl FlowLane {
    /// A lane for spans or for log records.
    pub(super) fn start(
        signal: Signal,
        transport: impl Transport,
        resource: &Resource,
        bounds: Bounds,
        stats: ExportStats,
        exemplars: Exemplary,
    ) -> Self {
        let queue = Arc::new(Queue {
            waiting: Mutex::new(Waiting::new(bounds, Instant::now())),
            came: Notify::new(),
            idle: Notify::new(),
            refused: AtomicU64::new(0),
        });
        let (hurry, hurried) = watch::channel(None);
        let (open, mut closed) = watch::channel(());
        let outgoing = ItemBatch {
            signal,
            queue: Arc::clone(&queue),
            hurry: hurried.clone(),
            resource: resource.clone(),
            stats: stats.clone(),
            exemplars,
            batch: Vec::new(),
        };
        let (pauses, pause) = watch::channel(None);
        let sender = Sender::new(signal, outgoing, transport, hurried, pauses, stats.clone());
        let run = async move {
            tokio::select! {
                () = sender.run() => {}
                _ = closed.changed() => {}
            }
        };
        Self {
            task: Task::spawn(format!("exports {}", signal.name()), run),
            signal,
            queue,
            stats,
            hurry,
            pause,
            _open: open,
        }
    }

    /// The task.
    #[cfg(test)]
    pub(super) const fn task(&self) -> &Task {
        &self.task
    }

    /// Waits until its task ends, which is an error.
    pub(super) async fn ended(&mut self) -> TaskEnded {
        self.task.ended().await
    }

    /// Queues the item of the span that `make` makes, if one may be queued now: one of the container's resource, or of the pod's. Within a
    /// class the lower rank comes first.
    pub(super) fn send(
        &self,
        priority: Priority,
        rank: u64,
        container: Option<&ContainerId>,
        make: impl FnOnce() -> (SpanData, Option<Candidates>),
    ) {
        let now = Instant::now();
        let mut waiting = self.queue.lock();
        let quiet = waiting.due().is_none();
        let dropped = waiting.offer(priority, rank, now, || {
            let (span, candidates) = make();
            Entry::new(span, candidates, container.cloned(), priority, now)
        });
        drop(waiting);
        if quiet {
            self.queue.came.notify_one();
        }
        for dropped in dropped {
            book(&self.stats, self.signal, dropped);
        }
    }

    /// Items that wait or are in flight, how many may, and their memory.
    pub(super) fn queue(&self) -> ItemQueue {
        let waiting = self.queue.lock();
        ItemQueue {
            items: waiting.len() as u64,
            capacity: waiting.most() as u64,
            bytes: waiting.bytes() as u64,
        }
    }

    pub(super) async fn flush(&self, deadline: Instant) -> Delivery {
        self.hurry.send_replace(Some(deadline));
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
        // A task that has ended sends nothing.
        let deadline = if self.task.is_over() {
            Instant::now()
        } else {
            deadline
        };
        let in_time = tokio::select! {
            biased;
            in_time = timeout_at(deadline, all) => Ok(in_time.is_ok()),
            wait = left_alone_beyond(deadline, self.pause.clone()) => Err(wait),
        };
        let items = self.signal.items();
        if in_time == Ok(true) {
            let lost = self.queue.refused.swap(0, Ordering::Relaxed);
            if lost == 0 {
                return Delivery::Taken;
            }
            tracing::warn!(lost, "{items} are lost: the receiver refused them");
            return Delivery::Refused;
        }
        let why = why_late(in_time.err(), &self.pause);
        let lost = self.abandon();
        tracing::warn!(lost, "{items} are lost: {why}");
        Delivery::Late
    }

    /// Drops and counts what waits; gives how much.
    pub(super) fn abandon(&self) -> usize {
        let lost = self.queue.lock().clear();
        self.stats.dropped(self.signal, "shutdown", lost);
        lost
    }
}

// === impl Queue ===

impl Queue {
    /// The next batch, once a second is over, or at once during a flush; and how many items have expired.
    async fn batch(&self, hurry: &watch::Receiver<Hurry>) -> (Vec<Entry>, Dropped) {
        loop {
            let due = {
                let mut waiting = self.lock();
                let now = Instant::now();
                if hurry.borrow().is_some() {
                    waiting.close();
                } else {
                    waiting.close_if_due(now);
                }
                if waiting.ready() > 0 {
                    return waiting.take(now);
                }
                waiting.due()
            };
            match due {
                Some(due) => tokio::select! {
                    () = sleep_until(due) => {}
                    () = self.came.notified() => {}
                },
                None => self.came.notified().await,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn book(stats: &ExportStats, signal: Signal, (reason, items): Dropped) {
    stats.dropped(signal, reason, items);
}

/// A batch of items, each of which is sent once at a time. From the first part on that may be taken later they are queued again, in their
/// position.
struct ItemBatch {
    signal: Signal,
    queue: Arc<Queue>,
    hurry: watch::Receiver<Hurry>,
    resource: Resource,
    stats: ExportStats,
    exemplars: Exemplary,
    /// Those that are not settled.
    batch: Vec<Entry>,
}

// === impl ItemBatch ===

impl ItemBatch {
    /// The resource of items of one container, or of none.
    fn resource_of(&self, group: &[Entry]) -> Resource {
        let container = group.first().and_then(|entry| entry.container.as_ref());
        match container {
            Some(id) => self.resource.of_container(id),
            None => self.resource.clone(),
        }
    }

    /// Removes the items of a settled part from the batch.
    fn settle_first(&mut self, part: &Chunk) -> Vec<Entry> {
        let settled: Vec<_> = self.batch.drain(..part.items).collect();
        self.queue.lock().settled(&settled);
        settled
    }

    /// Counts items that no later try delivers, for the flush. Before they are settled: from then on it does not wait for them.
    fn note_refused(&self, items: u64) {
        if self.hurry.borrow().is_some() {
            self.queue.refused.fetch_add(items, Ordering::Relaxed);
        }
    }
}

impl Outgoing for ItemBatch {
    async fn ready(&mut self) -> bool {
        let (batch, expired) = self.queue.batch(&self.hurry).await;
        book(&self.stats, self.signal, expired);
        self.batch = batch;
        true
    }

    fn encode(&mut self, most: usize) -> Vec<Chunk> {
        // A part has the items of one resource.
        self.batch
            .sort_by(|one, other| one.container.cmp(&other.container));
        let groups = self
            .batch
            .chunk_by(|one, other| one.container == other.container);
        if self.signal == Signal::Logs {
            let resource_logs = groups.map(|group| {
                let flows = group.iter().map(|entry| (&entry.span, entry.observed));
                log_records::resource_logs(&self.resource_of(group), flows)
            });
            let request = ExportLogsServiceRequest {
                resource_logs: resource_logs.collect(),
            };
            return split::logs(request, most);
        }
        let resource_spans = groups.flat_map(|group| {
            let resource = self.resource_of(group).to_sdk();
            let resource = ResourceAttributesWithSchema::from(&resource);
            group_spans_by_resource_and_scope(spans(group), &resource)
        });
        let request = ExportTraceServiceRequest {
            resource_spans: resource_spans.collect(),
        };
        split::traces(request, most)
    }

    fn request(&self, part: &Chunk) -> ExportRequest {
        let encoded = part.body.clone();
        if self.signal == Signal::Logs {
            return ExportRequest::encoded(encoded);
        }
        let of = &self.batch[..part.items];
        ExportRequest {
            encoded,
            spans: spans(of),
            resource: Some(self.resource_of(of)),
        }
    }

    fn taken(&mut self, part: &Chunk, rejected: u64) {
        self.note_refused(rejected);
        let taken = self.settle_first(part);
        // The receiver does not report which items of a partial success it rejected.
        if rejected == 0 {
            self.exemplars.offer(taken);
        }
    }

    fn refused(&mut self, part: Chunk, reason: &'static str) {
        self.note_refused(part.items as u64);
        let dropped = self.settle_first(&part).len();
        self.stats.dropped(self.signal, reason, dropped);
    }

    fn is_kept(&self, _rest: &Outbox) -> bool {
        false
    }

    fn end(&mut self, _sent: &Outbox) {
        let rest = std::mem::take(&mut self.batch);
        let dropped = self.queue.lock().requeue(rest);
        book(&self.stats, self.signal, dropped);
        if self.queue.lock().len() == 0 {
            self.queue.idle.notify_one();
        }
    }
}

fn spans(batch: &[Entry]) -> Vec<SpanData> {
    batch.iter().map(|entry| entry.span.clone()).collect()
}
