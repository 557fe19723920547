//! Distributions of durations in OTLP's exponential buckets, exact in count and sum.

use flowcar_shared::histogram::{NANOS, OVER_SLOT, Unit, ZERO_SLOT, bucket_of_slot};

/// The scale that buckets are kept at: eight to each doubling. Encoders may widen them, never narrow.
pub const SCALE: i32 = flowcar_shared::histogram::SCALE;

/// Upper bound, in seconds, of the zero bucket: what the kernel's lowest slot holds.
pub const ZERO_THRESHOLD_S: f64 = 1.0 / 131_072.0;

/// Durations counted in exponential buckets of [`SCALE`]: bucket `i` covers `(2^(i/8), 2^((i+1)/8)]`
/// seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    zero: u64,
    /// OTLP index of `buckets[0]`; meaningless while there are none.
    first: i32,
    buckets: Vec<u64>,
    count: u64,
    sum_ns: u128,
    extremes: Option<(u64, u64)>,
}

impl Histogram {
    /// Durations of which only the buckets are known: so many in the zero bucket, and the others by OTLP index. Their sum and extremes are
    /// not known.
    pub fn of_buckets(zero: u64, buckets: impl IntoIterator<Item = (i32, u64)>) -> Self {
        let mut histogram = Self {
            zero,
            count: zero,
            ..Self::default()
        };
        for (bucket, count) in buckets {
            histogram.add_bucket(Some(bucket), count);
            histogram.count = histogram.count.saturating_add(count);
        }
        histogram
    }

    /// Counts one duration.
    pub fn record(&mut self, duration_ns: u64) {
        self.add_bucket(above_threshold(&NANOS, duration_ns), 1);
        self.count += 1;
        self.sum_ns += u128::from(duration_ns);
        self.widen(duration_ns, duration_ns);
    }

    /// Adds `counts` of kernel slots ([`flowcar_shared::histogram`]) whose samples sum to `sum_ns` and
    /// whose least and greatest are `extremes_ns`.
    pub fn add_slots(
        &mut self,
        counts: impl IntoIterator<Item = (usize, u64)>,
        sum_ns: u128,
        extremes_ns: Option<(u64, u64)>,
    ) {
        for (slot, count) in counts {
            if count == 0 {
                continue;
            }
            let bucket = if slot == ZERO_SLOT {
                None
            } else {
                bucket_of_slot(slot.min(OVER_SLOT))
            };
            self.add_bucket(bucket, count);
            self.count += count;
        }
        self.sum_ns += sum_ns;
        if let Some((min, max)) = extremes_ns {
            self.widen(min, max);
        }
    }

    /// Adds all that `other` counted.
    pub fn merge(&mut self, other: &Self) {
        // What another process counted may be any number.
        self.zero = self.zero.saturating_add(other.zero);
        for (bucket, count) in other.buckets() {
            self.add_bucket(Some(bucket), count);
        }
        self.count = self.count.saturating_add(other.count);
        self.sum_ns += other.sum_ns;
        if let Some((min, max)) = other.extremes {
            self.widen(min, max);
        }
    }

    /// Adds what `newer` counted since `older`, an older state of that same histogram.
    pub fn merge_since(&mut self, newer: &Self, older: Option<&Self>) {
        match older {
            Some(older) => self.merge(&newer.since(older)),
            None => self.merge(newer),
        }
        if let Some((min, max)) = newer.extremes {
            self.widen(min, max);
        }
    }

