//! flowcar's histograms as OTLP's two kinds.

use opentelemetry_proto::tonic::{
    common::v1::KeyValue,
    metrics::v1::{
        AggregationTemporality, ExponentialHistogram, ExponentialHistogramDataPoint,
        Histogram as ExplicitHistogram, HistogramDataPoint,
        exponential_histogram_data_point::Buckets, metric::Data,
    },
};

use crate::{
    config::Histograms,
    histogram::{Histogram, SCALE, ZERO_THRESHOLD_S, boundary_s},
    otlp::exemplars::Exemplar,
};

/// The most buckets of a point: OpenTelemetry's own default, which back ends expect.
const MOST_BUCKETS: i32 = 160;

/// Explicit bounds are 2^-17 s (7.6 us, the zero threshold) to 2^12 s (68 minutes), each twice the one before.
/// flowcar's buckets nest in them, so every count is exact.
const EXPLICIT_POWERS: std::ops::RangeInclusive<i32> = -17..=12;

/// One point.
pub(super) struct HistogramPoint {
    pub(super) attributes: Vec<KeyValue>,
    /// Nanoseconds since the Unix epoch.
    pub(super) start: u64,
    /// Nanoseconds since the Unix epoch.
    pub(super) at: u64,
    pub(super) histogram: Histogram,
    pub(super) exemplar: Option<Exemplar>,
}

/// The points as data of the kind wanted.
pub(super) fn data(
    points: Vec<HistogramPoint>,
    kind: Histograms,
    temporality: AggregationTemporality,
) -> Data {
    let aggregation_temporality = temporality.into();
    let extremes = |point: &HistogramPoint| match temporality {
        AggregationTemporality::Cumulative => Extremes::default(),
        _ => Extremes::of(&point.histogram),
    };
    match kind {
        Histograms::Exponential => {
            let point = |of| exponential(extremes(&of), of);
            Data::ExponentialHistogram(ExponentialHistogram {
                data_points: points.into_iter().map(point).collect(),
                aggregation_temporality,
            })
        }
        Histograms::Explicit => {
            let point = |of| explicit(extremes(&of), of);
            Data::Histogram(ExplicitHistogram {
                data_points: points.into_iter().map(point).collect(),
                aggregation_temporality,
            })
        }
    }
}

/// The least and the greatest value of a point, seconds, where it has them. A cumulative point has neither: over a series' life they
/// stop to change (OpenTelemetry's data model), and its first and last buckets have them to 9 %.
#[derive(Default)]
struct Extremes {
    min: Option<f64>,
    max: Option<f64>,
}

impl Extremes {
    fn of(histogram: &Histogram) -> Self {
        Self {
            min: histogram.min_ns().map(seconds),
            max: histogram.max_ns().map(seconds),
        }
    }
}

fn exponential(extremes: Extremes, point: HistogramPoint) -> ExponentialHistogramDataPoint {
    let histogram = &point.histogram;
    let merged = doublings_to_merge(histogram);
    ExponentialHistogramDataPoint {
        start_time_unix_nano: point.start,
        time_unix_nano: point.at,
        count: histogram.count(),
        sum: Some(sum_s(histogram)),
        scale: SCALE - merged,
        zero_count: histogram.zero_count(),
        zero_threshold: if histogram.zero_count() > 0 {
            ZERO_THRESHOLD_S
        } else {
            0.0
        },
        positive: positive(histogram, merged),
        min: extremes.min,
        max: extremes.max,
        exemplars: point.exemplar.iter().map(Into::into).collect(),
        attributes: point.attributes,
        ..Default::default()
    }
}

/// How far the scale must fall for the buckets to fit: each step merges pairs.
fn doublings_to_merge(histogram: &Histogram) -> i32 {
    let mut indexes = histogram.buckets().map(|(index, _)| index);
    let Some(first) = indexes.next() else {
        return 0;
    };
    let last = indexes.last().unwrap_or(first);
    (0..)
        .find(|merged| (last >> merged) - (first >> merged) < MOST_BUCKETS)
        .expect("at last one bucket is left on each side of 1 s")
}

fn positive(histogram: &Histogram, merged: i32) -> Option<Buckets> {
    let offset = histogram.buckets().next()?.0 >> merged;
    let mut bucket_counts = Vec::new();
    for (index, count) in histogram.buckets() {
        let at = ((index >> merged) - offset) as usize;
        if at >= bucket_counts.len() {
            bucket_counts.resize(at + 1, 0);
        }
        bucket_counts[at] += count;
    }
    Some(Buckets {
        offset,
        bucket_counts,
    })
}

fn explicit(extremes: Extremes, point: HistogramPoint) -> HistogramDataPoint {
    let histogram = &point.histogram;
    let octave = 1 << SCALE;
    let bounds = EXPLICIT_POWERS.map(|power| boundary_s(f64::from(power * octave)));
    let mut bucket_counts = vec![0; EXPLICIT_POWERS.count() + 1];
    bucket_counts[0] = histogram.zero_count();
    for (index, count) in histogram.buckets() {
        // Bucket `index` ends at 2^((index + 1) / 8), so it lies in the octave that ends there or above.
        let power = index.div_euclid(octave) + 1;
        let at = (power - EXPLICIT_POWERS.start()).max(0) as usize;
        let last = bucket_counts.len() - 1;
        bucket_counts[at.min(last)] += count;
    }
    HistogramDataPoint {
        start_time_unix_nano: point.start,
        time_unix_nano: point.at,
        count: histogram.count(),
        sum: Some(sum_s(histogram)),
        bucket_counts,
        explicit_bounds: bounds.collect(),
        min: extremes.min,
        max: extremes.max,
        exemplars: point.exemplar.iter().map(Into::into).collect(),
        attributes: point.attributes,
        ..Default::default()
    }
}

fn sum_s(histogram: &Histogram) -> f64 {
    histogram.sum_ns() as f64 / 1e9
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}
