//! What `flowcar top` shows: peers with their rates and recent latencies, from one answer to the next. Pure.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::{delta::Delta, held_back::HeldBack};
use crate::{
    control::{Listing, PeerListing},
    view::{Row, Sums, peers::PeerRow},
};

/// Latencies and rates are those of so many answers: with the default interval of a second, the last ten seconds.
const RECENT: usize = 10;

/// Answers that a sparkline shows.
pub(super) const SPARKS: usize = 60;

/// A peer.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) name: String,
    /// Since flowcar began to count.
    pub(super) total: PeerRow,
    /// The sum of the last answers.
    pub(super) recent: Delta,
    deltas: VecDeque<Delta>,
    /// The RTT's median between two answers, newest last.
    pub(super) rtt_p50_s: VecDeque<Option<f64>>,
}

/// All peers, and the books.
#[derive(Debug, Default)]
pub(super) struct Peers {
    /// By the number of the series.
    pub(super) all: BTreeMap<u64, Peer>,
    pub(super) source: String,
    pub(super) sums: Sums,
    at_unix_ns: u64,
}

/// The open connections, and the rates of each.
#[derive(Debug, Default)]
pub(super) struct Connections {
    pub(super) all: Vec<Connection>,
    before: HashMap<u64, Counted>,
    at_unix_ns: u64,
}

/// An open connection.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub(super) row: Row,
    /// Payload bytes a second.
    pub(super) sent: f64,
    pub(super) received: f64,
    pub(super) held_back: HeldBack,
}

/// The counts of a connection in an answer.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    sent: u64,
    received: u64,
    segments: u64,
    retransmits: u64,
    receive_window_limited_us: u64,
    send_buffer_limited_us: u64,
}

// === impl Peer ===

impl Peer {
    /// A peer of which nothing is known but these counts.
    fn new(row: PeerRow) -> Self {
        Self {
            name: row.name(),
            total: row,
            recent: Delta::default(),
            deltas: VecDeque::new(),
            rtt_p50_s: VecDeque::new(),
        }
    }

    /// A peer that began since the last answer: all that it has is recent.
    fn begun(row: PeerRow, seconds: f64) -> Self {
        let mut peer = Self {
            name: row.name(),
            ..Self::new(PeerRow::default())
        };
        peer.advance(row, seconds);
        peer
    }

    fn advance(&mut self, now: PeerRow, seconds: f64) {
        let delta = Delta::between(&now, &self.total, seconds);
        if self.rtt_p50_s.len() == SPARKS {
            self.rtt_p50_s.pop_front();
        }
        self.rtt_p50_s.push_back(delta.rtt.quantile_s(0.5));
        if self.deltas.len() == RECENT {
            self.deltas.pop_front();
        }
        self.deltas.push_back(delta);
        self.recent = Delta::default();
        for delta in &self.deltas {
            self.recent.add(delta);
        }
        self.total = now;
    }

    /// What holds its connections back.
    pub(super) fn held_back(&self) -> HeldBack {
        HeldBack::of_peer(&self.recent, &self.total)
    }
}

// === impl Peers ===

impl Peers {
    /// Takes an answer in.
    pub(super) fn take(&mut self, answer: PeerListing) {
        let at = answer.books.at_unix_ns;
        let first = self.at_unix_ns == 0;
        if !first && at <= self.at_unix_ns {
            return;
        }
        let seconds = (at - self.at_unix_ns) as f64 / 1e9;
        self.at_unix_ns = at;
        self.sums = answer.books.sums();
        self.source = answer.books.source;
        let mut all = BTreeMap::new();
        for row in answer.peers {
            let series = row.series;
            // Another process numbers its series anew.
            let known = self.all.remove(&series);
            let peer = match known.filter(|peer| peer.name == row.name()) {
                None if first => Peer::new(row),
                None => Peer::begun(row, seconds),
                Some(mut peer) => {
                    peer.advance(row, seconds);
                    peer
                }
            };
            all.insert(series, peer);
        }
        // A series that flowcar dropped is gone here, too.
        self.all = all;
    }

    /// The sum of all peers' last answers.
    pub(super) fn recent(&self) -> Delta {
        let mut sum = Delta::default();
        for peer in self.all.values() {
            sum.add(&peer.recent);
        }
        sum.seconds = self
            .all
            .values()
            .map(|peer| peer.recent.seconds)
            .fold(0.0, f64::max);
        sum
    }
}

// === impl Connections ===

