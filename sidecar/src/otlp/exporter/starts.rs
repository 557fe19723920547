//! The start time of each cumulative point: that of the last acknowledged report without the point (metrics SDK specification, "Start
//! timestamps"). With its first value a point of zero is sent for that time: a back end that ignores start timestamps, such as
//! Prometheus by default, counts increases from the first value that it gets, and would miss that first value.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, DefaultHasher},
};

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    metrics::v1::{
        AggregationTemporality, ExponentialHistogramDataPoint, HistogramDataPoint, Metric,
        NumberDataPoint, metric::Data, number_data_point::Value,
    },
};

use crate::otlp::{
    names,
    points::{self, ResourceId},
};

/// Points of zero are not sent for a time longer ago: Prometheus refuses samples that are older than half its block, an hour, and
/// with them the whole request.
const OLDEST_NS: u64 = 30 * 60 * 1_000_000_000;

/// The starts of all cumulative points.
#[derive(Debug, Default)]
pub(super) struct Starts {
    points: HashMap<u64, Start, BuildHasherDefault<DefaultHasher>>,
    /// When the last acknowledged report was made, nanoseconds since the Unix epoch.
    settled_unix_ns: Option<u64>,
    /// Counts reports.
    report: u64,
}

/// The resource of points.
#[derive(Clone, Copy)]
struct Of {
    id: ResourceId,
    is_own: bool,
}

/// The state of one point.
#[derive(Debug)]
struct Start {
    /// Nanoseconds since the Unix epoch.
    at_unix_ns: u64,
    /// Whether the receiver has it, or refused it.
    is_settled: bool,
    /// Whether its value is zero, in the last report and in the last settled report.
    is_zero: bool,
    was_zero: bool,
    /// The last report with it.
    report: u64,
    /// Whether it is a self metric: not every report has all of them.
    is_own: bool,
}

impl Starts {
    /// Sets the start of every cumulative point, adds the points of zero, and omits live counts of 0 once the receiver has
    /// them. `start_unix_ns` is flowcar's own start, `at_unix_ns` the time of the report.
    pub(super) fn apply(
        &mut self,
        request: &mut ExportMetricsServiceRequest,
        start_unix_ns: u64,
        at_unix_ns: u64,
    ) {
        self.report += 1;
        let since = self.settled_unix_ns.unwrap_or(start_unix_ns);
        let since = since.max(at_unix_ns.saturating_sub(OLDEST_NS));
        // flowcar's own resource is the last one.
        let own = request.resource_metrics.len().saturating_sub(1);
        for (number, of) in request.resource_metrics.iter_mut().enumerate() {
            let resource = Of {
                id: ResourceId::of(of),
                is_own: number == own && number > 0,
            };
            for metric in of.scope_metrics.iter_mut().flat_map(|of| &mut of.metrics) {
                self.metric(resource, metric, since);
            }
        }
    }

    /// The receiver has the last report, or refused it permanently: points that begin in the next one were absent in this one.
    pub(super) fn settled(&mut self, at_unix_ns: u64) {
        self.settled_unix_ns = Some(at_unix_ns);
        let report = self.report;
        self.points.retain(|_, start| {
            if start.report != report {
                return start.is_own;
            }
            start.is_settled = true;
            start.was_zero = start.is_zero;
            true
        });
    }

    fn metric(&mut self, resource: Of, metric: &mut Metric, since: u64) {
        const CUMULATIVE: i32 = AggregationTemporality::Cumulative as i32;
        let name = metric.name.as_str();
        match &mut metric.data {
            Some(Data::Sum(sum)) if sum.aggregation_temporality == CUMULATIVE => {
                if sum.is_monotonic {
                    self.begin(resource, name, &mut sum.data_points, since);
                } else {
                    self.levels(resource, name, &mut sum.data_points, since);
                }
            }
            Some(Data::Histogram(of)) if of.aggregation_temporality == CUMULATIVE => {
                self.begin(resource, name, &mut of.data_points, since);
            }
            Some(Data::ExponentialHistogram(of)) if of.aggregation_temporality == CUMULATIVE => {
                self.begin(resource, name, &mut of.data_points, since);
            }
            _ => {}
        }
    }

    fn begin<P: Point>(&mut self, resource: Of, name: &str, all: &mut Vec<P>, since: u64) {
        let mut with_zeros = Vec::with_capacity(all.len());
        for mut point in all.drain(..) {
            let id = points::hash(resource.id, name, point.attributes());
            let start = self.start(resource, id, since);
            point.begins(start.at_unix_ns);
            if !start.is_settled {
                with_zeros.push(point.zero(start.at_unix_ns));
            }
            with_zeros.push(point);
        }
        *all = with_zeros;
    }

    fn levels(&mut self, resource: Of, name: &str, all: &mut Vec<NumberDataPoint>, since: u64) {
        all.retain_mut(|point| {
            let id = points::hash(resource.id, name, &point.attributes);
            let is_zero = matches!(point.value, Some(Value::AsInt(0)));
            let is_live = name == names::LIVE.name;
            let is_known = self
                .points
                .get(&id)
                .is_some_and(|start| !(start.is_settled && start.was_zero));
            if is_live && is_zero && !is_known {
                // It is omitted from now on, and restarts later.
                return false;
            }
            let start = self.start(resource, id, since);
            start.is_zero = is_zero;
            point.start_time_unix_nano = start.at_unix_ns;
            true
        });
    }

    fn start(&mut self, resource: Of, id: u64, since: u64) -> &mut Start {
        let report = self.report;
        let start = self.points.entry(id).or_insert(Start {
            at_unix_ns: since,
            is_settled: false,
            is_zero: false,
            was_zero: false,
            report,
            is_own: resource.is_own,
        });
        start.report = report;
        start
    }
}

/// A point that counts since a start.
trait Point {
    fn attributes(&self) -> &[opentelemetry_proto::tonic::common::v1::KeyValue];
    fn begins(&mut self, at_unix_ns: u64);
    /// The same point, as of a time when it had counted nothing.
    fn zero(&self, at_unix_ns: u64) -> Self;
}

macro_rules! point {
    ($kind:ty, $zero:expr) => {
        impl Point for $kind {
            fn attributes(&self) -> &[opentelemetry_proto::tonic::common::v1::KeyValue] {
                &self.attributes
            }

            fn begins(&mut self, at_unix_ns: u64) {
                self.start_time_unix_nano = at_unix_ns;
            }

            fn zero(&self, at_unix_ns: u64) -> Self {
                let zero: fn(&Self) -> Self = $zero;
                Self {
                    attributes: self.attributes.clone(),
                    start_time_unix_nano: at_unix_ns,
                    time_unix_nano: at_unix_ns,
                    ..zero(self)
                }
            }
        }
    };
}

point!(NumberDataPoint, |of| NumberDataPoint {
    value: Some(match of.value {
        Some(Value::AsDouble(_)) => Value::AsDouble(0.0),
        Some(Value::AsInt(_)) | None => Value::AsInt(0),
    }),
    ..Default::default()
});
point!(HistogramDataPoint, |of| HistogramDataPoint {
    sum: Some(0.0),
    bucket_counts: vec![0; of.bucket_counts.len()],
    explicit_bounds: of.explicit_bounds.clone(),
    ..Default::default()
});
point!(ExponentialHistogramDataPoint, |of| {
    ExponentialHistogramDataPoint {
        sum: Some(0.0),
        scale: of.scale,
        zero_threshold: of.zero_threshold,
        ..Default::default()
    }
});

#[cfg(test)]
mod tests;
