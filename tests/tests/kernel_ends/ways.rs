//! The table: each way, and the close reason of each end.

use std::{io, net::SocketAddr, thread};

use flowcar_tests::{
    place::{TestPod, require_cgroup2, require_program, require_root},
    traffic::{Ended, Teardown, Way},
    watch::{Flow, Mode, Seen, Watch},
};

/// The close reasons that one end may have: by eBPF, by eBPF with packet programs, and by inet_diag alone. More than one
/// reason where a run may go either way, or evidence may be missing.
struct Reported {
    ebpf: &'static [&'static str],
    exchange: &'static [&'static str],
    alone: &'static [&'static str],
}

struct Row {
    way: Way,
    client: Reported,
    server: Reported,
}

const fn reported(
    ebpf: &'static [&'static str],
    exchange: &'static [&'static str],
    alone: &'static [&'static str],
) -> Reported {
    Reported {
        ebpf,
        exchange,
        alone,
    }
}

const fn row(way: Way, client: Reported, server: Reported) -> Row {
    Row {
        way,
        client,
        server,
    }
}

/// The same in each mode.
const fn all(reasons: &'static [&'static str]) -> Reported {
    reported(reasons, reasons, reasons)
}

const fn rows() -> [Row; 23] {
    use Way::{
        ClosedAtOnce, ClosedWithoutFinWait2, Disconnected, FinWait2Timer, HalfClosedInOrder,
        HalfClosedInSilence, HalfClosedKeepalive, HalfClosedThenClosed, HalfClosedThenReset,
        HalfClosedThenResetInSilence, HalfClosedThenUnread, Keepalive, KeepaliveUserTimeout,
        OrphanInFinWait1, OrphanInLastAck, ProbeAnsweredByReset, ResetByClient, ResetByServer,
        Retransmission, UnreadByClient, UserTimeout, ZeroWindowCut, ZeroWindowUserTimeout,
    };
    const TIMEOUT: Reported = reported(&["timeout"], &["timeout"], &["timeout", "unknown"]);
    const LOCAL: Reported = all(&["local_fin"]);
    const PEER: Reported = reported(&["peer_fin"], &["peer_fin"], &["peer_fin", "unknown"]);
    // SO_LINGER of 0 clears the socket's own counts.
    const SENT: Reported = reported(
        &["reset_sent"],
        &["reset_sent"],
        &["reset", "unknown", "lost"],
    );
    // The peer's FIN came first.
    const SENT_BEHIND: Reported = reported(
        &["reset_sent", "peer_fin"],
        &["reset_sent", "peer_fin"],
        &["reset", "peer_fin", "unknown", "lost"],
    );
    const RECEIVED: Reported = reported(
        &["reset", "reset_received"],
        &["reset_received"],
        &["reset", "reset_received", "unknown"],
    );
    [
        row(Keepalive, TIMEOUT, TIMEOUT),
        row(KeepaliveUserTimeout, TIMEOUT, TIMEOUT),
        row(UserTimeout, TIMEOUT, TIMEOUT),
        row(Retransmission, TIMEOUT, TIMEOUT),
        // Acknowledgements arrive to the last, and other sockets exist: without a poll after them the reason is unknown.
        row(
            ZeroWindowUserTimeout,
            reported(
                &["timeout", "unknown"],
                &["timeout"],
                &["timeout", "unknown"],
            ),
            SENT,
        ),
        row(ZeroWindowCut, TIMEOUT, TIMEOUT),
        row(HalfClosedKeepalive, TIMEOUT, TIMEOUT),
        row(OrphanInFinWait1, TIMEOUT, TIMEOUT),
        row(OrphanInLastAck, LOCAL, TIMEOUT),
        row(FinWait2Timer, LOCAL, PEER),
        row(HalfClosedThenUnread, RECEIVED, SENT_BEHIND),
        row(HalfClosedThenReset, RECEIVED, SENT_BEHIND),
        row(HalfClosedThenResetInSilence, RECEIVED, SENT_BEHIND),
        row(HalfClosedInOrder, LOCAL, PEER),
        row(HalfClosedInSilence, LOCAL, PEER),
        row(HalfClosedThenClosed, LOCAL, PEER),
        row(ResetByClient, SENT, RECEIVED),
        row(ResetByServer, RECEIVED, SENT),
        row(UnreadByClient, SENT, RECEIVED),
        row(
            Disconnected,
            reported(
                &["reset_sent", "reset"],
                &["reset_sent"],
                &["reset", "unknown", "lost"],
            ),
            RECEIVED,
        ),
        row(ProbeAnsweredByReset, RECEIVED, SENT),
        // The order of the two FINs is unknown from the remaining sockets.
        row(ClosedAtOnce, all(&["local_fin"]), all(&["local_fin"])),
        // By inet_diag alone the client's end appears to have closed second, or to have been cut off (docs/limits.md).
        row(
            ClosedWithoutFinWait2,
            reported(
                &["local_fin"],
                &["local_fin"],
                &["local_fin", "peer_fin", "reset", "unknown"],
            ),
            reported(
                &["peer_fin"],
                &["peer_fin"],
                &["peer_fin", "reset", "unknown"],
            ),
        ),
    ]
}

