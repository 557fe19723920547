//! The queries that this pod sent, until they are answered or forgotten.

use std::{collections::HashMap, net::SocketAddr};

use crate::flow::Monotonic;

/// Longer than any resolver's client waits: 5 s by default (resolv.conf(5), `timeout`), 30 s at most.
const REMEMBERED_NS: u64 = 30 * 1_000_000_000;

/// Queries at once: with the longest names 1.5 MB.
const MOST: usize = 4_096;

/// What an answer shares with its query, besides the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Asked {
    pub(super) local_port: u16,
    pub(super) resolver: SocketAddr,
    pub(super) is_tcp: bool,
    pub(super) id: u16,
    /// The type of the records that are asked for.
    pub(super) kind: u16,
}

/// Queries by what their answers share with them.
#[derive(Debug, Default)]
pub(super) struct Queries(HashMap<Asked, (String, Monotonic)>);

impl Queries {
    /// A query was sent, perhaps again.
    pub(super) fn sent(&mut self, asked: Asked, name: String, at: Monotonic) {
        if self.0.len() >= MOST && !self.0.contains_key(&asked) {
            self.make_room(at);
        }
        self.0.insert(asked, (name, at));
    }

    /// Whether the pod waits for this answer.
    pub(super) fn is_asked(&self, asked: &Asked, name: &str, at: Monotonic) -> bool {
        let sent = self.0.get(asked);
        sent.is_some_and(|(of, sent)| of == name && at.since_ns(*sent) < REMEMBERED_NS)
    }

    /// The first answer ends the wait, as for the resolver's client: who forges a later one is too late.
    pub(super) fn answered(&mut self, asked: &Asked) {
        self.0.remove(asked);
    }

    /// Forgets queries that wait in vain, and the older half of the others if that leaves more than half.
    fn make_room(&mut self, now: Monotonic) {
        self.0
            .retain(|_, (_, sent)| now.since_ns(*sent) < REMEMBERED_NS);
        if self.0.len() <= MOST / 2 {
            return;
        }
        let mut times: Vec<_> = self.0.values().map(|(_, sent)| *sent).collect();
        let middle = times.len() / 2;
        let (_, median, _) = times.select_nth_unstable(middle);
        let median = *median;
        self.0.retain(|_, (_, sent)| *sent > median);
    }
}
