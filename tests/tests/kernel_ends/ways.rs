//! The table: each way, and what each end is to say of it.

use std::{io, net::SocketAddr, thread};

use flowcar_tests::{
    place::{Place, require_cgroup2, require_program, require_root},
    traffic::{Ended, Ending, Way},
    watch::{Flow, Mode, Seen, Watch},
};

/// What may be told of one end: where the programs tell, where they look at segments too, and by inet_diag alone. More than one
/// reason where a run may go either way, or evidence may be missing.
struct Told {
    ebpf: &'static [&'static str],
    exchange: &'static [&'static str],
    alone: &'static [&'static str],
}

struct Row {
    way: Way,
    client: Told,
    server: Told,
}

const fn told(
    ebpf: &'static [&'static str],
    exchange: &'static [&'static str],
    alone: &'static [&'static str],
) -> Told {
    Told {
        ebpf,
        exchange,
        alone,
    }
}

const fn row(way: Way, client: Told, server: Told) -> Row {
    Row {
        way,
        client,
        server,
    }
}

/// The same in each mode.
const fn all(reasons: &'static [&'static str]) -> Told {
    told(reasons, reasons, reasons)
}

const fn rows() -> [Row; 23] {
    use Way::{
        ClosedAtOnce, ClosedWithoutFinWait2, Disconnected, FinWait2Timer, HalfClosedInOrder,
        HalfClosedInSilence, HalfClosedKeepalive, HalfClosedThenClosed, HalfClosedThenReset,
        HalfClosedThenResetInSilence, HalfClosedThenUnread, Keepalive, KeepaliveUserTimeout,
        OrphanInFinWait1, OrphanInLastAck, ProbeAnsweredByReset, ResetByClient, ResetByServer,
        Retransmission, UnreadByClient, UserTimeout, ZeroWindowCut, ZeroWindowUserTimeout,
    };
    const TIMEOUT: Told = told(&["timeout"], &["timeout"], &["timeout", "unknown"]);
    const LOCAL: Told = all(&["local_fin"]);
    const PEER: Told = told(&["peer_fin"], &["peer_fin"], &["peer_fin", "unknown"]);
    // Own counts are wiped where SO_LINGER is 0.
    const SENT: Told = told(
        &["reset_sent"],
        &["reset_sent"],
        &["reset", "unknown", "lost"],
    );
    // The peer's FIN came first.
    const SENT_BEHIND: Told = told(
        &["reset_sent", "peer_fin"],
        &["reset_sent", "peer_fin"],
        &["reset", "peer_fin", "unknown", "lost"],
    );
    const RECEIVED: Told = told(
        &["reset", "reset_received"],
        &["reset_received"],
        &["reset", "reset_received", "unknown"],
    );
    [
        row(Keepalive, TIMEOUT, TIMEOUT),
        row(KeepaliveUserTimeout, TIMEOUT, TIMEOUT),
        row(UserTimeout, TIMEOUT, TIMEOUT),
        row(Retransmission, TIMEOUT, TIMEOUT),
        // Acknowledgements come to the last, and sockets of others are there: without a look after them nothing tells.
        row(
            ZeroWindowUserTimeout,
            told(
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
            told(
                &["reset_sent", "reset"],
                &["reset_sent"],
                &["reset", "unknown", "lost"],
            ),
            RECEIVED,
        ),
        row(ProbeAnsweredByReset, RECEIVED, SENT),
        // Which FIN was first cannot be told from what is left of the two.
        row(ClosedAtOnce, all(&["local_fin"]), all(&["local_fin"])),
        // By inet_diag alone the client's end looks as if it had been the second to close, or cut off (docs/limits.md).
        row(
            ClosedWithoutFinWait2,
            told(
                &["local_fin"],
                &["local_fin"],
                &["local_fin", "peer_fin", "reset", "unknown"],
            ),
            told(
                &["peer_fin"],
                &["peer_fin"],
                &["peer_fin", "reset", "unknown"],
            ),
        ),
    ]
}

/// By how many bytes a flow without an exact count may be off: the peer's FIN.
const FIN: u64 = 1;

/// Places at the same time: most of each is waiting.
const AT_ONCE: usize = 8;

/// Rows of one place, which end one after the other. One natively. On emulated machines, where tests run one at a time, a third of
/// them: the kernel there takes seconds to check the programs of each flowcar that starts.
fn rows_of_a_place(rows: usize) -> usize {
    match std::env::var("RUST_TEST_THREADS").as_deref() {
        Ok("1") => rows.div_ceil(3).max(1),
        _ => 1,
    }
}

#[test]
fn over_both_families() {
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
    let places: Vec<_> = rows.chunks(rows_of_a_place(rows.len())).collect();
    let mut wrong = Vec::new();
    for some in places.chunks(AT_ONCE) {
        thread::scope(|scope| {
            let running: Vec<_> = some
                .iter()
                .map(|rows| (rows[0].way, scope.spawn(move || check(rows))))
                .collect();
            for (first, place) in running {
                let panicked = |_| vec![format!("the place that begins with {first:?} panicked")];
                wrong.extend(place.join().unwrap_or_else(panicked));
            }
        });
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// In a network namespace of its own, followed in every mode at once: of each row a connection of each family, one after the
/// other, so that nothing else ends meanwhile. Returns what is reported wrongly.
fn check(rows: &[&Row]) -> Vec<String> {
    let place = Place::new("ends").unwrap();
    for (key, value) in [
        ("net.ipv4.tcp_retries2", "3"),
        ("net.ipv4.tcp_orphan_retries", "2"),
        ("net.ipv4.tcp_early_retrans", "0"),
    ] {
        place.netns().sysctl(key, value).unwrap();
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
        Watch::start(&place, mode, &settings)
    });
    let mut wrong = Vec::new();
    for row in rows {
        for v6 in [false, true] {
            let before = watches.each_mut().map(inexact);
            let ended = match end(row.way, v6, &place, &mut watches) {
                Ok(ended) => ended,
                Err(error) => {
                    wrong.push(format!("{:?}, IPv6 {v6}: {error}", row.way));
                    continue;
                }
            };
            for (((name, ..), watch), before) in modes.iter().zip(&mut watches).zip(before) {
                let more = inexact(watch) - before;
                wrong.extend(wrongs(row, name, watch.seen(), &ended, more));
            }
        }
    }
    for watch in watches {
        watch.stop();
    }
    wrong
}

/// Flows whose counts may be off, by a report that was made when all spans so far had gone out, which they do once a second.
fn inexact(watch: &mut Watch) -> u64 {
    watch.catch_up();
    watch.reports(3).sum("flowcar.self.flows.inexact", &[]) as u64
}

/// Has one connection end, and waits until every mode has reported both its ends, or, without eBPF, knows that they are over. Every
/// dump has shown it before.
///
/// # Errors
/// The kernel does not end it.
fn end(way: Way, v6: bool, place: &Place, watches: &mut [Watch; 3]) -> io::Result<Ended> {
    let mut ending = Ending::start(place, way, v6)?;
    for watch in watches.iter_mut() {
        watch.catch_up();
        watch.reports(2);
    }
    ending.go_on()?;
    let ended = ending.ended()?;
    let [ebpf, exchange, alone] = watches;
    for watch in [ebpf, exchange] {
        watch.until("both ends", |seen| is_reported(seen, &ended));
    }
    // Of what it knows now, not of what it knew before. The others' connections to their receivers live on.
    alone.catch_up();
    alone.reports(2);
    let port = ended.server.port().to_string();
    alone.until("both ends", |seen| {
        let live = seen.sum(
            "flowcar.tcp.connections.live",
            &[("server.port", port.as_str())],
        );
        is_reported(seen, &ended) || live == 0.0
    });
    Ok(ended)
}

fn is_reported(seen: &Seen, ended: &Ended) -> bool {
    [ended.client, ended.server]
        .iter()
        .all(|local| flow(seen, *local).is_some())
}

fn flow(seen: &Seen, local: SocketAddr) -> Option<&Flow> {
    seen.flows.iter().find(|flow| flow.local == local)
}

fn wrongs(row: &Row, mode: &str, seen: &Seen, ended: &Ended, inexact: u64) -> Vec<String> {
    let mut wrong = Vec::new();
    let ends = [
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
    for (local, told, sent, received) in ends {
        let allowed = match mode {
            "ebpf" => told.ebpf,
            "exchange" => told.exchange,
            _ => told.alone,
        };
        let flow = flow(seen, local);
        let end = flow.map_or("lost", Flow::end);
        if !allowed.contains(&end) {
            let flow = flow.map(|flow| &flow.attributes);
            wrong.push(format!(
                "{:?} {mode} {local}: {end} and not {allowed:?}: {flow:?}",
                row.way
            ));
        }
        let Some(flow) = flow else { continue };
        let is_error = !["local_fin", "peer_fin", "unknown"].contains(&end);
        if is_error == flow.get("error.type").is_empty() {
            wrong.push(format!(
                "{:?} {mode} {local}: {end} with error {:?}",
                row.way,
                flow.get("error.type")
            ));
        }
        let off = if inexact > 0 { FIN } else { 0 };
        let looks_second = row.way == Way::ClosedWithoutFinWait2 && mode == "alone";
        if looks_second && flow.sent == sent && flow.received + FIN == received {
            continue;
        }
        // Of a socket whose counts are wiped those of the look before are told.
        let is_wiped = mode == "alone" && end == "unknown" && inexact > 0;
        if is_wiped && flow.sent <= sent && flow.received <= received + off {
            continue;
        }
        if flow.sent != sent || flow.received.abs_diff(received) > off {
            let counts = (flow.sent, flow.received);
            wrong.push(format!(
                "{:?} {mode} {local}: {counts:?} and not {:?}, {inexact} inexact",
                row.way,
                (sent, received)
            ));
        }
    }
    wrong
}
