//! Samples over time: how many fell into each part of the run and each range of durations. Pure.

use std::collections::BTreeMap;

use crate::histogram::Histogram;

/// Parts of the run, at most. A longer run has longer parts.
pub(super) const COLUMNS: u64 = 120;

/// The length of a part at first, nanoseconds.
const FIRST_COLUMN_NS: u64 = 10_000_000;

/// Histogram buckets in a row: two rows to each doubling.
const BUCKETS: i32 = 4;

/// The row of the zero bucket, below that of the first other bucket, 2^-17 s.
pub(super) const ZERO_ROW: i32 = -35;

/// Peers with a heat map of their own while the command runs, and on the page.
const TRACKED: usize = 64;

/// Samples by part of the run and row: row `r` has those in `(2^(r/2), 2^((r+1)/2)]` seconds.
pub(super) type Cells = BTreeMap<(u64, i32), u64>;

/// RTT samples and exchanges.
#[derive(Clone, Debug, Default)]
pub(super) struct HeatMap {
    pub(super) rtt: Cells,
    pub(super) exchanges: Cells,
}

/// Of all connections, and of the first peers.
#[derive(Debug)]
pub(super) struct HeatMaps {
    column_ns: u64,
    all: HeatMap,
    peers: BTreeMap<String, HeatMap>,
}

/// What a connection measured in a time, nanoseconds since the run began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Samples<'a> {
    pub(super) rtt: &'a Histogram,
    pub(super) exchanges: &'a Histogram,
    pub(super) from_ns: u64,
    pub(super) to_ns: u64,
}

// === impl HeatMaps ===

impl Default for HeatMaps {
    fn default() -> Self {
        Self {
            column_ns: FIRST_COLUMN_NS,
            all: HeatMap::default(),
            peers: BTreeMap::new(),
        }
    }
}

impl HeatMaps {
    /// Adds samples of a connection of this peer, evenly over their time.
    pub(super) fn add(&mut self, peer: &str, samples: &Samples<'_>) {
        while samples.to_ns / self.column_ns >= COLUMNS {
            self.widen();
        }
        let columns =
            samples.from_ns.min(samples.to_ns) / self.column_ns..=samples.to_ns / self.column_ns;
        let of_peer = match self.peers.len() {
            ..TRACKED => Some(self.peers.entry(peer.to_owned()).or_default()),
            _ => self.peers.get_mut(peer),
        };
        for map in of_peer.into_iter().chain([&mut self.all]) {
            spread(&mut map.rtt, samples.rtt, columns.clone());
            spread(&mut map.exchanges, samples.exchanges, columns.clone());
        }
    }

    /// The length of a part of the run, nanoseconds.
    pub(super) const fn column_ns(&self) -> u64 {
        self.column_ns
    }

    /// Of all connections.
    pub(super) const fn all(&self) -> &HeatMap {
        &self.all
    }

    /// Of a peer, if it has one.
    pub(super) fn of_peer(&self, peer: &str) -> Option<&HeatMap> {
        self.peers.get(peer)
    }

    /// Parts that a run of this time has.
    pub(super) fn columns(&self, took_ns: u64) -> u64 {
        (took_ns / self.column_ns + 1).min(COLUMNS)
    }

    /// Makes one part of two.
    fn widen(&mut self) {
        self.column_ns *= 2;
        for map in self.peers.values_mut().chain([&mut self.all]) {
            for cells in [&mut map.rtt, &mut map.exchanges] {
                for ((column, row), count) in std::mem::take(cells) {
                    *cells.entry((column / 2, row)).or_default() += count;
                }
            }
        }
    }
}

/// The samples of the first and of the second half of a run with so many columns. Durations within a row count as evenly spread.
pub(super) fn halves(cells: &Cells, columns: u64) -> [Histogram; 2] {
    let half = |is_first: bool| {
        let of_half = |(column, _): &(u64, i32)| (*column < columns.div_ceil(2)) == is_first;
        let cells = cells.iter().filter(|(place, _)| of_half(place));
        let (mut zero, mut buckets) = (0, BTreeMap::<i32, u64>::new());
        for ((_, row), count) in cells {
            if *row == ZERO_ROW {
                zero += count;
                continue;
            }
            *buckets.entry(*row).or_default() += count;
        }
        let buckets = buckets.into_iter().flat_map(|(row, count)| {
            let (wide, each) = (BUCKETS as u64, move |at: u64| count * at / BUCKETS as u64);
            (0..wide).map(move |at| (row * BUCKETS + at as i32, each(at + 1) - each(at)))
        });
        Histogram::of_buckets(zero, buckets.filter(|(_, count)| *count > 0))
    };
    [half(true), half(false)]
}

