//! `flowcar run`'s connections added up by peer. Pure.

use std::{cmp::Reverse, collections::BTreeMap, net::IpAddr};

use super::{
    cut,
    json::{self, PeerFigures},
    peers,
    quantity::{bytes, duration},
    table::Style,
};
use crate::{
    flow::{Flow, Name, Role},
    histogram::Histogram,
};

/// Peers that are added up one by one. Those that come later are one row together.
const TRACKED: usize = 10_000;

/// Peers that have a row, those with the most failures, then those with the most connections.
const SHOWN: usize = 20;

/// Peers that JSON has, by the same order.
const WRITTEN: usize = 1_000;

/// Columns that the peer's name has.
const NAME: usize = 24;

/// What peers beyond the bounds are called.
const OTHERS: &str = "all other peers";

/// Connections by peer.
#[derive(Debug, Default)]
pub struct ByPeer {
    peers: BTreeMap<PeerKey, PeerSum>,
    others: PeerSum,
}

/// A peer. Addresses and ports are in the order of their numbers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum PeerKey {
    /// A server by its name.
    Name(Name, u16),
    /// A server by its address.
    Address(IpAddr, u16),
    /// All clients of a port of this end.
    Clients(u16),
}

/// The connections of one peer.
#[derive(Debug, Default)]
struct PeerSum {
    connections: u64,
    failed: u64,
    cut_off: u64,
    bytes_sent: u64,
    bytes_received: u64,
    retransmits: u64,
    /// Each connection's handshake, its median RTT, and its median exchange.
    times: [Histogram; 3],
}

// === impl ByPeer ===

impl ByPeer {
    /// Adds a connection or an attempt.
    pub fn add(&mut self, flow: &Flow) {
        let key = PeerKey::of(flow);
        let peer = if self.peers.len() < TRACKED || self.peers.contains_key(&key) {
            self.peers.entry(key).or_default()
        } else {
            &mut self.others
        };
        peer.add(flow);
    }

    /// Those with the most failures first, then those with the most connections.
    fn sorted(&self) -> Vec<(&PeerKey, &PeerSum)> {
        let mut peers: Vec<_> = self.peers.iter().collect();
        peers.sort_by_key(|(_, peer)| Reverse((peer.failures(), peer.count())));
        peers
    }

    /// A head and a row for each peer, failing ones first.
    pub fn lines(&self, style: Style) -> Vec<String> {
        let peers = self.sorted();
        let head = row(
            "peer",
            ["conns", "failed", "cut", "sent", "recv", "retrans"],
            ["connect", "rtt", "exchange"],
        );
        let mut lines = vec![style.head(&head)];
        let shown = peers.iter().take(SHOWN);
        lines.extend(shown.map(|(key, peer)| peer.line(&key.name(), style)));
        let rest = self.behind(&peers, SHOWN);
        lines.extend(rest.map(|rest| rest.line(OTHERS, style)));
        lines
    }

    /// All peers but the first ones, if there are any.
    fn behind(&self, sorted: &[(&PeerKey, &PeerSum)], first: usize) -> Option<PeerSum> {
        let mut rest = PeerSum::default();
        let later = sorted.iter().skip(first);
        later.for_each(|(_, peer)| rest.merge(peer));
        rest.merge(&self.others);
        (rest.count() > 0).then_some(rest)
    }

    /// The figures of each peer, failing ones first.
    pub fn figures(&self) -> Vec<PeerFigures> {
        let sorted = self.sorted();
        let first = sorted.iter().take(WRITTEN);
        let peers = first.map(|(key, peer)| peer.figures(key.name()));
        let rest = self.behind(&sorted, WRITTEN);
        let rest = rest.map(|rest| rest.figures(OTHERS.to_owned()));
        peers.chain(rest).collect()
    }
}

/// The server as the client asked for it; of a server's connections its own port.
pub fn name(flow: &Flow) -> String {
    PeerKey::of(flow).name()
}

// === impl PeerKey ===

impl PeerKey {
    fn of(flow: &Flow) -> Self {
        match (flow.role, &flow.name) {
            (Role::Server, _) => Self::Clients(flow.local.port()),
            (_, Some(name)) => Self::Name(name.clone(), flow.asked().port()),
            (_, None) => Self::Address(flow.asked().ip(), flow.asked().port()),
        }
    }

