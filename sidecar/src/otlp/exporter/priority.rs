//! The priority of spans: high for connections that failed, were slow, or lost segments. Pure.

use crate::{
    flow::{Flow, InterimSpan},
    histogram::Histogram,
    otlp::exemplars::{Measure, measures},
};

/// The priority of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Priority {
    /// An ordinary connection.
    Normal,
    /// Failed, slow or lossy.
    High,
}

/// A duration is slow if it is longer than this share of the durations of its kind.
const SLOW: f64 = 0.99;

/// The number of durations from which on there is a threshold.
const LEAST: u64 = 100;

/// The threshold is computed again after so many durations.
const REFRESH: u64 = 64;

/// The number of durations that it is computed from: so many to twice as many.
const MEMORY: u64 = 1024;

/// Judges the priority of flows by recent durations.
#[derive(Debug, Default)]
pub(super) struct Judge {
    connect: Meter,
    rtt: Meter,
    exchange: Meter,
    duration: Meter,
}

/// Recent durations of one kind.
#[derive(Debug, Default)]
struct Meter {
    recent: Histogram,
    before: Histogram,
    slow_ns: Option<u64>,
}

// === impl Judge ===

impl Judge {
    /// The priority of the span of a closed flow. Each flow must be judged once.
    pub(super) fn judge(&mut self, flow: &Flow) -> Priority {
        let mut slow = false;
        for (measure, value_ns) in measures(flow) {
            slow |= self.meter(measure).is_slow(value_ns);
        }
        priority(flow.is_failure() || slow || flow.volume.retransmits.total() > 0)
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

/// The priority of an interim span.
pub(super) fn judge_interim(cut: &InterimSpan) -> Priority {
    priority(cut.volume.retransmits.total() > 0)
}

const fn priority(high: bool) -> Priority {
    if high {
        Priority::High
    } else {
        Priority::Normal
    }
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
    use crate::flow::{CloseReason, Failure, Outcome, Role, Volume, example};

    /// A close with an error type that is no failure must not displace a failure.
    #[test]
    fn reset_health_check_has_normal_priority() {
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
        use Priority::{High, Normal};
        // Without payload, with payload of the client, and with payload of the server.
        for (role, end, silent, client_spoke, server_spoke) in [
            // By the client: keepalived, HAProxy, a port scan; of a server that speaks first, too.
            (
                Role::Server,
                CloseReason::ResetReceived,
                Normal,
                High,
                Normal,
            ),
            (Role::Server, CloseReason::Reset, Normal, High, Normal),
            (Role::Client, CloseReason::ResetSent, Normal, High, Normal),
            // A server that refuses its clients.
            (Role::Server, CloseReason::ResetSent, High, High, High),
            (Role::Client, CloseReason::ResetReceived, High, High, High),
            (Role::Client, CloseReason::Reset, High, High, High),
            (Role::Unknown, CloseReason::Reset, High, High, High),
            (Role::Server, CloseReason::Timeout, High, High, High),
            (Role::Client, CloseReason::Timeout, High, High, High),
        ] {
            let (by_client, by_server) = match role {
                Role::Server => ((0, 1), (1, 0)),
                _ => ((1, 0), (0, 1)),
            };
            for ((sent, received), expected) in [
                ((0, 0), silent),
                (by_client, client_spoke),
                (by_server, server_spoke),
                ((1, 1), High),
            ] {
                let judged = judged(role, end, sent, received);
                assert_eq!(judged, expected, "{role:?} {end:?} {sent} {received}");
            }
        }
        for failure in Failure::ALL {
            let flow = Flow {
                established: None,
                outcome: Some(Outcome::Failed(failure)),
                ..example::closed(1)
            };
            assert_eq!(Judge::default().judge(&flow), High);
        }
    }

    #[test]
    fn uniform_durations_are_never_slow() {
        for millis in 1..100 {
            let mut meter = Meter::default();
            let slow = (0..2 * LEAST).filter(|_| meter.is_slow(millis * 1_000_000));
            assert_eq!(slow.count(), 0, "{millis} ms");
        }
    }

    #[test]
    fn slow_threshold_follows_recent_durations() {
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
        // The link has become slower permanently.
        for _ in 0..3 * MEMORY {
            meter.is_slow(50_000_000);
        }
        assert!(!meter.is_slow(50_000_000));
        assert!(meter.is_slow(60_000_000));
    }
}
