//! `flowcar run --format json`: one object for each flow, then the summary.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::Serialize;

use crate::{
    flow::Role,
    histogram::Histogram,
    view::{
        Row, Sums, Times,
        times::{self, ConnectionTimes},
    },
};

/// One flow, in the order of fields that the CLI promises.
#[derive(Serialize)]
struct Line<'a> {
    role: &'a str,
    local: Address,
    peer: Address,
    /// What a client asked for in `connect()`.
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<Address>,
    /// The name that it asked a resolver for.
    #[serde(skip_serializing_if = "Option::is_none")]
    server_name: Option<String>,
    /// The process that called `connect()`, or `listen()` of the listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    process: Option<Process>,
    /// The id of the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<&'a str>,
    opened_at: String,
    duration_s: f64,
    connect_s: Option<f64>,
    bytes_sent: u64,
    bytes_received: u64,
    segments_sent: u64,
    segments_received: u64,
    retransmits: u64,
    rtt: Rtt<'a>,
    exchanges: Exchanges,
    /// Why it ended, or why it was never established; null where it is still open.
    close_reason: Option<&'a str>,
    trace_id: String,
    span_id: String,
}

#[derive(Serialize)]
struct Address {
    address: String,
    port: u16,
}

#[derive(Serialize)]
struct Process {
    /// In the initial PID namespace.
    pid: u32,
    /// Absent where /proc did not show it.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

#[derive(Serialize)]
struct Rtt<'a> {
    kind: &'a str,
    count: u64,
    min_s: Option<f64>,
    p50_s: Option<f64>,
    p99_s: Option<f64>,
}

#[derive(Serialize)]
struct Exchanges {
    count: u64,
    p50_s: Option<f64>,
    p99_s: Option<f64>,
}

#[derive(Serialize)]
struct Summary<'a> {
    summary: Figures<'a>,
}

#[derive(Serialize)]
struct Figures<'a> {
    #[serde(flatten)]
    books: BooksOf<'a>,
    /// How long the connections took; absent where only open ones are listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    times: Option<TimesOf>,
    /// Failing ones first; absent where only open connections are listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    peers: Option<Vec<PeerFigures>>,
    /// Absent where no command was run.
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_status: Option<i32>,
    /// Absent where there is something to report.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
}

/// The books: every connection is accounted for.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct BooksOf<'a> {
    opened: u64,
    closed: u64,
    live: u64,
    failed: u64,
    lost: u64,
    lost_by: &'a BTreeMap<String, u64>,
    /// Absent where every flow is placed.
    #[serde(skip_serializing_if = "Option::is_none")]
    unscoped: Option<u64>,
}

impl<'a> From<&'a Sums> for BooksOf<'a> {
    fn from(sums: &'a Sums) -> Self {
        Self {
            opened: sums.opened,
            closed: sums.closed,
            live: sums.live,
            failed: sums.failed,
            lost: sums.lost_total(),
            lost_by: &sums.lost,
            unscoped: sums.unscoped,
        }
    }
}

#[derive(Serialize)]
struct TimesOf {
    connections: u64,
    connect: Quantiles,
    rtt: Quantiles,
    exchanges: Quantiles,
}

/// The connections and attempts of a peer, added up.
#[derive(Debug, Serialize)]
pub struct PeerFigures {
    pub(super) name: String,
    pub(super) connections: u64,
    pub(super) failed: u64,
    pub(super) cut_off: u64,
    pub(super) bytes_sent: u64,
    pub(super) bytes_received: u64,
    pub(super) retransmits: u64,
    pub(super) connect: Quantiles,
    pub(super) rtt: Quantiles,
    pub(super) exchanges: Quantiles,
}

/// Of `count` connections; null where that is 0.
#[derive(Debug, Serialize)]
pub(super) struct Quantiles {
    count: u64,
    p50_s: Option<f64>,
    p99_s: Option<f64>,
}

/// The value of `role` and of `network.tcp.handshake.role`.
pub const fn role_name(role: Role) -> &'static str {
    match role {
        Role::Client => "client",
        Role::Server => "server",
        Role::Unknown => "unknown",
    }
}

/// One line, without its end, for a flow that is over, or still open.
pub fn line(row: &Row) -> String {
    let (rtt, exchanges): (Times, Times) = (row.rtt(), row.exchanges());
    let line = Line {
        role: role_name(row.role()),
        local: address(row.local()),
        peer: address(row.peer()),
        server: row.server_of_client().map(address),
        server_name: row.server_name(),
        process: row.pid.map(|pid| Process {
            pid,
            name: row.process_name(),
        }),
        container: row.container.as_deref(),
        opened_at: rfc3339(row.opened_unix_ns),
        duration_s: seconds(row.duration_ns.unwrap_or_default()),
        connect_s: row.connect_ns.map(seconds),
        bytes_sent: row.bytes_sent,
        bytes_received: row.bytes_received,
        segments_sent: row.segments_sent,
        segments_received: row.segments_received,
        retransmits: row.retransmits,
        rtt: Rtt {
            kind: if row.is_smoothed {
                "smoothed"
            } else {
                "measured"
            },
            count: rtt.count,
            min_s: rtt.min_ns.map(seconds),
            p50_s: rtt.p50_ns.map(seconds),
            p99_s: rtt.p99_ns.map(seconds),
        },
        exchanges: Exchanges {
            count: exchanges.count,
            p50_s: exchanges.p50_ns.map(seconds),
            p99_s: exchanges.p99_ns.map(seconds),
        },
        close_reason: row.close_reason.as_deref(),
        trace_id: format!("{:032x}", row.trace_id()),
        span_id: format!("{:016x}", row.span_id),
    };
    serde_json::to_string(&line).expect("strings and numbers always serialise")
}

/// The last line; with how long the connections took, all of them and by peer, where they are those of a command.
pub fn summary(sums: &Sums, taken: Option<(&ConnectionTimes, Vec<PeerFigures>)>) -> String {
    let (times, peers) = taken.unzip();
    let summary = Summary {
        summary: Figures {
            books: sums.into(),
            times: times.map(|times| TimesOf {
                connections: times.connections,
                connect: quantiles(&times.connect),
                rtt: quantiles(&times.rtt),
                exchanges: quantiles(&times.exchange),
            }),
            peers,
            exit_status: sums.exit_status,
            hint: sums.hint.as_deref(),
        },
    };
    serde_json::to_string(&summary).expect("strings and numbers always serialise")
}

// === impl Quantiles ===

impl Quantiles {
    pub(super) fn of(histogram: &Histogram) -> Self {
        Self {
            count: histogram.count(),
            p50_s: histogram.quantile_s(0.5),
            p99_s: histogram.quantile_s(0.99),
        }
    }
}

fn quantiles(of: &times::Quantiles) -> Quantiles {
    Quantiles {
        count: of.count(),
        p50_s: of.at_s(0.5),
        p99_s: of.at_s(0.99),
    }
}

fn address(socket: SocketAddr) -> Address {
    Address {
        address: socket.ip().to_string(),
        port: socket.port(),
    }
}

/// Nanoseconds as seconds, to the nanosecond and no further.
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

fn rfc3339(unix_ns: u64) -> String {
    jiff::Timestamp::from_nanosecond(unix_ns.into())
        .map_or_else(|_| unix_ns.to_string(), |time| format!("{time:.9}"))
}
