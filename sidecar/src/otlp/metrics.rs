//! A snapshot as OTLP metrics. Pure.

mod containers;
mod histogram;
mod listeners;
mod self_metrics;
mod tcp;

use std::collections::BTreeSet;

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::{InstrumentationScope, KeyValue},
    metrics::v1::{
        AggregationTemporality, Gauge, Metric as ProtoMetric, NumberDataPoint, ResourceMetrics,
        ScopeMetrics, Sum, metric::Data, number_data_point,
    },
};

use self::histogram::HistogramPoint;
use super::{
    attributes::{attribute, text},
    exemplars::{Exemplar, Exemplars},
    names::{Kind, Metric, SCHEMA_URL, SCOPE, VERSION, attribute as name},
    resource::Resource,
};
use crate::{
    config::{Histograms, Protocol, SelfMetricsLevel, Signal, Temporality},
    flow::ContainerId,
    histogram::Histogram,
    snapshot::{SeriesKey, Snapshot},
};

/// The form of the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The temporality of sums and histograms.
    pub temporality: Temporality,
    /// The kind of histograms.
    pub histograms: Histograms,
    /// Which self metrics flowcar sends.
    pub self_metrics: SelfMetricsLevel,
    /// The source of flows (`flowcar.source`).
    pub source: &'static str,
    /// The exporters of metrics, spans and log records.
    pub components: Components,
}

/// The components of the self metrics of exports (`otel.component.type`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Components {
    /// The exporter of metrics; empty if there is none.
    pub metrics: &'static str,
    /// The exporter of spans; empty if there is none.
    pub spans: &'static str,
    /// The exporter of log records; empty if there is none.
    pub logs: &'static str,
}

impl Components {
    /// The exporters for these protocols.
    pub const fn new(
        metrics: Option<Protocol>,
        spans: Option<Protocol>,
        logs: Option<Protocol>,
    ) -> Self {
        Self {
            metrics: match metrics {
                Some(Protocol::Grpc) => "otlp_grpc_metric_exporter",
                Some(Protocol::HttpProtobuf) => "otlp_http_metric_exporter",
                None => "",
            },
            spans: match spans {
                Some(Protocol::Grpc) => "otlp_grpc_span_exporter",
                Some(Protocol::HttpProtobuf) => "otlp_http_span_exporter",
                None => "",
            },
            logs: match logs {
                Some(Protocol::Grpc) => "otlp_grpc_log_exporter",
                Some(Protocol::HttpProtobuf) => "otlp_http_log_exporter",
                None => "",
            },
        }
    }

    /// The exporter of a signal, by its name.
    fn of(&self, signal: &str) -> &'static str {
        if signal == Signal::Metrics.name() {
            self.metrics
        } else if signal == Signal::Logs.name() {
            self.logs
        } else {
            self.spans
        }
    }
}

/// The request of a `snapshot`: the pod's metrics, those of each container, and the self metrics, each under a resource of their own. Deltas are against `previous`,
/// the snapshot that the receiver acknowledged last; none means since the start. `self_levels`: whether self metrics that are levels
/// are due.
pub fn encode(
    snapshot: &Snapshot,
    resource: &Resource,
    options: Options,
    previous: Option<&Snapshot>,
    exemplars: &Exemplars,
    self_levels: bool,
) -> ExportMetricsServiceRequest {
    let encoder = || Encoder::new(snapshot, options, previous, exemplars);
    let mut pods = encoder();
    tcp::encode(&mut pods);
    listeners::encode(&mut pods);
    containers::encode(&mut pods, None);
    let containers = containers(snapshot).map(|container| {
        let mut encoder = encoder();
        tcp::encode_container(&mut encoder, container);
        containers::encode(&mut encoder, Some(container));
        (resource.of_container(container), encoder.metrics)
    });
    let mut self_metrics = encoder();
    self_metrics::encode(&mut self_metrics, self_levels);
    let of = |resource: &Resource, metrics| ResourceMetrics {
        resource: Some(resource.to_proto()),
        scope_metrics: vec![ScopeMetrics {
            scope: Some(scope(options.source)),
            metrics,
            schema_url: SCHEMA_URL.to_owned(),
        }],
        schema_url: SCHEMA_URL.to_owned(),
    };
    let containers = containers.map(|(resource, metrics)| of(&resource, metrics));
    let pods = of(resource, pods.metrics);
    let own = of(&resource.of_flowcar(), self_metrics.metrics);
    ExportMetricsServiceRequest {
        resource_metrics: std::iter::once(pods)
            .chain(containers)
            .chain([own])
            .collect(),
    }
}

/// The containers of the series and of the statistics, each once: the keys are sorted by them.
fn containers(snapshot: &Snapshot) -> impl Iterator<Item = &ContainerId> {
    let of_series = snapshot.series.keys().filter_map(SeriesKey::container);
    let of_statistics = snapshot.containers.keys().flatten();
    let all: BTreeSet<_> = of_series.chain(of_statistics).collect();
    all.into_iter()
}

fn scope(source: &str) -> InstrumentationScope {
    InstrumentationScope {
        name: SCOPE.to_owned(),
        version: VERSION.to_owned(),
        attributes: vec![text(name::SOURCE, source)],
        ..Default::default()
    }
}

/// The metrics made so far, and the context of their points.
struct Encoder<'a> {
    now: &'a Snapshot,
    before: Option<&'a Snapshot>,
    options: Options,
    exemplars: &'a Exemplars,
    metrics: Vec<ProtoMetric>,
}

