//! What a running flowcar answers, as the screen and the lines have it. Pure.

use std::collections::BTreeSet;

use flowcar_screen::{
    answer::{
        Answer, Books, ClosedCounts, ConnectionCounts, Connections, Key, PeerCounts, Role, RttSum,
    },
    line::MOST_CONNECTIONS,
};

use crate::{
    control::{Listing, PeerListing},
    flow,
    view::{Row, closed::ClosedRow, peers::PeerRow},
};

/// An answer, with the connections of the opened peer where they were asked for.
pub(super) fn answer(peers: PeerListing, opened: Option<(&Key, Listing)>) -> Answer {
    let rows: Vec<PeerCounts> = peers.peers.iter().map(counts).collect();
    Answer {
        connections: opened.map(|(key, flows)| connections(key, &rows, flows)),
        books: books(peers.books),
        peers: rows,
        left_out: 0,
    }
}

fn books(listing: Listing) -> Books {
    Books {
        at_unix_ns: listing.at_unix_ns,
        source: listing.source,
        opened: listing.opened,
        closed: listing.closed,
        live: listing.live,
        failed: listing.failed,
        lost: listing.lost,
    }
}

fn counts(row: &PeerRow) -> PeerCounts {
    PeerCounts {
        series: row.series,
        role: match row.role() {
            flow::Role::Client => Role::Client,
            flow::Role::Server => Role::Server,
            flow::Role::Unknown => Role::Unknown,
        },
        // Containers are added up: those of other pods have other ids.
        name: row.peer_name(),
        opened: row.opened,
        live: row.live,
        cut_off: row.cut_off,
        failed: row.failed,
        bytes_sent: row.bytes_sent,
        bytes_received: row.bytes_received,
        segments_sent: row.segments_sent,
        handshake_retransmits: row.handshake_retransmits,
        data_retransmits: row.data_retransmits,
        retransmits_by_type: row.retransmits_by_type.map(Into::into),
        receive_window_limited_us: row.receive_window_limited_us,
        send_buffer_limited_us: row.send_buffer_limited_us,
        connect: row.connect.histogram(),
        rtt: row.rtt.histogram(),
        exchange: row.exchange.histogram(),
    }
}

/// The connections of a peer, the oldest first.
fn connections(of: &Key, peers: &[PeerCounts], listing: Listing) -> Connections {
    let series = peers.iter().filter(|peer| peer.key() == *of);
    let series: BTreeSet<u64> = series.map(|peer| peer.series).collect();
    let is_of_peer = |of: Option<u64>| of.is_some_and(|of| series.contains(&of));
    let flows = listing.flows.iter();
    let mut all: Vec<_> = flows
        .filter(|row| is_of_peer(row.series))
        .map(connection)
        .collect();
    let left_out = all.len().saturating_sub(MOST_CONNECTIONS) as u64;
    all.truncate(MOST_CONNECTIONS);
    let closed = listing.closed_last.into_iter();
    let closed = closed
        .filter(|row| is_of_peer(row.series))
        .map(closed_counts);
    Connections {
        of: of.to_string(),
        all,
        left_out,
        closed: closed.collect(),
    }
}

fn closed_counts(row: ClosedRow) -> ClosedCounts {
    ClosedCounts {
        cookie: row.cookie,
        reason: row.reason,
        is_failure: row.is_failure,
        duration_ns: row.duration_ns,
        bytes_sent: row.bytes_sent,
        bytes_received: row.bytes_received,
        segments_sent: row.segments_sent,
        retransmits: row.retransmits.into(),
    }
}

fn connection(row: &Row) -> ConnectionCounts {
    let (rtt, exchanges) = (row.rtt(), row.exchanges());
    ConnectionCounts {
        cookie: row.cookie,
        local: row.local(),
        peer: row.peer(),
        duration_ns: row.duration_ns,
        bytes_sent: row.bytes_sent,
        bytes_received: row.bytes_received,
        segments_sent: row.segments_sent,
        retransmits: row.retransmits,
        retransmits_by_type: row.retransmits_by_type.map(Into::into),
        receive_window_limited_us: row.receive_window_limited_us,
        send_buffer_limited_us: row.send_buffer_limited_us,
        rtt_p50_ns: rtt.p50_ns,
        rtt_p99_ns: rtt.p99_ns,
        rtt_sum: rtt.sum_ns.map(|sum_ns| RttSum {
            count: rtt.count,
            sum_ns,
        }),
        exchange_p99_ns: exchanges.p99_ns,
        process: row.process_text(),
    }
}
