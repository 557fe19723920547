//! The connections of each peer, added up sample by sample, as metrics are. Pure.

use std::{collections::BTreeMap, net::IpAddr};

use crate::{
    flow::{CloseReason, Flow, Outcome, Process, Role},
    histogram::Histogram,
    view::by_peer,
};

/// Peers that are added up one by one. Those that come later are one together.
const TRACKED: usize = 2_000;

/// Addresses and processes of a peer that are added up one by one. Those that come later are in the peer's own sum alone.
const PARTS: usize = 64;

/// Failures that the application or its host made.
pub(super) const BY_THIS_END: [&str; 3] = ["abandoned", "local", "reset_sent"];

/// What the peers beyond the bound are called.
pub(super) const OTHERS: &str = "all other peers";

/// The connections and attempts of one peer.
#[derive(Clone, Debug, Default)]
pub(super) struct PeerSum {
    pub(super) is_server: bool,
    pub(super) connections: u64,
    pub(super) open: u64,
    pub(super) bytes_sent: u64,
    pub(super) bytes_received: u64,
    pub(super) segments_sent: u64,
    /// SYNs and SYN-ACKs that were sent again.
    pub(super) handshake_retransmits: u64,
    pub(super) data_retransmits: u64,
    /// Why attempts failed.
    pub(super) failed: BTreeMap<&'static str, u64>,
    /// Why connections were cut off.
    pub(super) cut_off: BTreeMap<&'static str, u64>,
    /// Connections whose local port the kernel keeps in TIME_WAIT: this end closed them first.
    pub(super) time_wait: u64,
    /// Of attempts that succeeded.
    pub(super) connect: Histogram,
    pub(super) rtt: Histogram,
    /// The shortest round trip of each connection: the network alone. Others may have up to 40 ms of the peer's in them, which sends its
    /// acknowledgement with its answer (delayed acknowledgements).
    pub(super) least_rtt: Histogram,
    pub(super) exchanges: Histogram,
    /// Connections whose sockets were polled: of these it is known what held them back.
    pub(super) polled: u64,
    /// Time that connections had data to send and no room in the peer's window, microseconds.
    pub(super) window_limited_us: u64,
    /// The same for the send buffer.
    pub(super) buffer_limited_us: u64,
    /// Time that connections were open, microseconds.
    pub(super) lifetime_us: u64,
    /// Connections by the address that they are to: a name, or the address of a balancer, may stand for several.
    pub(super) addresses: BTreeMap<IpAddr, AddressSum>,
    /// By the process that connected; of a server by that of its listener.
    pub(super) processes: BTreeMap<u32, ProcessSum>,
}

/// From the first to the last connection's opening, nanoseconds since the boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) first_ns: u64,
    pub(super) last_ns: u64,
}

/// The connections to one address.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AddressSum {
    pub(super) connections: u64,
    /// When they were opened.
    pub(super) used: Option<Span>,
}

/// The connections of one process with a peer.
#[derive(Clone, Debug, Default)]
pub(super) struct ProcessSum {
    /// What it is called, if that is known.
    pub(super) name: Option<String>,
    pub(super) connections: u64,
    /// When they were opened.
    pub(super) used: Option<Span>,
    /// Attempts that failed and connections that were cut off, but not by this end.
    pub(super) failures: u64,
    pub(super) rtt: Histogram,
    pub(super) exchanges: Histogram,
}

/// All peers.
#[derive(Debug, Default)]
pub(super) struct Peers {
    peers: BTreeMap<String, PeerSum>,
    others: PeerSum,
}

// === impl PeerSum ===

impl PeerSum {
    /// Attempts that failed.
    pub(super) fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    /// Connections that were cut off.
    pub(super) fn cuts(&self) -> u64 {
        self.cut_off.values().sum()
    }

    /// What the peer is ranked by: the time that this end waited for it most of all, in seconds.
    pub(super) fn wait_s(&self) -> f64 {
        let times = [&self.exchanges, &self.rtt, &self.connect];
        times
            .iter()
            .find_map(|of| of.quantile_s(0.5))
            .unwrap_or_default()
    }

    fn add(&mut self, flow: &Flow) {
        self.is_server = flow.role == Role::Server;
        let retransmits = &flow.volume.retransmits;
        self.handshake_retransmits += retransmits.of_handshakes();
        self.data_retransmits += retransmits.of_data();
        self.segments_sent += flow.volume.segments_sent;
        if let Some(process) = &flow.origin.process
            && let Some(sum) = part(&mut self.processes, process.pid.get())
        {
            sum.add(flow, process);
        }
        if flow.established.is_none() {
            if let Some(outcome) = flow.outcome {
                *self.failed.entry(outcome.name()).or_default() += 1;
            }
            return;
        }
        self.connections += 1;
        match flow.outcome {
            None => self.open += 1,
            Some(outcome) if flow.is_failure() => {
                *self.cut_off.entry(outcome.name()).or_default() += 1;
            }
            Some(outcome) => {
                let is_first = outcome == Outcome::Closed(CloseReason::LocalFin);
                self.time_wait += u64::from(is_first);
            }
        }
        self.bytes_sent += flow.volume.bytes_sent;
        self.bytes_received += flow.volume.bytes_received;
        if let Some(ns) = flow.connect_ns() {
            self.connect.record(ns);
        }
        self.rtt.merge(&flow.rtt);
        flow.rtt
            .min_ns()
            .into_iter()
            .for_each(|ns| self.least_rtt.record(ns));
        self.exchanges.merge(&flow.exchanges);
        if let Some(socket) = &flow.socket {
            self.polled += 1;
            self.window_limited_us += socket.receive_window_limited_us;
            self.buffer_limited_us += socket.send_buffer_limited_us;
        }
        self.lifetime_us += flow.duration_ns().unwrap_or_default() / 1_000;
        if let Some(sum) = part(&mut self.addresses, flow.peer.ip().to_canonical()) {
            sum.connections += 1;
            sum.used = Span::with(sum.used, flow);
        }
    }

