//! The table of open connections: how many there may be, and which one is evicted when the table is full.
//!
//! A new connection is never refused and never waits. The source with the most connections loses one instead, so that
//! a client that fills the table harms itself before it harms the API server.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{sync::Notify, time::Instant};

use crate::client::Source;

/// How much there may be at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Connections in all.
    pub(super) total: usize,
    /// Connections of one source.
    pub(super) per_source: usize,
    /// Bytes of requests and answers in progress, of all connections.
    pub(super) memory: usize,
}

/// How much a connection is trusted: the least trusted is evicted first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Trust {
    /// Nothing is known.
    Unproven,
    /// A review was answered on it.
    Proven,
    /// Its client certificate was verified.
    Verified,
}

/// The open connections of one listener.
#[derive(Clone)]
pub(super) struct Connections {
    limits: Limits,
    table: Arc<Mutex<Table>>,
}

#[derive(Default)]
struct Table {
    entries: HashMap<u64, Entry>,
    next: u64,
    /// The sum of every entry's charges, in bytes.
    held: usize,
}

struct Entry {
    source: Source,
    trust: Trust,
    /// When it was accepted, or last proven.
    active: Instant,
    requests: usize,
    /// Bytes by charge, with the time at which each began.
    charges: HashMap<u64, (Instant, usize)>,
    evicted: Arc<Notify>,
}

/// A connection's entry, which is removed when this is dropped.
pub(super) struct ConnectionPermit {
    connections: Connections,
    id: u64,
    evicted: Arc<Notify>,
}

/// A request in progress.
pub(super) struct InProgress {
    permit: Arc<ConnectionPermit>,
}

/// Memory that a request and its answer hold, until dropped.
pub(super) struct Charge {
    permit: Arc<ConnectionPermit>,
    id: u64,
}

// === impl Connections ===

impl Connections {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            table: Arc::default(),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admits a new connection, and evicts another one if the table is full.
    pub(super) fn admit(&self, source: Source) -> ConnectionPermit {
        let mut table = self.table();
        let of_source = table.entries.values().filter(|e| e.source == source);
        let victim = if of_source.count() >= self.limits.per_source {
            table.victim(self.limits.per_source, |entry| entry.source == source)
        } else if table.entries.len() >= self.limits.total {
            table.victim(self.limits.total, |_| true)
        } else {
            None
        };
        if let Some(victim) = victim {
            table.evict(victim);
        }
        let id = table.next_id();
        let evicted = Arc::new(Notify::new());
        let entry = Entry {
            source,
            trust: Trust::Unproven,
            active: Instant::now(),
            requests: 0,
            charges: HashMap::new(),
            evicted: evicted.clone(),
        };
        table.entries.insert(id, entry);
        ConnectionPermit {
            connections: self.clone(),
            id,
            evicted,
        }
    }
}

// === impl Table ===

impl Table {
    fn next_id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Which of the candidates is evicted. Connections without a review are evicted first, but those with one may not
    /// have more than half of the capacity: an attacker can post reviews, too. Of either kind, the source with the
    /// most loses the one that has been idle for the longest.
    fn victim(&self, capacity: usize, is_candidate: impl Fn(&Entry) -> bool) -> Option<u64> {
        let candidates = || self.entries.iter().filter(|(_, entry)| is_candidate(entry));
        let count = |trust| {
            candidates()
                .filter(|(_, entry)| entry.trust == trust)
                .count()
        };
        let (unproven, proven) = (count(Trust::Unproven), count(Trust::Proven));
        let trust = match (unproven, proven) {
            (0, 0) => Trust::Verified,
            (0, _) => Trust::Proven,
            _ if proven * 2 > capacity => Trust::Proven,
            _ => Trust::Unproven,
        };
        let group = || candidates().filter(|(_, entry)| entry.trust == trust);
        let mut by_source: HashMap<Source, usize> = HashMap::new();
        for (_, entry) in group() {
            *by_source.entry(entry.source).or_default() += 1;
        }
        let most = by_source.values().max()?;
        group()
            .filter(|(_, entry)| by_source[&entry.source] == *most)
            .min_by_key(|(id, entry)| (entry.requests > 0, entry.active, **id))
            .map(|(id, _)| *id)
    }

