//! What the main loop talks to: hands reports and spans over without ever waiting.
//!
//! Each signal has one task with one export in flight. Metrics never queue: a newer report takes the place of an
//! older one, as it carries everything that the older one did. Spans queue up to a bound. A receiver that is away,
//! slow or hostile costs exports, which are counted, and nothing else.

mod complaints;
mod metrics;
mod own;
mod spans;

use opentelemetry_sdk::trace::SpanData;
use tokio::time::Instant;

pub use own::OwnExports;

use self::{complaints::Complaints, metrics::MetricsLane, own::Ledger, spans::SpanLane};
use super::{error::ExportError, metrics::Options, resource::Resource};
use crate::{config::Config, snapshot::Snapshot};

/// The exports of one process.
#[derive(Debug)]
pub struct Exporter {
    metrics: Option<MetricsLane>,
    spans: Option<SpanLane>,
    ledger: Ledger,
}

impl Exporter {
    /// Starts a task for each signal that `config` sends somewhere. Nothing is sent or connected before there is
    /// something to say.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(config: &Config, resource: &Resource) -> Self {
        let ledger = Ledger::default();
        let options = Options {
            temporality: config.temporality,
            histograms: config.histograms,
        };
        let metrics =
            config.export.metrics.clone().map(|target| {
                MetricsLane::start(target, resource.clone(), options, ledger.clone())
            });
        let spans = config.export.traces.clone().map(|target| {
            let bounds = spans::Bounds {
                queue: config.span_queue,
                per_second: config.spans_per_second,
            };
            SpanLane::start(target, resource.clone(), bounds, ledger.clone())
        });
        Self {
            metrics,
            spans,
            ledger,
        }
    }

    /// Whether anything is exported.
    pub fn is_active(&self) -> bool {
        self.metrics.is_some() || self.spans.is_some()
    }

    /// Whether spans are exported, so that it is worth making them.
    pub fn takes_spans(&self) -> bool {
        self.spans.is_some()
    }

    /// Hands a report over.
    pub fn metrics(&self, snapshot: Snapshot) {
        if let Some(lane) = &self.metrics {
            lane.send(snapshot);
        }
    }

    /// Hands a span over.
    pub fn span(&mut self, span: SpanData) {
        if let Some(lane) = &mut self.spans {
            lane.send(span);
        }
    }

    /// What became of the exports so far.
    pub fn own(&self) -> OwnExports {
        let queued = self.spans.as_ref().map_or(0, SpanLane::queued);
        self.ledger.read(queued)
    }

    /// Sends what waits, until all is out or `deadline` has come. Gives whether all went out.
    pub async fn flush(&self, deadline: Instant) -> bool {
        let metrics = async {
            match &self.metrics {
                Some(lane) => lane.flush(deadline).await,
                None => true,
            }
        };
        let spans = async {
            match &self.spans {
                Some(lane) => lane.flush(deadline).await,
                None => true,
            }
        };
        let (metrics, spans) = tokio::join!(metrics, spans);
        metrics && spans
    }
}

/// Books an export's outcome, and speaks of it if it is news.
fn settle(
    ledger: &Ledger,
    complaints: &mut Complaints,
    signal: crate::config::Signal,
    took: std::time::Duration,
    outcome: &Result<super::error::Accepted, ExportError>,
) {
    let (name, rejected) = match outcome {
        Ok(accepted) => (accepted.outcome(), accepted.rejected),
        Err(error) => (error.outcome(), 0),
    };
    ledger.export(signal.name(), name, rejected, took);
    match outcome {
        Ok(accepted) => complaints.accepted(signal, accepted),
        Err(error) => complaints.failed(error),
    }
}

#[cfg(test)]
mod tests;
