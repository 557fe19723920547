//! Every mixture of what ends attempts without an answer, told from the counters that it moves.

use super::*;

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
    /// `close()`, once the application heard of an ICMP error that came while it was inside `connect()`.
    Heard,
}

const TRUTHS: [Truth; 5] = [
    Truth::Disconnected,
    Truth::Icmp,
    Truth::Destroyed,
    Truth::Closed,
    Truth::Heard,
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
                Self::Closed | Self::Heard => LastSeen::Closed,
                Self::Icmp | Self::Destroyed if kernel.discards_first => LastSeen::Discarded,
                Self::Disconnected | Self::Icmp | Self::Destroyed => LastSeen::Queued,
            },
            is_here: if kernel.knows_netns { Some(true) } else { None },
        }
    }

    const fn failure(self) -> Failure {
        match self {
            Self::Icmp | Self::Heard => Failure::Unreachable,
            Self::Disconnected | Self::Destroyed | Self::Closed => Failure::Abandoned,
        }
    }
}

/// What these attempts are told to have ended by, with so many ICMP errors and failed attempts of others at the same time.
fn judged(
    kernel: Kernel,
    truths: &[Truth],
    icmp_of_others: u64,
    failed_of_others: u64,
) -> Vec<Failure> {
    let mut judge = AttemptJudge::default();
    let before = NamespaceCounts {
        at: Monotonic(SECOND),
        icmp: 7,
        icmp6: 5,
        kept: 3,
        failed: 40,
    };
    judge.read(before);
    let count = |is: fn(&Truth) -> bool| truths.iter().filter(|truth| is(truth)).count() as u64;
    let now = NamespaceCounts {
        at: Monotonic(3 * SECOND),
        icmp: before.icmp
            + count(|truth| matches!(truth, Truth::Icmp | Truth::Heard))
            + icmp_of_others,
        icmp6: before.icmp6,
        kept: before.kept + count(|truth| *truth == Truth::Heard),
        failed: before.failed
            + count(|truth| matches!(truth, Truth::Icmp | Truth::Destroyed))
            + failed_of_others,
    };
    let attempts: Vec<_> = truths.iter().map(|truth| truth.attempt(kernel)).collect();
    judge.judge(&attempts, Some(now), || kernel.discards_first)
}

