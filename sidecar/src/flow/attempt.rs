//! Attempts that failed without an answer: whether their application abandoned them or an ICMP error ended them. Pure.
//!
//! No program may read a socket's error. What it can read: whether the socket was closed, whether the SYN was still queued when the
//! attempt ended, and the counters of the network namespace. An ICMP error is counted before it has an effect, and an attempt that
//! the kernel ends is counted as failed (`tcpAttemptFails` of RFC 4022), while one that its application drops is not
//! (net/ipv4/tcp.c, tcp_done and tcp_disconnect).
//!
//! An error that comes while the application is still inside `connect()`, as from a packet filter of the same machine, ends nothing: the
//! kernel keeps it, counts it (`TcpExt.LockDroppedIcmps`), and gives it to the application, which then closes the socket
//! (net/ipv4/tcp_ipv4.c, tcp_v4_err).

use std::collections::VecDeque;

use super::{Failure, Monotonic};

/// An ICMP error that ends an attempt is counted so much earlier at most, unless its CPU was taken away in between.
const SLACK_NS: u64 = 20_000_000;

/// An application that receives an error inside `connect()` closes its socket within this time, as a rule.
const AT_ONCE_NS: u64 = 500_000_000;

/// Readings that are kept.
const READINGS: usize = 16;

/// Attempts that end within this time are kept as one.
const TOGETHER_NS: u64 = 1_000_000;

/// What attempts explain is kept for so many times, at most: some 16 s of attempts without a pause.
const MOST_EXPLAINED: usize = 16_384;

/// How an attempt ended, as far as its socket shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastSeen {
    /// The application had closed the socket.
    Closed,
    /// The SYN was still queued: the socket was disconnected, or, on kernels that discard the queue last, anything happened.
    Queued,
    /// The SYN had been discarded: the kernel ended the attempt.
    Discarded,
}

/// An attempt that ended without an answer, and not by the kernel's timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unanswered {
    /// When it began.
    pub started: Monotonic,
    /// When it ended.
    pub at: Monotonic,
    /// Whether the packets were IPv6.
    pub ipv6: bool,
    /// Whether the SYN was sent again: the first one met no error.
    pub sent_again: bool,
    /// How it ended.
    pub last_seen: LastSeen,
    /// Whether the socket is of the network namespace whose counters are read; `None` where that is not known.
    pub is_here: Option<bool>,
}

/// Counters of a network namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NamespaceCounts {
    /// When the read began.
    pub begun: Monotonic,
    /// When they had been read.
    pub at: Monotonic,
    /// ICMP errors received: destination unreachable, time exceeded, parameter problem.
    pub icmp: u64,
    /// The same of ICMPv6.
    pub icmp6: u64,
    /// ICMP errors of either family that came while the application was inside a system call on the socket.
    pub kept: u64,
    /// Attempts that the kernel ended (`tcpAttemptFails`).
    pub failed: u64,
}

/// Decides why attempts failed.
#[derive(Debug, Default)]
pub struct AttemptJudge {
    readings: VecDeque<NamespaceCounts>,
    explained: VecDeque<Explained>,
}

/// What attempts explain of the counters that ended from one time to another.
#[derive(Debug)]
struct Explained {
    from: Monotonic,
    to: Monotonic,
    /// Of attempts whose reason is known.
    known: Events,
    /// The most that attempts may explain whose reason is not.
    possible: Events,
}

/// Counted events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Events {
    icmp: u64,
    icmp6: u64,
    kept: u64,
    failed: u64,
}

/// Counted events that attempts do not explain: at least, and at most.
#[derive(Clone, Copy, Debug)]
struct Unexplained {
    least: Events,
    most: Events,
}

impl Events {
    /// An attempt that an ICMP error ended.
    fn ended(ipv6: bool) -> Self {
        Self {
            icmp: u64::from(!ipv6),
            icmp6: u64::from(ipv6),
            kept: 0,
            failed: 1,
        }
    }

    /// An attempt whose application received an ICMP error.
    fn received(ipv6: bool) -> Self {
        Self {
            kept: 1,
            failed: 0,
            ..Self::ended(ipv6)
        }
    }

    const fn failed() -> Self {
        Self {
            icmp: 0,
            icmp6: 0,
            kept: 0,
            failed: 1,
        }
    }

