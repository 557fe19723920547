//! Buckets of both kinds hold what lies within their bounds.

use super::*;

fn exponential(histogram: &Histogram) -> ExponentialHistogramDataPoint {
    match histogram_data(histogram, Histograms::Exponential) {
        Data::ExponentialHistogram(mut data) => data.data_points.remove(0),
        other => panic!("{other:?}"),
    }
}

fn explicit(histogram: &Histogram) -> HistogramDataPoint {
    match histogram_data(histogram, Histograms::Explicit) {
        Data::Histogram(mut data) => data.data_points.remove(0),
        other => panic!("{other:?}"),
    }
}

fn histogram_data(of: &Histogram, kind: Histograms) -> Data {
    let point = HistogramPoint {
        attributes: Vec::new(),
        start: START,
        at: AT,
        histogram: of.clone(),
        exemplar: None,
    };
    histogram::data(vec![point], kind, AggregationTemporality::Cumulative)
}

#[test]
fn range_over_160_buckets_is_merged() {
    // 10 us to 9 hours is 30 doublings: 244 buckets of scale 3, 122 of scale 2.
    let point = exponential(&recorded(&[10_000, 32_400_000_000_000]));
    assert_eq!(point.scale, 2);
    let buckets = point.positive.expect("buckets");
    assert!(buckets.bucket_counts.len() <= 160);
    assert_eq!(buckets.bucket_counts.iter().sum::<u64>(), 2);
    // The specification's formula: index = ceil(log2(value) * 2^scale) - 1.
    assert_eq!(
        buckets.offset,
        ((0.000_01_f64).log2() * 4.0).ceil() as i32 - 1
    );
}

proptest! {
    #[test]
    fn every_duration_is_within_its_bucket_bounds(
        durations in prop::collection::vec(0u64..40_000_000_000_000, 1..50),
    ) {
        let point = exponential(&recorded(&durations));
        let buckets = point.positive.clone().unwrap_or_default();
        prop_assert!(buckets.bucket_counts.len() <= 160);
        prop_assert_eq!(point.count, durations.len() as u64);
        let total = point.zero_count + buckets.bucket_counts.iter().sum::<u64>();
        prop_assert_eq!(total, point.count);
        let base = 2f64.powi(point.scale);
        let mut cumulative = point.zero_count;
        for (at, count) in buckets.bucket_counts.iter().enumerate() {
            cumulative += count;
            let upper = (f64::from(buckets.offset + at as i32 + 1) / base).exp2();
            let below = durations.iter().filter(|ns| **ns as f64 / 1e9 <= upper).count();
            prop_assert_eq!(cumulative, below as u64, "up to {} s", upper);
        }
        let at_zero = durations.iter().filter(|ns| **ns as f64 / 1e9 <= point.zero_threshold);
        prop_assert_eq!(point.zero_count, at_zero.count() as u64);
    }

    #[test]
    fn explicit_buckets_count_values_within_their_bounds(
        durations in prop::collection::vec(0u64..40_000_000_000_000, 1..50),
    ) {
        let point = explicit(&recorded(&durations));
        prop_assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
        let mut cumulative = 0;
        for (count, upper) in point.bucket_counts.iter().zip(&point.explicit_bounds) {
            cumulative += count;
            let below = durations.iter().filter(|ns| **ns as f64 / 1e9 <= *upper).count();
            prop_assert_eq!(cumulative, below as u64, "up to {} s", upper);
        }
        prop_assert_eq!(point.bucket_counts.iter().sum::<u64>(), durations.len() as u64);
    }
}
