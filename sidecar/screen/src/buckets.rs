//! A histogram in a line: its buckets alone. Pure.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::histogram::Histogram;

/// The longest count: what adds a million of these up is no greater than 64 bits.
pub(crate) const MOST_COUNT: u64 = 1 << 50;

/// The buckets that durations can be in, with room for others of a later version.
const RANGE: std::ops::Range<i32> = -160..64;

#[derive(Serialize, Deserialize)]
struct Buckets {
    /// Durations in the zero bucket.
    zero: u64,
    /// The OTLP index of the first bucket.
    first: i32,
    /// How many durations each bucket has, from the first one on.
    counts: Vec<u64>,
}

pub(crate) fn serialize<S: Serializer>(of: &Histogram, to: S) -> Result<S::Ok, S::Error> {
    let mut buckets = of.buckets().peekable();
    let buckets = Buckets {
        zero: of.zero_count(),
        first: buckets.peek().map_or(0, |(first, _)| *first),
        counts: buckets.map(|(_, count)| count).collect(),
    };
    buckets.serialize(to)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Histogram, D::Error> {
    let buckets = Buckets::deserialize(from)?;
    let length = i32::try_from(buckets.counts.len()).unwrap_or(i32::MAX);
    let is_within = RANGE.contains(&buckets.first) && length <= RANGE.end - buckets.first;
    let counts = buckets.counts.iter();
    let is_counted = counts.chain([&buckets.zero]).all(|of| *of <= MOST_COUNT);
    if !is_within || !is_counted {
        return Err(D::Error::custom("no histogram of durations"));
    }
    let numbered = (buckets.first..).zip(buckets.counts);
    Ok(Histogram::of_buckets(buckets.zero, numbered))
}
