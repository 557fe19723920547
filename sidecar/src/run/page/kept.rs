//! The connections that have a row on the page: all of them or, of too many, the failed and the slowest ones. Pure.

use std::{collections::BTreeMap, net::SocketAddr};

use crate::{
    flow::{Flow, Monotonic, Process, Role},
    histogram::Histogram,
    view::{Times, by_peer, longest_ns},
};

/// Connections that have a row, at most.
pub(super) const MOST: usize = 5_000;

/// A connection or an attempt. Times are in nanoseconds.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub(super) peer_name: String,
    pub(super) role: Role,
    pub(super) local: SocketAddr,
    pub(super) peer: SocketAddr,
    pub(super) started: Monotonic,
    pub(super) connect_ns: Option<u64>,
    /// `None` for an attempt that failed.
    pub(super) duration_ns: Option<u64>,
    pub(super) bytes_sent: u64,
    pub(super) bytes_received: u64,
    pub(super) segments_sent: u64,
    pub(super) segments_received: u64,
    pub(super) retransmits: u64,
    pub(super) rtt: Times,
    pub(super) exchanges: Times,
    pub(super) close_reason: Option<&'static str>,
    pub(super) is_failure: bool,
    pub(super) window_limited_us: u64,
    pub(super) buffer_limited_us: u64,
    pub(super) process: Option<Process>,
}

/// By rank and order of arrival.
type Ranked = BTreeMap<(u64, u64), Connection>;

/// A bounded choice of connections.
#[derive(Debug)]
pub(super) struct Kept {
    most: usize,
    seen: u64,
    failed: Ranked,
    others: Ranked,
}

impl From<&Flow> for Connection {
    fn from(flow: &Flow) -> Self {
        let times = |of: &Histogram| Times::from(of);
        Self {
            peer_name: by_peer::name(flow),
            role: flow.role,
            local: flow.local,
            peer: flow.peer,
            started: flow.started,
            connect_ns: flow.connect_ns(),
            duration_ns: flow.duration_ns(),
            bytes_sent: flow.volume.bytes_sent,
            bytes_received: flow.volume.bytes_received,
            segments_sent: flow.volume.segments_sent,
            segments_received: flow.volume.segments_received,
            retransmits: flow.volume.retransmits.total(),
            rtt: times(&flow.rtt),
            exchanges: times(&flow.exchanges),
            close_reason: flow.outcome.map(|outcome| outcome.name()),
            is_failure: flow.is_failure(),
            window_limited_us: flow.socket.map_or(0, |of| of.receive_window_limited_us),
            buffer_limited_us: flow.socket.map_or(0, |of| of.send_buffer_limited_us),
            process: flow.origin.process.clone(),
        }
    }
}

// === impl Kept ===

impl Default for Kept {
    fn default() -> Self {
        Self::at_most(MOST)
    }
}

impl Kept {
    fn at_most(most: usize) -> Self {
        Self {
            most,
            seen: 0,
            failed: Ranked::new(),
            others: Ranked::new(),
        }
    }

    /// Adds a connection; one too many displaces the least slow of its kind.
    pub(super) fn add(&mut self, connection: Connection) {
        // Of two that are equally slow the earlier one stays.
        let longest = longest_ns(connection.connect_ns, connection.rtt, connection.exchanges);
        let rank = (longest, u64::MAX - self.seen);
        self.seen += 1;
        let kind = if connection.is_failure {
            &mut self.failed
        } else {
            &mut self.others
        };
        kind.insert(rank, connection);
        if kind.len() > self.most {
            kind.pop_first();
        }
    }

    /// So many at most, by the time they started, and how many were left out. Half of the room is for failed ones, and what one kind does
    /// not use is for the other.
    pub(super) fn by_start(&self, most: usize) -> (Vec<&Connection>, u64) {
        let most = most.min(self.most);
        let failed = self
            .failed
            .len()
            .min((most / 2).max(most.saturating_sub(self.others.len())));
        let of = |kind: &'_ Ranked, count: usize| -> Vec<(u64, u64)> {
            kind.keys().rev().take(count).copied().collect()
        };
        let failed = of(&self.failed, failed);
        let others = of(&self.others, most - failed.len());
        let mut rows: Vec<&Connection> = failed.iter().map(|rank| &self.failed[rank]).collect();
        rows.extend(others.iter().map(|rank| &self.others[rank]));
        rows.sort_by_key(|row| (row.started, row.local.port()));
        let left_out = self.seen - rows.len() as u64;
        (rows, left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::example;

    fn connection(started: u64, exchange_ns: u64, is_failure: bool) -> Connection {
        let mut flow = example::closed(1);
        flow.started = Monotonic(started);
        flow.exchanges.record(exchange_ns);
        Connection {
            is_failure,
            connect_ns: None,
            ..Connection::from(&flow)
        }
    }

    #[test]
    fn slowest_and_failed_connections_are_kept_and_the_others_counted() {
        for (failed, others, expected) in [
            (0, 3, (0, 3)),
            (0, 30, (0, 10)),
            (30, 0, (10, 0)),
            (30, 30, (5, 5)),
            (2, 30, (2, 8)),
            (30, 2, (8, 2)),
        ] {
            let mut kept = Kept::at_most(10);
            for at in 0..failed {
                kept.add(connection(at, 1, true));
            }
            for at in 0..others {
                kept.add(connection(at, (at + 1) * 1_000_000, false));
            }
            let (rows, left_out) = kept.by_start(100);
            let failures = rows.iter().filter(|row| row.is_failure).count();
            assert_eq!((failures, rows.len() - failures), expected);
            assert_eq!(rows.len() as u64 + left_out, failed + others);
            assert!(rows.is_sorted_by_key(|row| row.started));
            let slow = rows.iter().filter(|row| !row.is_failure);
            let least = slow.map(|row| row.exchanges.p99_ns).min().flatten();
            let bound = (others - expected.1 as u64) * 1_000_000;
            assert!(least.is_none_or(|least| least >= bound), "{least:?}");
        }
    }
}