    fn name(&self) -> String {
        let (role, peer, port) = match self {
            Self::Name(name, port) => (Role::Client, name.to_string(), port),
            Self::Address(address, port) => (Role::Client, address.to_string(), port),
            Self::Clients(port) => (Role::Server, String::new(), port),
        };
        peers::name(role, &peer, Some(*port))
    }
}

// === impl PeerSum ===

impl PeerSum {
    /// Connections and attempts.
    const fn count(&self) -> u64 {
        self.connections + self.failed
    }

    /// Attempts that failed, and connections that were cut off.
    const fn failures(&self) -> u64 {
        self.failed + self.cut_off
    }

    fn add(&mut self, flow: &Flow) {
        if flow.established.is_none() {
            self.failed += 1;
            self.retransmits += flow.volume.retransmits.total();
            return;
        }
        self.connections += 1;
        self.cut_off += u64::from(flow.is_failure());
        self.bytes_sent += flow.volume.bytes_sent;
        self.bytes_received += flow.volume.bytes_received;
        self.retransmits += flow.volume.retransmits.total();
        let median = |of: &Histogram| of.quantile_s(0.5).map(|seconds| (seconds * 1e9) as u64);
        let times = [
            flow.connect_ns(),
            median(&flow.rtt),
            median(&flow.exchanges),
        ];
        for (histogram, ns) in self.times.iter_mut().zip(times) {
            ns.into_iter().for_each(|ns| histogram.record(ns));
        }
    }

    fn merge(&mut self, other: &Self) {
        self.connections += other.connections;
        self.failed += other.failed;
        self.cut_off += other.cut_off;
        self.bytes_sent += other.bytes_sent;
        self.bytes_received += other.bytes_received;
        self.retransmits += other.retransmits;
        for (histogram, other) in self.times.iter_mut().zip(&other.times) {
            histogram.merge(other);
        }
    }

    fn line(&self, name: &str, style: Style) -> String {
        let counts = [
            self.connections.to_string(),
            self.failed.to_string(),
            self.cut_off.to_string(),
            bytes(self.bytes_sent),
            bytes(self.bytes_received),
            self.retransmits.to_string(),
        ];
        let times = self.times.each_ref().map(quantiles);
        let text = row(
            name,
            counts.each_ref().map(String::as_str),
            times.each_ref().map(String::as_str),
        );
        style.by_state(&text, self.failures() > 0, self.retransmits > 0)
    }

    fn figures(&self, name: String) -> PeerFigures {
        let [connect, rtt, exchanges] = self.times.each_ref().map(json::Quantiles::of);
        PeerFigures {
            name,
            connections: self.connections,
            failed: self.failed,
            cut_off: self.cut_off,
            bytes_sent: self.bytes_sent,
            bytes_received: self.bytes_received,
            retransmits: self.retransmits,
            connect,
            rtt,
            exchanges,
        }
    }
}

/// `p50/p99`, or nothing.
fn quantiles(of: &Histogram) -> String {
    match (of.quantile_s(0.5), of.quantile_s(0.99)) {
        (Some(p50), Some(p99)) => format!("{}/{}", duration(p50), duration(p99)),
        _ => "-".to_owned(),
    }
}