    /// Whether more addresses or processes than are kept may be behind it.
    pub(super) fn has_more_parts(&self) -> bool {
        self.addresses.len() >= PARTS || self.processes.len() >= PARTS
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.connections += other.connections;
        self.open += other.open;
        self.bytes_sent += other.bytes_sent;
        self.bytes_received += other.bytes_received;
        self.segments_sent += other.segments_sent;
        self.handshake_retransmits += other.handshake_retransmits;
        self.data_retransmits += other.data_retransmits;
        self.time_wait += other.time_wait;
        for (into, from) in [
            (&mut self.failed, &other.failed),
            (&mut self.cut_off, &other.cut_off),
        ] {
            for (reason, count) in from {
                *into.entry(reason).or_default() += count;
            }
        }
        for (into, from) in [
            (&mut self.connect, &other.connect),
            (&mut self.rtt, &other.rtt),
            (&mut self.least_rtt, &other.least_rtt),
            (&mut self.exchanges, &other.exchanges),
        ] {
            into.merge(from);
        }
        self.polled += other.polled;
        self.window_limited_us += other.window_limited_us;
        self.buffer_limited_us += other.buffer_limited_us;
        self.lifetime_us += other.lifetime_us;
    }
}

/// The entry of this key, if there is one or room for one.
fn part<K: Ord, V: Default>(parts: &mut BTreeMap<K, V>, key: K) -> Option<&mut V> {
    let is_tracked = parts.len() < PARTS || parts.contains_key(&key);
    is_tracked.then(|| parts.entry(key).or_default())
}

// === impl Span ===

impl Span {
    /// With a connection; an attempt that failed changes nothing.
    fn with(used: Option<Self>, flow: &Flow) -> Option<Self> {
        let Some(at) = flow.established else {
            return used;
        };
        Some(Self {
            first_ns: used.map_or(at.0, |used| used.first_ns.min(at.0)),
            last_ns: used.map_or(at.0, |used| used.last_ns.max(at.0)),
        })
    }
}

// === impl ProcessSum ===

impl ProcessSum {
    fn add(&mut self, flow: &Flow, process: &Process) {
        let name = process.name.as_ref().map(ToString::to_string);
        self.name = name.or_else(|| self.name.take());
        self.connections += u64::from(flow.established.is_some());
        self.used = Span::with(self.used, flow);
        let is_by_peer = flow
            .outcome
            .is_some_and(|of| !BY_THIS_END.contains(&of.name()));
        self.failures += u64::from(flow.is_failure() && is_by_peer);
        self.rtt.merge(&flow.rtt);
        self.exchanges.merge(&flow.exchanges);
    }
}

// === impl Peers ===

impl Peers {
    /// Adds a connection or an attempt.
    pub(super) fn add(&mut self, flow: &Flow) {
        let name = by_peer::name(flow);
        let is_tracked = self.peers.len() < TRACKED || self.peers.contains_key(&name);
        if is_tracked {
            self.peers.entry(name).or_default().add(flow);
        } else {
            self.others.add(flow);
        }
    }

    /// At most so many peers, those that were waited for longest first; all others together are the last one.
    pub(super) fn slowest_first(self, most: usize) -> Vec<(String, PeerSum)> {
        let Self { peers, mut others } = self;
        let mut peers: Vec<_> = peers.into_iter().collect();
        // One that fails is not hidden behind those that are slow.
        let rank = |peer: &PeerSum| (peer.failures() + peer.cuts() > 0, peer.wait_s());
        peers.sort_by(|(_, one), (_, other)| {
            rank(other)
                .partial_cmp(&rank(one))
                .unwrap_or(std::cmp::Ordering::Equal)
        });
        peers
            .iter()
            .skip(most)
            .for_each(|(_, peer)| others.merge(peer));
        peers.truncate(most);
        peers.sort_by(|(_, one), (_, other)| other.wait_s().total_cmp(&one.wait_s()));
        if others.connections + others.failures() > 0 {
            peers.push((OTHERS.to_owned(), others));
        }
        peers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Failure, example};

    fn of(peer: &str, exchange_ns: u64) -> Flow {
        let mut flow = example::closed(1);
        flow.peer = peer.parse().expect("an address");
        flow.exchanges.record(exchange_ns);
        flow
    }

    #[test]
    fn slowest_peer_is_first_and_a_failing_one_is_kept() {
        let mut peers = Peers::default();
        for host in 1..=9 {
            peers.add(&of(
                &format!("10.0.0.{host}:80"),
                u64::from(host as u32) * 1_000_000,
            ));
        }
        let mut failed = of("10.0.1.1:80", 1);
        (failed.established, failed.exchanges) = (None, Histogram::default());
        failed.outcome = Some(Outcome::Failed(Failure::Refused));
        peers.add(&failed);
        let peers = peers.slowest_first(4);
        let names: Vec<_> = peers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "10.0.0.9:80",
                "10.0.0.8:80",
                "10.0.0.7:80",
                "10.0.1.1:80",
                OTHERS
            ]
        );
        let all: u64 = peers.iter().map(|(_, peer)| peer.connections).sum();
        assert_eq!(all, 9);
        assert_eq!(peers[3].1.failed, BTreeMap::from([("refused", 1)]));
    }
}
