//! Every way in which an attempt ends: the application's error, and the `error.type` in every mode.

use std::net::{IpAddr, SocketAddr};

use flowcar_tests::{
    place::{TestPod, has_own_machine, lacks},
    watch::{Flow, Mode, Watch},
};
use libc::{EACCES, ECONNREFUSED, EHOSTUNREACH, ENETUNREACH, ENOPROTOOPT, EPERM, ETIMEDOUT};

use super::{OWN4, OWN6, can_run, filter, pod, ways::Attempting};

/// What ends the attempt.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    /// The network or the kernel.
    Itself,
    /// `kill -9`
    Kill,
    /// `ss -K`
    Destroy,
}

/// A way to end.
struct Row {
    what: &'static str,
    /// The hook and verdict of a packet filter; without one nobody listens at the port.
    filter: Option<(&'static str, &'static str)>,
    arguments: &'static [&'static str],
    by: By,
    /// Over IPv6.
    v6: bool,
    /// The application's error, where the kernel ends the attempt.
    errnos: &'static [i32],
    reason: &'static str,
}

const DROP: Option<(&str, &str)> = Some(("input", "drop"));
const FOREVER: &[&str] = &[];

const fn row(
    what: &'static str,
    filter: Option<(&'static str, &'static str)>,
    arguments: &'static [&'static str],
    errnos: &'static [i32],
    reason: &'static str,
) -> Row {
    Row {
        what,
        filter,
        arguments,
        by: By::Itself,
        v6: false,
        errnos,
        reason,
    }
}

const fn icmp(what: &'static str, verdict: &'static str, errnos: &'static [i32]) -> Row {
    row(
        what,
        Some(("input", verdict)),
        FOREVER,
        errnos,
        "unreachable",
    )
}

/// The application drops it.
const fn dropped(what: &'static str, arguments: &'static [&'static str]) -> Row {
    row(what, DROP, arguments, &[], "abandoned")
}

const fn v6(row: Row) -> Row {
    Row { v6: true, ..row }
}

const fn by(by: By, row: Row) -> Row {
    Row { by, ..row }
}

const ROWS: &[Row] = &[
    row("nobody listens", None, FOREVER, &[ECONNREFUSED], "refused"),
    v6(row(
        "nobody listens",
        None,
        FOREVER,
        &[ECONNREFUSED],
        "refused",
    )),
    row(
        "a filter resets",
        Some(("input", "reject with tcp reset")),
        FOREVER,
        &[ECONNREFUSED],
        "refused",
    ),
    icmp(
        "network",
        "reject with icmp type net-unreachable",
        &[ENETUNREACH],
    ),
    icmp(
        "host",
        "reject with icmp type host-unreachable",
        &[EHOSTUNREACH],
    ),
    icmp(
        "protocol",
        "reject with icmp type prot-unreachable",
        &[ENOPROTOOPT],
    ),
    icmp(
        "port",
        "reject with icmp type port-unreachable",
        &[ECONNREFUSED],
    ),
    icmp(
        "network prohibited",
        "reject with icmp type net-prohibited",
        &[ENETUNREACH],
    ),
    icmp(
        "host prohibited",
        "reject with icmp type host-prohibited",
        &[EHOSTUNREACH],
    ),
    icmp(
        "prohibited",
        "reject with icmp type admin-prohibited",
        &[EHOSTUNREACH],
    ),
    v6(icmp(
        "no route",
        "reject with icmpv6 type no-route",
        &[ENETUNREACH],
    )),
    v6(icmp(
        "prohibited",
        "reject with icmpv6 type admin-prohibited",
        &[EACCES],
    )),
    v6(icmp(
        "address",
        "reject with icmpv6 type addr-unreachable",
        &[EHOSTUNREACH],
    )),
    v6(icmp(
        "port",
        "reject with icmpv6 type port-unreachable",
        &[ECONNREFUSED],
    )),
    row(
        "SYN retries spent",
        DROP,
        &["--syn-retries", "1"],
        &[ETIMEDOUT],
        "timeout",
    ),
    v6(row(
        "SYN retries spent",
        DROP,
        &["--syn-retries", "1"],
        &[ETIMEDOUT],
        "timeout",
    )),
    row(
        "TCP_USER_TIMEOUT",
        DROP,
        &["--user-timeout", "500"],
        &[ETIMEDOUT],
        "timeout",
    ),
    // The kernel takes the SYN for lost and sends it again.
    row(
        "an output filter drops",
        Some(("output", "drop")),
        &["--syn-retries", "1"],
        &[ETIMEDOUT, EPERM],
        "timeout",
    ),
    dropped("poll, then close()", &["--give-up", "close"]),
    v6(dropped("poll, then close()", &["--give-up", "close"])),
    dropped("poll, then shutdown()", &["--give-up", "shutdown"]),
    v6(dropped("poll, then shutdown()", &["--give-up", "shutdown"])),
    dropped("connect(AF_UNSPEC)", &["--give-up", "disconnect"]),
    v6(dropped("connect(AF_UNSPEC)", &["--give-up", "disconnect"])),
    dropped("the process exits", &["--give-up", "exit"]),
    // After the kernel has sent the SYN again.
    dropped(
        "shutdown() later",
        &["--give-up", "shutdown", "--patience", "1300"],
    ),
    by(By::Kill, dropped("kill -9", FOREVER)),
    by(By::Destroy, dropped("ss -K", FOREVER)),
    v6(by(By::Destroy, dropped("ss -K", FOREVER))),
];

/// A way to follow, and the reasons that it may report for each row.
struct Follower {
    name: &'static str,
    mode: Mode,
    exchange: &'static str,
    reasons: fn(&Row) -> Vec<&'static str>,
}

/// An emulated machine may take so long for an attempt that it is not certain whose an ICMP error is.
fn of_programs(row: &Row) -> Vec<&'static str> {
    match row.reason {
        "unreachable" if has_own_machine() => vec!["unreachable", "_OTHER"],
        reason => vec![reason],
    }
}

