//! Flows added up into series: what is alike in role, network type, peer and server port. Pure.

mod remainder;

use std::{collections::BTreeMap, net::IpAddr};

use crate::{
    flow::{Change, Flow, Outcome, SocketFigures, Volume, handover::Left},
    snapshot::{Listener, NetworkType, Peer, Series, SeriesKey},
};

pub use remainder::{Remainder, unheard};

/// How much of the peer's address names a series (`FLOWCAR_PEER`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerNaming {
    /// The whole address.
    Address,
    /// The network it lies in, by prefix lengths.
    Prefix {
        /// Prefix length for IPv4, at most 32.
        v4: u8,
        /// Prefix length for IPv6, at most 128.
        v6: u8,
    },
    /// Nothing.
    None,
}

/// What names a series, and how many there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Naming {
    /// The peer's part.
    pub peer: PeerNaming,
    /// Whether the server's port is part of it.
    pub ports: bool,
    /// Series at most; all that comes past them goes into [`SeriesKey::Overflow`].
    pub limit: usize,
}

/// Every series so far. None is ever taken away, so a flow stays in the series that it was first counted in.
#[derive(Debug)]
pub struct SeriesSet {
    naming: Naming,
    series: BTreeMap<SeriesKey, Series>,
}

impl SeriesSet {
    /// No series yet.
    pub const fn new(naming: Naming) -> Self {
        Self {
            naming,
            series: BTreeMap::new(),
        }
    }

    /// There may be so many series from now on; those that are there stay.
    pub const fn limit(&mut self, limit: usize) {
        self.naming.limit = limit;
    }

    /// Listeners as they are told: together where ports are left out.
    pub fn listeners(
        &self,
        ports: &BTreeMap<Option<u16>, Listener>,
    ) -> BTreeMap<Option<u16>, Listener> {
        if self.naming.ports {
            return ports.clone();
        }
        let mut all = Listener::default();
        for figures in ports.values() {
            all.drops += figures.drops;
            all.waiting += figures.waiting;
            all.limit += figures.limit;
        }
        let any = !ports.is_empty();
        any.then_some((None, all)).into_iter().collect()
    }

    /// Adds what changed. A flow that found the flow table full is added when it has ended.
    pub fn apply(&mut self, change: &Change) {
        let Change {
            before,
            now,
            replaced,
            inherited,
            listed,
        } = change;
        if let Some(replaced) = replaced {
            self.series_of(replaced).live -= u64::from(is_open(replaced));
        }
        if !listed && now.outcome.is_none() && before.is_none() {
            return;
        }
        let series = self.series_of(now);
        match before {
            None => begin(series, now, inherited.as_ref()),
            Some(before) => {
                add_volume(series, &now.volume.since(&before.volume));
                series
                    .rtt
                    .entry(now.rtt_kind)
                    .or_default()
                    .merge_since(&now.rtt, Some(&before.rtt));
                series
                    .exchange
                    .merge_since(&now.exchanges, Some(&before.exchanges));
                add_limited(series, now, before.socket.as_ref().map(limited));
                series.opened += u64::from(!is_open(before) && is_open(now));
            }
        }
        // Listed and open before, listed and open now. A flow that was lost is neither closed nor live any more.
        series.live += u64::from(*listed && is_open(now));
        series.live -= u64::from(before.as_ref().is_some_and(is_open));
        if let Some(outcome) = now.outcome {
            finish(series, now, outcome);
        }
    }

    /// Every series, by what names it.
    pub const fn all(&self) -> &BTreeMap<SeriesKey, Series> {
        &self.series
    }

    fn series_of(&mut self, flow: &Flow) -> &mut Series {
        let key = series_key(&self.naming, flow);
        let room = self.series.len() < self.naming.limit;
        let key = if room || self.series.contains_key(&key) {
            key
        } else {
            SeriesKey::Overflow
        };
        self.series.entry(key).or_default()
    }
}

