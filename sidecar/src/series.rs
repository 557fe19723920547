//! Flows added up into series by role, peer and server port. Pure.

mod unattributed;

use std::{collections::BTreeMap, net::IpAddr};

use crate::{
    flow::{
        AdoptedBy, Change, Flow, Outcome, Role, SocketFigures, Volume, checkpoint::CheckpointFlow,
    },
    snapshot::{DroppedSeries, Listener, Peer, Series, SeriesKey},
};

pub use unattributed::{Unattributed, lost_closes};

/// How much of the peer's address names a series (`FLOWCAR_PEER`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerLabel {
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

/// The labels of a series, and how many series there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeriesLabels {
    /// The peer's part.
    pub peer: PeerLabel,
    /// Whether the server's port is part of it.
    pub ports: bool,
    /// Series at most; flows of more go into [`SeriesKey::Overflow`].
    pub limit: usize,
}

/// Every series. A flow stays in the series that it was first counted in; a series without flows may be dropped.
#[derive(Debug)]
pub struct SeriesSet {
    naming: SeriesLabels,
    series: BTreeMap<SeriesKey, Held>,
    /// Open flows that are counted in [`SeriesKey::Overflow`], by the key that their series would have.
    overflowing: BTreeMap<SeriesKey, u64>,
    dropped: DroppedSeries,
}

/// A series, and whether it is idle.
#[derive(Debug, Default)]
struct Held {
    series: Series,
    /// Open flows in it.
    flows: u64,
    /// Whether anything was added since the last report.
    changed: bool,
    /// Time of the last report with something new of it, nanoseconds since the Unix epoch.
    changed_unix_ns: u64,
}

impl SeriesSet {
    /// No series yet.
    pub fn new(naming: SeriesLabels) -> Self {
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

    /// Listeners as they are reported: together where ports are left out.
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

    /// Adds a change. A flow that found the flow table full is added when it closes.
    pub fn apply(&mut self, change: &Change) {
        let Change {
            before,
            now,
            replaced,
            restored,
            listed,
        } = change;
        if let Some(replaced) = replaced {
            let held = self.series_of(replaced, true, false);
            held.series.live -= u64::from(is_open(replaced));
        }
        if !listed && now.outcome.is_none() && before.is_none() {
            return;
        }
        let stays_open = *listed && now.outcome.is_none();
        let series = &mut self.series_of(now, before.is_some(), stays_open).series;
        match before {
            None => begin(series, now, restored.as_ref()),
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
        // Live is what is listed and open. A flow that was lost is neither closed nor live any more.
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

    /// Drops the series that have had no flow and nothing new in the reports since this time; a dropped series is never sent again.
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

    /// The series of a flow; `before` and `now`: whether it is an open flow of the series before the change and after.
    fn series_of(&mut self, flow: &Flow, before: bool, now: bool) -> &mut Held {
        let key = series_key(&self.naming, flow);
        let room = self.series.len() < self.naming.limit;
        let has_series = room || self.series.contains_key(&key);
        // Flows of the same key that began in the overflow stay there: their counts must not be taken off another series.
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

/// Takes so many off the live connections, of each series its share: they are lost, and their series is not known yet. Never more
/// than there are.
pub fn take_off_live(all: &mut BTreeMap<SeriesKey, Series>, count: u64) {
    let total: u64 = all.values().map(|series| series.live).sum();
    let taken = count.min(total);
    if taken == 0 {
        return;
    }
    let mut left = taken;
    for series in all.values_mut() {
        let share = u128::from(series.live) * u128::from(taken) / u128::from(total);
        let share = u64::try_from(share).expect("no more than are live");
        series.live -= share;
        left -= share;
    }
    // Rounding down leaves less than one for each series.
    for series in all.values_mut().filter(|series| series.live > 0) {
        let one = left.min(1);
        series.live -= one;
        left -= one;
    }
}

/// The key of the series that `flow` is counted in, if there is room for it.
pub fn series_key(naming: &SeriesLabels, flow: &Flow) -> SeriesKey {
    let address = flow.peer.ip();
    SeriesKey::Flows {
        role: flow.role,
        peer: match naming.peer {
            // A disconnected socket has no peer address any more.
            _ if address.is_unspecified() => Peer::Unnamed,
            PeerLabel::Address => Peer::Address(address),
            PeerLabel::Auto if flow.role == Role::Client => Peer::Address(address),
            PeerLabel::Prefix { v4, v6 } => Peer::Prefix(prefix(address, v4, v6)),
            PeerLabel::Auto | PeerLabel::None => Peer::Unnamed,
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

/// Adds the limited time that polls reported since.
fn add_limited(series: &mut Series, now: &Flow, before: Option<Limited>) {
    let Some(now) = &now.socket else { return };
    let (now, before) = (limited(now), before.unwrap_or_default());
    series.receive_window_limited_us += now.0.saturating_sub(before.0);
    series.send_buffer_limited_us += now.1.saturating_sub(before.1);
}

/// Adds a flow that is new here. Of a restored flow it adds only what came since the checkpoint.
fn begin(series: &mut Series, flow: &Flow, restored: Option<&CheckpointFlow>) {
    if let Some(reported) = restored {
        series.adopted_at_restart += 1;
        add_volume(series, &flow.volume.since(&reported.volume_of_polls()));
        let limited = (
            reported.receive_window_limited_us,
            reported.send_buffer_limited_us,
        );
        add_limited(series, flow, Some(limited));
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
        Outcome::Closed(reason) => {
            *series.closed.entry(reason).or_default() += 1;
            let duration_ns = flow.duration_ns();
            if let Some(duration_ns) = duration_ns.filter(|_| !flow.established_unseen()) {
                series
                    .duration
                    .entry(reason)
                    .or_default()
                    .record(duration_ns);
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
