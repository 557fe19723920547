//! The task that sends metrics: the latest report, or first the rest of one that the receiver took, or may have taken, in part.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use tokio::{
    sync::watch,
    time::{Duration, Instant, sleep, sleep_until, timeout_at},
};

use super::{
    Delivery, ExportStats, FailureLog, Transport,
    baselines::Baselines,
    exemplary::{self, Exemplary, PendingExemplars},
    outbox::{Next, Outbox, SizeLimit},
    settle,
    starts::Starts,
    task::{Task, TaskEnded},
};
use crate::{
    config::{Signal, Temporality},
    otlp::{
        error::{Accepted, ExportError},
        metrics::{Options, encode},
        resource::Resource,
        retry::{Backoff, asked_for},
        split::{self, Chunk},
    },
    snapshot::Snapshot,
};

/// The main loop's end.
#[derive(Debug)]
pub(super) struct MetricsLane {
    reports: watch::Sender<Report>,
    sent: AtomicU64,
    progress: watch::Receiver<ReportProgress>,
    hurry: watch::Sender<Hurry>,
    task: Task,
}

/// How far the exports of reports are, by the numbers of the reports; 0 is none.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReportProgress {
    /// The newest that was begun. Of the older ones none is sent any more.
    pub sending: u64,
    /// The newest that the receiver acknowledged as a whole.
    pub acknowledged: u64,
    /// The newest that is settled.
    settled: u64,
    /// Whether the receiver refused a part of that one permanently.
    refused: bool,
}

/// When the flush ends, once there is one.
pub(super) type Hurry = Option<Instant>;

/// A report and its number; the first is 1.
type Report = (u64, Option<Arc<Snapshot>>);

impl MetricsLane {
    pub(super) fn start(
        transport: impl Transport<Bytes>,
        resource: Resource,
        options: Options,
        stats: ExportStats,
        exemplars: Exemplary,
    ) -> Self {
        let (reports, receiver) = watch::channel((0, None));
        let (progress_sender, progress) = watch::channel(ReportProgress::default());
        let (hurry, hurried) = watch::channel(None);
        let sender = Sender {
            reports: receiver,
            progress: progress_sender,
            hurry: hurried,
            transport,
            resource,
            options,
            baselines: Baselines::default(),
            starts: Starts::default(),
            own_unix_ns: None,
            size: SizeLimit::default(),
            exemplars: PendingExemplars::new(exemplars),
            stats,
            failure_log: FailureLog::default(),
        };
        Self {
            task: Task::spawn(Signal::Metrics, sender.run()),
            reports,
            sent: AtomicU64::new(0),
            progress,
            hurry,
        }
    }

    /// Waits until its task ends, which is an error.
    pub(super) async fn ended(&mut self) -> TaskEnded {
        self.task.ended().await
    }

    /// Queues a report. Gives its number.
    pub(super) fn send(&self, report: Snapshot) -> u64 {
        let number = self.sent.fetch_add(1, Ordering::Relaxed) + 1;
        self.reports.send_replace((number, Some(Arc::new(report))));
        number
    }

    pub(super) fn progress(&self) -> watch::Receiver<ReportProgress> {
        self.progress.clone()
    }

    pub(super) async fn flush(&self, deadline: Instant) -> Delivery {
        self.hurry.send_replace(Some(deadline));
        let last = self.sent.load(Ordering::Relaxed);
        let mut progress = self.progress.clone();
        let all = progress.wait_for(|progress| progress.settled >= last);
        if let Ok(Ok(progress)) = timeout_at(deadline, all).await {
            if !progress.refused {
                return Delivery::Taken;
            }
            tracing::warn!(
                "metrics are lost: the receiver refused the last report, or a part of it"
            );
            return Delivery::Refused;
        }
        tracing::warn!(
            reports = last - self.progress.borrow().settled,
            "metrics are lost: the receiver did not take the last reports in time; raise FLOWCAR_SHUTDOWN_TIMEOUT if it can"
        );
        Delivery::Late
    }
}

/// The task's end.
struct Sender<T> {
    reports: watch::Receiver<Report>,
    progress: watch::Sender<ReportProgress>,
    hurry: watch::Receiver<Hurry>,
    transport: T,
    resource: Resource,
    options: Options,
    /// The baselines of deltas; kept for deltas only.
    baselines: Baselines,
    starts: Starts,
    /// When the last settled report with self metrics that are levels was made.
    own_unix_ns: Option<u64>,
    size: SizeLimit,
    exemplars: PendingExemplars,
    stats: ExportStats,
    failure_log: FailureLog,
}

/// The result of a report.
enum Progress {
    /// Every part was taken, or refused permanently: these. How many points of the others the receiver rejected.
    Done(Vec<Chunk>, u64),
    /// No part was taken, and a newer report may replace it.
    Replaceable,
    /// The main loop's end was dropped.
    Over,
}

impl<T: Transport<Bytes>> Sender<T> {
    async fn run(mut self) {
        while self.reports.changed().await.is_ok() {
            self.send_latest().await;
        }
    }

