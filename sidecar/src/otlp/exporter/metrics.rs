//! The task that sends metrics: the latest report, or, of deltas, first the one whose fate is unknown.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest, metrics::v1::metric::Data,
};
use tokio::{
    sync::watch,
    time::{Duration, Instant, sleep, timeout_at},
};

use super::{Complaints, Ledger, Transport, settle};
use crate::{
    config::{Signal, Temporality},
    handover::Keeper,
    otlp::{
        error::{Accepted, ExportError},
        exemplars::Exemplars,
        metrics::{Options, encode},
        resource::Resource,
        retry::Backoff,
    },
    snapshot::Snapshot,
};

/// The main loop's end.
#[derive(Debug)]
pub(super) struct MetricsLane {
    reports: watch::Sender<Report>,
    sent: AtomicU64,
    settled: watch::Receiver<u64>,
    hurry: watch::Sender<bool>,
}

/// A report and its number; the first is 1.
type Report = (u64, Option<Arc<(Snapshot, Exemplars)>>);

impl MetricsLane {
    pub(super) fn start(
        transport: impl Transport<ExportMetricsServiceRequest>,
        resource: Resource,
        options: Options,
        ledger: Ledger,
        keeper: Option<Keeper>,
    ) -> Self {
        let (reports, receiver) = watch::channel((0, None));
        let (settled_sender, settled) = watch::channel(0);
        let (hurry, hurried) = watch::channel(false);
        let sender = Sender {
            reports: receiver,
            settled: settled_sender,
            hurry: hurried,
            transport,
            resource,
            options,
            acknowledged: None,
            ledger,
            keeper,
            complaints: Complaints::default(),
        };
        tokio::spawn(sender.run());
        Self {
            reports,
            sent: AtomicU64::new(0),
            settled,
            hurry,
        }
    }

    pub(super) fn send(&self, snapshot: Snapshot, exemplars: Exemplars) {
        let number = self.sent.fetch_add(1, Ordering::Relaxed) + 1;
        self.reports
            .send_replace((number, Some(Arc::new((snapshot, exemplars)))));
    }

    pub(super) async fn flush(&self, deadline: Instant) -> bool {
        self.hurry.send_replace(true);
        let last = self.sent.load(Ordering::Relaxed);
        let mut settled = self.settled.clone();
        let all = settled.wait_for(|number| *number >= last);
        if matches!(timeout_at(deadline, all).await, Ok(Ok(_))) {
            return true;
        }
        tracing::warn!(
            reports = last - *self.settled.borrow(),
            "metrics are lost: the receiver did not take the last reports in time; raise FLOWCAR_SHUTDOWN_TIMEOUT if it can"
        );
        false
    }
}

/// The task's end.
struct Sender<T> {
    reports: watch::Receiver<Report>,
    /// The number of the last report that was taken, or refused for good.
    settled: watch::Sender<u64>,
    hurry: watch::Receiver<bool>,
    transport: T,
    resource: Resource,
    options: Options,
    /// What deltas are against; kept for them only.
    acknowledged: Option<Arc<(Snapshot, Exemplars)>>,
    ledger: Ledger,
    keeper: Option<Keeper>,
    complaints: Complaints,
}

impl<T: Transport<ExportMetricsServiceRequest>> Sender<T> {
    async fn run(mut self) {
        while self.reports.changed().await.is_ok() {
            self.send_latest().await;
        }
    }

    /// Sends the latest report until it is settled. While it fails, a newer one takes its place, but not of
    /// deltas: a receiver may have taken them without our hearing of it, and can tell that the same points come
    /// again only by their times. Deltas that are refused for good stay unacknowledged, so that the next report has
    /// them as well.
    async fn send_latest(&mut self) {
        let mut backoff = Backoff::new();
        let deltas = self.options.temporality != Temporality::Cumulative;
        let mut report = self.reports.borrow_and_update().clone();
        let mut perhaps_taken = false;
        while let (number, Some(of)) = &report {
            let taken = match self.send(of).await {
                Ok(_) => true,
                Err(error) if error.retryable() => {
                    perhaps_taken |= error.outcome_unknown();
                    wait(&mut backoff, error.retry_after, &mut self.hurry).await;
                    if self.reports.has_changed().is_err() {
                        return;
                    }
                    if !deltas {
                        report = self.reports.borrow_and_update().clone();
                    }
                    continue;
                }
                Err(error) => perhaps_taken && error.says_known(),
            };
            if taken {
                self.acknowledged = deltas.then(|| Arc::clone(of));
                self.keep(&of.0);
            } else if *self.hurry.borrow() {
                tracing::warn!("metrics are lost: the receiver refused the last report");
            }
            self.settled.send_replace(*number);
            return;
        }
    }

    /// What was told of need not be told by the flowcar after this one.
    fn keep(&mut self, told: &Snapshot) {
        if let (Some(keeper), Some(left)) = (&mut self.keeper, &told.left) {
            keeper.keep(told.at_unix_ns, left);
        }
    }

    async fn send(&mut self, report: &(Snapshot, Exemplars)) -> Result<Accepted, ExportError> {
        let (snapshot, exemplars) = report;
        let previous = self.acknowledged.as_deref().map(|(snapshot, _)| snapshot);
        let request = encode(snapshot, &self.resource, self.options, previous, exemplars);
        let points = points(&request);
        let started = Instant::now();
        let outcome = self.transport.send(request).await;
        settle(
            &self.ledger,
            &mut self.complaints,
            Signal::Metrics,
            points,
            started.elapsed(),
            &outcome,
        );
        outcome
    }
}

/// Points in a request.
fn points(request: &ExportMetricsServiceRequest) -> usize {
    let scopes = request
        .resource_metrics
        .iter()
        .flat_map(|of| &of.scope_metrics);
    let metrics = scopes.flat_map(|of| &of.metrics);
    let count = |data: &Data| match data {
        Data::Gauge(of) => of.data_points.len(),
        Data::Sum(of) => of.data_points.len(),
        Data::Histogram(of) => of.data_points.len(),
        Data::ExponentialHistogram(of) => of.data_points.len(),
        Data::Summary(of) => of.data_points.len(),
    };
    metrics
        .filter_map(|metric| metric.data.as_ref())
        .map(count)
        .sum()
}

/// Waits before another try: as long as the receiver asked for, else our own time, which a flush cuts short.
pub(super) async fn wait(
    backoff: &mut Backoff,
    retry_after: Option<Duration>,
    hurry: &mut watch::Receiver<bool>,
) {
    const HURRIED: Duration = Duration::from_millis(200);
    let own = backoff.next(fastrand::f64());
    let Some(asked) = retry_after else {
        if *hurry.borrow() {
            sleep(own.min(HURRIED)).await;
        } else {
            tokio::select! {
                () = sleep(own) => {}
                _ = hurry.wait_for(|hurry| *hurry) => {}
            }
        }
        return;
    };
    sleep(asked).await;
}
