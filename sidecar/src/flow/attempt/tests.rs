//! Every mixture of attempts without an answer, classified by the counters that they move.

use super::{explained::SLACK_NS, *};

const SECOND: u64 = 1_000_000_000;

/// What really ended an attempt, and what the kernel shows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Truth {
    /// `shutdown()` or `connect(AF_UNSPEC)`
    Disconnected,
    /// An ICMP error.
    Icmp,
    /// SOCK_DESTROY
    Destroyed,
    /// `close()`
    Closed,
    /// `close()`, after the application got an ICMP error that came while it was inside `connect()`.
    ClosedAfterIcmp,
}

const TRUTHS: [Truth; 5] = [
    Truth::Disconnected,
    Truth::Icmp,
    Truth::Destroyed,
    Truth::Closed,
    Truth::ClosedAfterIcmp,
];

/// A kernel, by whether it discards the queue first.
#[derive(Clone, Copy)]
struct Kernel {
    discards_first: bool,
    knows_netns: bool,
}

const KERNELS: [Kernel; 3] = [
    Kernel {
        discards_first: true,
        knows_netns: true,
    },
    Kernel {
        discards_first: false,
        knows_netns: true,
    },
    Kernel {
        discards_first: false,
        knows_netns: false,
    },
];

impl Truth {
    const fn attempt(self, kernel: Kernel) -> Unanswered {
        Unanswered {
            started: Monotonic(2 * SECOND - AT_ONCE_NS),
            at: Monotonic(2 * SECOND),
            ipv6: false,
            sent_again: false,
            last_seen: match self {
                Self::Closed | Self::ClosedAfterIcmp => LastSeen::Closed,
                Self::Icmp | Self::Destroyed if kernel.discards_first => LastSeen::Discarded,
                Self::Disconnected | Self::Icmp | Self::Destroyed => LastSeen::Queued,
            },
            is_here: if kernel.knows_netns { Some(true) } else { None },
        }
    }

    const fn failure(self) -> Failure {
        match self {
            Self::Icmp | Self::ClosedAfterIcmp => Failure::Unreachable,
            Self::Disconnected | Self::Destroyed | Self::Closed => Failure::Abandoned,
        }
    }
}

/// Why these attempts are found to have failed, with so many ICMP errors and failed attempts of others at the same time.
fn judged(
    kernel: Kernel,
    truths: &[Truth],
    icmp_of_others: u64,
    failed_of_others: u64,
) -> Vec<Failure> {
    let mut judge = AttemptJudge::default();
    let before = NamespaceCounts {
        begun: Monotonic(SECOND),
        at: Monotonic(SECOND),
        icmp: 7,
        icmp6: 5,
        kept: 3,
        failed: 40,
    };
    judge.read(before);
    let count = |is: fn(&Truth) -> bool| truths.iter().filter(|truth| is(truth)).count() as u64;
    let now = NamespaceCounts {
        begun: Monotonic(3 * SECOND),
        at: Monotonic(3 * SECOND),
        icmp: before.icmp
            + count(|truth| matches!(truth, Truth::Icmp | Truth::ClosedAfterIcmp))
            + icmp_of_others,
        icmp6: before.icmp6,
        kept: before.kept + count(|truth| *truth == Truth::ClosedAfterIcmp),
        failed: before.failed
            + count(|truth| matches!(truth, Truth::Icmp | Truth::Destroyed))
            + failed_of_others,
    };
    let attempts: Vec<_> = truths.iter().map(|truth| truth.attempt(kernel)).collect();
    judge.judge(&attempts, Some(now), false, || kernel.discards_first)
}

#[test]
fn single_attempt_is_classified_where_the_namespace_is_known() {
    for kernel in KERNELS.into_iter().filter(|kernel| kernel.knows_netns) {
        for truth in TRUTHS {
            assert_eq!(
                judged(kernel, &[truth], 0, 0),
                [truth.failure()],
                "{truth:?}"
            );
        }
    }
}

#[test]
fn only_icmp_is_classified_where_the_namespace_is_unknown() {
    let [.., kernel] = KERNELS;
    assert_eq!(judged(kernel, &[Truth::Icmp], 0, 0), [Failure::Unreachable]);
    for truth in [Truth::Disconnected, Truth::Destroyed] {
        assert_eq!(judged(kernel, &[truth], 0, 0), [Failure::Other]);
    }
}

