//! Answers to other processes: health, books, peers and connections.

use std::collections::BTreeSet;

use super::Session;
use crate::{
    clock::Anchor,
    control::{ControlRequest, Health, Listing, PeerListing, Question},
    flow::Flow,
    otlp::exporter::Exporter,
    view::{Row, peers::PeerRow},
};

impl Session {
    /// Its health, for probes.
    fn health(&self) -> Health {
        let taken = |exporter: &Exporter| {
            let exports = exporter.self_metrics().exports;
            exports.keys().any(|(_, outcome)| *outcome == "success")
        };
        Health {
            delivering: self.exporter.as_ref().is_none_or(taken),
            detached: self.follower.detached(),
        }
    }

    /// The books, and the open connections with a cookie greater than `after`: those with the least cookies, and `most` of them.
    pub fn listing(&self, after: u64, most: u32) -> Listing {
        let anchor = self.follower.anchor();
        let now = Anchor::now().monotonic();
        let books = self.follower.books();
        let mut listing = Listing::of_books(&books, self.follower.source(), anchor.unix_ns(now));
        let open = self.follower.flows();
        let open = open.filter(|flow| flow.established.is_some() && flow.cookie > after);
        let mut open: Vec<&Flow> = open.collect();
        let most = most as usize;
        if open.len() > most {
            listing.more = true;
            open.select_nth_unstable_by_key(most, |flow| flow.cookie);
            open.truncate(most);
        }
        open.sort_unstable_by_key(|flow| flow.cookie);
        let rows = open.iter().map(|flow| Row::open(flow, anchor, now));
        listing.flows = rows.collect();
        listing
    }

    /// The books and every series. Whoever asks will ask again: live connections are sampled with their next round trip, and without
    /// the programs the sockets are polled where that is due.
    fn peers(&mut self) -> PeerListing {
        self.follower.refresh_live();
        let series = self.follower.series();
        let mut peers: Vec<_> = series
            .map(|(key, series)| PeerRow::of(key, series))
            .collect();
        let containers: BTreeSet<_> = peers.iter().map(|row| row.container.clone()).collect();
        // One container goes without saying.
        if containers.into_iter().flatten().count() < 2 {
            peers.iter_mut().for_each(|row| row.container = None);
        }
        PeerListing {
            peers,
            books: self.listing(0, 0),
        }
    }

    /// Part of the open connections, and behind the last of them those that closed last.
    fn flows(&mut self, after: u64, most: u32) -> Listing {
        let mut listing = self.listing(after, most);
        let now = Anchor::now().monotonic();
        let closed = self.recent_closes.ask(now);
        if !listing.more {
            listing.closed_last = closed;
        }
        listing
    }

    /// Answers a question of another process.
    pub fn answer(&mut self, request: ControlRequest) {
        match request.question() {
            Question::Health => request.health(self.health()),
            Question::Peers => request.peers(&self.peers()),
            Question::Flows { after, most } => request.flows(&self.flows(after, most)),
        }
    }
}
