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
    readings: VecDeque<Reading>,
}

#[derive(Debug, Default)]
struct Reading {
    counts: NamespaceCounts,
    /// The part of the counts that attempts explain which ended between this reading and the next.
    explained: NamespaceCounts,
}

impl NamespaceCounts {
    const fn icmp_of(&self, ipv6: bool) -> u64 {
        if ipv6 { self.icmp6 } else { self.icmp }
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
        self.readings.push_back(Reading {
            counts,
            explained: NamespaceCounts::default(),
        });
    }

    /// When the counters were last read.
    pub fn last_read(&self) -> Option<Monotonic> {
        self.readings.back().map(|reading| reading.counts.at)
    }

    /// An attempt ended for a known reason that the kernel counts as a failure.
    pub fn failed(&mut self, at: Monotonic) {
        self.explain(at, |explained| explained.failed += 1);
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
        let base = judged.map(|of| self.base_of(of)).min().flatten();
        let unexplained = now
            .zip(base)
            .map(|(now, base)| self.unexplained(&now, base));
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

    /// Counts since a reading, less those that attempts explain.
    fn unexplained(&self, now: &NamespaceCounts, base: usize) -> NamespaceCounts {
        let before = &self.readings[base].counts;
        let left = |of: fn(&NamespaceCounts) -> u64| {
            let known = self.readings.range(base..);
            let explained: u64 = known.map(|reading| of(&reading.explained)).sum();
            of(now).saturating_sub(of(before)).saturating_sub(explained)
        };
        NamespaceCounts {
            at: before.at,
            icmp: left(|counts| counts.icmp),
            icmp6: left(|counts| counts.icmp6),
            kept: left(|counts| counts.kept),
            failed: left(|counts| counts.failed),
        }
    }

    /// The newest reading that counts nothing of this attempt: one before it began, or, where an error may have ended it, one well
    /// before it ended.
    fn base_of(&self, attempt: &Unanswered) -> Option<usize> {
        let has_nothing = |reading: &Reading| {
            reading.counts.at <= attempt.started
                || attempt.last_seen != LastSeen::Closed && is_before(reading, attempt.at)
        };
        self.readings.iter().rposition(has_nothing)
    }

    fn book(&mut self, attempt: &Unanswered, failure: Failure, discards_first: bool) {
        if attempt.is_here == Some(false) {
            return;
        }
        let by_icmp = failure == Failure::Unreachable;
        // Where the kernel discards the queue last, one that an error ended still has its SYN.
        let by_kernel = attempt.last_seen == LastSeen::Discarded
            || by_icmp && attempt.may_be_ended(discards_first);
        let ipv6 = attempt.ipv6;
        self.explain(attempt.at, |explained| {
            explained.icmp += u64::from(by_icmp && !ipv6);
            explained.icmp6 += u64::from(by_icmp && ipv6);
            explained.kept += u64::from(by_icmp && attempt.last_seen == LastSeen::Closed);
            explained.failed += u64::from(by_kernel);
        });
    }

    fn explain(&mut self, at: Monotonic, add: impl FnOnce(&mut NamespaceCounts)) {
        let base = self.readings.iter().rposition(|of| is_before(of, at));
        if let Some(base) = base {
            add(&mut self.readings[base].explained);
        }
    }
}

/// Whether a reading counts nothing of an attempt that ended at this time.
const fn is_before(reading: &Reading, at: Monotonic) -> bool {
    reading.counts.at.0 + SLACK_NS <= at.0
}

/// What is known of all attempts that are judged together.
struct Circumstances {
    discards_first: bool,
    /// Unexplained counts since before the first of them; `None` where not known.
    unexplained: Option<NamespaceCounts>,
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
        let kept = self.unexplained.map_or(0, |counted| counted.kept);
        if !attempt.may_have_received(self.discards_first) || kept == 0 {
            return Failure::Abandoned;
        }
        // Attempts that an error ended may have met one before. One that lasted may be another's: an application that received an error
        // and keeps its socket open is counted, and in no record yet.
        let [ended, ended6] = self.ended;
        let closed_at_once = attempt.at.since_ns(attempt.started) <= AT_ONCE_NS;
        if closed_at_once && kept >= self.seen + ended + ended6 {
            Failure::Unreachable
        } else {
            Failure::Other
        }
    }

    /// Why one that the kernel ended, or may have, failed.
    fn ended(&self, attempt: &Unanswered) -> Failure {
        let Some(counted) = self.unexplained else {
            return Failure::Other;
        };
        let icmp = counted.icmp_of(attempt.ipv6);
        if icmp == 0 || (counted.failed == 0 && attempt.last_seen == LastSeen::Queued) {
            // In another namespace the counters show nothing.
            return match attempt.is_here {
                Some(true) => Failure::Abandoned,
                _ => Failure::Other,
            };
        }
        let of_its_family = self.ended[usize::from(attempt.ipv6)];
        let enough = icmp.saturating_sub(counted.kept) >= of_its_family;
        if enough && counted.failed >= self.ended.iter().sum() {
            Failure::Unreachable
        } else {
            // Some were ended by ICMP errors and some were not: nothing shows which.
            Failure::Other
        }
    }
}

#[cfg(test)]
mod tests;
