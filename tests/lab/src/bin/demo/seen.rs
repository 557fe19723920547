//! What came as OTLP, by the pod that it is about. Nothing on the screen is from elsewhere, but for the lines that
//! name the link or the applications as their source.

use std::collections::BTreeMap;

use flowcar::{
    otlp::names::{self, attribute},
    sink::Received,
};
use opentelemetry_proto::tonic::{
    common::v1::{KeyValue, any_value::Value},
    metrics::v1::{
        ExponentialHistogramDataPoint, Metric, NumberDataPoint, metric::Data, number_data_point,
    },
    resource::v1::Resource,
    trace::v1::{Span, span::SpanKind},
};

/// All pods, by `service.name`.
#[derive(Debug, Default)]
pub(crate) struct Seen(BTreeMap<String, Pod>);

/// One pod.
#[derive(Debug, Default)]
pub(crate) struct Pod {
    /// Spans of connections, in the order of their start. Those of parts of connections are not among them.
    pub(crate) spans: Vec<Span>,
    /// The last report: it is cumulative, so it holds what all before it did.
    metrics: BTreeMap<String, Metric>,
}

/// One connection as both ends saw it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair<'a> {
    /// The client's span.
    pub(crate) client: &'a Span,
    /// The server's span, its child.
    pub(crate) server: &'a Span,
}

/// A histogram: the sum of some of a metric's points.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Distribution {
    scale: i32,
    buckets: BTreeMap<i32, u64>,
}

// === impl Seen ===

impl Seen {
    /// Takes an export in.
    pub(crate) fn take(&mut self, export: Received) {
        match export {
            Received::Metrics(export) => {
                let mut workload = String::new();
                for resource in export.resource_metrics {
                    let metrics = resource.scope_metrics.into_iter().flat_map(|s| s.metrics);
                    // flowcar's own metrics follow those of the workload that it is beside.
                    let service = service(resource.resource.as_ref());
                    if service != "flowcar" {
                        service.clone_into(&mut workload);
                        self.0.entry(workload.clone()).or_default().metrics.clear();
                    }
                    let named = metrics.map(|metric| (metric.name.clone(), metric));
                    let pod = self.0.entry(workload.clone()).or_default();
                    pod.metrics.extend(named);
                }
            }
            // Off by default.
            Received::Logs(_) => {}
            Received::Traces(export) => {
                for of_pod in export.resource_spans {
                    let spans = of_pod.scope_spans.into_iter().flat_map(|scope| scope.spans);
                    let whole = spans.filter(|span| span.kind() != SpanKind::Internal);
                    let pod = self.of(of_pod.resource.as_ref());
                    pod.spans.extend(whole);
                    pod.spans.sort_by_key(|span| span.start_time_unix_nano);
                }
            }
        }
    }

    /// The pod of that `service.name`, if anything came of it.
    pub(crate) fn pod(&self, service: &str) -> Option<&Pod> {
        self.0.get(service)
    }

    /// The connections of which both ends are here, joined as any back end joins them: one trace id, and the
    /// server's span names the client's as its parent.
    pub(crate) fn pairs(&self, client: &str, server: &str) -> Vec<Pair<'_>> {
        let spans = |service| self.pod(service).map_or(&[][..], |pod| &pod.spans);
        spans(client)
            .iter()
            .filter_map(|client| {
                let is_child = |span: &&Span| {
                    span.trace_id == client.trace_id && span.parent_span_id == client.span_id
                };
                let server = spans(server).iter().find(is_child)?;
                Some(Pair { client, server })
            })
            .collect()
    }

    fn of(&mut self, resource: Option<&Resource>) -> &mut Pod {
        self.0.entry(service(resource).to_owned()).or_default()
    }
}

fn service(resource: Option<&Resource>) -> &str {
    let attributes = resource.map_or(&[][..], |resource| &resource.attributes);
    text(attributes, "service.name").unwrap_or_default()
}

// === impl Pod ===

impl Pod {
    /// The sum of the metric's points that have these attributes, of counters and gauges alike.
    pub(crate) fn total(&self, metric: names::Metric, with: &[(&str, &str)]) -> f64 {
        let points: &[NumberDataPoint] = match self.data(metric) {
            Some(Data::Sum(sum)) => &sum.data_points,
            Some(Data::Gauge(gauge)) => &gauge.data_points,
            _ => &[],
        };
        points
            .iter()
            .filter(|point| has(&point.attributes, with))
            .map(|point| match point.value {
                Some(number_data_point::Value::AsInt(int)) => int as f64,
                Some(number_data_point::Value::AsDouble(double)) => double,
                None => 0.0,
            })
            // Not sum(): of no points, that is -0.
            .fold(0.0, |sum, value| sum + value)
    }

