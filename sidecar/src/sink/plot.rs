//! Histograms drawn as text.

use opentelemetry_proto::tonic::metrics::v1::{ExponentialHistogramDataPoint, HistogramDataPoint};

/// Columns of a drawing, at most.
const WIDTH: usize = 24;

const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A histogram of any kind as bounds and counts. Bounds are positive and ascend.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Plot {
    /// Lower bound, upper bound and count of each bucket, ascending and without gaps.
    buckets: Vec<(f64, f64, u64)>,
    min: Option<f64>,
    max: Option<f64>,
}

impl From<&ExponentialHistogramDataPoint> for Plot {
    /// Values that are not above 0 are drawn as one bucket up to the zero threshold.
    fn from(point: &ExponentialHistogramDataPoint) -> Self {
        let bound = |index: i32| (f64::from(index) * 2f64.powi(-point.scale)).exp2();
        let zero = (point.zero_count > 0).then_some((0.0, point.zero_threshold, point.zero_count));
        let positive = point.positive.iter().flat_map(|buckets| {
            let counts = buckets.bucket_counts.iter().zip(buckets.offset..);
            counts.map(|(count, index)| (bound(index), bound(index + 1), *count))
        });
        Self {
            buckets: zero.into_iter().chain(positive).collect(),
            min: point.min,
            max: point.max,
        }
    }
}

impl From<&HistogramDataPoint> for Plot {
    fn from(point: &HistogramDataPoint) -> Self {
        let bounds = &point.explicit_bounds;
        let buckets = point.bucket_counts.iter().enumerate().map(|(at, count)| {
            let lower = at.checked_sub(1).map_or(0.0, |below| bounds[below]);
            (lower, bounds.get(at).copied().unwrap_or(lower), *count)
        });
        Self {
            buckets: buckets.collect(),
            min: point.min,
            max: point.max,
        }
    }
}

impl Plot {
    /// The minimum: the point's own, else that of its buckets.
    pub(super) fn min(&self) -> Option<f64> {
        self.min.or_else(|| self.quantile(0.0))
    }

    /// The `q`-quantile: by geometric interpolation in its bucket, and between the extremes where known.
    pub(super) fn quantile(&self, q: f64) -> Option<f64> {
        let total: u64 = self.buckets.iter().map(|(_, _, count)| count).sum();
        let rank = (q * total as f64).ceil().max(1.0);
        let mut below = 0.0;
        for (lower, upper, count) in &self.buckets {
            let within = (rank - below) / *count as f64;
            below += *count as f64;
            if *count > 0 && rank <= below {
                let value = if *lower > 0.0 {
                    lower * (upper / lower).powf(within)
                } else {
                    *upper
                };
                let value = self.min.map_or(value, |min| value.max(min));
                return Some(self.max.map_or(value, |max| value.min(max)));
            }
        }
        None
    }

    /// One column for each bucket, from the first to the last that counts, or for several alike to fit.
    pub(super) fn draw(&self) -> String {
        let counts: Vec<_> = self.buckets.iter().map(|(_, _, count)| *count).collect();
        let Some(first) = counts.iter().position(|count| *count > 0) else {
            return String::new();
        };
        let last = counts.iter().rposition(|count| *count > 0).unwrap_or(first);
        let counts = &counts[first..=last];
        let together = counts.len().div_ceil(WIDTH);
        let columns: Vec<u64> = counts
            .chunks(together)
            .map(|some| some.iter().sum())
            .collect();
        let most = columns.iter().copied().max().unwrap_or(1);
        let column = |count: &u64| match *count {
            0 => ' ',
            // Any count above 0 is visible.
            count => LEVELS[((count * 8).div_ceil(most) as usize).clamp(1, 8) - 1],
        };
        columns.iter().map(column).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explicit(counts: &[u64]) -> Plot {
        let bounds = (0..counts.len() as i32 - 1).map(|at| 2f64.powi(at));
        Plot::from(&HistogramDataPoint {
            explicit_bounds: bounds.collect(),
            bucket_counts: counts.to_vec(),
            ..Default::default()
        })
    }

    #[test]
    fn column_heights_follow_counts_and_none_is_dropped() {
        assert_eq!(explicit(&[0, 8, 4, 0, 1, 0]).draw(), "█▄ ▁");
        assert_eq!(explicit(&[0, 1000, 1]).draw(), "█▁");
        assert_eq!(explicit(&[0, 0]).draw(), "");
        let wide = explicit(&[1; 100]).draw();
        assert_eq!(wide, "█".repeat(20), "100 buckets, five to a column");
    }

    #[test]
    fn quantiles_lie_in_the_bucket_of_their_rank() {
        // Ten values in (1, 2] and one in (8, 16].
        let plot = explicit(&[0, 10, 0, 0, 1, 0]);
        let median = plot.quantile(0.5).expect("a median");
        assert!((1.0..=2.0).contains(&median), "{median}");
        assert_eq!(plot.quantile(1.0), Some(8.0 * 2.0));
        assert_eq!(explicit(&[0, 0]).quantile(0.5), None);
    }

    #[test]
    fn minimum_lies_in_the_first_bucket_that_counts() {
        let mut plot = explicit(&[0, 0, 10, 0, 1, 0]);
        let least = plot.min().expect("a minimum");
        assert!((2.0..=4.0).contains(&least), "{least}");
        assert_eq!(explicit(&[0, 0]).min(), None);
        plot.min = Some(3.9);
        assert_eq!(plot.min(), Some(3.9));
    }
}
