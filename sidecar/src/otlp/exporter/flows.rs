//! The lane of what is sent for each flow, spans or log records: the main loop's end, and the task that sends them. Both wait as spans, and
//! only requests differ.

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
    Delivery, Exemplary, ExportStats, FailureLog, Transport,
    metrics::{Hurry, wait},
    outbox::{Next, Outbox, SizeLimit},
    priority::Priority,
    queue::{Bounds, Dropped, Entry, Waiting},
    settle,
    task::{Task, TaskEnded},
};
use crate::{
    config::Signal,
    flow::ContainerId,
    otlp::{
        error::{Accepted, ExportError},
        exemplars::Candidates,
        log_records,
        resource::Resource,
        retry::Backoff,
        span_client::Batch,
        split::{self, Chunk},
    },
    snapshot::ItemQueue,
};

/// The main loop's end.
#[derive(Debug)]
pub(super) struct FlowLane {
    signal: Signal,
    queue: Arc<Queue>,
    stats: ExportStats,
    hurry: watch::Sender<Hurry>,
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
        transport: impl Transport<Batch>,
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
        let (open, closed) = watch::channel(());
        let sender = Sender {
            signal,
            queue: Arc::clone(&queue),
            hurry: hurried,
            transport,
            resource: resource.clone(),
            size: SizeLimit::default(),
            stats: stats.clone(),
            exemplars,
            failure_log: FailureLog::default(),
            backoff: Backoff::new(),
        };
        Self {
            task: Task::spawn(signal, sender.run(closed)),
            signal,
            queue,
            stats,
            hurry,
            _open: open,
        }
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
        if timeout_at(deadline, all).await.is_ok() {
            let lost = self.queue.refused.swap(0, Ordering::Relaxed);
            if lost == 0 {
                return Delivery::Taken;
            }
            let items = self.signal.items();
            tracing::warn!(lost, "{items} are lost: the receiver refused them");
            return Delivery::Refused;
        }
        let lost = self.abandon();
        tracing::warn!(
            lost,
            "{} are lost: the receiver did not take them in time; raise FLOWCAR_SHUTDOWN_TIMEOUT if it can",
            self.signal.items()
        );
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

/// The task's end.
struct Sender<T> {
    signal: Signal,
    queue: Arc<Queue>,
    hurry: watch::Receiver<Hurry>,
    transport: T,
    resource: Resource,
    size: SizeLimit,
    stats: ExportStats,
    exemplars: Exemplary,
    failure_log: FailureLog,
    backoff: Backoff,
}

impl<T: Transport<Batch>> Sender<T> {
    async fn run(mut self, mut closed: watch::Receiver<()>) {
        tokio::select! {
            () = self.send_all() => {}
            _ = closed.changed() => {}
        }
    }

    async fn send_all(&mut self) {
        loop {
            let (batch, expired) = self.queue.batch(&self.hurry).await;
            book(&self.stats, self.signal, expired);
            let failed = self.send(batch).await;
            if self.queue.lock().len() == 0 {
                self.queue.idle.notify_one();
            }
            if let Some(error) = failed {
                wait(&mut self.backoff, error.retry_after, &mut self.hurry).await;
            }
        }
    }

    /// Sends a batch once, part after part. From the first part on that may be taken later it is queued again, in its
    /// position.
    async fn send(&mut self, mut batch: Vec<Entry>) -> Option<ExportError> {
        let most = self.size.most();
        // A part has the items of one resource.
        batch.sort_by(|one, other| one.container.cmp(&other.container));
        let mut outbox = Outbox::new(self.signal, self.encode(&batch, most), most);
        let mut failed = None;
        while let Some(next) = outbox.next() {
            let part = match next {
                Next::Send(part) => part,
                Next::GiveUp(part) => {
                    self.too_large(&mut batch, &part);
                    continue;
                }
            };
            match self.send_part(&part, &batch[..part.items]).await {
                Ok(accepted) => {
                    outbox.taken(&part);
                    self.note_refused(accepted.rejected);
                    let taken = self.settle_first(&mut batch, &part);
                    // The receiver does not report which items of a partial success it rejected.
                    if accepted.rejected == 0 {
                        self.exemplars.offer(taken);
                    }
                }
                Err(error) if error.too_large() => {
                    if let Some(alone) = outbox.too_large(part) {
                        self.too_large(&mut batch, &alone);
                    }
                }
                Err(error) if error.retryable() => {
                    failed = Some(error);
                    break;
                }
                Err(_) => self.drop_first(&mut batch, &part, "refused"),
            }
            self.backoff = Backoff::new();
        }
        self.size.learn(&outbox);
        let dropped = self.queue.lock().requeue(batch);
        book(&self.stats, self.signal, dropped);
        failed
    }

    /// The batch in parts of at most `most` bytes and of one resource.
    fn encode(&self, batch: &[Entry], most: usize) -> Vec<Chunk> {
        let groups = batch.chunk_by(|one, other| one.container == other.container);
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

    /// The resource of items of one container, or of none.
    fn resource_of(&self, group: &[Entry]) -> Resource {
        let container = group.first().and_then(|entry| entry.container.as_ref());
        match container {
            Some(id) => self.resource.of_container(id),
            None => self.resource.clone(),
        }
    }

    async fn send_part(&mut self, part: &Chunk, of: &[Entry]) -> Result<Accepted, ExportError> {
        let started = Instant::now();
        let batch = Batch {
            encoded: part.body.clone(),
            spans: spans(of),
            resource: self.resource_of(of),
        };
        let outcome = self.transport.send(batch).await;
        settle(
            &self.stats,
            &mut self.failure_log,
            self.signal,
            part.items,
            started.elapsed(),
            outcome,
        )
    }

    /// Removes the items of a settled part from the batch.
    fn settle_first(&self, batch: &mut Vec<Entry>, part: &Chunk) -> Vec<Entry> {
        let settled: Vec<_> = batch.drain(..part.items).collect();
        self.queue.lock().settled(&settled);
        settled
    }

    fn too_large(&self, batch: &mut Vec<Entry>, part: &Chunk) {
        self.stats.too_large(self.signal, part.items);
        self.drop_first(batch, part, "too_large");
    }

    fn drop_first(&self, batch: &mut Vec<Entry>, part: &Chunk, reason: &'static str) {
        self.note_refused(part.items as u64);
        let dropped = self.settle_first(batch, part).len();
        self.stats.dropped(self.signal, reason, dropped);
    }

    /// Counts items that no later try delivers, for the flush. Before they are settled: from then on it does not wait for them.
    fn note_refused(&self, items: u64) {
        if self.hurry.borrow().is_some() {
            self.queue.refused.fetch_add(items, Ordering::Relaxed);
        }
    }
}

fn spans(batch: &[Entry]) -> Vec<SpanData> {
    batch.iter().map(|entry| entry.span.clone()).collect()
}
