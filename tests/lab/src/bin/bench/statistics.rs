//! Statistics of a few noisy numbers without assuming how they are distributed.

use serde::{Deserialize, Serialize};

/// Median and the 5 % and 95 % quantiles.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    /// 5 % are below.
    pub(crate) low: f64,
    /// Half are below.
    pub(crate) median: f64,
    /// 5 % are above.
    pub(crate) high: f64,
}

/// A median and the interval that holds the true one with at least 95 % confidence.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Confident {
    /// Of the values.
    pub(crate) median: f64,
    /// None for fewer than six values.
    pub(crate) interval: Option<(f64, f64)>,
}

/// The values' spread; of none, not a number.
pub(crate) fn spread(values: impl IntoIterator<Item = f64>) -> Spread {
    let values = sorted(values);
    Spread {
        low: quantile(&values, 0.05),
        median: quantile(&values, 0.5),
        high: quantile(&values, 0.95),
    }
}

/// The median with its confidence interval: the values of those ranks between which a binomial distribution
/// of one half puts the median (David and Nagaraja, Order Statistics, 7.1).
pub(crate) fn confident(values: impl IntoIterator<Item = f64>) -> Confident {
    let values = sorted(values);
    let interval =
        outermost_rank(values.len()).map(|rank| (values[rank], values[values.len() - 1 - rank]));
    Confident {
        median: quantile(&values, 0.5),
        interval,
    }
}

fn sorted(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values
}

/// Linear between the two nearest values.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    let place = share * last as f64;
    let below = sorted[place.floor() as usize];
    below + (sorted[place.ceil() as usize] - below) * place.fract()
}

/// The largest rank (from 0) so far inside that at most 2.5 % lie outside of it on its side.
fn outermost_rank(count: usize) -> Option<usize> {
    let mut probability = 0.5_f64.powi(count as i32);
    let mut below = 0.0;
    let mut rank = None;
    for outside in 0..count / 2 {
        below += probability;
        if below > 0.025 {
            break;
        }
        rank = Some(outside);
        probability *= (count - outside) as f64 / (outside + 1) as f64;
    }
    rank
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ranks that tables of the sign test give.
    #[test]
    fn ranks_are_those_of_the_tables() {
        for (count, rank) in [
            (5, None),
            (6, Some(0)),
            (9, Some(1)),
            (20, Some(5)),
            (30, Some(9)),
        ] {
            assert_eq!(outermost_rank(count), rank, "{count} values");
        }
    }

    #[test]
    fn quantiles_lie_between_values() {
        let ten = || (0..=10).rev().map(f64::from);
        assert_eq!(
            spread(ten()),
            Spread {
                low: 0.5,
                median: 5.0,
                high: 9.5
            }
        );
        assert_eq!(confident(ten()).interval, Some((1.0, 9.0)));
        assert!(spread([]).median.is_nan());
    }
}
