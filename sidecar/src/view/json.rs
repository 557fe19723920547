//! `flowcar run --format json`: one object for each flow, then the summary.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::Serialize;

use crate::{
    clock::Anchor,
    flow::{Flow, Role, RttKind},
    histogram::Histogram,
    view::Sums,
};

/// One flow, in the order of fields that the CLI promises.
#[derive(Serialize)]
struct Line<'a> {
    role: &'a str,
    local: Address,
    peer: Address,
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
    opened: u64,
    closed: u64,
    live: u64,
    failed: u64,
    lost: u64,
    lost_by: BTreeMap<&'a str, u64>,
    /// Absent where every flow is placed.
    #[serde(skip_serializing_if = "Option::is_none")]
    unscoped: Option<u64>,
    exit_status: i32,
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
pub fn line(flow: &Flow, anchor: &Anchor) -> String {
    let line = Line {
        role: role_name(flow.role),
        local: address(flow.local),
        peer: address(flow.peer),
        opened_at: rfc3339(anchor.unix_ns(flow.started)),
        duration_s: seconds(flow.duration_ns().unwrap_or_default()),
        connect_s: flow.connect_ns().map(seconds),
        bytes_sent: flow.volume.bytes_sent,
        bytes_received: flow.volume.bytes_received,
        segments_sent: flow.volume.segments_sent,
        segments_received: flow.volume.segments_received,
        retransmits: flow.volume.retransmits.total(),
        rtt: Rtt {
            kind: match flow.rtt_kind {
                RttKind::Measured => "measured",
                RttKind::Smoothed => "smoothed",
            },
            count: flow.rtt.count(),
            min_s: flow.rtt.min_ns().map(seconds),
            p50_s: quantile(&flow.rtt, 0.5),
            p99_s: quantile(&flow.rtt, 0.99),
        },
        exchanges: Exchanges {
            count: flow.exchanges.count(),
            p50_s: quantile(&flow.exchanges, 0.5),
            p99_s: quantile(&flow.exchanges, 0.99),
        },
        close_reason: flow.outcome.map(|outcome| outcome.name()),
        trace_id: format!("{:032x}", flow.trace.trace_id),
        span_id: format!("{:016x}", flow.trace.span_id),
    };
    serde_json::to_string(&line).expect("strings and numbers always serialise")
}

/// The last line.
pub fn summary(sums: &Sums) -> String {
    let Sums {
        books,
        unscoped,
        exit_status,
    } = sums;
    let summary = Summary {
        summary: Figures {
            opened: books.opened,
            closed: books.closed,
            live: books.live,
            failed: books.failed,
            lost: books.lost_total(),
            lost_by: books
                .lost
                .iter()
                .map(|(lost, count)| (lost.name(), *count))
                .collect(),
            unscoped: *unscoped,
            exit_status: *exit_status,
        },
    };
    serde_json::to_string(&summary).expect("strings and numbers always serialise")
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

fn quantile(histogram: &Histogram, q: f64) -> Option<f64> {
    histogram
        .quantile_s(q)
        .map(|value| (value * 1e9).round() / 1e9)
}

fn rfc3339(unix_ns: u64) -> String {
    jiff::Timestamp::from_nanosecond(unix_ns.into())
        .map_or_else(|_| unix_ns.to_string(), |time| format!("{time:.9}"))
}
