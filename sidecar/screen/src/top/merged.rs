//! The peers of one flowcar or of several, added up. Pure.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, VecDeque},
};

use super::{
    by_type::ByType,
    delta::Delta,
    held_back::HeldBack,
    source::{Connection, Peer, Source},
};
use crate::{
    answer::{Answer, ClosedCounts, ConnectionCounts, Key},
    histogram::Histogram,
};

/// Answers that a sparkline shows.
pub(crate) const SPARKS: usize = 60;

/// So many a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Rates {
    pub(crate) opened: f64,
    /// Attempts that failed, and connections that were cut off.
    pub(crate) failures: f64,
    pub(crate) bytes_sent: f64,
    pub(crate) bytes_received: f64,
    /// Segments sent again.
    pub(crate) retransmits: f64,
    pub(crate) by_type: ByType,
}

/// The distributions of a peer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latencies {
    pub(crate) connect: Histogram,
    pub(crate) rtt: Histogram,
    pub(crate) exchange: Histogram,
}

/// A peer, of all flowcars that have it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Row {
    pub(crate) key: Key,
    /// Connections open now.
    pub(crate) live: u64,
    pub(crate) rates: Rates,
    /// Of the last answers.
    pub(crate) recent: Latencies,
    /// Since each flowcar began to count.
    pub(crate) total: Latencies,
    /// Segments sent again since each flowcar began to count.
    pub(crate) retransmits: ByType,
    /// The worst that holds one flowcar's connections back.
    pub(crate) held_back: HeldBack,
    /// The RTT's median from one refresh to the next, newest last.
    pub(crate) rtt_p50_s: VecDeque<Option<f64>>,
    /// The flowcars that have it, with its open connections of each.
    pub(crate) sources: Vec<(String, u64)>,
    /// The round trips since the last refresh.
    newest: Histogram,
}

/// What a flowcar answered of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Found<'a> {
    /// The time of the answer, nanoseconds since the Unix epoch, and what it has.
    Answered(u64, State<'a>),
    /// The answer is of another peer's connections.
    NotAsked,
    /// The flowcar is shown no more.
    NoFlowcar,
}

/// What an answer has of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum State<'a> {
    Open(&'a Connection),
    /// It is open no more; with its close, where the answer has that.
    Closed(Option<&'a ClosedCounts>),
    /// There is no peer of this name.
    NoPeer,
}

/// The first line of the screen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Head {
    /// How many flowcars use each source of events.
    pub(crate) sources: BTreeMap<String, usize>,
    pub(crate) live: u64,
    pub(crate) lost: u64,
    pub(crate) rates: Rates,
    /// Series that there was no room for.
    pub(crate) left_out: u64,
}

/// All flowcars that answer, by name, and their peers.
#[derive(Debug, Default)]
pub(crate) struct Merged {
    sources: BTreeMap<String, Source>,
    /// By a number of its own, which a peer keeps as long as a flowcar has it.
    rows: BTreeMap<u64, Row>,
    numbers: BTreeMap<Key, u64>,
    next: u64,
    head: Head,
}

// === impl Rates ===

impl Rates {
    fn of(recent: &Delta) -> Self {
        Self {
            opened: recent.rate(recent.opened),
            failures: recent.rate(recent.failures()),
            bytes_sent: recent.rate(recent.bytes_sent),
            bytes_received: recent.rate(recent.bytes_received),
            retransmits: recent.rate(recent.retransmits()),
            by_type: recent.retransmits_by_type(),
        }
    }

    fn add(&mut self, other: Self) {
        self.opened += other.opened;
        self.failures += other.failures;
        self.bytes_sent += other.bytes_sent;
        self.bytes_received += other.bytes_received;
        self.retransmits += other.retransmits;
        self.by_type.add(other.by_type);
    }
}

// === impl Latencies ===

impl Latencies {
    fn add(&mut self, connect: &Histogram, rtt: &Histogram, exchange: &Histogram) {
        self.connect.merge(connect);
        self.rtt.merge(rtt);
        self.exchange.merge(exchange);
    }
}

// === impl Row ===

impl Row {
    fn add(&mut self, source: &str, peer: &Peer, is_fresh: bool) {
        let Peer { total, recent, .. } = peer;
        self.live = self.live.saturating_add(total.live);
        self.rates.add(Rates::of(recent));
        self.recent
            .add(&recent.connect, &recent.rtt, &recent.exchange);
        self.total.add(&total.connect, &total.rtt, &total.exchange);
        self.retransmits.add(ByType::of(
            total.retransmits_by_type,
            total.retransmits(),
            1.0,
        ));
        self.held_back = self.held_back.max(peer.held_back());
        match self.sources.last_mut() {
            // Two series may have one name.
            Some((last, live)) if last == source => *live = live.saturating_add(total.live),
            _ => self.sources.push((source.to_owned(), total.live)),
        }
        if let Some(newest) = peer.deltas.back().filter(|_| is_fresh) {
            self.newest.merge(&newest.rtt);
        }
    }
}

