//! What attempts explain of a network namespace's counters. Pure.

use std::collections::VecDeque;

use super::NamespaceCounts;
use crate::flow::Monotonic;

/// An ICMP error that ends an attempt is counted so much earlier at most, unless its CPU was taken away in between.
pub(super) const SLACK_NS: u64 = 20_000_000;

/// Attempts that end within this time are kept as one.
const TOGETHER_NS: u64 = 1_000_000;

/// What attempts explain is kept for so many times, at most: some 16 s of attempts without a pause.
const MOST_EXPLAINED: usize = 16_384;

/// What attempts explain, by when they ended.
#[derive(Debug, Default)]
pub(super) struct Explained(VecDeque<Part>);

/// What attempts explain that ended from one time to another.
#[derive(Debug)]
struct Part {
    from: Monotonic,
    to: Monotonic,
    /// Of attempts whose reason is known.
    known: Events,
    /// The most that attempts may explain whose reason is not.
    possible: Events,
}

/// Counted events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Events {
    icmp: u64,
    icmp6: u64,
    pub(super) kept: u64,
    pub(super) failed: u64,
}

/// Counted events that attempts do not explain: at least, and at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unexplained {
    pub(super) least: Events,
    pub(super) most: Events,
}

impl Events {
    /// An attempt that an ICMP error ended.
    pub(super) fn ended(ipv6: bool) -> Self {
        Self {
            icmp: u64::from(!ipv6),
            icmp6: u64::from(ipv6),
            kept: 0,
            failed: 1,
        }
    }

    /// An attempt whose application received an ICMP error.
    pub(super) fn received(ipv6: bool) -> Self {
        Self {
            kept: 1,
            failed: 0,
            ..Self::ended(ipv6)
        }
    }

    pub(super) const fn failed() -> Self {
        Self {
            icmp: 0,
            icmp6: 0,
            kept: 0,
            failed: 1,
        }
    }

    pub(super) const fn icmp_of(&self, ipv6: bool) -> u64 {
        if ipv6 { self.icmp6 } else { self.icmp }
    }

    fn combined(self, other: Self, with: fn(u64, u64) -> u64) -> Self {
        Self {
            icmp: with(self.icmp, other.icmp),
            icmp6: with(self.icmp6, other.icmp6),
            kept: with(self.kept, other.kept),
            failed: with(self.failed, other.failed),
        }
    }

    fn add(&mut self, other: Self) {
        *self = self.combined(other, u64::saturating_add);
    }

    fn less(self, other: Self) -> Self {
        self.combined(other, u64::saturating_sub)
    }
}

impl NamespaceCounts {
    const fn events(&self) -> Events {
        Events {
            icmp: self.icmp,
            icmp6: self.icmp6,
            kept: self.kept,
            failed: self.failed,
        }
    }

    /// Whether these counts have nothing of what ended at this time, or later.
    pub(super) const fn is_before(&self, at: Monotonic) -> bool {
        self.at.0 + SLACK_NS <= at.0
    }

    /// Whether they have all that ended by this time.
    const fn has(&self, at: Monotonic) -> bool {
        at.0 <= self.begun.0
    }
}

impl Part {
    /// Whether a reading may have been made between the count of an attempt and its end.
    const fn is_uncertain_in(&self, counts: &NamespaceCounts) -> bool {
        !counts.has(self.to) && !counts.is_before(self.from)
    }
}

impl Explained {
    /// Adds what attempts explain that ended at this time: what is certain, and what is possible.
    pub(super) fn add(&mut self, at: Monotonic, known: Events, possible: Events) {
        let newest = self.0.back_mut();
        let together = |of: &&mut Part| at >= of.from && at.since_ns(of.from) <= TOGETHER_NS;
        if let Some(newest) = newest.filter(together) {
            newest.to = newest.to.max(at);
            newest.known.add(known);
            newest.possible.add(possible);
            return;
        }
        if self.0.len() == MOST_EXPLAINED {
            self.0.pop_front();
        }
        self.0.push_back(Part {
            from: at,
            to: at,
            known,
            possible,
        });
    }

    /// Forgets what every later reading has, too.
    pub(super) fn forget(&mut self, oldest: &NamespaceCounts) {
        self.0.retain(|part| !oldest.has(part.to));
    }

    /// Whether an attempt ended a moment after this reading was made, or while it was.
    pub(super) fn is_uncertain_in(&self, counts: &NamespaceCounts) -> bool {
        self.0.iter().any(|part| part.is_uncertain_in(counts))
    }

    /// Counts from a reading to `now`, less those that attempts explain.
    pub(super) fn unexplained(
        &self,
        before: &NamespaceCounts,
        now: &NamespaceCounts,
    ) -> Unexplained {
        let counted = now.events().less(before.events());
        let (mut certain, mut possible) = (Events::default(), Events::default());
        for part in &self.0 {
            if before.has(part.to) || now.is_before(part.from) {
                continue;
            }
            possible.add(part.known);
            possible.add(part.possible);
            if before.is_before(part.from) && now.has(part.to) {
                certain.add(part.known);
            }
        }
        Unexplained {
            least: counted.less(possible),
            most: counted.less(certain),
        }
    }
}
