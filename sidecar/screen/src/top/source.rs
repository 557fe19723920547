//! What one flowcar answers: peers with their rates and recent latencies, from one answer to the next. Pure.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::{delta::Delta, held_back::HeldBack};
use crate::answer::{self, Answer, Books, ClosedCounts, ConnectionCounts, PeerCounts, RttSum};

/// Latencies and rates are those of so many answers: with the default interval of a second, the last ten seconds.
const RECENT: usize = 10;

/// Answers whose new peers may be older than top: the first question is what has flowcar add up connections that were idle till then.
const FIRST: u8 = 2;

/// A peer of one flowcar.
#[derive(Clone, Debug, Default)]
pub(super) struct Peer {
    /// Since flowcar began to count.
    pub(super) total: PeerCounts,
    /// The sum of the last answers.
    pub(super) recent: Delta,
    /// What each of the last answers had.
    pub(super) deltas: VecDeque<Delta>,
}

/// A flowcar.
#[derive(Debug, Default)]
pub(super) struct Source {
    /// By the number of the series.
    pub(super) peers: BTreeMap<u64, Peer>,
    pub(super) books: Books,
    /// Series that there was no room for.
    pub(super) left_out: u64,
    pub(super) connections: Connections,
    /// Answers so far, up to [`FIRST`].
    answers: u8,
    /// The last answer has not been added to the sparklines.
    pub(super) is_fresh: bool,
}

/// Open connections of one peer, and the rates of each.
#[derive(Debug, Default)]
pub(super) struct Connections {
    /// The peer.
    pub(super) of: String,
    pub(super) all: Vec<Connection>,
    pub(super) left_out: u64,
    /// Those that closed last.
    pub(super) closed: Vec<ClosedCounts>,
    before: HashMap<u64, ConnectionCounts>,
    pub(super) at_unix_ns: u64,
}

/// An open connection.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub(super) counts: ConnectionCounts,
    /// Payload bytes a second.
    pub(super) sent: f64,
    pub(super) received: f64,
    /// The mean of the round trips since the last answer, seconds.
    pub(super) rtt_s: Option<f64>,
    pub(super) held_back: HeldBack,
}

// === impl Peer ===

impl Peer {
    /// A peer of which nothing is known but these counts.
    fn new(counts: PeerCounts) -> Self {
        Self {
            total: counts,
            ..Self::default()
        }
    }

    /// A peer that began since the last answer: all that it has is recent.
    fn begun(counts: PeerCounts, seconds: f64) -> Self {
        let mut peer = Self::default();
        peer.advance(counts, seconds);
        peer
    }

