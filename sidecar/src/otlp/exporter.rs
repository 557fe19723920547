//! The exporter as the main loop uses it: it takes reports and spans without blocking.
//!
//! Each signal has one task with one export in flight, of a size that receivers take. Metrics never queue: a newer report replaces an
//! older one, as it contains everything that the older one did. Spans are a fair sample of each second's connections,
//! failed, slow and lossy ones first, and queue up to a bound; so are log records, by a lane of their own. A receiver that is absent, slow or hostile costs exports,
//! which are counted, and nothing else.

mod announced;
mod baselines;
mod exemplary;
mod export_stats;
mod failure_log;
mod flows;
mod metrics;
mod outbox;
mod priority;
mod process;
mod queue;
mod reservoir;
mod sender;
mod starts;

use std::time::Duration;

use tokio::{sync::watch, time::Instant};

pub use self::{announced::announce, metrics::ReportProgress};
use self::{
    exemplary::Exemplary,
    export_stats::ExportStats,
    failure_log::FailureLog,
    flows::FlowLane,
    metrics::MetricsLane,
    priority::{Judge, Priority, judge_interim},
    queue::Bounds,
};
use super::{
    connect::Contact,
    exemplars::Candidates,
    metrics::{Components, Options},
    remote::Remote,
    resource::Resource,
    spans::{SpanOptions, at, interim_span, span},
};
use crate::{
    clock::Anchor,
    config::{Config, Export, Signal},
    exporter_sockets::ExporterSockets,
    flow::{Flow, InterimSpan, SpanTime},
    host::Host,
    logs, memory,
    snapshot::{SelfMetrics, Snapshot},
    task::TaskEnded,
};

/// The exports of one process.
#[derive(Debug)]
pub struct Exporter {
    metrics: Option<MetricsLane>,
    spans: Option<FlowLane>,
    logs: Option<FlowLane>,
    span_options: SpanOptions,
    judge: Judge,
    sockets: ExporterSockets,
    stats: ExportStats,
    contacts: Contacts,
}

/// Whether the receivers were ever reached.
#[derive(Debug, Default)]
struct Contacts {
    metrics: Contact,
    spans: Contact,
    logs: Contact,
}

/// What became of the last exports of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Delivery {
    /// The receiver took them.
    Taken,
    /// The receiver refused some permanently.
    Refused,
    /// Some were not settled in time.
    Late,
    /// No receiver was ever reached, and none was waited for.
    Unreachable,
}

/// How long the last exports are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// The whole time: the receiver may return.
    Whole,
    /// No time for a receiver that was never reached.
    IfEverThere,
}

