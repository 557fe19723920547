//! What the main loop talks to: hands reports and spans over without ever waiting.
//!
//! Each signal has one task with one export in flight. Metrics never queue: a newer report takes the place of an
//! older one, as it carries everything that the older one did. Spans queue up to a bound. A receiver that is away,
//! slow or hostile costs exports, which are counted, and nothing else.

mod complaints;
mod ledger;
mod metrics;
mod process;
mod spans;

use std::time::Duration;

use tokio::time::Instant;

use self::{complaints::Complaints, ledger::Ledger, metrics::MetricsLane, spans::SpanLane};
use super::{
    error::{Accepted, ExportError},
    metrics::Options,
    resource::{Resource, random_instance},
    spans::{SpanOptions, part, span},
};
use crate::{
    clock::Anchor,
    config::{Config, Export, Signal},
    flow::{Flow, Part},
    snapshot::{Own, Snapshot},
};

/// The exports of one process.
#[derive(Debug)]
pub struct Exporter {
    metrics: Option<MetricsLane>,
    spans: Option<SpanLane>,
    span_options: SpanOptions,
    ledger: Ledger,
}

impl Exporter {
    /// The exports that `config` asks for, if any, of flows that are learnt of by `source` (`flowcar.source`);
    /// `command` is the program that `flowcar run` runs.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(config: &Config, source: &str, command: Option<&str>) -> Option<Self> {
        let Export { metrics, traces } = &config.export;
        let any = metrics.is_some() || traces.is_some();
        let resource = || Resource::new(config, source, command, random_instance());
        any.then(|| Self::start_as(config, &resource()))
    }

    /// Starts a task for each signal that `config` sends somewhere. Nothing is connected before there is
    /// something to say.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start_as(config: &Config, resource: &Resource) -> Self {
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
            span_options: SpanOptions {
                trace_parent: config.trace_parent,
            },
            ledger,
        }
    }

    /// Hands a report over.
    pub fn metrics(&self, snapshot: Snapshot) {
        if let Some(lane) = &self.metrics {
            lane.send(snapshot);
        }
    }

    /// Hands a flow that is over to the spans.
    pub fn flow(&mut self, flow: &Flow, anchor: &Anchor) {
        if let Some(lane) = &mut self.spans {
            lane.send(|| span(flow, anchor, &self.span_options));
        }
    }

    /// Hands one part of a flow that lives to the spans.
    pub fn part(&mut self, flow: &Flow, cut: &Part, anchor: &Anchor) {
        if let Some(lane) = &mut self.spans {
            lane.send(|| part(flow, cut, anchor, &self.span_options));
        }
    }

    /// What became of the exports so far, and what this process costs.
    pub fn own(&self) -> Own {
        let queued = self.spans.as_ref().map_or(0, SpanLane::queued);
        Own {
            cpu_s: process::cpu_s(),
            rss_bytes: process::rss_bytes(),
            ..self.ledger.read(queued)
        }
    }

    /// Sends what waits, until all is out or the time is over. Gives whether all went out.
    pub async fn flush(&self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
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
    signal: Signal,
    took: Duration,
    outcome: &Result<Accepted, ExportError>,
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