    const fn icmp_of(&self, ipv6: bool) -> u64 {
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
    const fn is_before(&self, at: Monotonic) -> bool {
        self.at.0 + SLACK_NS <= at.0
    }

    /// Whether they have all that ended by this time.
    const fn has(&self, at: Monotonic) -> bool {
        at.0 <= self.begun.0
    }
}

impl Explained {
    /// Whether a reading may have been made between the count of an attempt and its end.
    const fn is_uncertain_in(&self, counts: &NamespaceCounts) -> bool {
        !counts.has(self.to) && !counts.is_before(self.from)
    }
}

impl Unanswered {
    /// Whether its application may have closed it for an ICMP error: such an error answers the first SYN; by the second one the
    /// application is not inside `connect()` any more.
    fn may_have_received(&self, discards_first: bool) -> bool {
        let dropped = match self.last_seen {
            LastSeen::Closed => true,
            LastSeen::Queued => discards_first,
            LastSeen::Discarded => false,
        };
        dropped && !self.sent_again && self.is_here != Some(false)
    }

    /// Whether an ICMP error may have ended it.
    fn may_be_ended(&self, discards_first: bool) -> bool {
        let by_kernel = match self.last_seen {
            LastSeen::Closed => false,
            LastSeen::Queued => !discards_first,
            LastSeen::Discarded => true,
        };
        by_kernel && self.is_here != Some(false)
    }
}

impl AttemptJudge {
    /// Takes in the counters as they stand.
    pub fn read(&mut self, counts: NamespaceCounts) {
        if self.readings.len() == READINGS {
            self.readings.pop_front();
        }
        self.readings.push_back(counts);
        let oldest = self.readings[0];
        self.explained.retain(|of| !oldest.has(of.to));
    }

    /// When the counters were last read.
    pub fn last_read(&self) -> Option<Monotonic> {
        self.readings.back().map(|counts| counts.at)
    }

    /// An attempt ended for a known reason that the kernel counts as a failure.
    pub fn failed(&mut self, at: Monotonic) {
        self.explain(at, Events::failed(), Events::default());
    }

    /// Why these attempts failed; `now` is read after their records. `discards_first` returns whether this kernel discards the queue
    /// before it ends an attempt for an ICMP error; false where that is not known.
    pub fn judge(
        &mut self,
        attempts: &[Unanswered],
        now: Option<NamespaceCounts>,
        discards_first: impl FnOnce() -> bool,
    ) -> Vec<Failure> {
        // Asked only where it matters.
        let discards_first =
            attempts.iter().any(|of| of.last_seen == LastSeen::Queued) && discards_first();
        let judged = attempts
            .iter()
            .filter(|of| of.may_have_received(discards_first) || of.may_be_ended(discards_first));
        let newest = judged.map(|of| self.base_of(of)).min().flatten();
        let unexplained = now
            .zip(newest)
            .map(|(now, newest)| self.unexplained(&now, self.clear_base(newest)));
        let count = |test: &dyn Fn(&Unanswered) -> bool| {
            attempts.iter().filter(|of| test(of)).count() as u64
        };
        let circumstances = Circumstances {
            discards_first,
            unexplained,
            ended: [false, true]
                .map(|ipv6| count(&|of| of.ipv6 == ipv6 && of.may_be_ended(discards_first))),
            seen: count(&|of| of.may_have_received(discards_first)),
        };
        let failures: Vec<_> = attempts.iter().map(|of| circumstances.why(of)).collect();
        for (attempt, failure) in attempts.iter().zip(&failures) {
            self.book(attempt, *failure, discards_first);
        }
        if let Some(now) = now {
            self.read(now);
        }
        failures
    }

    /// Counts from a reading to `now`, less those that attempts explain.
    fn unexplained(&self, now: &NamespaceCounts, before: &NamespaceCounts) -> Unexplained {
        let counted = now.events().less(before.events());
        let (mut certain, mut possible) = (Events::default(), Events::default());
        for explained in &self.explained {
            if before.has(explained.to) || now.is_before(explained.from) {
                continue;
            }
            possible.add(explained.known);
            possible.add(explained.possible);
            if before.is_before(explained.from) && now.has(explained.to) {
                certain.add(explained.known);
            }
        }
        Unexplained {
            least: counted.less(possible),
            most: counted.less(certain),
        }
    }

    /// The newest reading up to this one between whose counts and ends no attempt lies, or this one.
    fn clear_base(&self, newest: usize) -> &NamespaceCounts {
        let is_clear =
            |counts: &&NamespaceCounts| !self.explained.iter().any(|of| of.is_uncertain_in(counts));
        let mut older = self.readings.range(..=newest).rev();
        older.find(is_clear).unwrap_or(&self.readings[newest])
    }