/// Adds each bucket's samples evenly to these columns; one sample to the middle.
fn spread(cells: &mut Cells, samples: &Histogram, columns: std::ops::RangeInclusive<u64>) {
    let buckets = samples
        .buckets()
        .map(|(bucket, count)| (bucket.div_euclid(BUCKETS), count));
    let zero = [(ZERO_ROW, samples.zero_count())];
    let width = columns.end() - columns.start() + 1;
    for (row, count) in buckets.chain(zero).filter(|(_, count)| *count > 0) {
        let below = |column: u64| (2 * count * column + width) / (2 * width);
        for column in 0..width {
            let here = below(column + 1) - below(column);
            if here > 0 {
                *cells.entry((columns.start() + column, row)).or_default() += here;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn histogram(times_ns: &[u64]) -> Histogram {
        let mut histogram = Histogram::default();
        times_ns.iter().for_each(|ns| histogram.record(*ns));
        histogram
    }

    fn total(cells: &Cells) -> u64 {
        cells.values().sum()
    }

    proptest! {
        #[test]
        fn every_sample_is_in_one_cell_of_its_time_and_duration(
            all in proptest::collection::vec((0_u64..40_000_000_000, 0_u64..500_000_000, 1_u64..60_000_000_000, 1_usize..50), 1..40),
        ) {
            let mut maps = HeatMaps::default();
            let nothing = Histogram::default();
            let mut count = 0;
            for (from_ns, width_ns, time_ns, times) in &all {
                let rtt = histogram(&vec![*time_ns; *times]);
                let samples = Samples { rtt: &rtt, exchanges: &nothing, from_ns: *from_ns, to_ns: from_ns + width_ns };
                maps.add("peer", &samples);
                count += *times as u64;
            }
            prop_assert_eq!(total(&maps.all.rtt), count);
            prop_assert_eq!(total(&maps.of_peer("peer").expect("a map").rtt), count);
            prop_assert!(maps.all.exchanges.is_empty());
            for (column, row) in maps.all.rtt.keys() {
                prop_assert!(*column < COLUMNS);
                let (start, end) = (column * maps.column_ns, (column + 1) * maps.column_ns);
                let (low, high) = ((f64::from(*row) / 2.0).exp2(), (f64::from(row + 1) / 2.0).exp2());
                let fits = |(from, width, time, _): &(u64, u64, u64, usize)| {
                    let seconds = *time as f64 / 1e9;
                    let is_in_row = seconds <= high * 1.001 && (*row == ZERO_ROW || seconds > low * 0.999);
                    is_in_row && from + width >= start && *from < end
                };
                prop_assert!(all.iter().any(fits), "{} {}", column, row);
            }
        }
    }

    #[test]
    fn halves_have_the_samples_of_their_time_with_medians_to_a_row() {
        let mut maps = HeatMaps::default();
        let nothing = Histogram::default();
        for (ms, time_ns) in [
            (100, 9_000_000),
            (400, 9_000_000),
            (600, 90_000_000),
            (990, 90_000_000),
        ] {
            let exchanges = histogram(&[time_ns; 20]);
            let samples = Samples {
                rtt: &nothing,
                exchanges: &exchanges,
                from_ns: ms * 1_000_000,
                to_ns: ms * 1_000_000,
            };
            maps.add("peer", &samples);
        }
        let columns = maps.columns(1_000_000_000);
        let [first, second] = halves(&maps.all().exchanges, columns);
        assert_eq!((first.count(), second.count()), (40, 40));
        for (half, truth_s) in [(first, 0.009), (second, 0.09)] {
            let median = half.quantile_s(0.5).expect("a median");
            assert!((truth_s / 1.5..truth_s * 1.5).contains(&median), "{median}");
        }
    }

    #[test]
    fn peers_beyond_the_bound_are_in_the_map_of_all() {
        let mut maps = HeatMaps::default();
        let (rtt, exchanges) = (histogram(&[1_000_000]), histogram(&[2_000_000]));
        for peer in 0..TRACKED + 9 {
            let samples = Samples {
                rtt: &rtt,
                exchanges: &exchanges,
                from_ns: 0,
                to_ns: 0,
            };
            maps.add(&peer.to_string(), &samples);
        }
        assert_eq!(maps.peers.len(), TRACKED);
        assert_eq!(total(&maps.all().exchanges), TRACKED as u64 + 9);
    }
}