impl Connections {
    /// Takes an answer in.
    pub(super) fn take(&mut self, answer: Listing) {
        let seconds = answer.at_unix_ns.saturating_sub(self.at_unix_ns) as f64 / 1e9;
        let known = self.at_unix_ns != 0 && seconds > 0.0;
        self.at_unix_ns = answer.at_unix_ns;
        let mut counted = HashMap::with_capacity(answer.flows.len());
        let before = std::mem::take(&mut self.before);
        let connections = answer.flows.into_iter().map(|row| {
            let now = Counted::of(&row);
            counted.insert(row.cookie, now);
            let since = before.get(&row.cookie).filter(|_| known);
            let since = since.map(|before| now.since(before)).unwrap_or_default();
            let rate = |bytes: u64| if known { bytes as f64 / seconds } else { 0.0 };
            Connection {
                sent: rate(since.sent),
                received: rate(since.received),
                held_back: HeldBack::of_transport(
                    since.segments,
                    since.retransmits,
                    since.receive_window_limited_us,
                    since.send_buffer_limited_us,
                    seconds,
                ),
                row,
            }
        });
        self.all = connections.collect();
        self.before = counted;
    }
}

// === impl Counted ===

impl Counted {
    const fn of(row: &Row) -> Self {
        Self {
            sent: row.bytes_sent,
            received: row.bytes_received,
            segments: row.segments_sent,
            retransmits: row.retransmits,
            receive_window_limited_us: row.receive_window_limited_us,
            send_buffer_limited_us: row.send_buffer_limited_us,
        }
    }

    const fn since(&self, before: &Self) -> Self {
        Self {
            sent: self.sent.saturating_sub(before.sent),
            received: self.received.saturating_sub(before.received),
            segments: self.segments.saturating_sub(before.segments),
            retransmits: self.retransmits.saturating_sub(before.retransmits),
            receive_window_limited_us: self
                .receive_window_limited_us
                .saturating_sub(before.receive_window_limited_us),
            send_buffer_limited_us: self
                .send_buffer_limited_us
                .saturating_sub(before.send_buffer_limited_us),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn row(series: u64, opened: u64, bytes_sent: u64) -> PeerRow {
        let mut row = PeerRow::default();
        (row.series, row.opened, row.bytes_sent) = (series, opened, bytes_sent);
        row
    }

    fn answer(at: u64, peers: Vec<PeerRow>) -> PeerListing {
        PeerListing {
            books: Listing {
                at_unix_ns: at,
                ..Listing::default()
            },
            peers,
        }
    }

    fn only(peers: &Peers) -> &Peer {
        assert_eq!(peers.all.len(), 1);
        peers.all.values().next().expect("one")
    }

    #[test]
    fn rates_are_of_the_time_between_answers() {
        let mut peers = Peers::default();
        peers.take(answer(100 * SECOND, vec![row(1, 50, 1_000)]));
        // What happened before top was started is no rate.
        assert_eq!(only(&peers).recent.opened, 0);
        peers.take(answer(102 * SECOND, vec![row(1, 56, 5_000)]));
        let recent = &only(&peers).recent;
        assert_eq!(recent.rate(recent.opened), 3.0);
        assert_eq!(recent.rate(recent.bytes_sent), 2_000.0);
        // An answer that was asked for before is no news.
        peers.take(answer(101 * SECOND, vec![row(1, 51, 1_000)]));
        assert_eq!(only(&peers).total.opened, 56);
    }

    #[test]
    fn rates_forget_what_is_older_than_the_recent_answers() {
        let mut peers = Peers::default();
        for second in 0..=RECENT as u64 {
            let opened = if second == 0 { 0 } else { 1_000 };
            peers.take(answer((1 + second) * SECOND, vec![row(1, opened, 0)]));
        }
        assert_eq!(only(&peers).recent.opened, 1_000);
        peers.take(answer(100 * SECOND, vec![row(1, 1_000, 0)]));
        assert_eq!(only(&peers).recent.opened, 0);
    }

    #[test]
    fn peer_that_appears_later_is_new_and_a_dropped_one_disappears() {
        let mut peers = Peers::default();
        peers.take(answer(SECOND, vec![row(1, 5, 0)]));
        peers.take(answer(2 * SECOND, vec![row(2, 7, 0)]));
        assert_eq!(only(&peers).recent.opened, 7);
    }

    #[test]
    fn restarted_flowcar_makes_no_negative_rate() {
        let mut peers = Peers::default();
        peers.take(answer(SECOND, vec![row(1, 500, 10_000)]));
        peers.take(answer(2 * SECOND, vec![row(1, 1, 10)]));
        assert_eq!(only(&peers).recent.opened, 0);
        assert_eq!(only(&peers).recent.bytes_sent, 0);
    }
}
