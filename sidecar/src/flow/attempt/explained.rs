//! What attempts explain of a network namespace's counters. Pure.

use std::collections::VecDeque;

use super::NamespaceCounts;
use crate::flow::Monotonic;

/// An ICMP error is counted so long before the attempt ends that it ends, or after the attempt begins that keeps it, at most, unless its CPU was
/// taken away in between.
pub(super) const SLACK_NS: u64 = 20_000_000;

/// Attempts whose events are counted within this time are kept as one.
const TOGETHER_NS: u64 = 1_000_000;

/// What attempts explain is kept for so many times, at most: some 16 s of attempts without a pause.
const MOST_EXPLAINED: usize = 16_384;

/// What attempts explain, by when it was counted.
#[derive(Debug, Default)]
pub(super) struct Explained(VecDeque<Part>);

/// What attempts explain that was counted from one time to another.
#[derive(Debug)]
struct Part {
    when: Interval,
    /// Of attempts whose reason is known.
    known: Events,
    /// The most that attempts may explain whose reason is not.
    possible: Events,
}

/// When an attempt's event was counted: not before the one time, and by the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interval {
    from: Monotonic,
    to: Monotonic,
}

/// Counted events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Events {
    /// ICMP errors of IPv4 and of IPv6.
    icmp: [u64; 2],
    /// Attempts that the kernel ended.
    pub(super) failed: u64,
}

/// Events that attempts explain: at least, and at most.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bounds {
    pub(super) least: Events,
    pub(super) most: Events,
}

impl Interval {
    /// Of an ICMP error that ended an attempt at this time, or of the attempt's failure.
    pub(super) fn of_end(at: Monotonic) -> Self {
        Self {
            from: Monotonic(at.0.saturating_sub(SLACK_NS)),
            to: at,
        }
    }

    /// Of an ICMP error that an attempt kept: the application was inside `connect()`.
    pub(super) fn of_start(started: Monotonic, ended: Monotonic) -> Self {
        Self {
            from: started,
            to: Monotonic(started.0 + SLACK_NS).min(ended).max(started),
        }
    }

    /// Whether these counts have nothing of it.
    pub(super) const fn is_after(&self, counts: &NamespaceCounts) -> bool {
        counts.at.0 <= self.from.0
    }

    /// Whether these counts have all of it.
    pub(super) const fn is_in(&self, counts: &NamespaceCounts) -> bool {
        self.to.0 <= counts.begun.0
    }
}

impl Events {
    /// An ICMP error.
    pub(super) fn error(ipv6: bool) -> Self {
        Self {
            icmp: [u64::from(!ipv6), u64::from(ipv6)],
            failed: 0,
        }
    }

    /// An attempt that an ICMP error ended.
    pub(super) fn ended(ipv6: bool) -> Self {
        Self {
            failed: 1,
            ..Self::error(ipv6)
        }
    }

    pub(super) const fn failed() -> Self {
        Self {
            icmp: [0; 2],
            failed: 1,
        }
    }

    pub(super) const fn icmp_of(&self, ipv6: bool) -> u64 {
        let [v4, v6] = self.icmp;
        if ipv6 { v6 } else { v4 }
    }

    /// ICMP errors of both families.
    pub(super) const fn errors(&self) -> u64 {
        let [v4, v6] = self.icmp;
        v4 + v6
    }

    fn add(&mut self, other: Self) {
        for (to, from) in self.icmp.iter_mut().zip(other.icmp) {
            *to += from;
        }
        self.failed += other.failed;
    }
}

impl Explained {
    /// Adds what an attempt explains that was counted at this time: what is certain, and what is possible.
    pub(super) fn add(&mut self, when: Interval, known: Events, possible: Events) {
        if known == Events::default() && possible == Events::default() {
            return;
        }
        let newest = self.0.back_mut();
        let together = |of: &&mut Part| {
            when.from >= of.when.from
                && when.to >= of.when.to
                && when.from.since_ns(of.when.from) <= TOGETHER_NS
        };
        if let Some(newest) = newest.filter(together) {
            newest.when.to = when.to;
            newest.known.add(known);
            newest.possible.add(possible);
            return;
        }
        if self.0.len() == MOST_EXPLAINED {
            self.0.pop_front();
        }
        self.0.push_back(Part {
            when,
            known,
            possible,
        });
    }

    /// Forgets what every later reading has, too.
    pub(super) fn forget(&mut self, oldest: &NamespaceCounts) {
        self.0.retain(|part| !part.when.is_in(oldest));
    }

    /// Whether these counts may have a part of what attempts explain and not all.
    pub(super) fn is_uncertain_in(&self, counts: &NamespaceCounts) -> bool {
        let mut parts = self.0.iter();
        parts.any(|part| !part.when.is_in(counts) && !part.when.is_after(counts))
    }

    /// What attempts explain of the counts from a reading to another.
    pub(super) fn between(&self, before: &NamespaceCounts, now: &NamespaceCounts) -> Bounds {
        let mut bounds = Bounds::default();
        for part in &self.0 {
            if part.when.is_in(before) || part.when.is_after(now) {
                continue;
            }
            bounds.most.add(part.known);
            bounds.most.add(part.possible);
            if part.when.is_after(before) && part.when.is_in(now) {
                bounds.least.add(part.known);
            }
        }
        bounds
    }
}