/// A histogram, the one of the snapshot before, its attributes and its exemplar.
struct DurationPoint<'a> {
    attributes: Vec<KeyValue>,
    now: &'a Histogram,
    before: Option<&'a Histogram>,
    exemplar: Option<&'a Exemplar>,
}

/// A point of a counter: its value, and its value in the snapshot before.
struct CountPoint {
    attributes: Vec<KeyValue>,
    now: u64,
    before: u64,
}

impl<'a> Encoder<'a> {
    const fn new(
        now: &'a Snapshot,
        options: Options,
        before: Option<&'a Snapshot>,
        exemplars: &'a Exemplars,
    ) -> Self {
        Self {
            now,
            before,
            options,
            exemplars,
            metrics: Vec::new(),
        }
    }

    /// Whether flowcar sends a signal, too.
    fn sends(&self, signal: Signal) -> bool {
        !self.options.components.of(signal.name()).is_empty()
    }

    /// Adds a counter. Points of 0 are omitted.
    fn counter(&mut self, metric: Metric, points: Vec<CountPoint>) {
        let delta = self.options.temporality == Temporality::Delta;
        let start = self.start(delta);
        let points = points
            .into_iter()
            .filter(|point| point.now != if delta { point.before } else { 0 })
            .map(|point| {
                let value = point.now - if delta { point.before } else { 0 };
                self.point(point.attributes, start, int(value))
            })
            .collect();
        self.sum(metric, points, delta, true);
    }

    /// Adds an up-down counter, which counts since the start in every temporality.
    fn up_down(&mut self, metric: Metric, points: Vec<(Vec<KeyValue>, i64)>) {
        let start = self.start(false);
        let points = points
            .into_iter()
            .map(|(attributes, value)| {
                self.point(attributes, start, number_data_point::Value::AsInt(value))
            })
            .collect();
        self.sum(metric, points, false, false);
    }

    /// Adds a counter of seconds: attributes, the current value, and the previous one. Points of 0 are omitted.
    fn seconds(&mut self, metric: Metric, points: Vec<(Vec<KeyValue>, f64, f64)>) {
        let delta = self.options.temporality == Temporality::Delta;
        let start = self.start(delta);
        let points = points
            .into_iter()
            .map(|(attributes, now, before)| (attributes, now - if delta { before } else { 0.0 }))
            .filter(|(_, value)| *value != 0.0)
            .map(|(attributes, value)| {
                let value = number_data_point::Value::AsDouble(value);
                self.point(attributes, start, value)
            })
            .collect();
        self.sum(metric, points, delta, true);
    }

    /// Adds a gauge with one point.
    fn gauge(&mut self, metric: Metric, value: i64) {
        let value = number_data_point::Value::AsInt(value);
        let mut point = self.point(Vec::new(), 0, value);
        point.start_time_unix_nano = 0;
        let data_points = vec![point];
        self.push(metric, Data::Gauge(Gauge { data_points }));
    }

    /// Adds histograms.
    fn histograms<'h>(
        &mut self,
        metric: Metric,
        points: impl IntoIterator<Item = DurationPoint<'h>>,
    ) {
        let delta = self.options.temporality != Temporality::Cumulative;
        let (start, at) = (self.start(delta), self.now.at_unix_ns);
        let points: Vec<_> = points
            .into_iter()
            .filter_map(|point| {
                let histogram = match point.before.filter(|_| delta) {
                    Some(before) => point.now.since(before),
                    None => point.now.clone(),
                };
                // A flow that closed since is not in the histogram yet.
                let exemplar = point.exemplar.filter(|of| of.at_unix_ns <= at);
                (!histogram.is_empty()).then_some(HistogramPoint {
                    attributes: point.attributes,
                    start,
                    at,
                    histogram,
                    // Its span may be delivered shortly after the interval in which the flow closed.
                    exemplar: exemplar.map(|of| Exemplar {
                        at_unix_ns: of.at_unix_ns.max(start),
                        ..*of
                    }),
                })
            })
            .collect();
        if !points.is_empty() {
            let data = histogram::data(points, self.options.histograms, temporality(delta));
            self.push(metric, data);
        }
    }

    fn sum(
        &mut self,
        metric: Metric,
        data_points: Vec<NumberDataPoint>,
        delta: bool,
        is_monotonic: bool,
    ) {
        debug_assert_eq!(metric.kind == Kind::Counter, is_monotonic);
        if !data_points.is_empty() {
            let sum = Sum {
                data_points,
                aggregation_temporality: temporality(delta).into(),
                is_monotonic,
            };
            self.push(metric, Data::Sum(sum));
        }
    }

    fn push(&mut self, metric: Metric, data: Data) {
        self.metrics.push(ProtoMetric {
            name: metric.name.to_owned(),
            description: metric.description.to_owned(),
            unit: metric.unit.to_owned(),
            data: Some(data),
            ..Default::default()
        });
    }

    fn point(
        &self,
        attributes: Vec<KeyValue>,
        start: u64,
        value: number_data_point::Value,
    ) -> NumberDataPoint {
        NumberDataPoint {
            attributes,
            start_time_unix_nano: start,
            time_unix_nano: self.now.at_unix_ns,
            value: Some(value),
            ..Default::default()
        }
    }

    fn start(&self, delta: bool) -> u64 {
        match self.before.filter(|_| delta) {
            Some(before) => before.at_unix_ns,
            None => self.now.start_unix_ns,
        }
    }
}

const fn temporality(delta: bool) -> AggregationTemporality {
    if delta {
        AggregationTemporality::Delta
    } else {
        AggregationTemporality::Cumulative
    }
}

fn int(value: u64) -> number_data_point::Value {
    number_data_point::Value::AsInt(signed(value))
}

/// OTLP's integers have a sign.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
