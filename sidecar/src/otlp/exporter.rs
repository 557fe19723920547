//! What the main loop talks to: hands reports and spans over without ever waiting.
//!
//! Each signal has one task with one export in flight, of a size that receivers take. Metrics never queue: a newer report takes the place of an
//! older one, as it carries everything that the older one did. Spans are a fair sample of each second's connections,
//! failed, slow and lossy ones first, and queue up to a bound. A receiver that is away, slow or hostile costs exports,
//! which are counted, and nothing else.

mod baselines;
mod checkpoints;
mod complaints;
mod exemplary;
mod ledger;
mod metrics;
mod notable;
mod outbox;
mod process;
mod queue;
mod spans;
mod starts;
mod task;
mod transport;
mod window;

use std::time::Duration;

use tokio::time::Instant;

pub use self::task::TaskEnded;
use self::{
    complaints::Complaints,
    exemplary::Exemplary,
    ledger::Ledger,
    metrics::MetricsLane,
    notable::{Judge, judge_part},
    queue::Bounds,
    spans::SpanLane,
    transport::Transport,
};
use super::{
    connect::Contact,
    error::{Accepted, ExportError},
    exemplars::Candidates,
    metrics::{Components, Options},
    own::OwnSockets,
    resource::Resource,
    spans::{SpanOptions, part, span},
};
use crate::{
    clock::Anchor,
    config::{Config, Export, Signal},
    flow::{Flow, Part},
    handover::Keeper,
    host::Host,
    logs, memory,
    series::Naming,
    snapshot::{Own, Snapshot},
};

/// The exports of one process.
#[derive(Debug)]
pub struct Exporter {
    metrics: Option<MetricsLane>,
    spans: Option<SpanLane>,
    span_options: SpanOptions,
    naming: Naming,
    judge: Judge,
    own: OwnSockets,
    ledger: Ledger,
    contacts: Contacts,
}

/// Whether the receivers were ever there.
#[derive(Debug, Default)]
struct Contacts {
    metrics: Contact,
    spans: Contact,
}

/// How long the last exports are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// The whole time: the receiver may come back.
    Whole,
    /// Not at all for a receiver that never was there.
    IfEverThere,
}

