//! `flowcar run --report FILE.html`: one page with all that the command's connections were.

mod document;
mod findings;
mod heat;
mod kept;
mod peers;

use std::collections::{BTreeMap, HashMap, HashSet};

pub(super) use self::findings::Cost;
use self::{
    document::About,
    findings::Queue,
    heat::{HeatMaps, Samples},
    kept::{Connection, Kept},
    peers::Peers,
};
use crate::{
    clock::Anchor,
    flow::{Flow, Listener, Monotonic, RttKind},
    histogram::Histogram,
    view::{Sums, by_peer},
};

/// Samples that are reported together were taken within this time, nanoseconds: that of one sample epoch, in which a flow sends one
/// record.
const EPOCH_NS: u64 = super::STATUS_EVERY.as_nanos() as u64;

/// What the page is made of, as it comes to be known.
#[derive(Debug)]
pub(super) struct Recording {
    program: String,
    began: Anchor,
    /// When the command ended, or its last connection.
    ended: Monotonic,
    peers: Peers,
    kept: Kept,
    heat: HeatMaps,
    /// What open connections had measured when they were last reported, by cookie.
    before: HashMap<u64, Before>,
    queues: BTreeMap<Option<u16>, Queue>,
    smoothed: bool,
}

/// What an open connection had measured at a time.
#[derive(Debug)]
struct Before {
    at: Monotonic,
    rtt: Histogram,
    exchanges: Histogram,
}

/// How the connections were followed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Following {
    /// `flowcar.source`
    pub(super) source: &'static str,
    /// Whether exchanges are measured.
    pub(super) exchanges: bool,
    /// Whether handshakes are seen.
    pub(super) handshakes: bool,
    /// Whether receivers took all; `None` where nothing is exported.
    pub(super) is_delivered: Option<bool>,
    /// What it cost.
    pub(super) cost: Cost,
}

// === impl Recording ===

impl Recording {
    /// Nothing yet.
    pub(super) fn new(program: String) -> Self {
        let began = Anchor::now();
        Self {
            program,
            began,
            ended: began.monotonic(),
            peers: Peers::default(),
            kept: Kept::default(),
            heat: HeatMaps::default(),
            before: HashMap::new(),
            queues: BTreeMap::new(),
            smoothed: false,
        }
    }

