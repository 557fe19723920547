//! How long a report's connections took, over all of them. Pure.

use hdrhistogram::Histogram;

use crate::flow::Flow;

/// ConnectionTimes of established connections. Each connection counts once: with its handshake, its median RTT and its median exchange.
#[derive(Clone, Debug, Default)]
pub struct ConnectionTimes {
    /// Connections that were added.
    pub connections: u64,
    /// From the first SYN to the handshake's end: of clients whose SYN was seen.
    pub connect: Quantiles,
    /// Round trips.
    pub rtt: Quantiles,
    /// From a request's last byte to its response's first.
    pub exchange: Quantiles,
}

/// Quantiles of times, each to three significant digits.
#[derive(Clone, Debug)]
pub struct Quantiles(Histogram<u64>);

// === impl ConnectionTimes ===

impl ConnectionTimes {
    /// Adds a connection, closed or open. An attempt that failed is none.
    pub fn add(&mut self, flow: &Flow) {
        if flow.established.is_none() {
            return;
        }
        self.connections += 1;
        self.connect.add(flow.connect_ns());
        for (quantiles, histogram) in [
            (&mut self.rtt, &flow.rtt),
            (&mut self.exchange, &flow.exchanges),
        ] {
            let median = histogram.quantile_s(0.5);
            quantiles.add(median.map(|seconds| (seconds * 1e9) as u64));
        }
    }
}

// === impl Quantiles ===

impl Default for Quantiles {
    fn default() -> Self {
        Self(Histogram::new(3).expect("three digits are within the library's bounds"))
    }
}

impl Quantiles {
    fn add(&mut self, ns: Option<u64>) {
        if let Some(ns) = ns {
            self.0
                .record(ns)
                .expect("a histogram without bounds takes every time");
        }
    }

    /// How many times were added.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The nearest-rank quantile, in seconds; `None` of nothing.
    pub fn at_s(&self, q: f64) -> Option<f64> {
        (self.count() > 0).then(|| self.0.value_at_quantile(q) as f64 / 1e9)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::flow::{Monotonic, example};

    /// A connection whose handshake took so long.
    fn connected_in(ns: u64) -> Flow {
        let flow = example::closed(1);
        Flow {
            started: Monotonic(1_000),
            established: Some(Monotonic(1_000 + ns)),
            ..flow
        }
    }

    proptest! {
        #[test]
        fn quantiles_are_those_of_the_sorted_times(
            // A microsecond to a quarter of an hour.
            mut times_ns in proptest::collection::vec(1_000_u64..900_000_000_000, 1..300),
        ) {
            let mut times = ConnectionTimes::default();
            times_ns.iter().for_each(|ns| times.add(&connected_in(*ns)));
            times_ns.sort_unstable();
            prop_assert_eq!(times.connections, times_ns.len() as u64);
            for (q, percent) in [(0.5, 50), (0.99, 99)] {
                let rank = (times_ns.len() * percent).div_ceil(100);
                let expected = times_ns[rank - 1] as f64 / 1e9;
                let found = times.connect.at_s(q).expect("at least one");
                prop_assert!((found - expected).abs() <= expected / 1_000.0, "{} {} {}", q, found, expected);
            }
        }
    }

    #[test]
    fn each_connection_counts_once_with_what_is_known_of_it() {
        let mut times = ConnectionTimes::default();
        let mut flow = connected_in(5_000);
        // A hundred round trips of one connection weigh as one of another.
        (0..100).for_each(|_| flow.rtt.record(1_000_000));
        times.add(&flow);
        let mut other = connected_in(5_000);
        other.rtt.record(100_000_000);
        times.add(&other);
        // Adopted: the start of its handshake is unknown.
        times.add(&Flow {
            start_seen: false,
            ..connected_in(5_000)
        });
        // An attempt.
        times.add(&Flow {
            established: None,
            ..connected_in(5_000)
        });
        assert_eq!(times.connections, 3);
        assert_eq!((times.connect.count(), times.rtt.count()), (2, 2));
        let p99 = times.rtt.at_s(0.99).expect("two");
        assert!(p99 > 0.08, "{p99}");
        assert_eq!(times.exchange.at_s(0.5), None);
    }
}
