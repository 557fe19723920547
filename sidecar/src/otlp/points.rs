//! The points of an OTLP metric, whatever its kind. Pure.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use opentelemetry_proto::tonic::{
    common::v1::KeyValue,
    metrics::v1::{
        Exemplar, ExponentialHistogram, Gauge, Histogram, Metric, ResourceMetrics, Sum, Summary,
        metric::Data,
    },
    resource::v1::Resource,
};
use prost::Message as _;

/// Runs the same code for every kind of points.
macro_rules! each_kind {
    ($data:expr, $of:ident => $body:expr) => {
        match $data {
            Data::Gauge($of) => $body,
            Data::Sum($of) => $body,
            Data::Histogram($of) => $body,
            Data::ExponentialHistogram($of) => $body,
            Data::Summary($of) => $body,
        }
    };
}

/// The identity of a resource: a hash of its attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ResourceId(u64);

impl ResourceId {
    /// That of these metrics.
    pub(super) fn of(metrics: &ResourceMetrics) -> Self {
        let mut hasher = DefaultHasher::new();
        let resource = metrics.resource.as_ref();
        resource.map(Resource::encode_to_vec).hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// The identity of a point: its resource, its metric's name and its attributes, encoded.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct PointId(Vec<u8>);

impl PointId {
    fn new(resource: ResourceId, metric: &str, attributes: &[KeyValue]) -> Self {
        let resource = resource.0.to_ne_bytes();
        let mut id = [&resource, metric.as_bytes(), b"\0"].concat();
        for attribute in attributes {
            attribute
                .encode_length_delimited(&mut id)
                .expect("memory takes every byte");
        }
        Self(id)
    }
}

/// The same as a hash. A collision in a process is as likely as a memory fault: with 20,000
/// points one in 10^11.
pub(super) fn hash(resource: ResourceId, metric: &str, attributes: &[KeyValue]) -> u64 {
    let mut hasher = DefaultHasher::new();
    PointId::new(resource, metric, attributes).hash(&mut hasher);
    hasher.finish()
}

/// How many points a metric has.
pub(super) fn count(metric: &Metric) -> usize {
    let count = |data: &Data| each_kind!(data, of => of.data_points.len());
    metric.data.as_ref().map_or(0, count)
}

/// How many of its points, from the first on, take no more than so many bytes in an encoded metric.
pub(super) fn fitting(metric: &Metric, bytes: usize) -> usize {
    let mut room = bytes;
    let mut fits = |length: usize| {
        let left = room.checked_sub(framed(length));
        room = left.unwrap_or(0);
        left.is_some()
    };
    metric.data.as_ref().map_or(0, |data| {
        each_kind!(data, of => of.data_points.iter().take_while(|point| fits(point.encoded_len())).count())
    })
}

/// Splits off its points from number `at` on, as a metric of the same name and kind.
pub(super) fn split_off(metric: &mut Metric, at: usize) -> Metric {
    let data = metric.data.as_mut().map(|data| match data {
        Data::Gauge(of) => Data::Gauge(Gauge {
            data_points: of.data_points.split_off(at),
        }),
        Data::Sum(of) => Data::Sum(Sum {
            data_points: of.data_points.split_off(at),
            aggregation_temporality: of.aggregation_temporality,
            is_monotonic: of.is_monotonic,
        }),
        Data::Histogram(of) => Data::Histogram(Histogram {
            data_points: of.data_points.split_off(at),
            aggregation_temporality: of.aggregation_temporality,
        }),
        Data::ExponentialHistogram(of) => Data::ExponentialHistogram(ExponentialHistogram {
            data_points: of.data_points.split_off(at),
            aggregation_temporality: of.aggregation_temporality,
        }),
        Data::Summary(of) => Data::Summary(Summary {
            data_points: of.data_points.split_off(at),
        }),
    });
    Metric {
        name: metric.name.clone(),
        description: metric.description.clone(),
        unit: metric.unit.clone(),
        metadata: metric.metadata.clone(),
        data,
    }
}

/// Keeps the points that `keep` wants. Returns whether any is left.
pub(super) fn retain(
    resource: ResourceId,
    metric: &mut Metric,
    mut keep: impl FnMut(&PointId) -> bool,
) -> bool {
    let name = &metric.name;
    let Some(data) = &mut metric.data else {
        return false;
    };
    each_kind!(data, of => {
        of.data_points.retain(|point| keep(&PointId::new(resource, name, &point.attributes)));
        !of.data_points.is_empty()
    })
}

/// The points of a metric.
pub(super) fn ids(resource: ResourceId, metric: &Metric) -> Vec<PointId> {
    let of = |data: &Data| {
        each_kind!(data, of => of
            .data_points
            .iter()
            .map(|point| PointId::new(resource, &metric.name, &point.attributes))
            .collect())
    };
    metric.data.as_ref().map_or_else(Vec::new, of)
}

/// The spans that its exemplars name.
pub(super) fn exemplar_spans(metric: &Metric) -> Vec<u64> {
    let spans = |exemplars: &[Exemplar]| -> Vec<u64> {
        let ids = exemplars.iter().map(|exemplar| exemplar.span_id.as_slice());
        ids.filter_map(|id| Some(u64::from_be_bytes(id.try_into().ok()?)))
            .collect()
    };
    match &metric.data {
        Some(Data::Histogram(of)) => of
            .data_points
            .iter()
            .flat_map(|point| spans(&point.exemplars))
            .collect(),
        Some(Data::ExponentialHistogram(of)) => of
            .data_points
            .iter()
            .flat_map(|point| spans(&point.exemplars))
            .collect(),
        _ => Vec::new(),
    }
}

/// The most bytes that a message of this length takes in another, with its tag and its length.
pub(super) const fn framed(length: usize) -> usize {
    const TAG_AND_LENGTH: usize = 6;
    length + TAG_AND_LENGTH
}