    /// Takes in what open connections have measured since the last call.
    pub(super) fn watch<'a>(&mut self, open: impl Iterator<Item = &'a Flow>) {
        let open: Vec<_> = open.collect();
        if self.before.len() > open.len() {
            // Some were lost, and no close of theirs is reported.
            let cookies: HashSet<_> = open.iter().map(|flow| flow.cookie).collect();
            self.before.retain(|cookie, _| cookies.contains(cookie));
        }
        for flow in open {
            let before = self.before.get(&flow.cookie);
            let count = |before: &Before| before.rtt.count() + before.exchanges.count();
            if flow.rtt.count() + flow.exchanges.count() == before.map_or(0, count) {
                continue;
            }
            // A record is sent with the first sample of an epoch.
            let from = Monotonic(flow.seen.0.saturating_sub(EPOCH_NS));
            self.measured(flow, from, flow.seen);
            let before = Before {
                at: flow.seen,
                rtt: flow.rtt.clone(),
                exchanges: flow.exchanges.clone(),
            };
            self.before.insert(flow.cookie, before);
        }
    }

    /// Takes in the accept queues as of a poll.
    pub(super) fn listeners(&mut self, listeners: &BTreeMap<Option<u16>, Listener>) {
        for (port, now) in listeners {
            let queue = self.queues.entry(*port).or_default();
            queue.longest = queue.longest.max(now.waiting);
            queue.capacity = queue.capacity.max(now.limit);
            queue.drops = queue.drops.max(now.drops);
        }
    }

    /// The command starts: the time axis begins.
    pub(super) fn starts(&mut self) {
        self.began = Anchor::now();
    }

    /// The command has ended.
    pub(super) fn ended(&mut self) {
        self.ended = Anchor::now().monotonic();
    }

    /// A connection or an attempt that is over, or a connection that is open when the command has ended.
    pub(super) fn add(&mut self, flow: &Flow) {
        let established = flow.established.unwrap_or(flow.started);
        let from = self
            .before
            .get(&flow.cookie)
            .map_or(established, |before| before.at);
        // A sample in a later epoch would have sent a record of its own.
        let to = flow.seen.min(Monotonic(from.0.saturating_add(EPOCH_NS)));
        self.measured(flow, from, to);
        self.before.remove(&flow.cookie);
        self.ended = self.ended.max(flow.seen);
        self.smoothed |= flow.rtt_kind == RttKind::Smoothed && !flow.rtt.is_empty();
        self.peers.add(flow);
        self.kept.add(Connection::from(flow));
    }

    /// Adds what the flow has measured since it was last reported to the heat maps.
    fn measured(&mut self, flow: &Flow, from: Monotonic, to: Monotonic) {
        let before = self.before.get(&flow.cookie);
        let since = |now: &Histogram, before: Option<&Histogram>| match before {
            // A disconnected socket begins anew.
            Some(before) => now.checked_since(before).unwrap_or_else(|| now.clone()),
            None => now.clone(),
        };
        let began = self.began.monotonic();
        let samples = Samples {
            rtt: &since(&flow.rtt, before.map(|before| &before.rtt)),
            exchanges: &since(&flow.exchanges, before.map(|before| &before.exchanges)),
            from_ns: from.max(flow.started).since_ns(began),
            to_ns: to.since_ns(began),
        };
        self.heat.add(&by_peer::name(flow), &samples);
    }

    /// The page.
    pub(super) fn page(self, following: &Following, sums: &Sums) -> String {
        let began = self.began.monotonic();
        let about = About {
            program: &self.program,
            source: following.source,
            exchanges: following.exchanges,
            handshakes: following.handshakes,
            smoothed: self.smoothed,
            began,
            began_unix_ns: self.began.unix_ns(began),
            took_ns: self.ended.since_ns(began),
            sums,
            queues: &self.queues,
            is_delivered: following.is_delivered,
            cost: following.cost,
        };
        document::page(&about, self.peers, &self.kept, &self.heat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::example;

    fn total(cells: &heat::Cells) -> u64 {
        cells.values().sum()
    }

    #[test]
    fn each_sample_is_in_the_heat_map_once_however_often_the_connection_is_watched() {
        let mut recording = Recording::new("command".to_owned());
        recording.starts();
        let began = recording.began.monotonic().0;
        let at = |ms: u64| Monotonic(began + ms * 1_000_000);
        let mut flow = Flow {
            started: at(0),
            established: Some(at(1)),
            outcome: None,
            ..example::closed(1)
        };
        for (ms, samples) in [(100, 3), (600, 0), (1_100, 5)] {
            flow.seen = at(ms);
            (0..samples).for_each(|_| flow.rtt.record(2_000_000));
            (0..samples).for_each(|_| flow.exchanges.record(50_000_000));
            recording.watch([&flow].into_iter());
            recording.watch([&flow].into_iter());
        }
        // Another one without a single record before its close.
        let short = Flow {
            cookie: 2,
            started: at(1_150),
            established: Some(at(1_151)),
            seen: at(1_160),
            ..flow.clone()
        };
        recording.add(&short);
        flow.seen = at(9_000);
        flow.rtt.record(2_000_000);
        recording.add(&flow);
        let map = recording.heat.all();
        assert_eq!((total(&map.rtt), total(&map.exchanges)), (17, 16));
        // What the close reported was measured soon after the last record: idle time has no samples.
        let last = map.rtt.keys().map(|(column, _)| *column).max();
        assert!(last.is_some_and(|last| last * recording.heat.column_ns() < 1_700_000_000));
        assert!(recording.before.is_empty());
    }

    #[test]
    fn connections_that_were_lost_are_forgotten() {
        let mut recording = Recording::new("command".to_owned());
        for cookie in 0..100 {
            let mut flow = example::closed(cookie);
            flow.rtt.record(1_000);
            recording.watch([&flow].into_iter());
        }
        assert_eq!(recording.before.len(), 1 + 1);
    }
}