/// A datagram to a closed port brings an ICMP error that ends no attempt.
#[test]
fn udp_icmp_error_does_not_make_an_attempt_unreachable() {
    for kernel in KERNELS.into_iter().filter(|kernel| kernel.knows_netns) {
        let failures = judged(kernel, &[Truth::Disconnected; 3], 20, 0);
        assert_eq!(failures, [Failure::Abandoned; 3]);
    }
}

#[test]
fn concurrent_attempts_are_classified_or_other() {
    for kernel in KERNELS {
        for first in TRUTHS {
            for second in TRUTHS {
                let failures = judged(kernel, &[first, second], 0, 0);
                for (truth, failure) in [first, second].into_iter().zip(failures) {
                    let right = failure == truth.failure() || failure == Failure::Other;
                    assert!(right, "{first:?} and {second:?}: {truth:?} is {failure:?}");
                }
            }
        }
    }
    let [newest, ..] = KERNELS;
    let failures = judged(newest, &[Truth::Disconnected, Truth::Icmp], 0, 0);
    assert_eq!(failures, [Failure::Abandoned, Failure::Unreachable]);
    assert_eq!(
        judged(newest, &[Truth::Destroyed, Truth::Icmp], 0, 0),
        [Failure::Other; 2]
    );
}

/// In another namespace the counters are those of others; what the queue shows holds everywhere.
#[test]
fn only_a_disconnect_is_classified_in_another_namespace() {
    for kernel in KERNELS {
        for truth in [Truth::Disconnected, Truth::Icmp, Truth::Destroyed] {
            let mut judge = AttemptJudge::default();
            judge.read(NamespaceCounts::default());
            let now = NamespaceCounts {
                begun: Monotonic(3 * SECOND),
                at: Monotonic(3 * SECOND),
                icmp: 1,
                failed: 1,
                ..NamespaceCounts::default()
            };
            let attempt = Unanswered {
                is_here: Some(false),
                ..truth.attempt(kernel)
            };
            let failures = judge.judge(&[attempt], Some(now), false, || kernel.discards_first);
            let disconnected = kernel.discards_first && truth == Truth::Disconnected;
            let expected = if disconnected {
                Failure::Abandoned
            } else {
                Failure::Other
            };
            assert_eq!(failures, [expected]);
        }
    }
}

#[test]
fn only_the_syn_queue_classifies_without_counters() {
    let [newest, old, _] = KERNELS;
    let failures = |kernel: Kernel, truth: Truth| {
        AttemptJudge::default().judge(&[truth.attempt(kernel)], None, false, || {
            kernel.discards_first
        })
    };
    assert_eq!(failures(newest, Truth::Disconnected), [Failure::Abandoned]);
    assert_eq!(failures(newest, Truth::Icmp), [Failure::Other]);
    assert_eq!(failures(old, Truth::Disconnected), [Failure::Other]);
}

/// Each ICMP error and each failed attempt explains one attempt, once.
#[test]
fn each_counted_error_explains_one_attempt() {
    let [newest, old, _] = KERNELS;
    let mut judge = AttemptJudge::default();
    judge.read(NamespaceCounts::default());
    let counts = |seconds: u64, icmp, failed| NamespaceCounts {
        begun: Monotonic(seconds * SECOND),
        at: Monotonic(seconds * SECOND),
        icmp,
        icmp6: 0,
        kept: 0,
        failed,
    };
    let first = Truth::Icmp.attempt(newest);
    // Read within the slack, so that it is no base for what ended before.
    let failures = judge.judge(&[first], Some(counts(2, 1, 1)), false, || true);
    assert_eq!(failures, [Failure::Unreachable]);
    let failures = judge.judge(
        &[Truth::Destroyed.attempt(newest)],
        Some(counts(3, 1, 2)),
        false,
        || true,
    );
    assert_eq!(failures, [Failure::Abandoned]);

    // The same where the SYN is still queued behind an error; another error was a datagram's.
    let mut judge = AttemptJudge::default();
    judge.read(NamespaceCounts::default());
    let failures = judge.judge(
        &[Truth::Icmp.attempt(old)],
        Some(counts(2, 1, 1)),
        false,
        || false,
    );
    assert_eq!(failures, [Failure::Unreachable]);
    let failures = judge.judge(
        &[Truth::Disconnected.attempt(old)],
        Some(counts(3, 2, 1)),
        false,
        || false,
    );
    assert_eq!(failures, [Failure::Abandoned]);

    let mut judge = AttemptJudge::default();
    judge.read(NamespaceCounts::default());
    // Another was refused, and an ICMP error was for somebody else.
    judge.failed(Monotonic(SECOND), true);
    let failures = judge.judge(
        &[Truth::Disconnected.attempt(old)],
        Some(counts(3, 1, 1)),
        false,
        || false,
    );
    assert_eq!(failures, [Failure::Abandoned]);
}

