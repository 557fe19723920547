//! The page: a template with its style, its script and the data as JSON. Nothing in it leads to another file, and the browser is asked to
//! load none. Pure.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::{
    findings::{Cost, Facts, Finding, Halves, Queue, findings},
    heat::{Cells, HeatMap, HeatMaps, ZERO_ROW, halves},
    kept::{Connection, Kept, MOST},
    peers::{OTHERS, PeerSum, Peers},
};
use crate::{
    flow::{Monotonic, Role},
    histogram::Histogram,
    view::{
        Sums,
        json::{BooksOf, role_name},
    },
};

/// The page's size at most, bytes.
const SIZE: usize = 1_000_000;

/// Peers in the table, and those with a heat map of their own.
const PEERS: usize = 100;
const MAPPED: usize = 12;

const TEMPLATE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// What is not counted flow by flow.
#[derive(Clone, Copy, Debug)]
pub(super) struct About<'a> {
    /// The command's name. Its arguments may be secrets, and a page is passed on.
    pub(super) program: &'a str,
    /// `flowcar.source`
    pub(super) source: &'a str,
    pub(super) exchanges: bool,
    pub(super) handshakes: bool,
    /// Whether RTTs are the kernel's smoothed values.
    pub(super) smoothed: bool,
    pub(super) began: Monotonic,
    pub(super) began_unix_ns: u64,
    pub(super) took_ns: u64,
    pub(super) sums: &'a Sums,
    pub(super) queues: &'a BTreeMap<Option<u16>, Queue>,
    /// Whether receivers took all; `None` where nothing is exported.
    pub(super) is_delivered: Option<bool>,
    pub(super) cost: Cost,
}

#[derive(Serialize)]
struct Data<'a> {
    version: &'static str,
    program: &'a str,
    source: &'a str,
    exchanges: bool,
    smoothed: bool,
    began_unix_ms: u64,
    took_us: u64,
    exit_status: Option<i32>,
    hint: Option<&'a str>,
    books: BooksOf<'a>,
    findings: Vec<Finding>,
    peers: Vec<PeerRow<'a>>,
    left_out: u64,
    strings: Vec<String>,
    connections: Columns,
    heat: Heat,
}

#[derive(Serialize)]
struct PeerRow<'a> {
    name: &'a str,
    server: bool,
    connections: u64,
    open: u64,
    failed: &'a BTreeMap<&'static str, u64>,
    cut_off: &'a BTreeMap<&'static str, u64>,
    sent: u64,
    received: u64,
    segments: u64,
    retransmits: u64,
    exchanges: u64,
    /// p50 and p99 in microseconds, or nothing.
    connect: Option<[u64; 2]>,
    rtt: Option<[u64; 2]>,
    exchange: Option<[u64; 2]>,
    /// The median of the connections' shortest round trips.
    network: Option<u64>,
}

/// A value for each connection; times in microseconds, -1 where there is none.
#[derive(Default, Serialize)]
struct Columns {
    peer: Vec<usize>,
    role: Vec<usize>,
    local: Vec<usize>,
    local_port: Vec<u16>,
    remote: Vec<usize>,
    remote_port: Vec<u16>,
    start: Vec<u64>,
    connect: Vec<i64>,
    duration: Vec<i64>,
    sent: Vec<u64>,
    received: Vec<u64>,
    segments_sent: Vec<u64>,
    segments_received: Vec<u64>,
    retransmits: Vec<u64>,
    rtt_count: Vec<u64>,
    rtt_min: Vec<i64>,
    rtt_p50: Vec<i64>,
    rtt_p99: Vec<i64>,
    exchange_count: Vec<u64>,
    exchange_p50: Vec<i64>,
    exchange_p99: Vec<i64>,
    /// Why it closed or failed; -1 where it is open.
    end: Vec<i64>,
    failure: Vec<u8>,
    window: Vec<u64>,
    buffer: Vec<u64>,
    /// The process, 0 where that is not known: its difference to the row before, which has fewer digits.
    pid: Vec<i64>,
    /// What the process is called; -1 where that is not known.
    process: Vec<i64>,
}

