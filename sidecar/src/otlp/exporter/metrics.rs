//! The task that sends metrics: the latest report, or, of deltas, first the one whose fate is unknown.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use tokio::{
    sync::watch,
    time::{Duration, Instant, sleep, timeout_at},
};

use super::{Complaints, Ledger, settle};
use crate::{
    config::{Protocol, Signal, Target, Temporality},
    otlp::{
        error::{Accepted, ExportError},
        grpc::Grpc,
        http::Http,
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
type Report = (u64, Option<Arc<Snapshot>>);

impl MetricsLane {
    pub(super) fn start(
        target: Target,
        resource: Resource,
        options: Options,
        ledger: Ledger,
    ) -> Self {
        let (reports, receiver) = watch::channel((0, None));
        let (settled_sender, settled) = watch::channel(0);
        let (hurry, hurried) = watch::channel(false);
        let sender = Sender {
            reports: receiver,
            settled: settled_sender,
            hurry: hurried,
            target,
            client: None,
            resource,
            options,
            acknowledged: None,
            ledger,
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

    pub(super) fn send(&self, snapshot: Snapshot) {
        let number = self.sent.fetch_add(1, Ordering::Relaxed) + 1;
        self.reports
            .send_replace((number, Some(Arc::new(snapshot))));
    }

    pub(super) async fn flush(&self, deadline: Instant) -> bool {
        self.hurry.send_replace(true);
        let last = self.sent.load(Ordering::Relaxed);
        let mut settled = self.settled.clone();
        let all = settled.wait_for(|number| *number >= last);
        matches!(timeout_at(deadline, all).await, Ok(Ok(_)))
    }
}

/// The task's end.
struct Sender {
    reports: watch::Receiver<Report>,
    /// The number of the last report that was taken, or refused for good.
    settled: watch::Sender<u64>,
    hurry: watch::Receiver<bool>,
    target: Target,
    client: Option<Client>,
    resource: Resource,
    options: Options,
    /// What deltas are against; kept for them only.
    acknowledged: Option<Arc<Snapshot>>,
    ledger: Ledger,
    complaints: Complaints,
}

impl Sender {
    async fn run(mut self) {
        while self.reports.changed().await.is_ok() {
            self.send_latest().await;
        }
    }

    /// Sends the latest report until it is settled. While it fails, a newer one takes its place, but not of
    /// deltas: a receiver may have taken them without our hearing of it, and can tell that the same points come
    /// again only by their times.
    async fn send_latest(&mut self) {
        let mut backoff = Backoff::new();
        let deltas = self.options.temporality != Temporality::Cumulative;
        let mut report = self.reports.borrow_and_update().clone();
        while let (number, Some(snapshot)) = &report {
            match self.send(snapshot).await {
                Ok(_) => {
                    self.acknowledged = deltas.then(|| Arc::clone(snapshot));
                    self.settled.send_replace(*number);
                    return;
                }
                Err(error) if !error.retryable() => {
                    self.settled.send_replace(*number);
                    return;
                }
                Err(error) => self.wait(&mut backoff, error.retry_after).await,
            }
            if self.reports.has_changed().is_err() {
                return;
            }
            if !deltas {
                report = self.reports.borrow_and_update().clone();
            }
        }
    }

    async fn send(&mut self, snapshot: &Snapshot) -> Result<Accepted, ExportError> {
        let previous = self.acknowledged.as_deref();
        let request = encode(snapshot, &self.resource, self.options, previous);
        let started = Instant::now();
        let outcome = self.export(request).await;
        let took = started.elapsed();
        settle(
            &self.ledger,
            &mut self.complaints,
            Signal::Metrics,
            took,
            &outcome,
        );
        outcome
    }

    async fn export(
        &mut self,
        request: ExportMetricsServiceRequest,
    ) -> Result<Accepted, ExportError> {
        let client = match &mut self.client {
            Some(client) => client,
            none => none.insert(Client::new(self.target.clone())?),
        };
        match client {
            Client::Grpc(grpc) => grpc.export(request).await,
            Client::Http(http) => http.export(request).await,
        }
    }

    async fn wait(&mut self, backoff: &mut Backoff, retry_after: Option<Duration>) {
        wait(backoff, retry_after, &mut self.hurry).await;
    }
}

enum Client {
    Grpc(Box<Grpc>),
    Http(Http),
}

impl Client {
    fn new(target: Target) -> Result<Self, ExportError> {
        Ok(match target.protocol {
            Protocol::Grpc => Self::Grpc(Box::new(Grpc::new(target)?)),
            Protocol::HttpProtobuf => Self::Http(Http::new(Signal::Metrics, target)?),
        })
    }
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