    /// The connection that has held memory for the longest, to evict it. The API server's bodies take
    /// milliseconds.
    fn slowest(&self) -> Option<u64> {
        let begun = |entry: &Entry| entry.charges.values().map(|(begun, _)| *begun).min();
        self.entries
            .iter()
            .filter_map(|(id, entry)| Some((begun(entry)?, *id)))
            .min()
            .map(|(_, id)| id)
    }

    fn evict(&mut self, id: u64) {
        if let Some(entry) = self.entries.remove(&id) {
            self.held -= entry.charged();
            entry.evicted.notify_one();
        }
    }
}

// === impl Entry ===

impl Entry {
    fn charged(&self) -> usize {
        self.charges.values().map(|(_, bytes)| bytes).sum()
    }
}

// === impl ConnectionPermit ===

impl ConnectionPermit {
    /// Completes when the connection is evicted.
    pub(super) async fn evicted(&self) {
        self.evicted.notified().await;
    }

    /// A request on it was one that the listener is for.
    pub(super) fn proven(&self) {
        if let Some(entry) = self.connections.table().entries.get_mut(&self.id) {
            entry.active = Instant::now();
            if entry.trust == Trust::Unproven {
                entry.trust = Trust::Proven;
            }
        }
    }

    /// Its client certificate was verified.
    pub(super) fn verified(&self) {
        if let Some(entry) = self.connections.table().entries.get_mut(&self.id) {
            entry.trust = Trust::Verified;
        }
    }

    /// Since when it has been idle, and whether a request was answered on it; none while one is in progress.
    pub(super) fn idle(&self) -> Option<(Instant, bool)> {
        let table = self.connections.table();
        let entry = table.entries.get(&self.id)?;
        (entry.requests == 0).then_some((entry.active, entry.trust != Trust::Unproven))
    }

    /// Begins a request.
    pub(super) fn begin(self: &Arc<Self>) -> InProgress {
        if let Some(entry) = self.connections.table().entries.get_mut(&self.id) {
            entry.requests += 1;
        }
        InProgress {
            permit: self.clone(),
        }
    }

    /// Begins to hold memory; `None` where there is not so much.
    pub(super) fn charge(self: &Arc<Self>, bytes: usize) -> Option<Charge> {
        let charge = Charge {
            permit: self.clone(),
            id: self.connections.table().next_id(),
        };
        charge.grow(bytes).then_some(charge)
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.connections.table().evict(self.id);
    }
}

// === impl InProgress ===

impl Drop for InProgress {
    fn drop(&mut self) {
        let mut table = self.permit.connections.table();
        if let Some(entry) = table.entries.get_mut(&self.permit.id) {
            entry.requests -= 1;
        }
    }
}

// === impl Charge ===

impl Charge {
    /// Holds so much more, in bytes. Where there is not so much, the slowest connection is evicted; false where
    /// that is this one, or it was evicted already.
    pub(super) fn grow(&self, bytes: usize) -> bool {
        let connections = &self.permit.connections;
        let mut table = connections.table();
        while table.held + bytes > connections.limits.memory {
            match table.slowest() {
                Some(id) if id != self.permit.id => table.evict(id),
                _ => return false,
            }
        }
        let Some(entry) = table.entries.get_mut(&self.permit.id) else {
            return false;
        };
        let new = || (Instant::now(), 0);
        entry.charges.entry(self.id).or_insert_with(new).1 += bytes;
        table.held += bytes;
        true
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut table = self.permit.connections.table();
        let entry = table.entries.get_mut(&self.permit.id);
        if let Some((_, bytes)) = entry.and_then(|entry| entry.charges.remove(&self.id)) {
            table.held -= bytes;
        }
    }
}

#[cfg(test)]
#[path = "connections_tests.rs"]
mod tests;
