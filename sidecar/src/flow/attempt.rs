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

mod explained;

use std::collections::VecDeque;

use self::explained::{Events, Explained, Unexplained};
use super::{Failure, Monotonic};

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
    explained: Explained,
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
        self.explained.forget(&self.readings[0]);
    }

    /// When the counters were last read.
    pub fn last_read(&self) -> Option<Monotonic> {
        self.readings.back().map(|counts| counts.at)
    }

    /// An attempt ended for a known reason that the kernel counts as a failure. `is_here`: in this network namespace; else it may be
    /// counted in another.
    pub fn failed(&mut self, at: Monotonic, is_here: bool) {
        let (known, possible) = if is_here {
            (Events::failed(), Events::default())
        } else {
            (Events::default(), Events::failed())
        };
        self.explained.add(at, known, possible);
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
            .map(|(now, newest)| self.explained.unexplained(self.clear_base(newest), &now));
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

    /// The newest reading, from this one backwards, while which no attempt ended, nor a moment later; else this one.
    fn clear_base(&self, newest: usize) -> &NamespaceCounts {
        let is_clear = |counts: &&NamespaceCounts| !self.explained.is_uncertain_in(counts);
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
        // The kernel ended it, for an error or not: an error that was counted here shows that it is here.
        if attempt.last_seen == LastSeen::Discarded {
            let is_counted = attempt.is_here == Some(true) || failure == Failure::Unreachable;
            (known.failed, possible.failed) = (is_counted.into(), (!is_counted).into());
        }
        self.explained.add(attempt.at, known, possible);
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