impl Exporter {
    /// The exports that `config` asks for, if any, of flows that are learnt of by `source` (`flowcar.source`);
    /// `command` is the program that `flowcar run` runs.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(config: &Config, source: &'static str, command: Option<&str>) -> Option<Self> {
        Self::start_keeping(config, source, &Host::of_command(command), None)
    }

    /// The same of what `host` names; `keeper` leaves what each report told of that a receiver took.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start_keeping(
        config: &Config,
        source: &'static str,
        host: &Host,
        keeper: Option<Keeper>,
    ) -> Option<Self> {
        let Export { metrics, traces } = &config.export;
        let any = metrics.is_some() || traces.is_some();
        any.then(|| Self::start_as(config, source, &Resource::new(config, host), keeper))
    }

    /// Starts a task for each signal that `config` sends somewhere. Nothing is connected before there is
    /// something to say.
    fn start_as(
        config: &Config,
        source: &'static str,
        resource: &Resource,
        keeper: Option<Keeper>,
    ) -> Self {
        let ledger = Ledger::default();
        let own = OwnSockets::default();
        let exemplars = Exemplary::default();
        let options = Options {
            temporality: config.temporality,
            histograms: config.histograms,
            self_metrics: config.self_metrics,
            source,
            components: Components::new(
                config.export.metrics.as_ref().map(|target| target.protocol),
                config.export.traces.as_ref().map(|target| target.protocol),
            ),
        };
        let mut contacts = Contacts::default();
        let metrics = config.export.metrics.clone().map(|target| {
            let transport = transport::metrics(target, own.clone());
            contacts.metrics = transport.contact();
            let resource = resource.clone();
            let (ledger, exemplars) = (ledger.clone(), exemplars.clone());
            MetricsLane::start(transport, resource, options, ledger, exemplars, keeper)
        });
        let spans = config.export.traces.clone().map(|target| {
            let bounds = Bounds {
                spans: config.span_queue,
                bytes: config.span_queue_bytes,
                per_second: config.spans_per_second,
            };
            let transport = transport::spans(target, own.clone(), resource.clone());
            contacts.spans = transport.contact();
            let (ledger, exemplars) = (ledger.clone(), exemplars.clone());
            SpanLane::start(transport, resource, bounds, ledger, exemplars)
        });
        Self {
            metrics,
            spans,
            span_options: SpanOptions {
                trace_parent: config.trace_parent,
                source: source.to_owned(),
            },
            naming: config.naming,
            judge: Judge::default(),
            own,
            ledger,
            contacts,
        }
    }

    /// The sockets that it exports over, which are no part of the pod's figures.
    pub fn own_sockets(&self) -> OwnSockets {
        self.own.clone()
    }

    /// Hands a report over.
    pub fn metrics(&self, snapshot: Snapshot) {
        if let Some(lane) = &self.metrics {
            lane.send(snapshot);
        }
    }

    /// Hands a flow that is over to the spans.
    pub fn flow(&mut self, flow: &Flow, anchor: &Anchor) {
        if let Some(lane) = &self.spans {
            let class = self.judge.judge(flow);
            lane.send(class, flow.trace.trace_id as u64, || {
                let told = self.metrics.is_some();
                let candidates = told.then(|| Candidates::of(flow, &self.naming, anchor));
                (span(flow, anchor, &self.span_options), candidates)
            });
        }
    }

    /// Hands one part of a flow that lives to the spans.
    pub fn part(&mut self, flow: &Flow, cut: &Part, anchor: &Anchor) {
        if let Some(lane) = &self.spans {
            lane.send(judge_part(cut), flow.trace.part(cut.number), || {
                (part(flow, cut, anchor, &self.span_options), None)
            });
        }
    }

    /// What became of the exports so far, and what this process costs.
    pub fn own(&self) -> Own {
        let (spans, bytes) = self.spans.as_ref().map_or((0, 0), SpanLane::queued);
        let read = self.ledger.read();
        Own {
            taken_unix_ns: match self.metrics {
                Some(_) => read.taken_unix_ns,
                None => u64::MAX,
            },
            log_lines_dropped: logs::lost(),
            cpu_s: process::cpu_s(),
            rss_bytes: memory::resident(),
            span_queue: spans as u64,
            span_queue_capacity: self.spans.as_ref().map_or(0, SpanLane::most) as u64,
            span_queue_bytes: bytes as u64,
            ..read
        }
    }

    /// Waits for the end of a task, which is one before its time: from then on nothing of its signal is exported.
    pub async fn ended(&mut self) -> TaskEnded {
        let metrics = async {
            match &mut self.metrics {
                Some(lane) => lane.ended().await,
                None => std::future::pending().await,
            }
        };
        let spans = async {
            match &mut self.spans {
                Some(lane) => lane.ended().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = metrics => ended,
            ended = spans => ended,
        }
    }

    /// Sends what waits, until all is out or the time is over. Gives whether all went out.
    pub async fn flush(&self, within: Duration) -> bool {
        self.flush_with(within, Patience::Whole).await
    }

    /// The same, with as much patience as is said.
    pub async fn flush_with(&self, within: Duration, patience: Patience) -> bool {
        let deadline = Instant::now() + within;
        let metrics = async {
            let Some(lane) = &self.metrics else {
                return true;
            };
            tokio::select! {
                all = lane.flush(deadline) => all,
                () = hopeless(&self.contacts.metrics, patience) => false,
            }
        };
        let spans = async {
            let Some(lane) = &self.spans else { return true };
            tokio::select! {
                all = lane.flush(deadline) => return all,
                () = hopeless(&self.contacts.spans, patience) => {}
            }
            // What is left is counted.
            lane.flush(Instant::now()).await
        };
        let (metrics, spans) = tokio::join!(metrics, spans);
        metrics && spans
    }
}

/// Waits until it is of no use to wait.
async fn hopeless(contact: &Contact, patience: Patience) {
    match patience {
        Patience::Whole => std::future::pending().await,
        Patience::IfEverThere => contact.absent().await,
    }
}

/// Books the outcome of an export of `items` points or spans, and speaks of it if it is news.
fn settle(
    ledger: &Ledger,
    complaints: &mut Complaints,
    signal: Signal,
    items: usize,
    took: Duration,
    outcome: &Result<Accepted, ExportError>,
) {
    let (name, rejected, taken) = match outcome {
        Ok(accepted) => (accepted.outcome(), accepted.rejected, items as u64),
        Err(error) => (error.outcome(), 0, 0),
    };
    let taken = taken.saturating_sub(rejected);
    ledger.export(signal.name(), name, rejected, taken, took);
    match outcome {
        Ok(accepted) => complaints.accepted(signal, accepted),
        Err(error) => complaints.failed(error),
    }
}

#[cfg(test)]
mod tests;
