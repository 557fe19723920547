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
            started: Monotonic(2 * SECOND - SECOND / 2),
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
    judge.judge(&attempts, Some(now), || kernel.discards_first)
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
            let failures = judge.judge(&[attempt], Some(now), || kernel.discards_first);
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
        AttemptJudge::default().judge(&[truth.attempt(kernel)], None, || kernel.discards_first)
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
    let failures = judge.judge(&[first], Some(counts(2, 1, 1)), || true);
    assert_eq!(failures, [Failure::Unreachable]);
    let failures = judge.judge(
        &[Truth::Destroyed.attempt(newest)],
        Some(counts(3, 1, 2)),
        || true,
    );
    assert_eq!(failures, [Failure::Abandoned]);

    // The same where the SYN is still queued behind an error; another error was a datagram's.
    let mut judge = AttemptJudge::default();
    judge.read(NamespaceCounts::default());
    let failures = judge.judge(&[Truth::Icmp.attempt(old)], Some(counts(2, 1, 1)), || false);
    assert_eq!(failures, [Failure::Unreachable]);
    let failures = judge.judge(
        &[Truth::Disconnected.attempt(old)],
        Some(counts(3, 2, 1)),
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
        let failures = judge.judge(&[attempt], Some(now), || false);
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
        let first = judge.judge(&attempts, Some(counts(2 * SECOND, 1, failed)), || {
            kernel.discards_first
        });
        assert_eq!(first, [Failure::Other; 2]);
        // It ended so soon that the second reading is no base.
        let [_, dropped] = truths;
        let later = Unanswered {
            at: Monotonic(2 * SECOND + SLACK_NS / 2),
            ..dropped.attempt(kernel)
        };
        let also_failed = u64::from(dropped == Truth::Destroyed);
        let now = counts(3 * SECOND, icmp, failed + also_failed);
        let failures = judge.judge(&[later], Some(now), || kernel.discards_first);
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
    let failures = judge.judge(&[Truth::Destroyed.attempt(newest), v6], Some(now), || true);
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

/// An ICMP error that the application gets answers the first SYN.
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
        || true,
    );
    assert_eq!(failures, [Failure::Abandoned, Failure::Unreachable]);
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
    assert_eq!(judge.judge(&[lasted], Some(now), || true), [Failure::Other]);
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
        judge.judge(&[seen], Some(now), || true)
    };
    assert_eq!(failures(SECOND), [Failure::Unreachable]);
    assert_eq!(failures(SECOND + 500), [Failure::Abandoned]);
}