    /// The sum of the metric's histograms, without those of attempts that failed.
    pub(crate) fn distribution(&self, metric: names::Metric) -> Distribution {
        let points: &[ExponentialHistogramDataPoint] = match self.data(metric) {
            Some(Data::ExponentialHistogram(histogram)) => &histogram.data_points,
            _ => &[],
        };
        let mut sum = Distribution::default();
        for point in points {
            if value(&point.attributes, attribute::ERROR_TYPE).is_none() {
                sum.add(point);
            }
        }
        sum
    }

    fn data(&self, metric: names::Metric) -> Option<&Data> {
        self.metrics.get(metric.name)?.data.as_ref()
    }
}

// === impl Distribution ===

impl Distribution {
    /// Values counted.
    pub(crate) fn count(&self) -> u64 {
        self.buckets.values().sum()
    }

    /// A value that the share `q` of all does not exceed, by geometric interpolation in its bucket.
    pub(crate) fn quantile(&self, q: f64) -> Option<f64> {
        let rank = (q * self.count() as f64).ceil().max(1.0);
        let mut below = 0.0;
        for (index, count) in &self.buckets {
            let within = (rank - below) / *count as f64;
            below += *count as f64;
            if rank <= below {
                return Some(self.bound(f64::from(*index) + within));
            }
        }
        None
    }

    /// At most so many rows of equal width on the scale of the buckets: lower bound, upper bound, count.
    pub(crate) fn rows(&self, most: i32) -> Vec<(f64, f64, u64)> {
        let (Some((first, _)), Some((last, _))) = (
            self.buckets.first_key_value(),
            self.buckets.last_key_value(),
        ) else {
            return Vec::new();
        };
        let together = (last - first + most) / most;
        (*first..=*last)
            .step_by(together as usize)
            .map(|from| {
                let to = from + together;
                let count = self.buckets.range(from..to).map(|(_, count)| count).sum();
                (
                    self.bound(f64::from(from)),
                    self.bound(f64::from(to)),
                    count,
                )
            })
            .collect()
    }

    /// OTLP: bucket `i` ends at 2^((i + 1) / 2^scale).
    fn bound(&self, index: f64) -> f64 {
        (index * f64::from(-self.scale).exp2()).exp2()
    }

    fn add(&mut self, point: &ExponentialHistogramDataPoint) {
        if self.buckets.is_empty() {
            self.scale = point.scale;
        }
        if point.scale < self.scale {
            let coarser = self.scale - point.scale;
            let buckets = std::mem::take(&mut self.buckets);
            self.scale = point.scale;
            for (index, count) in buckets {
                *self.buckets.entry(index >> coarser).or_default() += count;
            }
        }
        let finer = point.scale - self.scale;
        let positive = point.positive.iter();
        let counts = positive.flat_map(|some| some.bucket_counts.iter().zip(some.offset..));
        for (count, index) in counts.filter(|(count, _)| **count > 0) {
            *self.buckets.entry(index >> finer).or_default() += count;
        }
    }
}

/// A span's attribute of whole numbers.
pub(crate) fn integer(span: &Span, key: &str) -> u64 {
    match value(&span.attributes, key) {
        Some(Value::IntValue(int)) => u64::try_from(*int).unwrap_or_default(),
        _ => 0,
    }
}

/// A span's attribute of seconds.
pub(crate) fn seconds(span: &Span, key: &str) -> Option<f64> {
    match value(&span.attributes, key)? {
        Value::DoubleValue(double) => Some(*double),
        _ => None,
    }
}

/// An attribute that is a text.
pub(crate) fn text<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    match value(attributes, key)? {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}

fn value<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a Value> {
    let attribute = attributes.iter().find(|attribute| attribute.key == key)?;
    attribute.value.as_ref()?.value.as_ref()
}

fn has(attributes: &[KeyValue], wanted: &[(&str, &str)]) -> bool {
    wanted
        .iter()
        .all(|(key, value)| text(attributes, key) == Some(*value))
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;

    use super::*;

    fn point(scale: i32, offset: i32, counts: &[u64]) -> ExponentialHistogramDataPoint {
        ExponentialHistogramDataPoint {
            scale,
            positive: Some(Buckets {
                offset,
                bucket_counts: counts.to_vec(),
            }),
            ..Default::default()
        }
    }

    #[test]
    fn points_of_different_scales_sum_at_the_coarser() {
        let mut sum = Distribution::default();
        // (1, 2^(1/2)] and (2^(1/2), 2], then (1, 2] and (4, 8].
        sum.add(&point(1, 0, &[3, 4]));
        sum.add(&point(0, 0, &[1, 0, 2]));
        assert_eq!(sum.rows(3), [(1.0, 2.0, 8), (2.0, 4.0, 0), (4.0, 8.0, 2)]);
        assert_eq!(sum.rows(2), [(1.0, 4.0, 8), (4.0, 16.0, 2)]);
        assert_eq!(sum.quantile(0.4), Some(2_f64.sqrt()));
        assert_eq!(sum.quantile(1.0), Some(8.0));
        assert_eq!(Distribution::default().quantile(0.5), None);
    }
}