fn counts(at: u64, icmp: u64, failed: u64) -> NamespaceCounts {
    NamespaceCounts {
        begun: Monotonic(at),
        at: Monotonic(at),
        icmp,
        icmp6: 0,
        kept: 0,
        failed,
    }
}

/// A reading a moment before an attempt ended has its count or not.
#[test]
fn attempt_that_ends_a_moment_after_a_reading_explains_no_other() {
    let [_, old, _] = KERNELS;
    const MOMENT: u64 = SLACK_NS / 4;
    // Whether an older reading is there, whether the count was in the reading, and the reason.
    for (has_older, counted_before, expected) in [
        (true, false, Failure::Abandoned),
        (true, true, Failure::Abandoned),
        (false, false, Failure::Other),
        (false, true, Failure::Abandoned),
    ] {
        let mut judge = AttemptJudge::default();
        if has_older {
            judge.read(counts(SECOND / 2, 0, 0));
        }
        judge.read(counts(SECOND, 0, u64::from(counted_before)));
        judge.failed(Monotonic(SECOND + MOMENT), true);
        let attempt = Truth::Disconnected.attempt(old);
        let now = counts(3 * SECOND, 9, 1);
        let failures = judge.judge(&[attempt], Some(now), false, || false);
        assert_eq!(failures, [expected], "{has_older} {counted_before}");
    }
}

/// The count of one that was reported as `_OTHER` may be in a later reading.
#[test]
fn undecided_attempt_explains_no_other() {
    let [newest, old, _] = KERNELS;
    // On the older kernel errors of others come as well.
    for (kernel, truths, failed, icmp) in [
        (old, [Truth::Icmp, Truth::Disconnected], 1, 9),
        (newest, [Truth::Icmp, Truth::Destroyed], 2, 1),
    ] {
        let mut judge = AttemptJudge::default();
        judge.read(counts(0, 0, 0));
        let attempts = truths.map(|truth| truth.attempt(kernel));
        let first = judge.judge(
            &attempts,
            Some(counts(2 * SECOND, 1, failed)),
            false,
            || kernel.discards_first,
        );
        assert_eq!(first, [Failure::Other; 2]);
        // It ended so soon that the second reading is no base.
        let [_, dropped] = truths;
        let later = Unanswered {
            at: Monotonic(2 * SECOND + SLACK_NS / 2),
            ..dropped.attempt(kernel)
        };
        let also_failed = u64::from(dropped == Truth::Destroyed);
        let now = counts(3 * SECOND, icmp, failed + also_failed);
        let failures = judge.judge(&[later], Some(now), false, || kernel.discards_first);
        assert_eq!(failures, [Failure::Other], "{truths:?}");
    }
}

/// IPv4 and IPv6 have counters of their own.
#[test]
fn ipv4_and_ipv6_errors_are_counted_separately() {
    let [newest, ..] = KERNELS;
    let mut judge = AttemptJudge::default();
    judge.read(NamespaceCounts::default());
    let v6 = Unanswered {
        ipv6: true,
        ..Truth::Icmp.attempt(newest)
    };
    let now = NamespaceCounts {
        begun: Monotonic(3 * SECOND),
        at: Monotonic(3 * SECOND),
        icmp: 0,
        icmp6: 1,
        kept: 0,
        failed: 2,
    };
    let failures = judge.judge(
        &[Truth::Destroyed.attempt(newest), v6],
        Some(now),
        false,
        || true,
    );
    assert_eq!(failures, [Failure::Abandoned, Failure::Unreachable]);
}

/// One ICMP error came since the first reading, while some application was inside `connect()`.
fn one_kept_error() -> (AttemptJudge, NamespaceCounts) {
    let mut judge = AttemptJudge::default();
    judge.read(NamespaceCounts::default());
    let now = NamespaceCounts {
        begun: Monotonic(3 * SECOND),
        at: Monotonic(3 * SECOND),
        icmp: 1,
        kept: 1,
        ..NamespaceCounts::default()
    };
    (judge, now)
}