const FOLLOWERS: [Follower; 4] = [
    Follower {
        name: "eBPF and inet_diag",
        mode: Mode::Both,
        exchange: "off",
        reasons: of_programs,
    },
    Follower {
        name: "with exchanges",
        mode: Mode::Both,
        exchange: "on",
        reasons: of_programs,
    },
    // The counters of another network namespace cannot be read: what only they show is `_OTHER`.
    Follower {
        name: "from another network namespace",
        mode: Mode::Outside,
        exchange: "off",
        reasons: |row| match row.reason {
            // Where the error found the application inside connect(), it was the application that closed the socket.
            "unreachable" => vec!["_OTHER", "abandoned"],
            "abandoned" if row.by == By::Destroy => vec!["_OTHER"],
            // Only kernels that discard the SYN before they end an attempt themselves show who ended it.
            "abandoned" if is_disconnected(row) => vec!["abandoned", "_OTHER"],
            reason => vec![reason],
        },
    },
    // Without eBPF only a RST and an expired timer can be told from the rest.
    Follower {
        name: "inet_diag alone",
        mode: Mode::Alone,
        exchange: "off",
        reasons: |row| match row.reason {
            // Where the SYN was sent again, another attempt's timer may hide it.
            "refused" => vec!["refused", "_OTHER"],
            // Where the counts of timers explain all that closed in that turn, and nobody else has sockets here.
            "timeout" => vec!["timeout", "_OTHER"],
            _ => vec!["_OTHER"],
        },
    },
];

fn is_disconnected(row: &Row) -> bool {
    row.arguments.contains(&"shutdown") || row.arguments.contains(&"disconnect")
}

#[test]
fn every_attempt_outcome_in_every_mode() {
    if !can_run() {
        return;
    }
    let pod = pod("rows");
    // Since 6.5 the first SYNs are sent again each second.
    let _ = pod.netns().sysctl("net.ipv4.tcp_syn_linear_timeouts", "0");
    let mut watches = FOLLOWERS.each_ref().map(|of| {
        let settings = [
            ("FLOWCAR_EXCHANGE", of.exchange),
            ("OTEL_METRIC_EXPORT_INTERVAL", "1000"),
        ];
        Watch::start(&pod, of.mode, &settings)
    });
    let mut done = 0;
    for (row, port) in ROWS.iter().zip(7000..) {
        if let Some((hook, verdict)) = row.filter {
            filter(&pod, hook, port, verdict);
        }
        let at: IpAddr = if row.v6 { OWN6 } else { OWN4 }.parse().unwrap();
        let at = (at, port).into();
        if !happens(row, &pod, at) {
            lacks("SOCK_DESTROY");
            continue;
        }
        for (follower, watch) in FOLLOWERS.iter().zip(&mut watches) {
            let seen = watch.until("its flow", |seen| seen.flows.len() > done);
            is_right(row, follower, &seen.flows[done], at);
        }
        done += 1;
    }
    for (follower, mut watch) in FOLLOWERS.iter().zip(watches) {
        let seen = watch.reports(2);
        assert_eq!(seen.sum("flowcar.tcp.connection.failed", &[]), done as f64);
        // A flowcar that follows the network namespace also reports the others' connections to their receivers.
        if follower.mode != Mode::Alone {
            assert_eq!(seen.began(), 0.0);
            assert_eq!(watch.stop().flows.len(), done);
        }
    }
}

fn is_right(row: &Row, follower: &Follower, flow: &Flow, at: SocketAddr) {
    let Follower { name, .. } = follower;
    let what = row.what;
    let reasons = (follower.reasons)(row);
    assert!(
        reasons.contains(&flow.get("error.type")),
        "{name}, {what}: {reasons:?} {flow:?}"
    );
    assert_eq!(flow.end(), flow.get("error.type"), "{name}, {what}");
    // Of a socket that was disconnected inet_diag does not know the addresses.
    if follower.mode != Mode::Alone {
        assert_eq!(flow.peer, at, "{name}, {what}");
        assert_eq!((flow.role(), flow.sent, flow.received), ("client", 0, 0));
    }
}

/// Makes it happen, and compares the application's error with the row. Returns whether this kernel can do it.
fn happens(row: &Row, pod: &TestPod, target: SocketAddr) -> bool {
    let mut attempting = Attempting::start(pod, target, row.arguments);
    match row.by {
        By::Itself => {
            let received = attempting.finish().and_then(|attempted| attempted.errno);
            let what = row.what;
            match received {
                Some(errno) => assert!(row.errnos.contains(&errno), "{what}: {errno}"),
                None => assert_eq!(row.errnos, [0; 0], "{what}"),
            }
            true
        }
        By::Kill => {
            attempting.kill();
            assert_eq!(attempting.finish(), None);
            true
        }
        By::Destroy => {
            let destroyed = attempting.destroy(pod);
            if destroyed {
                let errno = attempting.finish().unwrap().errno;
                assert_eq!(errno, Some(libc::ECONNABORTED));
            } else {
                attempting.kill();
                attempting.finish();
            }
            destroyed
        }
    }
}
