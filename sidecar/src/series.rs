//! Flows added up into series: what is alike in role, peer and server port. Pure.

mod remainder;

use std::{collections::BTreeMap, net::IpAddr};

use crate::{
    flow::{AdoptedBy, Change, Flow, Outcome, Role, SocketFigures, Volume, handover::Left},
    snapshot::{Listener, Peer, Series, SeriesKey},
};

pub use remainder::{Remainder, unheard};

/// How much of the peer's address names a series (`FLOWCAR_PEER`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerNaming {
    /// The whole address.
    Address,
    /// The whole address of the server on a client's end, and nothing on the others: a server may have thousands of clients.
    Auto,
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

/// Every series. A flow stays in the series that it was first counted in; one of which no flow is left may be dropped.
#[derive(Debug)]
pub struct SeriesSet {
    naming: Naming,
    series: BTreeMap<SeriesKey, Held>,
    /// Flows that go on and are counted in [`SeriesKey::Overflow`], by what would name their series.
    overflowing: BTreeMap<SeriesKey, u64>,
    dropped: DroppedSeries,
}

/// A series, and what tells whether it is idle.
#[derive(Debug, Default)]
struct Held {
    series: Series,
    /// Flows in it that go on.
    flows: u64,
    /// Whether anything was added since the last report.
    changed: bool,
    /// When the last report was made that had something new of it, nanoseconds since the Unix epoch.
    changed_unix_ns: u64,
}

/// Connections of series that were dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DroppedSeries {
    /// Opened or adopted.
    pub began: u64,
    /// Closed.
    pub closed: u64,
}

impl SeriesSet {
    /// No series yet.
    pub fn new(naming: Naming) -> Self {
        Self {
            naming,
            series: BTreeMap::new(),
            overflowing: BTreeMap::new(),
            dropped: DroppedSeries::default(),
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
            let held = self.series_of(replaced, true, false);
            held.series.live -= u64::from(is_open(replaced));
        }
        if !listed && now.outcome.is_none() && before.is_none() {
            return;
        }
        let goes_on = *listed && now.outcome.is_none();
        let series = &mut self.series_of(now, before.is_some(), goes_on).series;
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
                if !is_open(before) && is_open(now) {
                    count_opened(series, now);
                }
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
    pub fn all(&self) -> impl ExactSizeIterator<Item = (&SeriesKey, &Series)> {
        self.series.iter().map(|(key, held)| (key, &held.series))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.series.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.series.is_empty()
    }

    /// Connections of series that were dropped.
    pub const fn dropped(&self) -> DroppedSeries {
        self.dropped
    }

    /// Every series by what names it, for the report that is made at this time.
    pub fn report(&mut self, at_unix_ns: u64) -> BTreeMap<SeriesKey, Series> {
        for held in self.series.values_mut().filter(|held| held.changed) {
            held.changed = false;
            held.changed_unix_ns = at_unix_ns;
            if held.series.since_unix_ns == 0 {
                held.series.since_unix_ns = at_unix_ns;
            }
        }
        let all = self.series.iter();
        all.map(|(key, held)| (key.clone(), held.series.clone()))
            .collect()
    }

    /// Drops the series that have had no flow and nothing new since this time, as of reports that were made; what is dropped can
    /// never be sent again.
    pub fn drop_idle(&mut self, since_unix_ns: u64) {
        let dropped = &mut self.dropped;
        self.series.retain(|_, held| {
            let idle = !held.changed && held.flows == 0 && held.changed_unix_ns <= since_unix_ns;
            if idle {
                dropped.began += held.series.began();
                dropped.closed += held.series.closed.values().sum::<u64>();
            }
            !idle
        });
    }

    /// The series of a flow: whether it went on in it before, and whether it does now.
    fn series_of(&mut self, flow: &Flow, before: bool, now: bool) -> &mut Held {
        let key = series_key(&self.naming, flow);
        let room = self.series.len() < self.naming.limit;
        let has_series = room || self.series.contains_key(&key);
        // The others of its name go on in the overflow: what came of them there is not to be taken off another series.
        let overflows = !has_series || self.overflowing.contains_key(&key);
        let key = if overflows {
            let flows = self.overflowing.entry(key.clone()).or_default();
            *flows = (*flows + u64::from(now)).saturating_sub(u64::from(before));
            if *flows == 0 {
                self.overflowing.remove(&key);
            }
            SeriesKey::Overflow
        } else {
            key
        };
        let held = self.series.entry(key).or_default();
        held.flows = (held.flows + u64::from(now)).saturating_sub(u64::from(before));
        held.changed = true;
        held
    }
}

/// Takes so many off the connections that live, of each series its share: they are lost, and it is not known yet of which series.
/// No more than live at all.
pub fn take_off_live(all: &mut BTreeMap<SeriesKey, Series>, count: u64) {
    let total: u64 = all.values().map(|series| series.live).sum();
    let taken = count.min(total);
    if taken == 0 {
        return;
    }
    let mut left = taken;
    for series in all.values_mut() {
        let share = u128::from(series.live) * u128::from(taken) / u128::from(total);
        let share = u64::try_from(share).expect("no more than live");
        series.live -= share;
        left -= share;
    }
    // What is left by rounding down is less than one of each.
    for series in all.values_mut().filter(|series| series.live > 0) {
        let one = left.min(1);
        series.live -= one;
        left -= one;
    }
}

/// What names the series that `flow` is counted in, if there is room for it.
pub fn series_key(naming: &Naming, flow: &Flow) -> SeriesKey {
    let address = flow.peer.ip();
    SeriesKey::Flows {
        role: flow.role,
        peer: match naming.peer {
            // The kernel has forgotten it.
            _ if address.is_unspecified() => Peer::Unnamed,
            PeerNaming::Address => Peer::Address(address),
            PeerNaming::Auto if flow.role == Role::Client => Peer::Address(address),
            PeerNaming::Prefix { v4, v6 } => Peer::Prefix(prefix(address, v4, v6)),
            PeerNaming::Auto | PeerNaming::None => Peer::Unnamed,
        },
        server_port: flow.server_port().filter(|_| naming.ports),
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
        series.adopted_at_restart += 1;
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

fn count_opened(series: &mut Series, flow: &Flow) {
    match flow.adopted {
        None => series.opened += 1,
        Some(AdoptedBy::Startup) => series.adopted_at_startup += 1,
        Some(AdoptedBy::Restart) => series.adopted_at_restart += 1,
    }
}

fn begin_new(series: &mut Series, flow: &Flow) {
    if flow.established.is_some() {
        count_opened(series, flow);
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
            let duration_ns = flow.duration_ns();
            if let Some(duration_ns) = duration_ns.filter(|_| !flow.established_unseen()) {
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
