//! The lane of metrics: the main loop's end, and which report its task sends.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::{
    Delivery, ExportStats,
    baselines::Baselines,
    exemplary::{self, Exemplary, PendingExemplars},
    outbox::Outbox,
    sender::{Hurry, Outgoing, Pause, Sender, left_alone_beyond, why_late},
    starts::Starts,
};
use crate::{
    config::{Signal, Temporality},
    otlp::{
        metrics::{Options, encode},
        resource::Resource,
        split::{self, Chunk},
        transport::{ExportRequest, Transport},
    },
    snapshot::Snapshot,
    task::{Task, TaskEnded},
};

/// The main loop's end.
#[derive(Debug)]
pub(super) struct MetricsLane {
    reports: watch::Sender<Report>,
    sent: AtomicU64,
    progress: watch::Receiver<ReportProgress>,
    hurry: watch::Sender<Hurry>,
    pause: watch::Receiver<Pause>,
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

/// A report and its number; the first is 1.
type Report = (u64, Option<Arc<Snapshot>>);

impl MetricsLane {
    pub(super) fn start(
        transport: impl Transport,
        resource: Resource,
        options: Options,
        stats: ExportStats,
        exemplars: Exemplary,
    ) -> Self {
        let (reports, receiver) = watch::channel((0, None));
        let (progress_sender, progress) = watch::channel(ReportProgress::default());
        let (hurry, hurried) = watch::channel(None);
        let outgoing = LatestReport {
            reports: receiver,
            progress: progress_sender,
            hurry: hurried.clone(),
            resource,
            options,
            baselines: Baselines::default(),
            starts: Starts::default(),
            own_unix_ns: None,
            exemplars: PendingExemplars::new(exemplars),
            stats: stats.clone(),
            sending: None,
        };
        let (pauses, pause) = watch::channel(None);
        let sender = Sender::new(Signal::Metrics, outgoing, transport, hurried, pauses, stats);
        Self {
            task: Task::spawn("exports metrics", sender.run()),
            reports,
            sent: AtomicU64::new(0),
            progress,
            hurry,
            pause,
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
        let in_time = tokio::select! {
            biased;
            in_time = timeout_at(deadline, all) => Ok(in_time),
            wait = left_alone_beyond(deadline, self.pause.clone()) => Err(wait),
        };
        if let Ok(Ok(Ok(progress))) = in_time {
            if !progress.refused {
                return Delivery::Taken;
            }
            tracing::warn!(
                "metrics are lost: the receiver refused the last report, or a part of it"
            );
            return Delivery::Refused;
        }
        let reports = last - self.progress.borrow().settled;
        let why = why_late(in_time.err(), &self.pause);
        tracing::warn!(reports, "metrics are lost: {why}");
        Delivery::Late
    }
}

/// The latest report, or first the rest of one that the receiver took, or may have taken, in part. While a report fails, a newer one
/// replaces it, with two exceptions. Deltas are not replaced: a receiver may have taken them without an acknowledgement, and recognizes a
/// repetition only by the times of its points. A report that was taken in part is not replaced: its rest would never be sent. Deltas that
/// are refused permanently stay unacknowledged, so the next report contains them as well.
struct LatestReport {
    reports: watch::Receiver<Report>,
    progress: watch::Sender<ReportProgress>,
    hurry: watch::Receiver<Hurry>,
    resource: Resource,
    options: Options,
    /// The baselines of deltas; kept for deltas only.
    baselines: Baselines,
    starts: Starts,
    /// When the last settled report with self metrics that are levels was made.
    own_unix_ns: Option<u64>,
    exemplars: PendingExemplars,
    stats: ExportStats,
    /// The report that is being sent.
    sending: Option<Sending>,
}

/// A report that is being sent.
struct Sending {
    number: u64,
    report: Arc<Snapshot>,
    /// Whether it has self metrics that are levels.
    self_levels: bool,
    /// The spans that its exemplars name.
    exemplars: HashSet<u64>,
    /// Parts that the receiver refused permanently.
    refused: Vec<Chunk>,
    /// Points of the others that it rejected.
    rejected: u64,
}

// === impl LatestReport ===

impl LatestReport {
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

    fn request_of(&mut self, report: &Snapshot, self_levels: bool) -> ExportMetricsServiceRequest {
        let exemplars = self.exemplars.of(report);
        let (resource, options) = (&self.resource, self.options);
        let mut request = self.baselines.encode(|previous| {
            encode(report, resource, options, previous, &exemplars, self_levels)
        });
        let (start, at) = (report.start_unix_ns, report.at_unix_ns);
        self.starts.apply(&mut request, start, at);
        request
    }

    /// Records what the receiver has now, after it took some of this report.
    fn acknowledge(&mut self, report: Arc<Snapshot>, refused: &[Chunk]) {
        if refused.is_empty() {
            self.stats.taken(report.at_unix_ns);
        }
        if self.deltas() {
            let evicted = self.baselines.acknowledge(report, refused);
            self.stats.rejected(Signal::Metrics, evicted);
        }
    }
}

impl Outgoing for LatestReport {
    async fn ready(&mut self) -> bool {
        let is_unsettled = self.sending.take().is_some() && self.reports.has_changed().is_ok();
        is_unsettled || self.reports.changed().await.is_ok()
    }

    fn encode(&mut self, most: usize) -> Vec<Chunk> {
        let (number, report) = self.reports.borrow_and_update().clone();
        let Some(report) = report else {
            return Vec::new();
        };
        self.progress
            .send_modify(|progress| progress.sending = number);
        let self_levels = self.self_levels_are_due(&report);
        let request = self.request_of(&report, self_levels);
        self.sending = Some(Sending {
            number,
            report,
            self_levels,
            exemplars: exemplary::spans(&request),
            refused: Vec::new(),
            rejected: 0,
        });
        split::metrics(request, most)
    }

    fn request(&self, part: &Chunk) -> ExportRequest {
        ExportRequest::encoded(part.body.clone())
    }

    fn taken(&mut self, _part: &Chunk, rejected: u64) {
        if let Some(sending) = &mut self.sending {
            sending.rejected += rejected;
        }
    }

    fn refused(&mut self, part: Chunk, _reason: &'static str) {
        if let Some(sending) = &mut self.sending {
            sending.refused.push(part);
        }
    }

    fn is_kept(&self, rest: &Outbox) -> bool {
        let any_refused = |sending: &Sending| !sending.refused.is_empty();
        let is_replaceable = !self.deltas()
            && rest.is_untouched()
            && !self.sending.as_ref().is_some_and(any_refused);
        // Nobody waits for the rest once the main loop's end was dropped.
        !is_replaceable && self.reports.has_changed().is_ok()
    }

    fn end(&mut self, sent: &Outbox) {
        if !sent.is_empty() {
            return;
        }
        let Some(settled) = self.sending.take() else {
            return;
        };
        let at_unix_ns = settled.report.at_unix_ns;
        self.starts.settled(at_unix_ns);
        if settled.self_levels {
            self.own_unix_ns = Some(at_unix_ns);
        }
        if sent.any_taken() {
            self.exemplars.reported(&settled.exemplars);
            self.acknowledge(settled.report, &settled.refused);
        }
        let all = settled.refused.is_empty();
        self.progress.send_modify(|progress| {
            if sent.any_taken() && all {
                progress.acknowledged = settled.number;
            }
            progress.settled = settled.number;
            progress.refused = settled.rejected > 0 || !all;
        });
    }
}