    /// The newest reading that counts nothing of this attempt: one before it began, or, where an error may have ended it, one well
    /// before it ended.
    fn base_of(&self, attempt: &Unanswered) -> Option<usize> {
        let has_nothing = |counts: &NamespaceCounts| {
            counts.at <= attempt.started
                || attempt.last_seen != LastSeen::Closed && counts.is_before(attempt.at)
        };
        self.readings.iter().rposition(has_nothing)
    }

    fn book(&mut self, attempt: &Unanswered, failure: Failure, discards_first: bool) {
        if attempt.is_here == Some(false) {
            return;
        }
        let (mut known, mut possible) = (Events::default(), Events::default());
        let may_be_ended = attempt.may_be_ended(discards_first);
        let by_error = if may_be_ended {
            Events::ended(attempt.ipv6)
        } else {
            Events::received(attempt.ipv6)
        };
        match failure {
            Failure::Unreachable => known = by_error,
            // Where an error is one of the ways in which it may have ended.
            Failure::Other if may_be_ended || attempt.may_have_received(discards_first) => {
                possible = by_error;
            }
            _ => {}
        }
        // The kernel ended it, for an error or not.
        if attempt.last_seen == LastSeen::Discarded {
            (known.failed, possible.failed) = (1, 0);
        }
        self.explain(attempt.at, known, possible);
    }

    fn explain(&mut self, at: Monotonic, known: Events, possible: Events) {
        let newest = self.explained.back_mut();
        let together = |of: &&mut Explained| at >= of.from && at.since_ns(of.from) <= TOGETHER_NS;
        if let Some(newest) = newest.filter(together) {
            newest.to = newest.to.max(at);
            newest.known.add(known);
            newest.possible.add(possible);
            return;
        }
        if self.explained.len() == MOST_EXPLAINED {
            self.explained.pop_front();
        }
        self.explained.push_back(Explained {
            from: at,
            to: at,
            known,
            possible,
        });
    }
}

/// What is known of all attempts that are judged together.
struct Circumstances {
    discards_first: bool,
    /// Unexplained counts since before the first of them; `None` where not known.
    unexplained: Option<Unexplained>,
    /// How many may have been ended by an ICMP error of either family.
    ended: [u64; 2],
    /// How many may have been closed by their application for an ICMP error.
    seen: u64,
}

impl Circumstances {
    fn why(&self, attempt: &Unanswered) -> Failure {
        if attempt.may_be_ended(self.discards_first) {
            return self.ended(attempt);
        }
        match attempt.last_seen {
            // In another namespace, on a kernel that does not show who ended it.
            LastSeen::Discarded => Failure::Other,
            LastSeen::Queued if !self.discards_first => Failure::Other,
            LastSeen::Queued | LastSeen::Closed => self.dropped(attempt),
        }
    }

    /// Why one that its application dropped failed.
    fn dropped(&self, attempt: &Unanswered) -> Failure {
        let kept = |of: fn(&Unexplained) -> Events| {
            self.unexplained.as_ref().map_or(0, |all| of(all).kept)
        };
        let (least, most) = (kept(|all| all.least), kept(|all| all.most));
        if !attempt.may_have_received(self.discards_first) || most == 0 {
            return Failure::Abandoned;
        }
        // Attempts that an error ended may have met one before. One that lasted may be another's: an application that received an error
        // and keeps its socket open is counted, and in no record yet.
        let [ended, ended6] = self.ended;
        let closed_at_once = attempt.at.since_ns(attempt.started) <= AT_ONCE_NS;
        if closed_at_once && least >= self.seen + ended + ended6 {
            Failure::Unreachable
        } else {
            Failure::Other
        }
    }

    /// Why one that the kernel ended, or may have, failed.
    fn ended(&self, attempt: &Unanswered) -> Failure {
        let Some(Unexplained { least, most }) = self.unexplained else {
            return Failure::Other;
        };
        if most.icmp_of(attempt.ipv6) == 0
            || (most.failed == 0 && attempt.last_seen == LastSeen::Queued)
        {
            // In another namespace the counters show nothing.
            return match attempt.is_here {
                Some(true) => Failure::Abandoned,
                _ => Failure::Other,
            };
        }
        let of_its_family = self.ended[usize::from(attempt.ipv6)];
        let ending = least.icmp_of(attempt.ipv6).saturating_sub(most.kept);
        if ending >= of_its_family && least.failed >= self.ended.iter().sum() {
            Failure::Unreachable
        } else {
            // Some were ended by ICMP errors and some were not: nothing shows which.
            Failure::Other
        }
    }
}

#[cfg(test)]
mod tests;