    /// Sends the latest report until it is settled. While it fails, a newer one replaces it, with two exceptions. Deltas
    /// are not replaced: a receiver may have taken them without an acknowledgement, and recognizes a repetition only by
    /// the times of its points. A report that was taken in part is not replaced: its rest would never be sent. Deltas that
    /// are refused permanently stay unacknowledged, so the next report contains them as well.
    async fn send_latest(&mut self) {
        let mut backoff = Backoff::new();
        loop {
            let (number, report) = self.reports.borrow_and_update().clone();
            let Some(report) = report else { return };
            self.progress
                .send_modify(|progress| progress.sending = number);
            let most = self.size.most();
            let self_levels = self.self_levels_are_due(&report);
            let request = self.encode(&report, self_levels);
            let reported = exemplary::spans(&request);
            let parts = split::metrics(request, most);
            let mut outbox = Outbox::new(Signal::Metrics, parts, most);
            match self.send_parts(&mut outbox, &mut backoff).await {
                Progress::Done(refused, rejected) => {
                    self.size.learn(&outbox);
                    self.starts.settled(report.at_unix_ns);
                    if self_levels {
                        self.own_unix_ns = Some(report.at_unix_ns);
                    }
                    let whole = outbox.any_taken() && refused.is_empty();
                    if outbox.any_taken() {
                        self.exemplars.reported(&reported);
                        self.acknowledge(report, &refused);
                    }
                    self.progress.send_modify(|progress| {
                        if whole {
                            progress.acknowledged = number;
                        }
                        progress.settled = number;
                        progress.refused = rejected > 0 || !refused.is_empty();
                    });
                    return;
                }
                Progress::Replaceable => {}
                Progress::Over => return,
            }
        }
    }

    /// Sends part after part, each until it is taken or refused permanently.
    async fn send_parts(&mut self, outbox: &mut Outbox, backoff: &mut Backoff) -> Progress {
        let mut refused = Vec::new();
        let mut rejected = 0;
        let mut perhaps_taken = false;
        while let Some(next) = outbox.next() {
            let part = match next {
                Next::Send(part) => part,
                Next::GiveUp(part) => {
                    self.stats.too_large(Signal::Metrics, part.items);
                    refused.push(part);
                    continue;
                }
            };
            match self.send(&part).await {
                Ok(accepted) => {
                    outbox.taken(&part);
                    rejected += accepted.rejected;
                }
                Err(error) if perhaps_taken && error.is_known() => outbox.taken(&part),
                Err(error) if error.too_large() => {
                    if let Some(alone) = outbox.too_large(part) {
                        self.stats.too_large(Signal::Metrics, alone.items);
                        refused.push(alone);
                    }
                }
                Err(error) if error.retryable() => {
                    perhaps_taken |= error.outcome_unknown();
                    outbox.put_back(part);
                    wait(backoff, error.retry_after, &mut self.hurry).await;
                    if self.reports.has_changed().is_err() {
                        return Progress::Over;
                    }
                    if !self.deltas() && outbox.is_untouched() && refused.is_empty() {
                        return Progress::Replaceable;
                    }
                    continue;
                }
                Err(_) => refused.push(part),
            }
            perhaps_taken = false;
            *backoff = Backoff::new();
        }
        Progress::Done(refused, rejected)
    }

    /// Whether this report has self metrics that are levels: once a minute, and in the last report.
    fn self_levels_are_due(&self, report: &Snapshot) -> bool {
        // Reports are not periodic to the nanosecond.
        const NEARLY_A_MINUTE_NS: u64 = 59_500_000_000;
        let next = self
            .own_unix_ns
            .map(|last| last.saturating_add(NEARLY_A_MINUTE_NS));
        self.hurry.borrow().is_some() || next.is_none_or(|next| report.at_unix_ns >= next)
    }

    fn deltas(&self) -> bool {
        self.options.temporality != Temporality::Cumulative
    }

    /// Records what the receiver has now.
    fn acknowledge(&mut self, report: Arc<Snapshot>, refused: &[Chunk]) {
        if refused.is_empty() {
            self.stats.taken(report.at_unix_ns);
        }
        if self.deltas() {
            let evicted = self.baselines.acknowledge(report, refused);
            self.stats.rejected(Signal::Metrics, evicted);
        }
    }

    fn encode(&mut self, report: &Snapshot, self_levels: bool) -> ExportMetricsServiceRequest {
        let exemplars = self.exemplars.of(report);
        let (resource, options) = (&self.resource, self.options);
        let mut request = self.baselines.encode(|previous| {
            encode(report, resource, options, previous, &exemplars, self_levels)
        });
        let (start, at) = (report.start_unix_ns, report.at_unix_ns);
        self.starts.apply(&mut request, start, at);
        request
    }

    async fn send(&mut self, part: &Chunk) -> Result<Accepted, ExportError> {
        let started = Instant::now();
        let outcome = self.transport.send(part.body.clone()).await;
        settle(
            &self.stats,
            &mut self.failure_log,
            Signal::Metrics,
            part.items,
            started.elapsed(),
            outcome,
        )
    }
}

/// Waits before a retry: the back-off, which a flush cuts short, or the time that the receiver asked for, if that is
/// longer.
pub(super) async fn wait(
    backoff: &mut Backoff,
    retry_after: Option<Duration>,
    hurry: &mut watch::Receiver<Hurry>,
) {
    let failed = Instant::now();
    let hurried = |hurry: &Hurry| hurry.is_some_and(|deadline| deadline > Instant::now());
    let flush = hurry.borrow().filter(|deadline| *deadline > failed);
    if let Some(deadline) = flush {
        sleep(backoff.next_hurried(fastrand::f64(), deadline - failed)).await;
    } else {
        let wait = backoff.next(fastrand::f64());
        sleep(Backoff::least(wait)).await;
        tokio::select! {
            () = sleep_until(failed + wait) => {}
            _ = hurry.wait_for(hurried) => {}
        }
    }
    sleep_until(failed + asked_for(retry_after)).await;
}