    fn advance(&mut self, now: PeerCounts, seconds: f64) {
        let delta = Delta::between(&now, &self.total, seconds);
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

// === impl Source ===

impl Source {
    /// Takes an answer in.
    pub(super) fn take(&mut self, mut answer: Answer) {
        let at = answer.books.at_unix_ns;
        if let Some(connections) = answer.connections.take() {
            self.connections.take(connections, at);
        }
        let before = self.books.at_unix_ns;
        if self.answers > 0 && at <= before {
            return;
        }
        let is_older = self.answers < FIRST && self.has_older(&answer);
        self.answers = (self.answers + 1).min(FIRST);
        let seconds = at.saturating_sub(before) as f64 / 1e9;
        self.books = answer.books;
        self.left_out = answer.left_out;
        self.is_fresh = true;
        let mut all = BTreeMap::new();
        for counts in answer.peers {
            let series = counts.series;
            let known = self.peers.remove(&series);
            // Another process numbers its series anew.
            let is_same = |of: &Peer| of.total.name == counts.name && of.total.role == counts.role;
            let peer = match known.filter(is_same) {
                None if is_older => Peer::new(counts),
                None => Peer::begun(counts, seconds),
                Some(mut peer) => {
                    peer.advance(counts, seconds);
                    peer
                }
            };
            all.insert(series, peer);
        }
        // A series that flowcar dropped is gone here, too.
        self.peers = all;
    }

    /// Whether an answer's new peers have more connections than the books opened since the last answer.
    fn has_older(&self, answer: &Answer) -> bool {
        let new = answer.peers.iter();
        let new = new.filter(|counts| !self.peers.contains_key(&counts.series));
        let opened = new.fold(0_u64, |sum, counts| sum.saturating_add(counts.opened));
        self.answers == 0 || opened > answer.books.opened.saturating_sub(self.books.opened)
    }

    /// The sum of all peers' last answers.
    pub(super) fn recent(&self) -> Delta {
        let mut sum = Delta::default();
        for peer in self.peers.values() {
            sum.add(&peer.recent);
        }
        let seconds = self.peers.values().map(|peer| peer.recent.seconds);
        sum.seconds = seconds.fold(0.0, f64::max);
        sum
    }
}

// === impl Connections ===

impl Connections {
    /// Takes an answer of this time in.
    fn take(&mut self, answer: answer::Connections, at_unix_ns: u64) {
        let seconds = at_unix_ns.saturating_sub(self.at_unix_ns) as f64 / 1e9;
        let known = self.at_unix_ns != 0 && seconds > 0.0;
        let before = std::mem::take(&mut self.before);
        let connections = answer.all.into_iter().map(|counts| {
            let before = before.get(&counts.cookie).filter(|_| known);
            let connection = Connection::since(before, counts.clone(), seconds);
            self.before.insert(counts.cookie, counts);
            connection
        });
        self.all = connections.collect();
        self.of = answer.of;
        self.left_out = answer.left_out;
        self.closed = answer.closed;
        self.at_unix_ns = at_unix_ns;
    }
}

// === impl Connection ===

impl Connection {
    fn since(before: Option<&ConnectionCounts>, now: ConnectionCounts, seconds: f64) -> Self {
        let of = |pick: fn(&ConnectionCounts) -> u64| {
            before.map_or(0, |before| pick(&now).saturating_sub(pick(before)))
        };
        let rate = |count: u64| match before {
            Some(_) => count as f64 / seconds,
            None => 0.0,
        };
        Self {
            sent: rate(of(|counts| counts.bytes_sent)),
            received: rate(of(|counts| counts.bytes_received)),
            rtt_s: before.and_then(|before| mean_s(now.rtt_sum?, before.rtt_sum?)),
            held_back: HeldBack::of_transport(
                of(|counts| counts.segments_sent),
                of(|counts| counts.retransmits),
                of(|counts| counts.receive_window_limited_us),
                of(|counts| counts.send_buffer_limited_us),
                seconds,
            ),
            counts: now,
        }
    }
}

/// The mean of the round trips that came since, seconds.
fn mean_s(now: RttSum, before: RttSum) -> Option<f64> {
    let count = now
        .count
        .checked_sub(before.count)
        .filter(|count| *count > 0)?;
    let sum_ns = now.sum_ns.checked_sub(before.sum_ns)?;
    Some(sum_ns as f64 / count as f64 / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn row(series: u64, opened: u64, bytes_sent: u64) -> PeerCounts {
        let mut row = PeerCounts::default();
        (row.series, row.opened, row.bytes_sent) = (series, opened, bytes_sent);
        row
    }

    fn answer(at: u64, peers: Vec<PeerCounts>) -> Answer {
        Answer {
            books: Books {
                at_unix_ns: at,
                ..Books::default()
            },
            peers,
            ..Answer::default()
        }
    }

    fn only(source: &Source) -> &Peer {
        assert_eq!(source.peers.len(), 1);
        source.peers.values().next().expect("one")
    }

    #[test]
    fn rates_are_of_the_time_between_answers() {
        let mut source = Source::default();
        source.take(answer(100 * SECOND, vec![row(1, 50, 1_000)]));
        // What happened before top was started is no rate.
        assert_eq!(only(&source).recent.opened, 0);
        source.take(answer(102 * SECOND, vec![row(1, 56, 5_000)]));
        let recent = &only(&source).recent;
        assert_eq!(recent.rate(recent.opened), 3.0);
        assert_eq!(recent.rate(recent.bytes_sent), 2_000.0);
        // An answer that was asked for before is no news.
        source.take(answer(101 * SECOND, vec![row(1, 51, 1_000)]));
        assert_eq!(only(&source).total.opened, 56);
    }

    #[test]
    fn rates_forget_what_is_older_than_the_recent_answers() {
        let mut source = Source::default();
        for second in 0..=RECENT as u64 {
            let opened = if second == 0 { 0 } else { 1_000 };
            source.take(answer((1 + second) * SECOND, vec![row(1, opened, 0)]));
        }
        assert_eq!(only(&source).recent.opened, 1_000);
        source.take(answer(100 * SECOND, vec![row(1, 1_000, 0)]));
        assert_eq!(only(&source).recent.opened, 0);
    }

    #[test]
    fn peer_that_appears_later_is_new_and_a_dropped_one_disappears() {
        let mut source = Source::default();
        source.take(answer(SECOND, vec![row(1, 5, 0)]));
        // The books opened none since: flowcar adds up only now what was there before.
        source.take(answer(2 * SECOND, vec![row(2, 6, 0)]));
        assert_eq!(only(&source).recent.opened, 0);
        source.take(answer(3 * SECOND, vec![row(3, 7, 0)]));
        assert_eq!(only(&source).recent.opened, 7);
    }

    #[test]
    fn peer_of_the_second_answer_is_new_if_the_books_opened_its_connections() {
        let mut source = Source::default();
        source.take(answer(SECOND, Vec::new()));
        let mut second = answer(2 * SECOND, vec![row(1, 4, 0)]);
        second.books.opened = 4;
        source.take(second);
        assert_eq!(only(&source).recent.opened, 4);
    }

    #[test]
    fn restarted_flowcar_makes_no_negative_rate() {
        let mut source = Source::default();
        source.take(answer(SECOND, vec![row(1, 500, 10_000)]));
        source.take(answer(2 * SECOND, vec![row(1, 1, 10)]));
        assert_eq!(only(&source).recent.opened, 0);
        assert_eq!(only(&source).recent.bytes_sent, 0);
    }
}