/// What names the series that `flow` is counted in, if there is room for it.
pub fn series_key(naming: &Naming, flow: &Flow) -> SeriesKey {
    let address = flow.peer.ip();
    SeriesKey::Flows {
        role: flow.role,
        network: if address.is_ipv4() {
            NetworkType::Ipv4
        } else {
            NetworkType::Ipv6
        },
        peer: match naming.peer {
            // The kernel has forgotten it.
            _ if address.is_unspecified() => Peer::Unnamed,
            PeerNaming::Address => Peer::Named(address.to_string()),
            PeerNaming::Prefix { v4, v6 } => Peer::Named(prefix(address, v4, v6)),
            PeerNaming::None => Peer::Unnamed,
        },
        server_port: naming
            .ports
            .then(|| flow.server_port())
            .filter(|port| *port != 0),
    }
}

/// The network in CIDR notation (RFC 4632, RFC 4291 section 2.3).
fn prefix(address: IpAddr, v4: u8, v6: u8) -> String {
    match address {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(v4)).unwrap_or(0);
            format!(
                "{}/{v4}",
                std::net::Ipv4Addr::from_bits(ip.to_bits() & mask)
            )
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(v6)).unwrap_or(0);
            format!(
                "{}/{v6}",
                std::net::Ipv6Addr::from_bits(ip.to_bits() & mask)
            )
        }
    }
}

const fn is_open(flow: &Flow) -> bool {
    flow.established.is_some()
}

/// Time held back by the peer's window and by the send buffer.
type Limited = (u64, u64);

const fn limited(of: &SocketFigures) -> Limited {
    (of.receive_window_limited_us, of.send_buffer_limited_us)
}

/// Adds the time that looks at the socket told of since.
fn add_limited(series: &mut Series, now: &Flow, before: Option<Limited>) {
    let Some(now) = &now.socket else { return };
    let (now, before) = (limited(now), before.unwrap_or_default());
    series.receive_window_limited_us += now.0.saturating_sub(before.0);
    series.send_buffer_limited_us += now.1.saturating_sub(before.1);
}

/// Adds a flow that is new here. Of one that the flowcar before this one told of, only what came since.
fn begin(series: &mut Series, flow: &Flow, inherited: Option<&Left>) {
    if let Some(left) = inherited {
        series.inherited += 1;
        add_volume(series, &flow.volume.since(&left.volume_of_looks()));
        let told = (left.receive_window_limited_us, left.send_buffer_limited_us);
        add_limited(series, flow, Some(told));
    } else {
        begin_new(series, flow);
    }
    if !flow.rtt.is_empty() {
        series
            .rtt
            .entry(flow.rtt_kind)
            .or_default()
            .merge(&flow.rtt);
    }
    series.exchange.merge(&flow.exchanges);
}

fn begin_new(series: &mut Series, flow: &Flow) {
    if flow.established.is_some() {
        series.opened += 1;
        if let Some(connect_ns) = flow.connect_ns() {
            series.connect.entry(None).or_default().record(connect_ns);
        }
    }
    add_volume(series, &flow.volume);
    add_limited(series, flow, None);
}

fn finish(series: &mut Series, flow: &Flow, outcome: Outcome) {
    match outcome {
        Outcome::Closed(end) => {
            *series.closed.entry(end).or_default() += 1;
            // When an adopted flow was established is not known.
            if let Some(duration_ns) = flow.duration_ns().filter(|_| !flow.adopted()) {
                series.duration.entry(end).or_default().record(duration_ns);
            }
        }
        Outcome::Failed(failure) => {
            *series.failed.entry(failure).or_default() += 1;
            if let Some(connect_ns) = flow.connect_ns() {
                series
                    .connect
                    .entry(Some(failure))
                    .or_default()
                    .record(connect_ns);
            }
        }
    }
}

fn add_volume(series: &mut Series, volume: &Volume) {
    series.bytes_sent += volume.bytes_sent;
    series.bytes_received += volume.bytes_received;
    series.segments_sent += volume.segments_sent;
    series.segments_received += volume.segments_received;
    let (sum, more) = (&mut series.retransmits, &volume.retransmits);
    sum.syn += more.syn;
    sum.synack += more.synack;
    sum.fast += more.fast;
    sum.timeout += more.timeout;
    sum.tail_loss_probe += more.tail_loss_probe;
    sum.unknown += more.unknown;
}