/// By the second SYN its application is not inside `connect()` any more, and drops it for another reason. It may have met the error all the
/// same.
#[test]
fn retransmitted_attempt_is_not_unreachable_for_anothers_error() {
    let [newest, ..] = KERNELS;
    let (mut judge, now) = one_kept_error();
    let later = Unanswered {
        sent_again: true,
        ..Truth::Closed.attempt(newest)
    };
    let failures = judge.judge(
        &[later, Truth::ClosedAfterIcmp.attempt(newest)],
        Some(now),
        false,
        || true,
    );
    assert_eq!(failures, [Failure::Abandoned, Failure::Other]);
}

/// An application that received an error may keep its socket open: the count may be that one's, and not of an attempt that lasted.
#[test]
fn attempt_that_lasted_is_not_unreachable_for_an_open_ones_error() {
    let [newest, ..] = KERNELS;
    let (mut judge, now) = one_kept_error();
    let lasted = Unanswered {
        started: Monotonic(SECOND),
        ..Truth::Closed.attempt(newest)
    };
    assert_eq!(
        judge.judge(&[lasted], Some(now), false, || true),
        [Failure::Other]
    );
}

/// An attempt that ended before the counters were first read has no reading before it.
#[test]
fn first_reading_is_a_base_only_for_later_attempts() {
    let [newest, ..] = KERNELS;
    let seen = Unanswered {
        started: Monotonic(SECOND),
        at: Monotonic(SECOND + 1_000),
        ..Truth::ClosedAfterIcmp.attempt(newest)
    };
    let failures = |first_read| {
        let mut judge = AttemptJudge::default();
        judge.read(NamespaceCounts {
            begun: Monotonic(first_read),
            at: Monotonic(first_read),
            ..NamespaceCounts::default()
        });
        let now = NamespaceCounts {
            begun: Monotonic(2 * SECOND),
            at: Monotonic(2 * SECOND),
            icmp: 1,
            kept: 1,
            ..NamespaceCounts::default()
        };
        judge.judge(&[seen], Some(now), false, || true)
    };
    assert_eq!(failures(SECOND), [Failure::Unreachable]);
    assert_eq!(failures(SECOND + 500), [Failure::Other]);
}

const MS: u64 = 1_000_000;

/// Counts of a reading at this time, in milliseconds: errors of IPv4, those of them that were kept, and failed attempts.
fn kept(at_ms: u64, icmp: u64, kept: u64, failed: u64) -> NamespaceCounts {
    NamespaceCounts {
        kept,
        ..counts(at_ms * MS, icmp, failed)
    }
}

/// An attempt that its application closes, from one time to another, in milliseconds.
fn closed(from_ms: u64, to_ms: u64) -> Unanswered {
    Unanswered {
        started: Monotonic(from_ms * MS),
        at: Monotonic(to_ms * MS),
        ..Truth::Closed.attempt(KERNELS[0])
    }
}

/// A judge that has read counters of 0.
fn judge_at(read_ms: &[u64]) -> AttemptJudge {
    let mut judge = AttemptJudge::default();
    for at in read_ms {
        judge.read(kept(*at, 0, 0, 0));
    }
    judge
}

/// The error may have come for an attempt that began after this one was closed, and that is open.
#[test]
fn kept_error_is_no_reason_where_an_open_attempt_may_have_met_it() {
    for (others, expected) in [(true, Failure::Other), (false, Failure::Unreachable)] {
        let mut judge = judge_at(&[900]);
        let (attempt, now) = ([closed(1_000, 1_080)], kept(1_300, 1, 1, 0));
        assert!(judge.asks_for_others(&attempt, &now));
        assert_eq!(
            judge.judge(&attempt, Some(now), others, || true),
            [expected]
        );
    }
}

/// A reading in between shows that the error came later than in the moment in which the attempt began.
#[test]
fn error_after_the_beginning_of_an_attempt_is_of_another() {
    for (read_at, expected) in [(1_020, Failure::Abandoned), (1_019, Failure::Other)] {
        let mut judge = judge_at(&[900, read_at]);
        let (attempt, now) = ([closed(1_000, 1_080)], kept(1_300, 1, 1, 0));
        let asks = judge.asks_for_others(&attempt, &now);
        assert_eq!(asks, expected != Failure::Abandoned);
        assert_eq!(judge.judge(&attempt, Some(now), true, || true), [expected]);
    }
}