#[derive(Serialize)]
struct Heat {
    column_us: u64,
    columns: u64,
    zero_row: i32,
    maps: Vec<Map>,
}

/// Column, row and count of each cell, one after the other.
#[derive(Serialize)]
struct Map {
    /// Its place in the table; -1 for all connections.
    peer: i64,
    rtt: Vec<i64>,
    exchange: Vec<i64>,
}

/// Texts that repeat, each once.
#[derive(Default)]
struct Strings {
    places: HashMap<String, usize>,
    all: Vec<String>,
}

impl Strings {
    fn place(&mut self, text: &str) -> usize {
        if let Some(place) = self.places.get(text) {
            return *place;
        }
        let place = self.all.len();
        self.places.insert(text.to_owned(), place);
        self.all.push(text.to_owned());
        place
    }
}

/// The page. Of too many connections the failed and the slowest ones have rows.
pub(super) fn page(about: &About<'_>, peers: Peers, kept: &Kept, heat: &HeatMaps) -> String {
    let peers = peers.slowest_first(PEERS);
    let mut most = MOST;
    loop {
        let page = assemble(&data(about, &peers, kept, heat, most));
        if page.len() < SIZE || most == 0 {
            return page;
        }
        // Names and addresses are longer than usual.
        most = most * 4 / 5;
    }
}

fn data(
    about: &About<'_>,
    peers: &[(String, PeerSum)],
    kept: &Kept,
    heat: &HeatMaps,
    most: usize,
) -> String {
    let (rows, left_out) = kept.by_start(most);
    let mut strings = Strings::default();
    let connections = columns(&rows, peers, about.began, &mut strings);
    let sums = about.sums;
    let halves = peers.iter().map(|(name, _)| halves_of(name, heat, about));
    let halves: Vec<_> = halves.collect();
    let data = Data {
        version: env!("CARGO_PKG_VERSION"),
        program: about.program,
        source: about.source,
        exchanges: about.exchanges,
        smoothed: about.smoothed,
        began_unix_ms: about.began_unix_ns / 1_000_000,
        took_us: about.took_ns / 1_000,
        exit_status: sums.exit_status,
        hint: sums.hint.as_deref(),
        books: sums.into(),
        findings: findings(&Facts {
            peers,
            halves: &halves,
            queues: about.queues,
            sums,
            exchanges: about.exchanges,
            handshakes: about.handshakes,
            is_delivered: about.is_delivered,
            cost: about.cost,
            took_ns: about.took_ns,
        }),
        peers: peers
            .iter()
            .map(|(name, peer)| peer_row(name, peer))
            .collect(),
        left_out,
        strings: strings.all,
        connections,
        heat: maps(peers, heat, about.took_ns),
    };
    serde_json::to_string(&data).expect("strings and numbers always serialise")
}

/// What was measured of a peer in each half of the run, if the peer has a heat map.
fn halves_of(name: &str, heat: &HeatMaps, about: &About<'_>) -> Option<Halves> {
    let map = heat.of_peer(name)?;
    let cells = if about.exchanges {
        &map.exchanges
    } else {
        &map.rtt
    };
    Some(halves(cells, heat.columns(about.took_ns)))
}

fn peer_row<'a>(name: &'a str, peer: &'a PeerSum) -> PeerRow<'a> {
    let quantiles =
        |of: &Histogram| Some([micros(of.quantile_s(0.5)?), micros(of.quantile_s(0.99)?)]);
    PeerRow {
        name,
        server: peer.is_server,
        connections: peer.connections,
        open: peer.open,
        failed: &peer.failed,
        cut_off: &peer.cut_off,
        sent: peer.bytes_sent,
        received: peer.bytes_received,
        segments: peer.segments_sent,
        retransmits: peer.handshake_retransmits + peer.data_retransmits,
        exchanges: peer.exchanges.count(),
        connect: quantiles(&peer.connect),
        rtt: quantiles(&peer.rtt),
        exchange: quantiles(&peer.exchanges),
        network: peer.least_rtt.quantile_s(0.5).map(micros),
    }
}