/// By how many bytes a flow without an exact count may be off: the peer's FIN.
const FIN: u64 = 1;

/// Pods at the same time: most of each is waiting.
const AT_ONCE: usize = 8;

/// Rows of one pod, which close one after the other. One natively. On emulated machines, where tests run one at a time, all of
/// them: the kernel there takes seconds to check the programs of each flowcar that starts, and what each reports costs as much as
/// what it follows.
fn rows_of_a_pod(rows: usize) -> usize {
    match std::env::var("RUST_TEST_THREADS").as_deref() {
        Ok("1") => rows.max(1),
        _ => 1,
    }
}

#[test]
fn every_close_in_every_mode_over_both_families() {
    if !require_root() || !require_cgroup2() || !require_program("nft") {
        return;
    }
    let only = std::env::var("FLOWCAR_ENDS_WAY").ok();
    let rows: Vec<_> = rows().into_iter().collect();
    let rows: Vec<_> = rows
        .iter()
        .filter(|row| {
            only.as_ref()
                .is_none_or(|only| format!("{:?}", row.way) == *only)
        })
        .collect();
    let groups: Vec<_> = rows.chunks(rows_of_a_pod(rows.len())).collect();
    let mut wrong = Vec::new();
    for some in groups.chunks(AT_ONCE) {
        thread::scope(|scope| {
            let running: Vec<_> = some
                .iter()
                .map(|rows| (rows[0].way, scope.spawn(move || check(rows))))
                .collect();
            for (first, pod) in running {
                let panicked = |_| vec![format!("the pod that begins with {first:?} panicked")];
                wrong.extend(pod.join().unwrap_or_else(panicked));
            }
        });
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// In a network namespace of its own, followed in every mode at once: of each row a connection of each family, row after row, so
/// that no other connection closes meanwhile. Returns the wrong reports.
fn check(rows: &[&Row]) -> Vec<String> {
    let pod = TestPod::new("ends").unwrap();
    for (key, value) in [
        ("net.ipv4.tcp_retries2", "3"),
        ("net.ipv4.tcp_orphan_retries", "2"),
        ("net.ipv4.tcp_early_retrans", "0"),
    ] {
        pod.netns().sysctl(key, value).unwrap();
    }
    // Reports often enough for dumps by inet_diag alone, and not so often that two dozen flowcars are all that the machine does.
    let modes = [
        ("ebpf", Mode::Both, "off", "1000"),
        ("exchange", Mode::Both, "on", "1000"),
        ("alone", Mode::Alone, "off", "400"),
    ];
    let mut watches = modes.map(|(_, mode, exchange, interval)| {
        let settings = [
            ("FLOWCAR_EXCHANGE", exchange),
            ("OTEL_METRIC_EXPORT_INTERVAL", interval),
        ];
        Watch::start(&pod, mode, &settings)
    });
    let mut wrong = Vec::new();
    let mut before = [0; 3];
    for row in rows {
        match end(row.way, &pod, &mut watches) {
            Ok(ended) => {
                let after = inexact(&mut watches);
                let more = std::iter::zip(after, before).map(|(after, before)| after - before);
                for (((name, ..), watch), more) in modes.iter().zip(&watches).zip(more) {
                    wrong.extend(wrongs(row, name, watch.seen(), &ended, more));
                }
                before = after;
            }
            Err(error) => wrong.push(format!("{:?}: {error}", row.way)),
        }
    }
    for watch in watches {
        watch.stop();
    }
    wrong
}

/// Waits until each flowcar has sent so many more reports, all at the same time.
fn report(watches: &mut [Watch; 3], counts: [u64; 3]) {
    let before = watches.each_mut().map(|watch| {
        watch.catch_up();
        watch.seen().reports
    });
    for ((watch, before), count) in watches.iter_mut().zip(before).zip(counts) {
        watch.until("a report", |seen| seen.reports >= before + count);
    }
}

/// Flows whose counts may be off, by a report that was made when all spans so far had gone out: the programs' are here, those of
/// the one without go out once a second.
fn inexact(watches: &mut [Watch; 3]) -> [u64; 3] {
    report(watches, [2, 2, 4]);
    let name = "flowcar.self.flow.inexact";
    watches
        .each_ref()
        .map(|watch| watch.seen().sum(name, &[]) as u64)
}

/// Closes a connection of each family, and waits until every mode has reported both ends, or, without eBPF, knows that they
/// are closed. Every dump has shown them before.
///
/// # Errors
/// The kernel does not close them.
fn end(way: Way, pod: &TestPod, watches: &mut [Watch; 3]) -> io::Result<[Ended; 2]> {
    let mut endings = [
        Teardown::start(pod, way, false)?,
        Teardown::start(pod, way, true)?,
    ];
    report(watches, [2; 3]);
    for ending in &mut endings {
        ending.go_on()?;
    }
    let [v4, v6] = endings.map(Teardown::ended);
    let ended = [v4?, v6?];
    let [ebpf, exchange, alone] = watches;
    for watch in [ebpf, exchange] {
        watch.until("both ends", |seen| {
            ended.iter().all(|of| is_reported(seen, of))
        });
    }
    // The others' connections to their receivers live on.
    alone.until("both ends", |seen| {
        ended
            .iter()
            .all(|of| is_reported(seen, of) || !is_live(seen, of))
    });
    Ok(ended)
}

fn is_live(seen: &Seen, ended: &Ended) -> bool {
    let port = ended.server.port().to_string();
    let live = "flowcar.tcp.connection.live";
    seen.sum(live, &[("server.port", port.as_str())]) != 0.0
}

fn is_reported(seen: &Seen, ended: &Ended) -> bool {
    [ended.client, ended.server]
        .iter()
        .all(|local| flow(seen, *local).is_some())
}

fn flow(seen: &Seen, local: SocketAddr) -> Option<&Flow> {
    seen.flows.iter().find(|flow| flow.local == local)
}

/// The wrong reports of a row's connections. `inexact` more flows than before are reported as inexact.
fn wrongs(row: &Row, mode: &str, seen: &Seen, ended: &[Ended; 2], inexact: u64) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut off = 0;
    for ended in ended {
        let counts = [
            (
                ended.client,
                &row.client,
                ended.from_client,
                ended.from_server,
            ),
            (
                ended.server,
                &row.server,
                ended.from_server,
                ended.from_client,
            ),
        ];
        for (local, reported, sent, received) in counts {
            let allowed = match mode {
                "ebpf" => reported.ebpf,
                "exchange" => reported.exchange,
                _ => reported.alone,
            };
            let flow = flow(seen, local);
            wrong.extend(wrong_reason(row, mode, local, flow, allowed));
            let Some(flow) = flow else { continue };
            off += u64::from((flow.sent, flow.received) != (sent, received));
            if !counts_hold(mode, flow, (sent, received)) {
                wrong.push(format!(
                    "{:?} {mode} {local}: {:?} and not {:?}",
                    row.way,
                    (flow.sent, flow.received),
                    (sent, received)
                ));
            }
        }
    }
    let polls_second = row.way == Way::ClosedWithoutFinWait2 && mode == "alone";
    if off > inexact && !polls_second {
        wrong.push(format!(
            "{:?} {mode}: {off} flows are off, {inexact} inexact",
            row.way
        ));
    }
    wrong
}

fn wrong_reason(
    row: &Row,
    mode: &str,
    local: SocketAddr,
    flow: Option<&Flow>,
    allowed: &[&str],
) -> Option<String> {
    let end = flow.map_or("lost", Flow::end);
    let attributes = flow.map(|flow| &flow.attributes);
    if !allowed.contains(&end) {
        return Some(format!(
            "{:?} {mode} {local}: {end} and not {allowed:?}: {attributes:?}",
            row.way
        ));
    }
    let is_error = !["local_fin", "peer_fin", "unknown", "lost"].contains(&end);
    let error = flow.map_or("", |flow| flow.get("error.type"));
    (is_error == error.is_empty())
        .then(|| format!("{:?} {mode} {local}: {end} with error {error:?}", row.way))
}

/// Whether a flow's payload is what its connection carried, or off by no more than is allowed of one that is inexact.
fn counts_hold(mode: &str, flow: &Flow, (sent, received): (u64, u64)) -> bool {
    // Of a socket whose counts are cleared the counts of the last poll are reported.
    let is_cleared = mode == "alone" && flow.end() == "unknown";
    if is_cleared && flow.sent <= sent && flow.received <= received + FIN {
        return true;
    }
    flow.sent == sent && flow.received.abs_diff(received) <= FIN
}
