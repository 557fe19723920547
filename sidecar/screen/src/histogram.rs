//! Distributions of durations in OTLP's exponential buckets, exact in count and sum.

use std::sync::Arc;

use flowcar_shared::histogram::{NANOS, OVER_SLOT, Unit, ZERO_SLOT, bucket_of_slot};

/// The scale that buckets are kept at: eight to each doubling. Encoders may widen them, never narrow.
pub const SCALE: i32 = flowcar_shared::histogram::SCALE;

/// Upper bound, in seconds, of the zero bucket: what the kernel's lowest slot holds.
pub const ZERO_THRESHOLD_S: f64 = 1.0 / 131_072.0;

/// Durations counted in exponential buckets of [`SCALE`]: bucket `i` covers `(2^(i/8), 2^((i+1)/8)]`
/// seconds. Of a live connection there are two of these, most of which hold nothing or one duration: that takes no memory beside. A clone
/// shares the counts until one of both changes.
#[derive(Clone, Debug, Default)]
pub struct Histogram(Counted);

#[derive(Clone, Debug, Default)]
enum Counted {
    #[default]
    Nothing,
    /// One duration, nanoseconds.
    One(u64),
    Many(Arc<Counts>),
}

#[derive(Clone, Debug, Default)]
struct Counts {
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
        let mut counts = Counts {
            zero,
            count: zero,
            ..Counts::default()
        };
        for (bucket, count) in buckets {
            counts.add_bucket(Some(bucket), count);
            counts.count = counts.count.saturating_add(count);
        }
        Self::of(counts)
    }

    fn of(counts: Counts) -> Self {
        Self(Counted::Many(Arc::new(counts)))
    }

    /// Counts one duration.
    pub fn record(&mut self, duration_ns: u64) {
        match self.0 {
            Counted::Nothing => self.0 = Counted::One(duration_ns),
            Counted::One(_) | Counted::Many(_) => self.counts().record(duration_ns),
        }
    }

    /// Adds `counts` of kernel slots ([`flowcar_shared::histogram`]) whose samples sum to `sum_ns` and
    /// whose least and greatest are `extremes_ns`.
    pub fn add_slots(
        &mut self,
        counts: impl IntoIterator<Item = (usize, u64)>,
        sum_ns: u128,
        extremes_ns: Option<(u64, u64)>,
    ) {
        let mut counts = counts
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .peekable();
        if counts.peek().is_none() && sum_ns == 0 && extremes_ns.is_none() {
            return;
        }
        let sum = self.counts();
        for (slot, count) in counts {
            let bucket = if slot == ZERO_SLOT {
                None
            } else {
                bucket_of_slot(slot.min(OVER_SLOT))
            };
            sum.add_bucket(bucket, count);
            sum.count += count;
        }
        sum.sum_ns += sum_ns;
        if let Some((min, max)) = extremes_ns {
            sum.widen(min, max);
        }
    }

    /// Adds all that `other` counted.
    pub fn merge(&mut self, other: &Self) {
        match (&self.0, &other.0) {
            (_, Counted::Nothing) => {}
            (Counted::Nothing, _) => *self = other.clone(),
            (_, Counted::One(duration_ns)) => self.counts().record(*duration_ns),
            (_, Counted::Many(counts)) => self.counts().add(counts),
        }
    }

    /// Adds what `newer` counted since `older`, an older state of that same histogram.
    pub fn merge_since(&mut self, newer: &Self, older: Option<&Self>) {
        match older.filter(|older| !older.is_empty()) {
            Some(older) if older.count() == newer.count() => {}
            Some(older) => self.merge(&newer.since(older)),
            None => self.merge(newer),
        }
        if let Some((min, max)) = newer.extremes() {
            self.counts().widen(min, max);
        }
    }

    /// What was counted since `earlier`, an older state of this same histogram. The extremes are not
    /// known for a part of the time, so the difference has none.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut difference = Counts {
            zero: self.zero_count() - earlier.zero_count(),
            ..Counts::default()
        };
        for (bucket, count) in self.buckets() {
            let before = earlier.count_of(bucket);
            if count > before {
                difference.add_bucket(Some(bucket), count - before);
            }
        }
        difference.count = self.count() - earlier.count();
        difference.sum_ns = self.sum_ns() - earlier.sum_ns();
        Self::of(difference)
    }

    /// The same; `None` where `earlier` is no older state of this histogram.
    pub fn checked_since(&self, earlier: &Self) -> Option<Self> {
        let is_older = earlier.zero_count() <= self.zero_count()
            && earlier.sum_ns() <= self.sum_ns()
            && earlier
                .buckets()
                .all(|(bucket, count)| count <= self.count_of(bucket));
        is_older.then(|| self.since(earlier))
    }

    /// Durations counted.
    pub fn count(&self) -> u64 {
        match &self.0 {
            Counted::Nothing => 0,
            Counted::One(_) => 1,
            Counted::Many(counts) => counts.count,
        }
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    /// Sum of the durations, nanoseconds.
    pub fn sum_ns(&self) -> u128 {
        match &self.0 {
            Counted::Nothing => 0,
            Counted::One(duration_ns) => u128::from(*duration_ns),
            Counted::Many(counts) => counts.sum_ns,
        }
    }

    /// The least duration, nanoseconds, where known.
    pub fn min_ns(&self) -> Option<u64> {
        self.extremes().map(|(min, _)| min)
    }

    /// The greatest duration, nanoseconds, where known.
    pub fn max_ns(&self) -> Option<u64> {
        self.extremes().map(|(_, max)| max)
    }

    fn extremes(&self) -> Option<(u64, u64)> {
        match &self.0 {
            Counted::Nothing => None,
            Counted::One(duration_ns) => Some((*duration_ns, *duration_ns)),
            Counted::Many(counts) => counts.extremes,
        }
    }

    /// Durations of at most [`ZERO_THRESHOLD_S`].
    pub fn zero_count(&self) -> u64 {
        match &self.0 {
            Counted::Nothing => 0,
            Counted::One(duration_ns) => u64::from(above_threshold(&NANOS, *duration_ns).is_none()),
            Counted::Many(counts) => counts.zero,
        }
    }

    /// OTLP bucket indexes, ascending and without gaps, with their counts.
    pub fn buckets(&self) -> impl ExactSizeIterator<Item = (i32, u64)> + '_ {
        let (first, buckets) = self.slices();
        buckets
            .iter()
            .enumerate()
            .map(move |(at, count)| (first + at as i32, *count))
    }

    /// The OTLP index of the first bucket, and the counts from there on.
    fn slices(&self) -> (i32, &[u64]) {
        match &self.0 {
            Counted::Nothing => (0, &[]),
            Counted::One(duration_ns) => match above_threshold(&NANOS, *duration_ns) {
                Some(bucket) => (bucket, &[1]),
                None => (0, &[]),
            },
            Counted::Many(counts) => (counts.first, &counts.buckets),
        }
    }

    /// The counts, to be changed.
    fn counts(&mut self) -> &mut Counts {
        if !matches!(self.0, Counted::Many(_)) {
            let mut counts = Counts::default();
            if let Counted::One(duration_ns) = self.0 {
                counts.record(duration_ns);
            }
            *self = Self::of(counts);
        }
        match &mut self.0 {
            Counted::Many(counts) => Arc::make_mut(counts),
            Counted::Nothing | Counted::One(_) => unreachable!("it is a histogram of many now"),
        }
    }

    /// The `q`-quantile in seconds (0 to 1), interpolated geometrically inside its bucket and held between
    /// the known extremes; `None` while nothing was counted. Off by at most one bucket's width (9 %).
    pub fn quantile_s(&self, q: f64) -> Option<f64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = (q * count as f64).ceil().clamp(1.0, count as f64);
        let mut below = self.zero_count() as f64;
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
        Some(match self.extremes() {
            Some((min, max)) => value.clamp(min as f64 / 1e9, max as f64 / 1e9),
            None => value,
        })
    }

    fn count_of(&self, bucket: i32) -> u64 {
        let (first, buckets) = self.slices();
        usize::try_from(bucket - first)
            .ok()
            .and_then(|at| buckets.get(at))
            .copied()
            .unwrap_or(0)
    }
}

impl PartialEq for Histogram {
    /// Whether both counted the same.
    fn eq(&self, other: &Self) -> bool {
        self.zero_count() == other.zero_count()
            && self.count() == other.count()
            && self.sum_ns() == other.sum_ns()
            && self.extremes() == other.extremes()
            && self.buckets().eq(other.buckets())
    }
}

impl Eq for Histogram {}

impl Counts {
    fn record(&mut self, duration_ns: u64) {
        self.add_bucket(above_threshold(&NANOS, duration_ns), 1);
        self.count += 1;
        self.sum_ns += u128::from(duration_ns);
        self.widen(duration_ns, duration_ns);
    }

    /// Saturates: what another process counted may be any number.
    fn add(&mut self, other: &Self) {
        self.zero = self.zero.saturating_add(other.zero);
        for (bucket, count) in (other.first..).zip(&other.buckets) {
            self.add_bucket(Some(bucket), *count);
        }
        self.count = self.count.saturating_add(other.count);
        self.sum_ns += other.sum_ns;
        if let Some((min, max)) = other.extremes {
            self.widen(min, max);
        }
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
