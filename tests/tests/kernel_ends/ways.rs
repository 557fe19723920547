//! Each way, tried in every mode: with both ends followed, and with the peer elsewhere.

use std::{io, net::SocketAddr, thread, time::Duration};

use flowcar_tests::{
    link::{Link, Plan},
    place::{
        TestPod, has_own_machine, lacks, require_cgroup2, require_program, require_root,
        require_tun,
    },
    traffic::{Ended, Teardown, Way},
    watch::{Flow, Mode, Seen, Watch},
};

use super::{
    orphans::OrphanLimit,
    rows::{Row, rows},
};

/// By how many bytes a flow without an exact count may be off: the peer's FIN.
const FIN: u64 = 1;

/// Pods at the same time: most of each is waiting.
const AT_ONCE: usize = 8;

/// Rows of one pod, which close one after the other. One natively. On emulated machines, where tests run one at a time, all of
/// them: the kernel there takes seconds to check the programs of each flowcar that starts, and what each reports costs as much as
/// what it follows.
fn rows_of_a_pod(rows: usize) -> usize {
    if has_own_machine() { rows.max(1) } else { 1 }
}

#[test]
fn every_close_in_every_mode_over_both_families() {
    let has_programs = || require_program("nft") && require_program("ss");
    if !require_root() || !require_cgroup2() || !require_tun() || !has_programs() {
        return;
    }
    let only = std::env::var("FLOWCAR_ENDS_WAY").ok();
    let rows: Vec<_> = rows().into_iter().collect();
    let rows: Vec<_> = rows
        .iter()
        .filter(|row| row.way != Way::TooManyOrphans || has_own_machine())
        .filter(|row| {
            only.as_ref()
                .is_none_or(|only| format!("{:?}", row.way) == *only)
        })
        .collect();
    // The limit of orphans is the whole machine's, and ends those of other pods, too.
    let (alone, rows): (Vec<_>, Vec<_>) =
        (rows.into_iter()).partition(|row| row.way == Way::TooManyOrphans);
    let mut wrong = check_all(&rows);
    wrong.extend(check_all(&alone));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Checks these rows in several pods at the same time. Returns the wrong reports.
fn check_all(rows: &[&Row]) -> Vec<String> {
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
    wrong
}

/// A pod that is followed, and one that is not, on a link.
struct Place {
    pod: TestPod,
    elsewhere: TestPod,
    link: Link,
}

/// A connection of a row that has closed, and which of its ends were in the followed pod.
struct Closed {
    ended: Ended,
    client: bool,
    server: bool,
}

/// In a network namespace of its own, followed in every mode at once: of each row a connection of each family and one with each
/// end elsewhere, row after row, so that no other connection closes meanwhile. Returns the wrong reports.
fn check(rows: &[&Row]) -> Vec<String> {
    let place = Place::new();
    let pod = &place.pod;
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
        Watch::start(pod, mode, &settings)
    });
    let mut wrong = Vec::new();
    let mut before = [0; 3];
    for row in rows {
        match end(row.way, &place, &mut watches) {
            Ok(closed) => {
                let after = inexact(&mut watches);
                let more = std::iter::zip(after, before).map(|(after, before)| after - before);
                for (((name, ..), watch), more) in modes.iter().zip(&watches).zip(more) {
                    wrong.extend(wrongs(row, name, watch.seen(), &closed, more));
                }
                before = after;
            }
            Err(error) if error.to_string().contains("SOCK_DESTROY") => lacks("SOCK_DESTROY"),
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

impl Place {
    fn new() -> Self {
        let [pod, elsewhere] = ["ends", "elsewhere"].map(|name| TestPod::new(name).unwrap());
        for (key, value) in [
            ("net.ipv4.tcp_retries2", "3"),
            ("net.ipv4.tcp_orphan_retries", "2"),
            ("net.ipv4.tcp_early_retrans", "0"),
        ] {
            pod.netns().sysctl(key, value).unwrap();
            elsewhere.netns().sysctl(key, value).unwrap();
        }
        let link =
            Link::between(pod.netns(), elsewhere.netns(), Plan::rtt(Duration::ZERO)).unwrap();
        Self {
            pod,
            elsewhere,
            link,
        }
    }

    /// Opens the connections of a row, and says which of their ends are in the followed pod. An emulated machine is too slow for the
    /// link, whose segments a program carries: the kernel's timers give up.
    fn open(&self, way: Way) -> io::Result<Vec<(Teardown, bool, bool)>> {
        let Self {
            pod,
            elsewhere,
            link,
        } = self;
        let mut all = vec![
            (Teardown::start(pod, way, false)?, true, true),
            (Teardown::start(pod, way, true)?, true, true),
        ];
        if !has_own_machine() {
            let outgoing = Teardown::between(pod, elsewhere, link.b4(), way)?;
            let incoming = Teardown::between(elsewhere, pod, link.a6(), way)?;
            all.extend([(outgoing, true, false), (incoming, false, true)]);
        }
        Ok(all)
    }
}

/// Closes the connections of a row, and waits until every mode has reported the ends in the pod, or, without eBPF, knows that
/// they are closed. Every dump has shown them before.
///
/// # Errors
/// The kernel does not close them.
fn end(way: Way, place: &Place, watches: &mut [Watch; 3]) -> io::Result<Vec<Closed>> {
    let mut endings = place.open(way)?;
    report(watches, [2; 3]);
    let limit = (way == Way::TooManyOrphans).then(OrphanLimit::none);
    for (ending, ..) in &mut endings {
        ending.go_on()?;
    }
    let endings = endings.into_iter();
    let ended: Vec<_> = endings
        .map(|(ending, client, server)| (ending.ended(), client, server))
        .collect();
    drop(limit);
    let closed = ended.into_iter().map(|(ended, client, server)| {
        Ok(Closed {
            ended: ended?,
            client,
            server,
        })
    });
    let closed = closed.collect::<io::Result<Vec<_>>>()?;
    let [ebpf, exchange, alone] = watches;
    for watch in [ebpf, exchange] {
        watch.until("both ends", |seen| {
            closed.iter().all(|of| is_reported(seen, of))
        });
    }
    // The others' connections to their receivers live on.
    alone.until("both ends", |seen| {
        closed
            .iter()
            .all(|of| is_reported(seen, of) || !is_live(seen, &of.ended))
    });
    Ok(closed)
}

fn is_live(seen: &Seen, ended: &Ended) -> bool {
    let port = ended.server.port().to_string();
    let live = "flowcar.tcp.connection.live";
    seen.sum(live, &[("server.port", port.as_str())]) != 0.0
}

fn is_reported(seen: &Seen, closed: &Closed) -> bool {
    let Ended { client, server, .. } = closed.ended;
    let ends = [
        (client, server, closed.client),
        (server, client, closed.server),
    ];
    ends.iter()
        .all(|(local, peer, is_followed)| !is_followed || flow(seen, *local, *peer).is_some())
}

/// The flow with these addresses. An earlier row's connection may have had one of the ports.
fn flow(seen: &Seen, local: SocketAddr, peer: SocketAddr) -> Option<&Flow> {
    let mut flows = seen.flows.iter();
    flows.find(|flow| (flow.local, flow.peer) == (local, peer))
}

/// The wrong reports of a row's connections. `inexact` more flows than before are reported as inexact.
fn wrongs(row: &Row, mode: &str, seen: &Seen, closed: &[Closed], inexact: u64) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut off = 0;
    for closed in closed {
        let ended = &closed.ended;
        let counts = [
            (
                closed.client,
                (ended.client, ended.server),
                &row.client,
                ended.from_client,
                ended.from_server,
            ),
            (
                closed.server,
                (ended.server, ended.client),
                &row.server,
                ended.from_server,
                ended.from_client,
            ),
        ];
        for (is_followed, (local, peer), reported, sent, received) in counts {
            if !is_followed {
                continue;
            }
            let allowed = match mode {
                "ebpf" => reported.ebpf,
                "exchange" => reported.exchange,
                _ => reported.alone,
            };
            let flow = flow(seen, local, peer);
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