fn columns(
    rows: &[&Connection],
    peers: &[(String, PeerSum)],
    began: Monotonic,
    strings: &mut Strings,
) -> Columns {
    let places: HashMap<_, _> = peers
        .iter()
        .enumerate()
        .map(|(at, (name, _))| (name.as_str(), at))
        .collect();
    let others = places.get(OTHERS).copied().unwrap_or_default();
    let optional = |ns: Option<u64>| ns.map_or(-1, |ns| (ns / 1_000) as i64);
    let mut columns = Columns::default();
    let mut pid_before = 0;
    for row in rows {
        columns.peer.push(
            places
                .get(row.peer_name.as_str())
                .copied()
                .unwrap_or(others),
        );
        columns.role.push(match row.role {
            Role::Unknown => strings.place("-"),
            role => strings.place(role_name(role)),
        });
        columns
            .local
            .push(strings.place(&row.local.ip().to_string()));
        columns.local_port.push(row.local.port());
        columns
            .remote
            .push(strings.place(&row.peer.ip().to_string()));
        columns.remote_port.push(row.peer.port());
        columns.start.push(row.started.since_ns(began) / 1_000);
        columns.connect.push(optional(row.connect_ns));
        columns.duration.push(optional(row.duration_ns));
        columns.sent.push(row.bytes_sent);
        columns.received.push(row.bytes_received);
        columns.segments_sent.push(row.segments_sent);
        columns.segments_received.push(row.segments_received);
        columns.retransmits.push(row.retransmits);
        columns.rtt_count.push(row.rtt.count);
        columns.rtt_min.push(optional(row.rtt.min_ns));
        columns.rtt_p50.push(optional(row.rtt.p50_ns));
        columns.rtt_p99.push(optional(row.rtt.p99_ns));
        columns.exchange_count.push(row.exchanges.count);
        columns.exchange_p50.push(optional(row.exchanges.p50_ns));
        columns.exchange_p99.push(optional(row.exchanges.p99_ns));
        columns.end.push(
            row.close_reason
                .map_or(-1, |reason| strings.place(reason) as i64),
        );
        columns.failure.push(u8::from(row.is_failure));
        columns.window.push(row.window_limited_us);
        columns.buffer.push(row.buffer_limited_us);
        let process = row.process.as_ref();
        let pid = process.map_or(0, |of| i64::from(of.pid.get()));
        columns
            .pid
            .push(pid - std::mem::replace(&mut pid_before, pid));
        let name = process.and_then(|of| of.name.as_ref());
        columns
            .process
            .push(name.map_or(-1, |name| strings.place(name) as i64));
    }
    columns
}

fn maps(peers: &[(String, PeerSum)], heat: &HeatMaps, took_ns: u64) -> Heat {
    let map = |peer: i64, of: &HeatMap| Map {
        peer,
        rtt: flat(&of.rtt),
        exchange: flat(&of.exchanges),
    };
    let mapped = peers.iter().enumerate();
    let mapped = mapped.filter_map(|(at, (name, _))| Some(map(at as i64, heat.of_peer(name)?)));
    let all = [map(-1, heat.all())].into_iter();
    Heat {
        column_us: heat.column_ns() / 1_000,
        columns: heat.columns(took_ns),
        zero_row: ZERO_ROW,
        maps: all.chain(mapped.take(MAPPED)).collect(),
    }
}

fn flat(cells: &Cells) -> Vec<i64> {
    let cells = cells.iter();
    cells
        .flat_map(|((column, row), count)| [*column as i64, i64::from(*row), *count as i64])
        .collect()
}

fn micros(seconds: f64) -> u64 {
    (seconds * 1e6).round() as u64
}

