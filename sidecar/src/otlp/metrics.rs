//! A snapshot as OTLP metrics. Pure.

mod histogram;
mod listeners;
mod own;
mod tcp;

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    metrics::v1::{
        AggregationTemporality, Gauge, Metric as ProtoMetric, NumberDataPoint, ResourceMetrics,
        ScopeMetrics, Sum, metric::Data, number_data_point,
    },
};

use self::histogram::HistogramPoint;
use super::{
    exemplars::{Exemplar, Exemplars},
    names::{Kind, Metric, SCHEMA_URL, SCOPE, VERSION},
    resource::Resource,
    values::is_known,
};
use crate::{
    config::{Histograms, Temporality},
    histogram::Histogram,
    snapshot::Snapshot,
};

/// How snapshots are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Since when sums and histograms count.
    pub temporality: Temporality,
    /// The kind of histograms.
    pub histograms: Histograms,
}

/// The request that tells `snapshot`. Deltas are against `previous`, the snapshot that the receiver
/// acknowledged last; none means all since the start.
pub fn encode(
    snapshot: &Snapshot,
    resource: &Resource,
    options: Options,
    previous: Option<&Snapshot>,
    exemplars: &Exemplars,
) -> ExportMetricsServiceRequest {
    let mut encoder = Encoder::new(snapshot, options, previous, exemplars);
    tcp::encode(&mut encoder);
    listeners::encode(&mut encoder);
    own::encode(&mut encoder);
    let scope_metrics = ScopeMetrics {
        scope: Some(InstrumentationScope {
            name: SCOPE.to_owned(),
            version: VERSION.to_owned(),
            ..Default::default()
        }),
        metrics: encoder.metrics,
        schema_url: SCHEMA_URL.to_owned(),
    };
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(resource.to_proto()),
            scope_metrics: vec![scope_metrics],
            schema_url: SCHEMA_URL.to_owned(),
        }],
    }
}

/// An attribute with a text.
pub(super) fn text(name: &str, value: &str) -> KeyValue {
    debug_assert!(is_known(name, value), "{name}={value} is not documented");
    attribute(name, Value::StringValue(value.to_owned()))
}

fn attribute(name: &str, value: Value) -> KeyValue {
    KeyValue {
        key: name.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..Default::default()
    }
}

/// The metrics made so far, and what each of their points needs.
struct Encoder<'a> {
    now: &'a Snapshot,
    before: Option<&'a Snapshot>,
    options: Options,
    exemplars: &'a Exemplars,
    metrics: Vec<ProtoMetric>,
}

/// A histogram now, what it was in the snapshot before, its attributes and its exemplar.
struct DurationPoint<'a> {
    attributes: Vec<KeyValue>,
    now: &'a Histogram,
    before: Option<&'a Histogram>,
    exemplar: Option<&'a Exemplar>,
}

/// A point of a metric that counts: what it counts now, and what it did in the snapshot before.
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

    /// Adds a counter. Deltas of 0 are left out: they say nothing.
    fn counter(&mut self, metric: Metric, points: Vec<CountPoint>) {
        let delta = self.options.temporality == Temporality::Delta;
        let start = self.start(delta);
        let points = points
            .into_iter()
            .filter(|point| !delta || point.now != point.before)
            .map(|point| {
                let value = point.now - if delta { point.before } else { 0 };
                self.point(point.attributes, start, int(value))
            })
            .collect();
        self.sum(metric, points, delta, true);
    }

    /// Adds an up-down counter, which is since the start in every temporality.
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

    /// Adds a counter of seconds: attributes, what it counts now, and what it did before. Deltas of 0 are left out.
    fn seconds(&mut self, metric: Metric, points: Vec<(Vec<KeyValue>, f64, f64)>) {
        let delta = self.options.temporality == Temporality::Delta;
        let start = self.start(delta);
        let points = points
            .into_iter()
            .map(|(attributes, now, before)| (attributes, now - if delta { before } else { 0.0 }))
            .filter(|(_, value)| !delta || *value != 0.0)
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
                // Of one that ended since, the histogram does not know yet.
                let exemplar = point.exemplar.filter(|of| of.at_unix_ns <= at);
                (!histogram.is_empty()).then_some(HistogramPoint {
                    attributes: point.attributes,
                    start,
                    at,
                    histogram,
                    // Its span is delivered a little later than the interval may end in which the flow did.
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