    /// What was counted since `earlier`, an older state of this same histogram. The extremes are not
    /// known for a part of the time, so the difference has none.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut difference = Self {
            zero: self.zero - earlier.zero,
            ..Self::default()
        };
        for (bucket, count) in self.buckets() {
            let before = earlier.count_of(bucket);
            if count > before {
                difference.add_bucket(Some(bucket), count - before);
            }
        }
        difference.count = self.count - earlier.count;
        difference.sum_ns = self.sum_ns - earlier.sum_ns;
        difference
    }

    /// The same; `None` where `earlier` is no older state of this histogram.
    pub fn checked_since(&self, earlier: &Self) -> Option<Self> {
        let is_older = earlier.zero <= self.zero
            && earlier.sum_ns <= self.sum_ns
            && earlier
                .buckets()
                .all(|(bucket, count)| count <= self.count_of(bucket));
        is_older.then(|| self.since(earlier))
    }

    /// Durations counted.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Whether nothing was counted.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Sum of the durations, nanoseconds.
    pub const fn sum_ns(&self) -> u128 {
        self.sum_ns
    }

    /// The least duration, nanoseconds, where known.
    pub fn min_ns(&self) -> Option<u64> {
        self.extremes.map(|(min, _)| min)
    }

    /// The greatest duration, nanoseconds, where known.
    pub fn max_ns(&self) -> Option<u64> {
        self.extremes.map(|(_, max)| max)
    }

    /// Durations of at most [`ZERO_THRESHOLD_S`].
    pub const fn zero_count(&self) -> u64 {
        self.zero
    }

    /// OTLP bucket indexes, ascending and without gaps, with their counts.
    pub fn buckets(&self) -> impl ExactSizeIterator<Item = (i32, u64)> + '_ {
        let first = self.first;
        self.buckets
            .iter()
            .enumerate()
            .map(move |(at, count)| (first + at as i32, *count))
    }

    /// The `q`-quantile in seconds (0 to 1), interpolated geometrically inside its bucket and held between
    /// the known extremes; `None` while nothing was counted. Off by at most one bucket's width (9 %).
    pub fn quantile_s(&self, q: f64) -> Option<f64> {
        if self.count == 0 {
            return None;
        }
        let rank = (q * self.count as f64).ceil().clamp(1.0, self.count as f64);
        let mut below = self.zero as f64;
        let mut value = ZERO_THRESHOLD_S;
        if rank > below {
            for (bucket, count) in self.buckets() {
                let within = rank - below;
                below += count as f64;
                if rank <= below {
                    value = boundary_s(f64::from(bucket) + within / count as f64);
                    break;
                }
            }
        }
        Some(match self.extremes {
            Some((min, max)) => value.clamp(min as f64 / 1e9, max as f64 / 1e9),
            None => value,
        })
    }

    fn count_of(&self, bucket: i32) -> u64 {
        usize::try_from(bucket - self.first)
            .ok()
            .and_then(|at| self.buckets.get(at))
            .copied()
            .unwrap_or(0)
    }

    fn add_bucket(&mut self, bucket: Option<i32>, count: u64) {
        let Some(bucket) = bucket else {
            self.zero += count;
            return;
        };
        if self.buckets.is_empty() {
            self.first = bucket;
        }
        if bucket < self.first {
            let missing = (self.first - bucket) as usize;
            self.buckets.splice(0..0, std::iter::repeat_n(0, missing));
            self.first = bucket;
        }
        let at = (bucket - self.first) as usize;
        if at >= self.buckets.len() {
            self.buckets.resize(at + 1, 0);
        }
        self.buckets[at] = self.buckets[at].saturating_add(count);
    }

    fn widen(&mut self, min: u64, max: u64) {
        self.extremes = Some(match self.extremes {
            Some((least, greatest)) => (least.min(min), greatest.max(max)),
            None => (min, max),
        });
    }
}

/// The boundary `2^(index/8)` in seconds.
pub fn boundary_s(index: f64) -> f64 {
    (index / 8.0).exp2()
}

/// The bucket of `value`; `None` if it is no greater than the zero threshold, as in the kernel's slots.
fn above_threshold(unit: &Unit, value: u64) -> Option<i32> {
    unit.bucket(value)
        .filter(|bucket| *bucket >= flowcar_shared::histogram::FIRST_BUCKET)
}
