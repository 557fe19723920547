//! Two attempts at about the same time: an ICMP error comes for the one, and the other one ends in another way.

use std::{
    net::{IpAddr, SocketAddr},
    thread,
    time::Duration,
};

use flowcar_tests::{
    place::{TestPod, has_own_machine, lacks},
    watch::{Mode, Watch},
};
use libc::{ECONNABORTED, ECONNREFUSED, EHOSTUNREACH, ETIMEDOUT};

use super::{OWN4, can_run, drop_and_prohibit, pod, ways::Attempting};

const DROPPED: u16 = 7200;
const PROHIBITED: u16 = 7201;
const REFUSED: u16 = 7202;

/// How long an attempt lasts that its application or an operator ends, milliseconds: longer than an application needs to which poll() has
/// reported an error.
const LASTS: u64 = 150;
const PATIENCE: &str = "150";

/// The attempt that no ICMP error is for.
struct Other {
    what: &'static str,
    port: u16,
    arguments: &'static [&'static str],
    by: By,
    /// What its application receives, if anything.
    errno: Option<i32>,
    reason: &'static str,
}

/// Who ends it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    /// Its application, the network or the kernel.
    Itself,
    /// `kill -9`
    Kill,
    /// `ss -K`
    Destroy,
}

const fn dropped(what: &'static str, arguments: &'static [&'static str], by: By) -> Other {
    Other {
        what,
        port: DROPPED,
        arguments,
        by,
        errno: None,
        reason: "abandoned",
    }
}

const OTHERS: [Other; 8] = [
    dropped(
        "close()",
        &["--give-up", "close", "--patience", PATIENCE],
        By::Itself,
    ),
    dropped(
        "shutdown()",
        &["--give-up", "shutdown", "--patience", PATIENCE],
        By::Itself,
    ),
    dropped(
        "connect(AF_UNSPEC)",
        &["--give-up", "disconnect", "--patience", PATIENCE],
        By::Itself,
    ),
    dropped(
        "the process exits",
        &["--give-up", "exit", "--patience", PATIENCE],
        By::Itself,
    ),
    dropped("kill -9", &[], By::Kill),
    Other {
        errno: Some(ECONNABORTED),
        ..dropped("ss -K", &[], By::Destroy)
    },
    Other {
        errno: Some(ETIMEDOUT),
        reason: "timeout",
        ..dropped(
            "TCP_USER_TIMEOUT",
            &["--user-timeout", PATIENCE],
            By::Itself,
        )
    },
    Other {
        port: REFUSED,
        errno: Some(ECONNREFUSED),
        reason: "refused",
        ..dropped("nobody listens", &[], By::Itself)
    },
];

/// The attempt that ICMP errors come for. The first one comes inside `connect()`, as a rule, and ends nothing: on Linux 6.18 poll() reports it
/// at once. Another one, a second later, ends an attempt that is still there.
struct Rejected {
    what: &'static str,
    arguments: &'static [&'static str],
    is_followed: bool,
}

const BLOCKS: &[&str] = &["--block"];
const POLLS: &[&str] = &["--give-up", "close", "--patience", PATIENCE];

const REJECTED: [Rejected; 4] = [
    Rejected {
        what: "that waits for the second error",
        arguments: BLOCKS,
        is_followed: true,
    },
    Rejected {
        what: "that polls",
        arguments: POLLS,
        is_followed: true,
    },
    Rejected {
        what: "that is not followed and waits for the second error",
        arguments: BLOCKS,
        is_followed: false,
    },
    Rejected {
        what: "that is not followed and polls",
        arguments: POLLS,
        is_followed: false,
    },
];

/// When the one attempt begins after the other one, milliseconds.
#[derive(Clone, Copy)]
enum Order {
    /// The rejected one is the second.
    Second(u64),
    /// The rejected one is the first.
    First(u64),
}

const ORDERS: [Order; 6] = [
    Order::Second(LASTS),
    Order::Second(50),
    Order::Second(0),
    Order::First(0),
    // The second error comes at about the end of the other one.
    Order::First(850),
    Order::First(950),
];

