//! ICMP errors that came while an application was inside `connect()`: they are counted in the moment in which an attempt begins. Pure.

use std::collections::{BTreeMap, VecDeque};

use super::{
    NamespaceCounts, Unanswered,
    explained::{Bounds, Explained, Interval},
};

/// Whether an attempt met an error in the moment in which it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Met {
    No,
    Perhaps,
}

/// What the counters show of the moment in which an attempt began.
pub(super) enum Beginning<'a> {
    /// They cannot be read.
    Uncounted,
    /// No reading is older.
    Unread,
    /// From the last reading before it to the first one that has all of it.
    Counted(&'a Window),
}

/// The counters of the moments in which attempts began.
pub(super) struct Windows<'a> {
    readings: &'a VecDeque<NamespaceCounts>,
    now: &'a NamespaceCounts,
    ends: &'a Explained,
    explained: &'a Explained,
    /// By the reading before, and the one after.
    known: BTreeMap<(usize, usize), Window>,
}

/// From the last reading before an attempt began to the first one that has all of its beginning.
#[derive(Debug)]
pub(super) struct Window {
    before: NamespaceCounts,
    after: NamespaceCounts,
    /// What ended attempts.
    ended: Bounds,
    /// What attempts that are judged already met as they began.
    explained: Bounds,
}

impl<'a> Windows<'a> {
    pub(super) const fn new(
        readings: &'a VecDeque<NamespaceCounts>,
        now: &'a NamespaceCounts,
        ends: &'a Explained,
        explained: &'a Explained,
    ) -> Self {
        Self {
            readings,
            now,
            ends,
            explained,
            known: BTreeMap::new(),
        }
    }

    pub(super) fn of(&mut self, attempt: &Unanswered) -> Beginning<'_> {
        let start = attempt.start();
        let readings = self.readings;
        // The oldest ones first, by when they were read.
        let later = readings.partition_point(|counts| start.is_after(counts));
        let Some(before) = later.checked_sub(1) else {
            return Beginning::Unread;
        };
        let after = readings.partition_point(|counts| !start.is_in(counts));
        let window = self.known.entry((before, after)).or_insert_with(|| {
            let before = readings[before];
            let after = readings.get(after).unwrap_or(self.now);
            Window {
                before,
                after: *after,
                ended: self.ends.between(&before, after),
                explained: self.explained.between(&before, after),
            }
        });
        Beginning::Counted(window)
    }
}

impl Beginning<'_> {
    /// Whether an attempt of this family that began then met an error.
    pub(super) fn met(&self, ipv6: bool) -> Met {
        match self {
            Self::Uncounted | Self::Unread => Met::Perhaps,
            Self::Counted(window) => window.met(ipv6),
        }
    }
}

impl Window {
    fn count(&self, of: fn(&NamespaceCounts) -> u64) -> u64 {
        of(&self.after).saturating_sub(of(&self.before))
    }

    /// Errors that were kept, of either family.
    fn kept(&self) -> u64 {
        self.count(|counts| counts.kept)
    }

    /// Errors of either family.
    fn errors(&self) -> u64 {
        self.count(|counts| counts.icmp + counts.icmp6)
    }

    fn met(&self, ipv6: bool) -> Met {
        let errors = if ipv6 {
            self.count(|counts| counts.icmp6)
        } else {
            self.count(|counts| counts.icmp)
        };
        let of_others = &self.explained.least;
        if self.kept() <= of_others.errors() || errors <= of_others.icmp_of(ipv6) {
            Met::No
        } else {
            Met::Perhaps
        }
    }

    /// Whether an attempt may have begun meanwhile.
    pub(super) const fn may_have(&self, start: Interval) -> bool {
        !start.is_in(&self.before) && !start.is_after(&self.after)
    }

    /// Whether each of so many met one, and nobody else did. An attempt that is in no record meets one, too, and a second one that ends it.
    pub(super) fn all_met(&self, attempts: u64) -> bool {
        let ended = &self.ended.least;
        self.kept() == self.explained.most.errors() + attempts
            && self.errors() == self.kept() + ended.errors()
            && self.count(|counts| counts.failed) == ended.failed
    }
}
