//! Attempts that failed without an answer: whether their application abandoned them or an ICMP error ended them. Pure.
//!
//! No program may read a socket's error. What it can read: whether the socket was closed, whether the SYN was still queued when the
//! attempt ended, and the counters of the network namespace. An ICMP error is counted before it has an effect, and an attempt that
//! the kernel ends is counted as failed (`tcpAttemptFails` of RFC 4022), while one that its application drops is not
//! (net/ipv4/tcp.c, tcp_done and tcp_disconnect).
//!
//! An error that comes while the application is still inside `connect()`, as from a packet filter of the same machine, ends nothing: the
//! kernel keeps it, counts it (`TcpExt.LockDroppedIcmps`), and gives it to the application where that asks (SO_ERROR)
//! (net/ipv4/tcp_ipv4.c, tcp_v4_err). So an attempt that its application drops met an error in the moment in which it began, or none
//! ([`kept`]).

mod explained;
mod kept;

use std::collections::VecDeque;

use self::{
    explained::{Events, Explained, Interval},
    kept::{Beginning, Met, Windows},
};
use super::{Failure, Monotonic};

/// An application that receives an error as its attempt begins closes its socket within this time, as a rule: poll() reports the error at
/// once.
const AT_ONCE_NS: u64 = 100_000_000;

/// Readings that are kept: of more than a second, in which an attempt sends its first SYN alone.
const READINGS: usize = 64;

/// For so long after an error that an attempt kept, others are expected to.
const KEPT_LATELY_NS: u64 = 5_000_000_000;

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
    /// ICMP errors of either family that came while an application was inside a system call on the socket.
    pub kept: u64,
    /// Attempts that the kernel ended (`tcpAttemptFails`).
    pub failed: u64,
}

/// Decides why attempts failed.
#[derive(Debug, Default)]
pub struct AttemptJudge {
    readings: VecDeque<NamespaceCounts>,
    /// When a reading last had more kept errors than the one before it.
    kept_at: Option<Monotonic>,
    /// Of errors that ended an attempt, and of attempts that the kernel ended.
    ends: Explained,
    /// Of errors that an attempt kept.
    kept: Explained,
}

impl NamespaceCounts {
    const fn icmp_of(&self, ipv6: bool) -> u64 {
        if ipv6 { self.icmp6 } else { self.icmp }
    }

    const fn has_same(&self, other: &Self) -> bool {
        self.icmp == other.icmp
            && self.icmp6 == other.icmp6
            && self.kept == other.kept
            && self.failed == other.failed
    }

    /// Whether these counts have nothing of what ended at this time, or later.
    fn is_before(&self, at: Monotonic) -> bool {
        Interval::of_end(at).is_after(self)
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

    /// When an error that it met inside `connect()` was counted.
    fn start(&self) -> Interval {
        Interval::of_start(self.started, self.at)
    }

    fn closed_at_once(&self) -> bool {
        self.at.since_ns(self.started) <= AT_ONCE_NS
    }
}

impl AttemptJudge {
    /// Takes in the counters as they stand.
    pub fn read(&mut self, counts: NamespaceCounts) {
        let mut newest = self.readings.iter().rev();
        let same = |of: Option<&NamespaceCounts>| of.is_some_and(|of| of.has_same(&counts));
        let (last, last_but_one) = (newest.next(), newest.next());
        if last.is_some_and(|last| last.kept != counts.kept) {
            self.kept_at = Some(counts.at);
        }
        // Of readings that have the same, the first and the last one serve.
        if same(last) && same(last_but_one) {
            self.readings.pop_back();
        } else if self.readings.len() == READINGS {
            self.readings.pop_front();
        }
        self.readings.push_back(counts);
        self.ends.forget(&self.readings[0]);
        self.kept.forget(&self.readings[0]);
    }

    /// When the counters were last read.
    pub fn last_read(&self) -> Option<Monotonic> {
        self.readings.back().map(|counts| counts.at)
    }

    /// Whether an ICMP error has come within the last seconds while an application was inside a system call.
    pub fn kept_lately(&self, now: Monotonic) -> bool {
        self.kept_at
            .is_some_and(|at| now.since_ns(at) <= KEPT_LATELY_NS)
    }

    /// An attempt ended for a known reason that the kernel counts as a failure. `is_here`: in this network namespace; else it may be
    /// counted in another.
    pub fn failed(&mut self, at: Monotonic, is_here: bool) {
        let (known, possible) = if is_here {
            (Events::failed(), Events::default())
        } else {
            (Events::default(), Events::failed())
        };
        self.ends.add(Interval::of_end(at), known, possible);
    }

    /// An attempt that ended for a known reason may have met an ICMP error inside `connect()` before.
    pub fn may_have_met(&mut self, started: Monotonic, ended: Monotonic, ipv6: bool) {
        let start = Interval::of_start(started, ended);
        self.kept.add(start, Events::default(), Events::error(ipv6));
    }