impl Exporter {
    /// The exports that `config` asks for, if any, of flows from `source` (`flowcar.source`); `command` is the program that
    /// `flowcar run` runs.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(config: &Config, source: &'static str, command: Option<&str>) -> Option<Self> {
        Self::start_as(config, source, &Host::of_command(command))
    }

    /// The same for the identity `host`.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start_as(config: &Config, source: &'static str, host: &Host) -> Option<Self> {
        let nothing = config.export == Export::default();
        (!nothing).then(|| Self::new(config, source, &Resource::new(config, host)))
    }

    /// Starts a task for each signal that `config` exports. Nothing is connected before there is something to send.
    fn new(config: &Config, source: &'static str, resource: &Resource) -> Self {
        let stats = ExportStats::default();
        let sockets = ExporterSockets::default();
        let exemplars = Exemplary::default();
        let options = Options {
            temporality: config.temporality,
            histograms: config.histograms,
            self_metrics: config.self_metrics,
            source,
            components: Components::new(
                config.export.metrics.as_ref().map(|target| target.protocol),
                config.export.traces.as_ref().map(|target| target.protocol),
                config.export.logs.as_ref().map(|target| target.protocol),
            ),
        };
        let mut contacts = Contacts::default();
        let metrics = config.export.metrics.clone().map(|target| {
            let transport = Remote::new(Signal::Metrics, target, sockets.clone());
            contacts.metrics = transport.contact();
            let resource = resource.clone();
            let (stats, exemplars) = (stats.clone(), exemplars.clone());
            MetricsLane::start(transport, resource, options, stats, exemplars)
        });
        let bounds = Bounds {
            items: config.span_queue,
            bytes: config.span_queue_bytes,
            per_second: config.spans_per_second,
        };
        let spans = config.export.traces.clone().map(|target| {
            let transport = Remote::new(Signal::Traces, target, sockets.clone());
            contacts.spans = transport.contact();
            let (stats, exemplars) = (stats.clone(), exemplars.clone());
            FlowLane::start(
                Signal::Traces,
                transport,
                resource,
                bounds,
                stats,
                exemplars,
            )
        });
        let logs = config.export.logs.clone().map(|target| {
            let transport = Remote::new(Signal::Logs, target, sockets.clone());
            contacts.logs = transport.contact();
            let (stats, exemplars) = (stats.clone(), exemplars.clone());
            FlowLane::start(Signal::Logs, transport, resource, bounds, stats, exemplars)
        });
        Self {
            metrics,
            spans,
            logs,
            span_options: SpanOptions {
                trace_parent: config.trace_parent,
                source: source.to_owned(),
            },
            judge: Judge::default(),
            sockets,
            stats,
            contacts,
        }
    }

    /// The exporter's own sockets, which are excluded from the pod's metrics.
    pub fn own_sockets(&self) -> ExporterSockets {
        self.sockets.clone()
    }

    /// Queues a report. Gives its number, the first is 1; none where no metrics are exported.
    pub fn metrics(&self, snapshot: Snapshot) -> Option<u64> {
        self.metrics.as_ref().map(|lane| lane.send(snapshot))
    }

    /// Which report is being sent, and which was acknowledged; none where no metrics are exported.
    pub fn report_progress(&self) -> Option<watch::Receiver<ReportProgress>> {
        self.metrics.as_ref().map(MetricsLane::progress)
    }

    /// Offers the span of a closed flow, and its log record.
    pub fn flow(&mut self, flow: &Flow, anchor: &Anchor) {
        self.offer(flow, anchor, Priority::Normal, None);
    }

    /// The same of a flow whose interim spans name this one as their parent: without it their trace would have no root. One that is still
    /// open has no log record.
    pub fn parent(&mut self, flow: &Flow, time: SpanTime, anchor: &Anchor) {
        self.offer(flow, anchor, Priority::High, Some(time));
    }

    fn offer(&mut self, flow: &Flow, anchor: &Anchor, least: Priority, time: Option<SpanTime>) {
        if self.spans.is_none() && self.logs.is_none() {
            return;
        }
        let priority = self.judge.judge(flow);
        let (rank, container) = (flow.trace.trace_id as u64, flow.origin.container.as_ref());
        let make = || {
            let span = span(flow, anchor, &self.span_options);
            match time {
                Some(time) => at(time, span),
                None => span,
            }
        };
        if let Some(lane) = &self.spans {
            lane.send(priority.max(least), rank, container, || {
                let reported = self.metrics.as_ref();
                let candidates = reported.and_then(|_| Candidates::of(flow, anchor));
                (make(), candidates)
            });
        }
        if let Some(lane) = self.logs.as_ref().filter(|_| flow.outcome.is_some()) {
            lane.send(priority, rank, container, || (make(), None));
        }
    }

    /// Offers an interim span of an open flow. Its rank is that of the flow's own span, so that above the rate both are of the same flows.
    pub fn interim(&mut self, flow: &Flow, cut: &InterimSpan, anchor: &Anchor) {
        if let Some(lane) = &self.spans {
            let (rank, container) = (flow.trace.trace_id as u64, flow.origin.container.as_ref());
            lane.send(judge_interim(cut), rank, container, || {
                (interim_span(flow, cut, anchor, &self.span_options), None)
            });
        }
    }

    /// The results of the exports so far, and the cost of this process.
    pub fn self_metrics(&self) -> SelfMetrics {
        let spans = self
            .spans
            .as_ref()
            .map_or_else(Default::default, FlowLane::queue);
        let logs = self
            .logs
            .as_ref()
            .map_or_else(Default::default, FlowLane::queue);
        let read = self.stats.read();
        SelfMetrics {
            taken_unix_ns: match self.metrics {
                Some(_) => read.taken_unix_ns,
                None => u64::MAX,
            },
            log_lines_dropped: logs::lost(),
            cpu_s: process::cpu_s(),
            rss_bytes: memory::resident(),
            span_queue: spans,
            log_queue: logs,
            ..read
        }
    }

    /// The tasks of metrics, spans and log records, as far as they are exported.
    #[cfg(test)]
    pub(crate) fn tasks(&self) -> Vec<&crate::task::Task> {
        let metrics = self.metrics.as_ref().map(MetricsLane::task);
        let flows = [&self.spans, &self.logs].map(|lane| lane.as_ref().map(FlowLane::task));
        metrics
            .into_iter()
            .chain(flows.into_iter().flatten())
            .collect()
    }

    /// Waits until a task ends, which is an error: from then on its signal is not exported.
    pub async fn ended(&mut self) -> TaskEnded {
        let metrics = async {
            match &mut self.metrics {
                Some(lane) => lane.ended().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = metrics => ended,
            ended = ended(&mut self.spans) => ended,
            ended = ended(&mut self.logs) => ended,
        }
    }

    /// Sends everything that waits, until all is settled or the time is over. Returns whether the receivers took the whole last
    /// report and all spans and log records of that time.
    pub async fn flush(&self, within: Duration) -> bool {
        self.flush_with(within, Patience::Whole).await
    }

    /// The same, with this patience.
    pub async fn flush_with(&self, within: Duration, patience: Patience) -> bool {
        let deadline = Instant::now() + within;
        let metrics = async {
            let Some(lane) = &self.metrics else {
                return Delivery::Taken;
            };
            tokio::select! {
                biased;
                delivery = lane.flush(deadline) => delivery,
                () = hopeless(&self.contacts.metrics, patience) => Delivery::Unreachable,
            }
        };
        let spans = flush(
            self.spans.as_ref(),
            &self.contacts.spans,
            deadline,
            patience,
        );
        let logs = flush(self.logs.as_ref(), &self.contacts.logs, deadline, patience);
        let (metrics, spans, logs) = tokio::join!(metrics, spans, logs);
        let deliveries = [
            ("metrics", metrics),
            ("spans", spans),
            ("log records", logs),
        ];
        log_unreachable(&deliveries);
        deliveries.iter().all(|(_, of)| *of == Delivery::Taken)
    }
}