/// A row of 105 columns.
fn row(name: &str, counts: [&str; 6], times: [&str; 3]) -> String {
    let [connections, failed, cut_off, sent, received, retransmits] = counts;
    let [connect, rtt, exchange] = times;
    let name = cut::peer(name, NAME);
    format!(
        "{name:<NAME$} {connections:>5} {failed:>6} {cut_off:>3} {sent:>6} {received:>6} {retransmits:>7} {connect:>13} {rtt:>13} {exchange:>13}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{CloseReason, Failure, Outcome, example};

    fn client(cookie: u32, peer: &str) -> Flow {
        let mut flow = example::closed(cookie);
        flow.role = Role::Client;
        flow.peer = peer.parse().expect("an address");
        flow
    }

    #[test]
    fn connections_are_added_up_by_peer_busiest_first() {
        let mut all = ByPeer::default();
        all.add(&client(1, "10.0.0.1:80"));
        for cookie in 2..5 {
            all.add(&client(cookie, "10.0.0.2:80"));
        }
        let lines = all.lines(Style::Plain);
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(
            lines[1].starts_with("10.0.0.2:80") && lines[1].contains("    3 "),
            "{lines:?}"
        );
        assert!(lines[2].starts_with("10.0.0.1:80"), "{lines:?}");
    }

    /// 150 healthy peers do not hide 30 that refuse.
    #[test]
    fn failing_peers_come_first_and_ties_are_ordered_by_number() {
        let mut all = ByPeer::default();
        for cookie in 0..150 {
            all.add(&client(cookie, &format!("10.0.1.{cookie}:80")));
        }
        for port in 1..=30 {
            let mut attempt = client(200 + port, &format!("10.0.0.1:{port}"));
            attempt.established = None;
            attempt.outcome = Some(Outcome::Failed(Failure::Refused));
            all.add(&attempt);
        }
        let mut cut_off = client(300, "10.0.0.9:80");
        cut_off.outcome = Some(Outcome::Closed(CloseReason::ResetReceived));
        all.add(&cut_off);
        all.add(&client(301, "10.0.0.9:80"));
        let lines = all.lines(Style::Plain);
        // Of as many failures the peer with more connections.
        let expected = (1..=19).map(|port| format!("10.0.0.1:{port} "));
        let mut shown = lines[1..].iter();
        assert!(shown.next().expect("a row").starts_with("10.0.0.9:80 "));
        for (line, expected) in shown.zip(expected) {
            assert!(line.starts_with(&expected), "{expected}: {line}");
        }
        let figures = all.figures();
        assert_eq!(figures.len(), 181, "the JSON has all");
        assert_eq!((figures[0].cut_off, figures[1].failed), (1, 1));
        assert_eq!(figures[31].name, "10.0.1.0:80");
        assert_eq!(figures[33].name, "10.0.1.2:80");
    }

    #[test]
    fn names_stand_for_addresses_and_a_server_is_one_row() {
        let mut all = ByPeer::default();
        for (cookie, peer) in [(1, "10.0.0.1:443"), (2, "10.0.0.2:443")] {
            let mut flow = client(cookie, peer);
            flow.name = Some("api.example.com".into());
            all.add(&flow);
        }
        for (cookie, peer) in [(3, "10.0.0.8:40000"), (4, "10.0.0.9:40001")] {
            let mut flow = client(cookie, peer);
            flow.role = Role::Server;
            flow.local = "10.0.0.3:8080".parse().expect("an address");
            all.add(&flow);
        }
        let lines = all.lines(Style::Plain);
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(
            lines[1..]
                .iter()
                .any(|line| line.starts_with("api.example.com:443"))
        );
        assert!(
            lines[1..]
                .iter()
                .any(|line| line.starts_with("clients of :8080"))
        );
    }

    #[test]
    fn hosts_of_one_network_have_different_rows() {
        let mut all = ByPeer::default();
        for cookie in 17..19 {
            all.add(&client(
                cookie,
                &format!("[2001:db8:1:2:3:4:5:{cookie}]:8443"),
            ));
        }
        let lines = all.lines(Style::Plain);
        let name = |line: &String| line.split(' ').next().map(str::to_owned);
        let names: Vec<_> = lines[1..].iter().filter_map(name).collect();
        assert_eq!(
            names,
            ["[2001:..2:3:4:5:17]:8443", "[2001:..2:3:4:5:18]:8443"]
        );
    }

    #[test]
    fn peers_beyond_those_shown_are_one_row_with_all_connections() {
        let mut all = ByPeer::default();
        for cookie in 0..30 {
            all.add(&client(cookie, &format!("10.0.0.{cookie}:80")));
        }
        let lines = all.lines(Style::Plain);
        assert_eq!(lines.len(), 1 + SHOWN + 1);
        let rest = lines.last().expect("a row");
        assert!(
            rest.starts_with("all other peers") && rest.contains("   10 "),
            "{rest}"
        );
    }
}
