//! Histograms against the sorted samples that went in.

use flowcar::histogram::{Histogram, ZERO_THRESHOLD_S};
use flowcar_shared::histogram::MICROS;
use proptest::prelude::*;

/// One bucket of scale 3, and the error of two conversions to floating point.
const BUCKET: f64 = 1.090_507_732_665_257_7 * (1.0 + 1e-12);

/// Nanoseconds of every magnitude from 1 ns to 1,000 s.
fn durations() -> impl Strategy<Value = Vec<u64>> {
    let duration = (0.0_f64..27.6).prop_map(|exponent| exponent.exp() as u64);
    proptest::collection::vec(duration, 1..300)
}

fn of(samples: &[u64]) -> Histogram {
    let mut histogram = Histogram::default();
    samples.iter().for_each(|sample| histogram.record(*sample));
    histogram
}

/// All but the extremes.
type Counts = (u64, u128, u64, Vec<(i32, u64)>);

fn counts(histogram: &Histogram) -> Counts {
    let used = histogram.buckets().filter(|(_, count)| *count > 0);
    (
        histogram.count(),
        histogram.sum_ns(),
        histogram.zero_count(),
        used.collect(),
    )
}

proptest! {
    #[test]
    fn quantiles_are_within_a_bucket(mut samples in durations(), q in 0.0_f64..=1.0) {
        let found = of(&samples).quantile_s(q).expect("not empty");
        samples.sort_unstable();
        let rank = ((q * samples.len() as f64).ceil() as usize).max(1);
        let exact = samples[rank - 1] as f64 / 1e9;
        if exact <= ZERO_THRESHOLD_S {
            prop_assert!(found <= ZERO_THRESHOLD_S);
        } else {
            prop_assert!(found >= exact / BUCKET && found <= exact * BUCKET, "{} for {}", found, exact);
        }
    }

    #[test]
    fn sums_and_extremes_are_exact(samples in durations()) {
        let histogram = of(&samples);
        prop_assert_eq!(histogram.count(), samples.len() as u64);
        prop_assert_eq!(histogram.sum_ns(), samples.iter().map(|ns| u128::from(*ns)).sum::<u128>());
        prop_assert_eq!(histogram.min_ns(), samples.iter().min().copied());
        prop_assert_eq!(histogram.max_ns(), samples.iter().max().copied());
        let in_buckets: u64 = histogram.buckets().map(|(_, count)| count).sum();
        prop_assert_eq!(histogram.zero_count() + in_buckets, histogram.count());
    }

    #[test]
    fn merged_histogram_equals_one_recording(a in durations(), b in durations()) {
        let mut merged = of(&a);
        merged.merge(&of(&b));
        let one = of(&[a, b].concat());
        prop_assert_eq!(counts(&merged), counts(&one));
        prop_assert_eq!((merged.min_ns(), merged.max_ns()), (one.min_ns(), one.max_ns()));
    }

    #[test]
    fn difference_holds_the_newer_samples(before in durations(), after in durations(), other in durations()) {
        let older = of(&before);
        let newer = of(&[before, after.clone()].concat());
        prop_assert_eq!(counts(&newer.since(&older)), counts(&of(&after)));
        prop_assert!(newer.since(&newer).is_empty());

        let mut sum = of(&other);
        sum.merge_since(&newer, Some(&older));
        prop_assert_eq!(counts(&sum), counts(&of(&[other, after].concat())));
    }

    /// The kernel's slots are microseconds; the same durations in nanoseconds lie in the same buckets.
    #[test]
    fn kernel_slots_are_the_same_buckets(samples in proptest::collection::vec(1_u32..16_000_000, 1..200)) {
        let nanoseconds: Vec<u64> = samples.iter().map(|us| u64::from(*us) * 1000).collect();
        let recorded = of(&nanoseconds);
        let mut added = Histogram::default();
        added.add_slots(
            samples.iter().map(|us| (MICROS.slot((*us).into()), 1)),
            recorded.sum_ns(),
            recorded.min_ns().zip(recorded.max_ns()),
        );
        prop_assert_eq!(added, recorded);
    }
}

#[test]
fn empty_histogram_has_no_quantiles() {
    let empty = Histogram::default();
    assert!(empty.is_empty());
    assert_eq!(empty.quantile_s(0.5), None);
    assert_eq!((empty.min_ns(), empty.max_ns()), (None, None));
}