    /// Whether one of these attempts is unreachable if no other socket has met the error: then [`Self::judge`] is to be given whether one
    /// may have.
    pub fn asks_for_others(&self, attempts: &[Unanswered], now: &NamespaceCounts) -> bool {
        let mut windows = Windows::new(&self.readings, now, &self.ends, &self.kept);
        attempts.iter().any(|of| {
            of.last_seen != LastSeen::Discarded
                && of.is_here != Some(false)
                && !of.sent_again
                && of.closed_at_once()
                && windows.of(of).met(of.ipv6) == Met::Perhaps
        })
    }

    /// Why these attempts failed; `now` is read after their records. `others`: whether a socket that is in none of the records may have met
    /// an ICMP error. `discards_first` returns whether this kernel discards the queue before it ends an attempt for an ICMP error; false
    /// where that is not known.
    pub fn judge(
        &mut self,
        attempts: &[Unanswered],
        now: Option<NamespaceCounts>,
        others: bool,
        discards_first: impl FnOnce() -> bool,
    ) -> Vec<Failure> {
        // Asked only where it matters.
        let discards_first =
            attempts.iter().any(|of| of.last_seen == LastSeen::Queued) && discards_first();
        let circumstances = Circumstances {
            attempts,
            discards_first,
            others,
            ending: now
                .as_ref()
                .and_then(|now| self.ending(attempts, now, discards_first)),
        };
        let mut windows = now
            .as_ref()
            .map(|now| Windows::new(&self.readings, now, &self.ends, &self.kept));
        let mut judged = Vec::with_capacity(attempts.len());
        for attempt in attempts {
            let beginning = windows
                .as_mut()
                .map_or(Beginning::Uncounted, |windows| windows.of(attempt));
            judged.push((
                circumstances.why(attempt, &beginning),
                beginning.met(attempt.ipv6),
            ));
        }
        for (attempt, (failure, met)) in attempts.iter().zip(&judged) {
            self.book(attempt, *failure, *met, discards_first);
        }
        if let Some(now) = now {
            self.read(now);
        }
        judged.into_iter().map(|(failure, _)| failure).collect()
    }

    /// What is known of those that an ICMP error may have ended; `None` where no reading counts nothing of them.
    fn ending(
        &self,
        attempts: &[Unanswered],
        now: &NamespaceCounts,
        discards_first: bool,
    ) -> Option<Ending> {
        let ended = attempts.iter().filter(|of| of.may_be_ended(discards_first));
        let base = ended.clone().map(|of| self.base_of(of)).min().flatten()?;
        let count = |ipv6: bool| ended.clone().filter(|of| of.ipv6 == ipv6).count() as u64;
        Some(Ending {
            counted: self.counted(self.clear_base(base), now),
            waiting: [false, true].map(count),
        })
    }

    /// The newest reading, from this one backwards, while which no attempt ended, nor a moment later; else this one.
    fn clear_base(&self, newest: usize) -> &NamespaceCounts {
        let is_clear = |counts: &&NamespaceCounts| !self.ends.is_uncertain_in(counts);
        let mut older = self.readings.range(..=newest).rev();
        older.find(is_clear).unwrap_or(&self.readings[newest])
    }

    /// The newest reading that counts nothing of the end of this attempt: one before it began, or one well before it ended.
    fn base_of(&self, attempt: &Unanswered) -> Option<usize> {
        let has_nothing =
            |counts: &NamespaceCounts| counts.at <= attempt.started || counts.is_before(attempt.at);
        self.readings.iter().rposition(has_nothing)
    }

    /// What may have ended attempts between two readings, less what ended those that are judged already.
    fn counted(&self, before: &NamespaceCounts, now: &NamespaceCounts) -> Counted {
        let (ends, kept) = (
            self.ends.between(before, now),
            self.kept.between(before, now),
        );
        let count = |of: fn(&NamespaceCounts) -> u64| of(now).saturating_sub(of(before));
        let (all_kept, failed) = (count(|counts| counts.kept), count(|counts| counts.failed));
        let of_family = |ipv6: bool| {
            let icmp = now.icmp_of(ipv6).saturating_sub(before.icmp_of(ipv6));
            // An error that was kept ended nothing, and was of this family unless it is known to be of the other one.
            let kept_most = all_kept.saturating_sub(kept.least.icmp_of(!ipv6));
            Range {
                least: icmp.saturating_sub(kept_most + ends.most.icmp_of(ipv6)),
                most: icmp.saturating_sub(kept.least.icmp_of(ipv6) + ends.least.icmp_of(ipv6)),
            }
        };
        Counted {
            icmp: [false, true].map(of_family),
            failed: Range {
                least: failed.saturating_sub(ends.most.failed),
                most: failed.saturating_sub(ends.least.failed),
            },
        }
    }

