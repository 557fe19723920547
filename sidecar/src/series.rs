//! Flows added up into series by role, peer and server port. Pure.

mod unattributed;

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

pub use unattributed::{Unattributed, lost_closes};

use crate::{
    flow::{
        AdoptedBy, Change, Event, Flow, Name, Outcome, Role, SeriesId, SocketFigures, Table,
        checkpoint::CheckpointFlow,
    },
    snapshot::{DroppedSeries, Listener, Peer, Series, SeriesKey},
};

/// How much of the peer's address names a series (`FLOWCAR_PEER`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerLabel {
    /// The whole address.
    Address,
    /// On a client's end the server's name, or the address that was asked for where it has none. Nothing on the others: a server may have
    /// thousands of clients.
    Auto,
    /// On a client's end the server's name, and nothing where it has none.
    Name,
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

/// Every series. A flow is given its series when it is first counted, and stays in it; a series without flows may be dropped.
#[derive(Debug)]
pub struct SeriesSet {
    naming: SeriesLabels,
    ids: BTreeMap<SeriesKey, SeriesId>,
    series: HashMap<SeriesId, Held>,
    last: SeriesId,
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
            ids: BTreeMap::new(),
            series: HashMap::new(),
            last: SeriesId::default(),
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

    /// Adds a change. A flow that found the flow table full is added when it closes. Gives the series that the flow is counted in,
    /// which later changes of the flow must name ([`Flow::series`]); `None` where nothing is counted.
    pub fn apply(&mut self, change: &Change) -> Option<SeriesId> {
        let Change {
            before,
            now,
            replaced,
            restored,
            listed,
        } = change;
        if let Some(replaced) = replaced {
            let (_, held) = self.series_of(replaced, true, false);
            held.series.live -= u64::from(is_open(replaced));
        }
        if !listed && now.outcome.is_none() && before.is_none() {
            return None;
        }
        let stays_open = *listed && now.outcome.is_none();
        let (id, held) = self.series_of(now, before.is_some(), stays_open);
        let series = &mut held.series;
        match before {
            None => begin(series, now, restored.as_ref()),
            Some(before) => {
                series.volume.add(&now.volume.since(&before.volume));
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
        finish(series, now);
        Some(id)
    }

    /// Every series, by what names it.
    pub fn all(&self) -> impl ExactSizeIterator<Item = (&SeriesKey, &Series)> {
        let all = self.ids.iter();
        all.map(|(key, id)| (key, &self.series[id].series))
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
        let all = self.all();
        all.map(|(key, series)| (key.clone(), series.clone()))
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
        let series = &self.series;
        self.ids.retain(|_, id| series.contains_key(id));
    }

    /// The series of a flow, and `before` and `now`: whether it is an open flow of the series before the change and after.
    fn series_of(&mut self, flow: &Flow, before: bool, now: bool) -> (SeriesId, &mut Held) {
        let counted_in = flow.series.filter(|id| self.series.contains_key(id));
        let id = counted_in.unwrap_or_else(|| self.intern(series_key(&self.naming, flow)));
        let held = self.series.entry(id).or_default();
        held.flows = (held.flows + u64::from(now)).saturating_sub(u64::from(before));
        held.changed = true;
        (id, held)
    }

    /// The series with this key, or the overflow series if there is none and no room for one more.
    fn intern(&mut self, key: SeriesKey) -> SeriesId {
        let room = self.ids.len() < self.naming.limit;
        let key = if room || self.ids.contains_key(&key) {
            key
        } else {
            SeriesKey::Overflow
        };
        let last = &mut self.last;
        let id = *self.ids.entry(key).or_insert_with(|| {
            last.0 += 1;
            *last
        });
        self.series.entry(id).or_default().series.id = id;
        id
    }
}

/// Takes an event into the table, and its change into the series. Gives the change; its flow names its series.
pub fn account(table: &mut Table, series: &mut SeriesSet, event: Event<'_>) -> Option<Change> {
    let mut change = table.apply(event)?;
    count(table, series, &mut change);
    Some(change)
}

/// Takes a change into the series. Its flow names its series then.
pub fn count(table: &mut Table, series: &mut SeriesSet, change: &mut Change) {
    let counted_in = series.apply(change);
    if counted_in.is_some() && change.now.series != counted_in {
        change.now.series = counted_in;
        table.listing_mut().keep_identity(&change.now);
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
pub(crate) fn series_key(naming: &SeriesLabels, flow: &Flow) -> SeriesKey {
    let address = flow.peer.ip();
    SeriesKey::Flows {
        container: flow.origin.container.clone(),
        role: flow.role,
        peer: match naming.peer {
            // A disconnected socket has no peer address any more.
            _ if address.is_unspecified() => Peer::Unnamed,
            PeerLabel::Address => Peer::Address(address),
            PeerLabel::Auto if flow.role == Role::Client => match &flow.name {
                Some(name) => Peer::Name(Name::clone(name)),
                None => Peer::Asked(flow.asked().ip()),
            },
            PeerLabel::Name if flow.role == Role::Client => {
                let name = flow.name.clone();
                name.map_or(Peer::Unnamed, Peer::Name)
            }
            PeerLabel::Prefix { v4, v6 } => Peer::Prefix(prefix(address, v4, v6)),
            PeerLabel::Auto | PeerLabel::Name | PeerLabel::None => Peer::Unnamed,
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
        series
            .volume
            .add(&flow.volume.since(&reported.volume_of_polls()));
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
    series.volume.add(&flow.volume);
    add_limited(series, flow, None);
}

/// Counts how the flow ended, if it did.
fn finish(series: &mut Series, flow: &Flow) {
    if let Some(close) = flow.counted_close() {
        *series.closed.entry(close).or_default() += 1;
        let duration_ns = flow.duration_ns();
        if let Some(duration_ns) = duration_ns.filter(|_| !flow.established_unseen()) {
            series
                .duration
                .entry(close)
                .or_default()
                .record(duration_ns);
        }
    }
    if let Some(Outcome::Failed(failure)) = flow.outcome {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{CloseReason, CountedClose, Volume, example};

    /// As on its span: a health check that a RST ends by design has a close reason, and is no failure.
    #[test]
    fn health_check_is_counted_apart_from_resets() {
        let mut series = SeriesSet::new(SeriesLabels {
            peer: PeerLabel::Address,
            ports: true,
            limit: 10,
        });
        let payload = [0, 0, 7];
        for (number, bytes_received) in (1..).zip(payload) {
            let closed = Flow {
                role: Role::Server,
                outcome: Some(Outcome::Closed(CloseReason::ResetReceived)),
                volume: Volume {
                    bytes_received,
                    ..Volume::default()
                },
                ..example::closed(number)
            };
            series.apply(&Change::new(closed, false));
        }
        let mut closed = BTreeMap::new();
        for (_, one) in series.all() {
            for (close, count) in &one.closed {
                *closed.entry(*close).or_default() += *count;
            }
            assert!(one.closed.keys().eq(one.duration.keys()), "{one:?}");
        }
        let check = CountedClose {
            reason: CloseReason::ResetReceived,
            is_failure: false,
        };
        let expected = [(check, 2_u64), (CloseReason::ResetReceived.into(), 1)];
        assert_eq!(closed, BTreeMap::from(expected));
    }
}
