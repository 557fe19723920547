//! Which connections are worth a span before others: those that failed, were slow, or lost segments. Pure.

use crate::{
    flow::{Flow, Part},
    histogram::Histogram,
    otlp::exemplars::{Measure, measures},
};

/// What a span is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    /// One like the others.
    Dull,
    /// Failed, slow or lossy.
    Notable,
}

/// Slow is what takes longer than this share of the durations of its kind.
const SLOW: f64 = 0.99;

/// Durations from which on there is a notion of slow.
const LEAST: u64 = 100;

/// The notion is made anew after so many durations.
const REFRESH: u64 = 64;

/// Durations that it is made from: so many to twice as many.
const MEMORY: u64 = 1024;

/// Knows what is usual, and so what is not.
#[derive(Debug, Default)]
pub(super) struct Judge {
    connect: Meter,
    rtt: Meter,
    exchange: Meter,
    duration: Meter,
}

/// What is usual of one kind of duration.
#[derive(Debug, Default)]
struct Meter {
    recent: Histogram,
    before: Histogram,
    slow_ns: Option<u64>,
}

// === impl Judge ===

impl Judge {
    /// What the span of a flow that is over is worth. Each flow is to be judged once.
    pub(super) fn judge(&mut self, flow: &Flow) -> Class {
        let mut slow = false;
        for (measure, value_ns) in measures(flow) {
            slow |= self.meter(measure).is_slow(value_ns);
        }
        class(flow.is_failure() || slow || flow.volume.retransmits.total() > 0)
    }

    fn meter(&mut self, measure: Measure) -> &mut Meter {
        match measure {
            Measure::Connect(_) => &mut self.connect,
            Measure::Rtt(_) => &mut self.rtt,
            Measure::Exchange => &mut self.exchange,
            Measure::Duration(_) => &mut self.duration,
        }
    }
}

/// What the span of a part of a flow is worth.
pub(super) const fn judge_part(part: &Part) -> Class {
    class(part.volume.retransmits.total() > 0)
}

const fn class(notable: bool) -> Class {
    if notable { Class::Notable } else { Class::Dull }
}

// === impl Meter ===

impl Meter {
    fn is_slow(&mut self, value_ns: u64) -> bool {
        let slow = self.slow_ns.is_some_and(|slow_ns| value_ns > slow_ns);
        self.recent.record(value_ns);
        if self.recent.count().is_multiple_of(REFRESH) {
            let mut all = self.before.clone();
            all.merge(&self.recent);
            let known = all.count() >= LEAST;
            self.slow_ns = all
                .quantile_s(SLOW)
                .filter(|_| known)
                .map(|seconds| (seconds * 1e9).round() as u64);
        }
        if self.recent.count() == MEMORY {
            self.before = std::mem::take(&mut self.recent);
        }
        slow
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{End, Failure, Outcome, Role, Volume, example};

    /// What has the reason of a failure and is none must not take the place of what is one.
    #[test]
    fn a_health_check_that_is_cut_off_is_like_any_connection() {
        let judged = |role, end, bytes_sent, bytes_received| {
            let flow = Flow {
                role,
                outcome: Some(Outcome::Closed(end)),
                volume: Volume {
                    bytes_sent,
                    bytes_received,
                    ..Volume::default()
                },
                ..example::closed(1)
            };
            Judge::default().judge(&flow)
        };
        for (role, end, expected) in [
            // By whoever opened it: keepalived, HAProxy, a port scan.
            (Role::Server, End::ResetReceived, Class::Dull),
            (Role::Server, End::Reset, Class::Dull),
            (Role::Client, End::ResetSent, Class::Dull),
            // A server that turns its clients away.
            (Role::Server, End::ResetSent, Class::Notable),
            (Role::Client, End::ResetReceived, Class::Notable),
            (Role::Client, End::Reset, Class::Notable),
            (Role::Unknown, End::Reset, Class::Notable),
            (Role::Server, End::Timeout, Class::Notable),
            (Role::Client, End::Timeout, Class::Notable),
        ] {
            assert_eq!(judged(role, end, 0, 0), expected, "{role:?} {end:?}");
            // With payload either way it was in use.
            assert_eq!(judged(role, end, 1, 0), Class::Notable);
            assert_eq!(judged(role, end, 0, 1), Class::Notable);
        }
        for failure in Failure::ALL {
            let flow = Flow {
                established: None,
                outcome: Some(Outcome::Failed(failure)),
                ..example::closed(1)
            };
            assert_eq!(Judge::default().judge(&flow), Class::Notable);
        }
    }

    #[test]
    fn what_is_like_all_others_is_not_slow_whatever_it_takes() {
        for millis in 1..100 {
            let mut meter = Meter::default();
            let slow = (0..2 * LEAST).filter(|_| meter.is_slow(millis * 1_000_000));
            assert_eq!(slow.count(), 0, "{millis} ms");
        }
    }

    #[test]
    fn slow_is_what_is_slower_than_nearly_all_and_the_notion_follows_the_times() {
        let mut meter = Meter::default();
        for _ in 0..LEAST {
            assert!(
                !meter.is_slow(5_000_000),
                "nothing is known yet, or all is alike"
            );
        }
        for _ in 0..REFRESH {
            meter.is_slow(5_000_000);
        }
        assert!(meter.is_slow(6_000_000));
        assert!(!meter.is_slow(5_000_000));
        // The link has become slower for good.
        for _ in 0..3 * MEMORY {
            meter.is_slow(50_000_000);
        }
        assert!(!meter.is_slow(50_000_000));
        assert!(meter.is_slow(60_000_000));
    }
}