/// Waits until the lane's task ends; for ever if there is none.
async fn ended(lane: &mut Option<FlowLane>) -> TaskEnded {
    match lane {
        Some(lane) => lane.ended().await,
        None => std::future::pending().await,
    }
}

/// Sends everything that waits in a lane.
async fn flush(
    lane: Option<&FlowLane>,
    contact: &Contact,
    deadline: Instant,
    patience: Patience,
) -> Delivery {
    let Some(lane) = lane else {
        return Delivery::Taken;
    };
    tokio::select! {
        biased;
        delivery = lane.flush(deadline) => return delivery,
        () = hopeless(contact, patience) => {}
    }
    lane.abandon();
    Delivery::Unreachable
}

/// One line for all signals: a receiver that is away is away for each of them, and why was logged before.
fn log_unreachable(deliveries: &[(&str, Delivery)]) {
    let unreachable = deliveries
        .iter()
        .filter(|(_, of)| *of == Delivery::Unreachable);
    let lost: Vec<_> = unreachable.map(|(what, _)| *what).collect();
    if !lost.is_empty() {
        tracing::warn!(
            "{} are lost: no receiver of OTLP was ever reached, and flowcar run waits for none",
            lost.join(", ")
        );
    }
}

/// Waits until waiting is useless.
async fn hopeless(contact: &Contact, patience: Patience) {
    match patience {
        Patience::Whole => std::future::pending().await,
        Patience::IfEverThere => contact.absent().await,
    }
}

#[cfg(test)]
mod tests;