    fn book(&mut self, attempt: &Unanswered, failure: Failure, met: Met, discards_first: bool) {
        if attempt.is_here == Some(false) {
            return;
        }
        let may_be_ended = attempt.may_be_ended(discards_first);
        let (mut known, mut possible) = (Events::default(), Events::default());
        match failure {
            Failure::Unreachable if may_be_ended => known = Events::ended(attempt.ipv6),
            // Where an error is one of the ways in which it may have ended.
            Failure::Other if may_be_ended => possible = Events::ended(attempt.ipv6),
            _ => {}
        }
        // The kernel ended it, for an error or not: an error that was counted here shows that it is here.
        if attempt.last_seen == LastSeen::Discarded {
            let is_counted = attempt.is_here == Some(true) || failure == Failure::Unreachable;
            (known.failed, possible.failed) = (is_counted.into(), (!is_counted).into());
        }
        self.ends.add(Interval::of_end(attempt.at), known, possible);
        let error = Events::error(attempt.ipv6);
        let (known, possible) = match met {
            Met::No => return,
            _ if failure == Failure::Unreachable && !may_be_ended => (error, Events::default()),
            Met::Perhaps => (Events::default(), error),
        };
        self.kept.add(attempt.start(), known, possible);
    }
}

/// At least, and at most.
#[derive(Clone, Copy, Debug)]
struct Range {
    least: u64,
    most: u64,
}

/// What may have ended attempts since a reading.
#[derive(Debug)]
struct Counted {
    /// ICMP errors of IPv4 and of IPv6.
    icmp: [Range; 2],
    /// Attempts that the kernel ended.
    failed: Range,
}

/// What is known of all attempts together that an ICMP error may have ended.
#[derive(Debug)]
struct Ending {
    counted: Counted,
    /// How many there are, of IPv4 and of IPv6.
    waiting: [u64; 2],
}

impl Ending {
    /// Why one that the kernel ended, or may have, failed.
    fn why(&self, attempt: &Unanswered) -> Failure {
        let family = usize::from(attempt.ipv6);
        let (icmp, failed) = (self.counted.icmp[family], self.counted.failed);
        if icmp.most == 0 || (failed.most == 0 && attempt.last_seen == LastSeen::Queued) {
            // In another namespace the counters show nothing.
            return match attempt.is_here {
                Some(true) => Failure::Abandoned,
                _ => Failure::Other,
            };
        }
        if icmp.least >= self.waiting[family] && failed.least >= self.waiting.iter().sum() {
            Failure::Unreachable
        } else {
            // Some were ended by ICMP errors and some were not: nothing shows which.
            Failure::Other
        }
    }
}

/// What is known of all attempts that are judged together.
#[derive(Debug)]
struct Circumstances<'a> {
    attempts: &'a [Unanswered],
    discards_first: bool,
    /// Whether a socket that is in no record may have met an ICMP error.
    others: bool,
    /// `None` where not known.
    ending: Option<Ending>,
}

impl Circumstances<'_> {
    fn why(&self, attempt: &Unanswered, beginning: &Beginning<'_>) -> Failure {
        if attempt.may_be_ended(self.discards_first) {
            return match &self.ending {
                Some(ending) => ending.why(attempt),
                None => Failure::Other,
            };
        }
        match attempt.last_seen {
            // In another namespace, on a kernel that does not show who ended it.
            LastSeen::Discarded => Failure::Other,
            LastSeen::Queued if !self.discards_first => Failure::Other,
            LastSeen::Queued | LastSeen::Closed => self.dropped(attempt, beginning),
        }
    }

    /// Why one that its application dropped failed: by the counters of the moment in which it began.
    fn dropped(&self, attempt: &Unanswered, beginning: &Beginning<'_>) -> Failure {
        if !attempt.may_have_received(self.discards_first) {
            return Failure::Abandoned;
        }
        let window = match (beginning.met(attempt.ipv6), beginning) {
            // Its application closed it, and nothing shows more.
            (_, Beginning::Uncounted) | (Met::No, _) => return Failure::Abandoned,
            (Met::Perhaps, Beginning::Unread) => return Failure::Other,
            (Met::Perhaps, Beginning::Counted(window)) => window,
        };
        let attempts = self.attempts.iter().filter(|of| of.is_here != Some(false));
        let began = attempts.filter(|of| window.may_have(of.start())).count() as u64;
        // One that lasted was closed for another reason: its application would have had the error at once.
        if !self.others && attempt.closed_at_once() && window.all_met(began) {
            Failure::Unreachable
        } else {
            Failure::Other
        }
    }
}

#[cfg(test)]
mod tests;