// === impl Merged ===

impl Merged {
    /// Takes an answer of a flowcar in. [`Self::refresh`] adds it to what is shown.
    pub(crate) fn take(&mut self, source: &str, answer: Answer) {
        if let Some(known) = self.sources.get_mut(source) {
            return known.take(answer);
        }
        let mut new = Source::default();
        new.take(answer);
        self.sources.insert(source.to_owned(), new);
    }

    /// Forgets a flowcar that ended.
    pub(crate) fn remove(&mut self, source: &str) {
        self.sources.remove(source);
    }

    /// Adds up what all flowcars answered last. Each refresh is a bar of the sparklines.
    pub(crate) fn refresh(&mut self) {
        let mut rows: BTreeMap<Key, Row> = BTreeMap::new();
        self.head = Head::default();
        for (name, source) in &mut self.sources {
            self.head.add(source);
            for peer in source.peers.values() {
                let key = peer.total.key();
                rows.entry(key)
                    .or_default()
                    .add(name, peer, source.is_fresh);
            }
            source.is_fresh = false;
        }
        self.numbers.retain(|key, _| rows.contains_key(key));
        let mut before = std::mem::take(&mut self.rows);
        for (key, mut row) in rows {
            let number = *self.numbers.entry(key.clone()).or_insert_with(|| {
                self.next += 1;
                self.next
            });
            row.key = key;
            row.rtt_p50_s = before
                .remove(&number)
                .map(|before| before.rtt_p50_s)
                .unwrap_or_default();
            if row.rtt_p50_s.len() == SPARKS {
                row.rtt_p50_s.pop_front();
            }
            let newest = row.newest.quantile_s(0.5);
            if newest.is_some() || !row.rtt_p50_s.is_empty() {
                row.rtt_p50_s.push_back(newest);
            }
            self.rows.insert(number, row);
        }
    }

    /// The peers as the last refresh made them.
    pub(crate) const fn rows(&self) -> &BTreeMap<u64, Row> {
        &self.rows
    }

    /// The first line.
    pub(crate) const fn head(&self) -> &Head {
        &self.head
    }

    /// How many flowcars answer.
    pub(crate) fn count(&self) -> usize {
        self.sources.len()
    }

    /// The open connections of a peer with the names of their flowcars, and how many there was no room for.
    pub(crate) fn connections(&self, of: &Key) -> (Vec<(&str, &Connection)>, u64) {
        let of = of.to_string();
        let (mut all, mut left_out) = (Vec::new(), 0);
        for (name, source) in &self.sources {
            let connections = &source.connections;
            // An answer to an earlier question is of another peer.
            if connections.of == of {
                let named = connections.all.iter().map(|each| (name.as_str(), each));
                all.extend(named);
                left_out += connections.left_out.min(u64::from(u32::MAX));
            }
        }
        (all, left_out)
    }

    /// What a flowcar answered last of a peer's connection: the one with this cookie and these addresses.
    pub(crate) fn connection(&self, source: &str, of: &Key, which: &ConnectionCounts) -> Found<'_> {
        let Some(source) = self.sources.get(source) else {
            return Found::NoFlowcar;
        };
        let connections = &source.connections;
        if connections.of != of.to_string() {
            return Found::NotAsked;
        }
        let identity = |of: &ConnectionCounts| (of.cookie, of.local, of.peer);
        let mut open = connections.all.iter();
        let mut closed = connections.closed.iter();
        let open = open.find(|each| identity(&each.counts) == identity(which));
        let close = closed.find(|each| each.cookie == which.cookie);
        let has_peer = || source.peers.values().any(|peer| peer.total.key() == *of);
        let state = match (open, close) {
            (Some(open), _) => State::Open(open),
            (None, None) if !has_peer() => State::NoPeer,
            (None, close) => State::Closed(close),
        };
        Found::Answered(connections.at_unix_ns, state)
    }
}

// === impl Head ===

impl Head {
    fn add(&mut self, source: &Source) {
        *self.sources.entry(source.books.source.clone()).or_default() += 1;
        self.live = self.live.saturating_add(source.books.live);
        let lost = source.books.lost.values();
        self.lost = lost.fold(self.lost, |sum, count| sum.saturating_add(*count));
        self.rates.add(Rates::of(&source.recent()));
        self.left_out = self.left_out.saturating_add(source.left_out);
    }

    /// `ebpf`; of several flowcars that differ, `ebpf 3, inet_diag 1`.
    pub(crate) fn source(&self) -> String {
        if let Some((only, _)) = self.sources.first_key_value()
            && self.sources.len() == 1
        {
            return only.clone();
        }
        let mut all: Vec<_> = self.sources.iter().collect();
        all.sort_by_key(|(_, count)| Reverse(**count));
        let words = all.iter().map(|(name, count)| format!("{name} {count}"));
        words.collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests;