/// One of two that began between two readings met the error.
#[test]
fn kept_error_is_no_reason_for_either_of_two_attempts() {
    let attempts = [closed(1_000, 1_090), closed(1_030, 1_060)];
    let failures = judge_at(&[900]).judge(&attempts, Some(kept(1_300, 1, 1, 0)), false, || true);
    assert_eq!(failures, [Failure::Other; 2]);
    // Also where the one ended earlier.
    let mut judge = judge_at(&[900]);
    let [later, first] = attempts;
    let failures = judge.judge(&[first], Some(kept(1_080, 1, 1, 0)), true, || true);
    assert_eq!(failures, [Failure::Other]);
    let failures = judge.judge(&[later], Some(kept(1_300, 1, 1, 0)), false, || true);
    assert_eq!(failures, [Failure::Other]);
    // Or met it, and its SYN was never answered.
    let mut judge = judge_at(&[900]);
    judge.may_have_met(later.started, later.at, false);
    let failures = judge.judge(&[first], Some(kept(1_300, 1, 1, 0)), false, || true);
    assert_eq!(failures, [Failure::Other]);
}

/// More errors than attempts: a socket that is in no record met one, and perhaps all.
#[test]
fn more_kept_errors_than_attempts_are_no_reason() {
    let failures = judge_at(&[900]).judge(
        &[closed(1_000, 1_080)],
        Some(kept(1_300, 2, 2, 0)),
        false,
        || true,
    );
    assert_eq!(failures, [Failure::Other]);
    // Another error, or another attempt that the kernel ended: it may have met the first one.
    for now in [kept(1_300, 2, 1, 0), kept(1_300, 1, 1, 1)] {
        let attempt = [closed(1_000, 1_080)];
        let failures = judge_at(&[900]).judge(&attempt, Some(now), false, || true);
        assert_eq!(failures, [Failure::Other]);
    }
}

/// What an attempt met as it began is no part of what was counted just before its end.
#[test]
fn error_of_a_beginning_explains_no_later_one() {
    let mut judge = judge_at(&[900]);
    judge.read(kept(1_050, 1, 1, 0));
    let now = kept(1_100, 1, 1, 0);
    let failures = judge.judge(&[closed(1_000, 1_095)], Some(now), false, || true);
    assert_eq!(failures, [Failure::Unreachable]);
    let ended = Unanswered {
        started: Monotonic(1_097 * MS),
        at: Monotonic(1_115 * MS),
        ..Truth::Icmp.attempt(KERNELS[0])
    };
    let failures = judge.judge(&[ended], Some(kept(1_500, 2, 1, 1)), false, || true);
    assert_eq!(failures, [Failure::Unreachable]);
}

/// Attempts that met an error as they began and another one a second later, one after the other.
#[test]
fn kept_error_of_an_earlier_attempt_hides_no_later_end() {
    let mut judge = judge_at(&[900]);
    for (count, from_ms) in [(1, 1_000), (2, 2_000)] {
        let ended = Unanswered {
            started: Monotonic(from_ms * MS),
            at: Monotonic((from_ms + 900) * MS),
            sent_again: true,
            ..Truth::Icmp.attempt(KERNELS[0])
        };
        let now = kept(from_ms + 910, 2 * count, count, count);
        let failures = judge.judge(&[ended], Some(now), true, || true);
        assert_eq!(failures, [Failure::Unreachable]);
    }
}

/// Readings that show no change leave room for those that do.
#[test]
fn readings_without_a_change_take_no_room() {
    let mut judge = judge_at(&[900]);
    for at in 1_050..1_050 + 2 * READINGS as u64 {
        judge.read(kept(at, 0, 0, 0));
    }
    let attempt = [closed(1_000, 1_300)];
    // The last one of them, but not the first one, has all of the beginning.
    let failures = judge.judge(&attempt, Some(kept(1_350, 1, 1, 0)), false, || true);
    assert_eq!(failures, [Failure::Abandoned]);
    assert!(judge.kept_lately(Monotonic(1_400 * MS)));
    assert!(!judge.kept_lately(Monotonic(7_000 * MS)));
}