#[test]
fn what_happens_alone_is_told_on_every_kernel_that_knows_the_namespace() {
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
fn where_the_namespace_is_not_known_an_icmp_error_is_told_and_nothing_false() {
    let [.., kernel] = KERNELS;
    assert_eq!(judged(kernel, &[Truth::Icmp], 0, 0), [Failure::Unreachable]);
    for truth in [Truth::Disconnected, Truth::Destroyed] {
        assert_eq!(judged(kernel, &[truth], 0, 0), [Failure::Other]);
    }
}

/// A datagram to a closed port brings an ICMP error that ends no attempt.
#[test]
fn an_icmp_error_of_another_protocol_makes_no_abandoned_attempt_unreachable() {
    for kernel in KERNELS.into_iter().filter(|kernel| kernel.knows_netns) {
        let told = judged(kernel, &[Truth::Disconnected; 3], 20, 0);
        assert_eq!(told, [Failure::Abandoned; 3]);
    }
}

#[test]
fn attempts_of_different_kinds_at_once_are_told_apart_or_not_told() {
    for kernel in KERNELS {
        for first in TRUTHS {
            for second in TRUTHS {
                let told = judged(kernel, &[first, second], 0, 0);
                for (truth, told) in [first, second].into_iter().zip(told) {
                    let right = told == truth.failure() || told == Failure::Other;
                    assert!(right, "{first:?} and {second:?}: {truth:?} is {told:?}");
                }
            }
        }
    }
    let [newest, ..] = KERNELS;
    let told = judged(newest, &[Truth::Disconnected, Truth::Icmp], 0, 0);
    assert_eq!(told, [Failure::Abandoned, Failure::Unreachable]);
    assert_eq!(
        judged(newest, &[Truth::Destroyed, Truth::Icmp], 0, 0),
        [Failure::Other; 2]
    );
}

/// In another namespace the counters are those of others; what the queue tells holds everywhere.
#[test]
fn in_another_namespace_only_a_disconnect_is_told() {
    for kernel in KERNELS {
        for truth in [Truth::Disconnected, Truth::Icmp, Truth::Destroyed] {
            let mut judge = AttemptJudge::default();
            judge.read(NamespaceCounts::default());
            let now = NamespaceCounts {
                at: Monotonic(3 * SECOND),
                icmp: 1,
                failed: 1,
                ..NamespaceCounts::default()
            };
            let attempt = Unanswered {
                is_here: Some(false),
                ..truth.attempt(kernel)
            };
            let told = judge.judge(&[attempt], Some(now), || kernel.discards_first);
            let disconnected = kernel.discards_first && truth == Truth::Disconnected;
            let expected = if disconnected {
                Failure::Abandoned
            } else {
                Failure::Other
            };
            assert_eq!(told, [expected]);
        }
    }
}

#[test]
fn without_counters_only_the_queue_tells() {
    let [newest, old, _] = KERNELS;
    let told = |kernel: Kernel, truth: Truth| {
        AttemptJudge::default().judge(&[truth.attempt(kernel)], None, || kernel.discards_first)
    };
    assert_eq!(told(newest, Truth::Disconnected), [Failure::Abandoned]);
    assert_eq!(told(newest, Truth::Icmp), [Failure::Other]);
    assert_eq!(told(old, Truth::Disconnected), [Failure::Other]);
}

/// Each ICMP error and each failed attempt explains one attempt, once.
#[test]
fn what_one_attempt_explains_explains_no_other() {
    let [newest, old, _] = KERNELS;
    let mut judge = AttemptJudge::default();
    judge.read(NamespaceCounts::default());
    let counts = |seconds: u64, icmp, failed| NamespaceCounts {
        at: Monotonic(seconds * SECOND),
        icmp,
        icmp6: 0,
        kept: 0,
        failed,
    };
    let first = Truth::Icmp.attempt(newest);
    // Read within the slack, so that it is no base for what ended before.
    let told = judge.judge(&[first], Some(counts(2, 1, 1)), || true);
    assert_eq!(told, [Failure::Unreachable]);
    let told = judge.judge(
        &[Truth::Destroyed.attempt(newest)],
        Some(counts(3, 1, 2)),
        || true,
    );
    assert_eq!(told, [Failure::Abandoned]);

    let mut judge = AttemptJudge::default();
    judge.read(NamespaceCounts::default());
    // Another was refused, and an ICMP error was for somebody else.
    judge.failed(Monotonic(SECOND));
    let told = judge.judge(
        &[Truth::Disconnected.attempt(old)],
        Some(counts(3, 1, 1)),
        || false,
    );
    assert_eq!(told, [Failure::Abandoned]);
}

/// IPv4 and IPv6 have counters of their own.
#[test]
fn families_are_counted_apart() {
    let [newest, ..] = KERNELS;
    let mut judge = AttemptJudge::default();
    judge.read(NamespaceCounts::default());
    let v6 = Unanswered {
        ipv6: true,
        ..Truth::Icmp.attempt(newest)
    };
    let now = NamespaceCounts {
        at: Monotonic(3 * SECOND),
        icmp: 0,
        icmp6: 1,
        kept: 0,
        failed: 2,
    };
    let told = judge.judge(&[Truth::Destroyed.attempt(newest), v6], Some(now), || true);
    assert_eq!(told, [Failure::Abandoned, Failure::Unreachable]);
}

/// An error that an application hears comes with the first SYN.
#[test]
fn what_was_sent_again_was_not_dropped_for_an_error_that_others_heard() {
    let [newest, ..] = KERNELS;
    let mut judge = AttemptJudge::default();
    judge.read(NamespaceCounts::default());
    let now = NamespaceCounts {
        at: Monotonic(3 * SECOND),
        icmp: 1,
        kept: 1,
        ..NamespaceCounts::default()
    };
    let later = Unanswered {
        sent_again: true,
        ..Truth::Closed.attempt(newest)
    };
    let told = judge.judge(&[later, Truth::Heard.attempt(newest)], Some(now), || true);
    assert_eq!(told, [Failure::Abandoned, Failure::Unreachable]);
}

/// What ended before the counters were first read has no reading before it.
#[test]
fn the_first_reading_is_a_base_for_what_began_after_it() {
    let [newest, ..] = KERNELS;
    let heard = Unanswered {
        started: Monotonic(SECOND),
        at: Monotonic(SECOND + 1_000),
        ..Truth::Heard.attempt(newest)
    };
    let told = |first_read| {
        let mut judge = AttemptJudge::default();
        judge.read(NamespaceCounts {
            at: Monotonic(first_read),
            ..NamespaceCounts::default()
        });
        let now = NamespaceCounts {
            at: Monotonic(2 * SECOND),
            icmp: 1,
            kept: 1,
            ..NamespaceCounts::default()
        };
        judge.judge(&[heard], Some(now), || true)
    };
    assert_eq!(told(SECOND), [Failure::Unreachable]);
    assert_eq!(told(SECOND + 500), [Failure::Abandoned]);
}