/// The template with its parts. Only this page's own script and style have the nonce, so that a browser runs nothing else.
fn assemble(data: &str) -> String {
    let nonce = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
    let frame = TEMPLATE
        .replace("{{nonce}}", &nonce)
        .replace("{{style}}", STYLE)
        .replace("{{script}}", SCRIPT);
    // Last, and no part is searched again: what stands in the data is never taken for a part of the template.
    frame.replacen("{{data}}", &inert(data), 1)
}

/// JSON that a parser of HTML takes for plain text, whatever strings are in it.
fn inert(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for each in json.chars() {
        match each {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                text += &format!("\\u{:04x}", u32::from(each))
            }
            each => text.push(each),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::{
        flow::{CloseReason, Failure, Flow, Origin, Outcome, example},
        run::page::heat::Samples,
    };

    /// So many connections to 40 peers, with sizes and times that differ as real ones do.
    fn varied(count: u64, name: impl Fn(u64) -> String) -> (Peers, Kept, HeatMaps) {
        let mut random = fastrand::Rng::with_seed(7);
        let (mut peers, mut kept, mut heat) =
            (Peers::default(), Kept::default(), HeatMaps::default());
        for at in 0..count {
            let peer = random.u64(..40);
            let mut flow = Flow {
                local: ([10, 1, 2, 3], random.u16(32_768..61_000)).into(),
                peer: ([10, 200, peer as u8, random.u8(..)], 8443).into(),
                name: Some(name(peer).into()),
                started: Monotonic(1_000_000_000 + at * 12_345_678),
                ..example::closed(at as u32)
            };
            let time = |random: &mut fastrand::Rng| 2_f64.powf(12.0 + random.f64() * 17.0) as u64;
            flow.established = Some(Monotonic(flow.started.0 + time(&mut random)));
            flow.seen = Monotonic(flow.started.0 + 3 * time(&mut random) + 500_000_000);
            (0..9).for_each(|_| flow.rtt.record(time(&mut random)));
            (0..4).for_each(|_| flow.exchanges.record(time(&mut random)));
            // A process for each, as a script makes them.
            flow.origin = Origin::new(0, 100_000 + at as u32);
            if let Some(process) = &mut flow.origin.process {
                process.name = Some("curl".into());
            }
            flow.volume.bytes_sent = time(&mut random);
            flow.volume.bytes_received = 9 * time(&mut random);
            (flow.volume.segments_sent, flow.volume.segments_received) =
                (random.u64(4..9_000), random.u64(4..9_000));
            flow.volume.retransmits.fast = random.u64(..9);
            flow.outcome = Some(match random.u8(..20) {
                0 => Outcome::Closed(CloseReason::ResetReceived),
                1 => Outcome::Failed(Failure::Refused),
                _ => Outcome::Closed(CloseReason::LocalFin),
            });
            if flow.outcome == Some(Outcome::Failed(Failure::Refused)) {
                flow.established = None;
            }
            heat.add(
                &crate::view::by_peer::name(&flow),
                &Samples {
                    rtt: &flow.rtt,
                    exchanges: &flow.exchanges,
                    from_ns: at * 12_345_678,
                    to_ns: at * 12_345_678 + 500_000_000,
                },
            );
            peers.add(&flow);
            kept.add(Connection::from(&flow));
        }
        (peers, kept, heat)
    }

    fn page_of(count: u64, name: impl Fn(u64) -> String, sums: &Sums) -> String {
        let (peers, kept, heat) = varied(count, name);
        let about = About {
            program: "load-test",
            source: "ebpf",
            exchanges: true,
            handshakes: true,
            smoothed: false,
            began: Monotonic(1_000_000_000),
            began_unix_ns: 1_764_000_000_000_000_000,
            took_ns: count * 12_345_678 + 3_000_000_000,
            sums,
            queues: &BTreeMap::new(),
            is_delivered: None,
            cost: Cost::default(),
        };
        page(&about, peers, &kept, &heat)
    }

    /// The data as a browser takes it: up to the first end of a script behind its start.
    fn data_of(page: &str) -> Value {
        let (_, rest) = page
            .split_once(r#"<script type="application/json" id="data">"#)
            .expect("the data");
        let (data, _) = rest.split_once("</script").expect("its end");
        serde_json::from_str(data).expect("JSON")
    }

    #[test]
    fn page_of_5000_connections_has_all_of_them_in_less_than_a_megabyte() {
        let page = page_of(
            5_000,
            |peer| format!("service-{peer}.shop.example"),
            &Sums::default(),
        );
        println!("{} bytes", page.len());
        assert!(page.len() < 1_000_000, "{}", page.len());
        let data = data_of(&page);
        assert_eq!(data["left_out"], 0);
        let columns = data["connections"].as_object().expect("columns");
        for (name, column) in columns {
            assert_eq!(column.as_array().map(Vec::len), Some(5_000), "{name}");
        }
        assert_eq!(data["peers"].as_array().map(Vec::len), Some(40));
    }

    #[test]
    fn size_stays_within_the_bound_whatever_peers_are_called() {
        let long = |peer: u64| format!("{peer}{}", "<".repeat(250));
        let page = page_of(20_000, long, &Sums::default());
        assert!(page.len() < SIZE, "{}", page.len());
        let data = data_of(&page);
        let rows = data["connections"]["start"].as_array().expect("rows").len() as u64;
        assert!(rows > 3_000, "{rows}");
        assert_eq!(data["left_out"], 20_000 - rows);
    }

    #[test]
    fn names_and_hints_are_data_and_never_a_part_of_the_page() {
        let hostile = [
            "</script><script>alert(1)</script>",
            "<!--<script>",
            "{{data}}{{script}}{{nonce}}",
            "\u{2028}\u{2029}&amp;\"'\\",
            "]]><img src=x onerror=alert(1)>",
        ];
        let sums = Sums {
            hint: Some(hostile.join(" ")),
            ..Sums::default()
        };
        let page = page_of(
            50,
            |peer| hostile[peer as usize % hostile.len()].to_owned(),
            &sums,
        );
        let data = data_of(&page);
        assert_eq!(data["hint"], hostile.join(" "));
        let names: Vec<_> = data["peers"]
            .as_array()
            .expect("peers")
            .iter()
            .filter_map(|peer| peer["name"].as_str())
            .collect();
        for name in hostile {
            assert!(
                names.iter().any(|each| each.starts_with(name)),
                "{name}: {names:?}"
            );
        }
        let plain = page_of(50, |peer| format!("peer{peer}"), &Sums::default());
        for mark in ["<script", "</script", "<!--", "<img"] {
            let count = |page: &str| page.matches(mark).count();
            assert_eq!(count(&page), count(&plain), "{mark}");
        }
        assert!(!page.contains('\u{2028}'));
    }

    #[test]
    fn page_loads_nothing_and_runs_its_own_script_alone() {
        let page = page_of(1, |_| "peer".to_owned(), &Sums::default());
        assert!(!page.contains("{{"), "a part is missing");
        let (_, policy) = page
            .split_once("Content-Security-Policy\" content=\"")
            .expect("a policy");
        let (policy, _) = policy.split_once('"').expect("its end");
        let nonce = policy
            .split("'nonce-")
            .nth(1)
            .and_then(|rest| rest.split('\'').next())
            .expect("a nonce");
        assert_eq!(
            policy,
            format!(
                "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'"
            )
        );
        for forbidden in [
            "http://",
            "https://",
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "fetch(",
            "url(",
            "@import",
            " src=",
            " href=\"//",
        ] {
            assert!(!page.contains(forbidden), "{forbidden}");
        }
        let again = page_of(1, |_| "peer".to_owned(), &Sums::default());
        assert!(!again.contains(nonce), "each page has its own");
    }
}