/// Each attempt has its own reason or `_OTHER`, and never that of the other one.
#[test]
fn attempt_beside_one_that_an_icmp_error_is_for_keeps_its_own_reason() {
    if !can_run() {
        return;
    }
    if has_own_machine() {
        return lacks("a machine that makes two attempts within 20 ms");
    }
    let pod = pod("pairs");
    let _ = pod.netns().sysctl("net.ipv4.tcp_syn_linear_timeouts", "0");
    drop_and_prohibit(&pod, DROPPED, PROHIBITED);
    let modes = [
        (Mode::Both, "off"),
        (Mode::Both, "on"),
        (Mode::Outside, "off"),
    ];
    let mut watches =
        modes.map(|(mode, exchange)| Watch::start(&pod, mode, &[("FLOWCAR_EXCHANGE", exchange)]));
    let mut expected = Vec::new();
    for rejected in &REJECTED {
        for other in &OTHERS {
            for order in ORDERS {
                if is_row(rejected, other, order) {
                    expected.extend(both(&pod, rejected, other, order));
                }
            }
        }
    }
    let mut reported = 0;
    for ((mode, _), watch) in modes.iter().zip(&mut watches) {
        let seen = watch.until("every attempt", |seen| seen.flows.len() >= expected.len());
        for attempt in &expected {
            let ports = (attempt.local, attempt.port);
            let mut flows = seen.flows.iter();
            // Ports may be chosen again.
            let flow = flows.find(|flow| (flow.local.port(), flow.peer.port()) == ports);
            let reason = flow.unwrap().get("error.type");
            let Expected { what, reasons, .. } = attempt;
            // From another network namespace only that is seen that the application closed the socket to which the error had been reported.
            let is_right = reasons.contains(&reason)
                || *mode == Mode::Outside && (reasons[0], reason) == ("unreachable", "abandoned");
            assert!(is_right, "{mode:?}: {what}: {reasons:?} {flow:?}");
            reported += usize::from(reason == reasons[0]);
        }
    }
    println!("{reported} of {} reported", watches.len() * expected.len());
}

fn is_row(rejected: &Rejected, other: &Other, order: Order) -> bool {
    // How an attempt ended that is in no record is not known: only what shows of the other one itself may decide.
    let shows_itself =
        other.by != By::Destroy && !["shutdown()", "connect(AF_UNSPEC)"].contains(&other.what);
    // Nothing more comes for one that its application closes at once.
    let is_late = matches!(order, Order::First(1..));
    (rejected.is_followed || shows_itself) && (!is_late || rejected.arguments == BLOCKS)
}

struct Expected {
    what: String,
    local: u16,
    port: u16,
    /// The right one first.
    reasons: Vec<&'static str>,
}

/// Makes both attempts, and compares what their applications received.
fn both(pod: &TestPod, rejected: &Rejected, other: &Other, order: Order) -> Vec<Expected> {
    let address: IpAddr = OWN4.parse().unwrap();
    let at = |port| SocketAddr::new(address, port);
    let reject = || {
        if rejected.is_followed {
            Attempting::start(pod, at(PROHIBITED), rejected.arguments)
        } else {
            Attempting::start_beside(pod, at(PROHIBITED), rejected.arguments)
        }
    };
    let begin = || Attempting::start(pod, at(other.port), other.arguments);
    let pause = |ms| thread::sleep(Duration::from_millis(ms));
    let (mut ending, one_rejected, left) = match order {
        Order::Second(after) => {
            let ending = begin();
            pause(after);
            (ending, reject(), LASTS - after)
        }
        Order::First(after) => {
            let one_rejected = reject();
            pause(after);
            (begin(), one_rejected, LASTS)
        }
    };
    let what = format!("{} beside one {}", other.what, rejected.what);
    let locals = (ending.local.port(), one_rejected.local.port());
    let mut reasons = vec![other.reason, "_OTHER"];
    match other.by {
        By::Itself => {}
        By::Kill => {
            pause(left);
            ending.kill();
        }
        By::Destroy => {
            pause(left);
            if !ending.destroy(pod) {
                lacks("SOCK_DESTROY");
                ending.kill();
            }
        }
    }
    let received = ending.finish().and_then(|attempted| attempted.errno);
    assert!(received == other.errno || other.by == By::Destroy, "{what}");
    let received = one_rejected.finish().unwrap().errno;
    let has_error = received == Some(EHOSTUNREACH);
    assert!(
        has_error || rejected.arguments == POLLS && received.is_none(),
        "{what}"
    );
    if other.reason != "abandoned" {
        reasons.pop();
    }
    let mut expected = vec![Expected {
        what: what.clone(),
        local: locals.0,
        port: other.port,
        reasons,
    }];
    if rejected.is_followed {
        expected.push(Expected {
            what: format!("{what}: the other one"),
            local: locals.1,
            port: PROHIBITED,
            reasons: if has_error {
                vec!["unreachable", "_OTHER"]
            } else {
                // An error came, and its application, to which nothing has reported it, gave up.
                vec!["unreachable", "_OTHER", "abandoned"]
            },
        });
    }
    expected
}
