//! How polls of sockets (inet_diag) change the table. Pure.
//!
//! A flow that records report is joined by its socket's cookie: a poll updates its counts between records, and keeps it listed. A flow
//! that no record reports is adopted: its handshake was not seen, and its socket's destroy event closes it.

use super::{
    AdoptedBy, Change, Flow, History, Monotonic, Origin, PayloadWatermark, PostCloseState, Role,
    RttKind, SocketName, SocketSnapshot, State, Table, TcpInfo, TraceIdentity, Volume,
    checkpoint::CheckpointFlow, table::Entry,
};
use crate::histogram::Histogram;

/// Which sockets that the table does not know become flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adopt {
    /// None.
    Nothing,
    /// Established ones that the checkpoint has. Others may be older than the programs, or their open record may have found the ring
    /// full: they are counted.
    Restored,
    /// Established ones: records will report those that are still connecting.
    Connected,
    /// All: there are no records.
    All,
}

/// The circumstances of a poll.
#[derive(Clone, Copy, Debug)]
pub struct PollContext {
    /// When; for a dump, when it began.
    pub at: Monotonic,
    /// The number of the dump, from 1.
    pub dump: u64,
    /// What becomes of unknown sockets.
    pub adopt: Adopt,
    /// Destroy events that were dropped so far.
    pub overruns: u64,
    /// Close records that were lost before the poll began.
    pub lost_closes: u64,
    /// Makes ids of flows without a handshake differ from process to process.
    pub seed: u64,
}

/// Flows that a dump did not show.
#[derive(Debug, Default)]
pub struct Absent {
    /// Their closes were not delivered: to be applied as [`super::Event::Evicted`].
    pub evicted: Vec<u64>,
    /// They have closed while their applications still hold the sockets: to be applied as [`super::Event::Held`].
    pub held: Vec<u64>,
    /// Adopted flows whose addresses were not queried yet: the state under them shows how they closed ([`Table::set_post_close`]).
    pub unqueried: Vec<SocketName>,
}

/// How many dumps in a row must not show a flow before it is evicted: a dump walks a hash table that changes under it,
/// and may miss a socket whose bucket moved.
pub const ABSENT: u8 = 2;

/// How many polls a socket of unknown role is left to later ones.
const POLLS_FOR_A_ROLE: u64 = 2;

/// How long a destroy event may take, which has the socket's last counts: the kernel sends it from a work queue, and dumps may come
/// often.
const DESTROY_WITHIN_NS: u64 = 1_000_000_000;

impl Table {
    /// Whether a flow with this cookie is listed that polls alone report.
    pub fn knows(&self, cookie: u64) -> bool {
        let entry = self.flows.get(&cookie);
        entry.is_some_and(|entry| entry.history.is_some())
    }

    /// Whether any listed flow is known by polls alone.
    pub const fn has_adopted(&self) -> bool {
        self.adopted > 0
    }

    /// Listed flows that polls alone report.
    pub const fn adopted(&self) -> usize {
        self.adopted
    }

    /// Sockets that may be older than the programs, and are not followed.
    pub const fn unadopted(&self) -> u64 {
        self.unadopted
    }

    /// Whether the socket of a flow that polls alone report was disconnected and connected again since the last dump.
    pub fn is_reconnected(&self, observed: &SocketSnapshot) -> bool {
        let entry = self.flows.get(&observed.cookie);
        let adopted = entry.filter(|entry| entry.history.is_some() && observed.info.is_some());
        adopted.is_some_and(|entry| !entry.flow.has_addresses_of(observed))
    }

    /// Takes in one socket of a dump. One without counts is a connection request or a timewait socket.
    pub(super) fn polled(
        &mut self,
        observed: &SocketSnapshot,
        poll: &PollContext,
    ) -> Option<Change> {
        let info = observed.info.as_ref()?;
        self.shown.insert(observed.local.ip());
        let Some(entry) = self.flows.get_mut(&observed.cookie) else {
            return self.adopt(observed, info, poll);
        };
        if !entry.flow.has_addresses_of(observed) {
            return None;
        }
        entry.absent = 0;
        entry.polled_segs_in = Some(info.segs_in);
        if let Some(history) = &mut entry.history {
            history.set_post_close(PostCloseState::NotPolled);
        }
        entry.dump = poll.dump;
        entry.overruns = poll.overruns;
        let (change, opened) = entry.polled(observed, info, poll);
        self.opened_by_polls += u64::from(opened);
        Some(change)
    }

    /// Takes in that a dump is complete. Gives the flows that are to be evicted or closed:
    /// - A flow that a dump has shown before and that dumps do not show any more has closed.
    /// - A flow that no dump has shown may be in another network namespace. It is evicted only if a close was lost and dumps show
    ///   sockets of its address: a dump showed one, or a flow of it is known to be here (`is_here`), as short connections may open and
    ///   close between two dumps.
    /// - An adopted flow whose addresses were queried has closed while its application still holds the socket: else its destroy event
    ///   would have come.
    pub fn finish_poll(&mut self, poll: &PollContext, is_here: impl Fn(&Flow) -> bool) -> Absent {
        let Self {
            flows,
            shown,
            evicted_after_known_loss,
            ..
        } = self;
        let mut unaccounted = poll.lost_closes.saturating_sub(*evicted_after_known_loss);
        let mut absent = Absent::default();
        for (cookie, entry) in flows {
            if entry.dump == poll.dump || entry.flow.seen > poll.at {
                continue;
            }
            if entry.absent == 0 {
                entry.absent_since = poll.at;
            }
            entry.absent = entry.absent.saturating_add(1);
            let was_shown = entry.dump > 0;
            let dropped = match entry.history {
                Some(_) => poll.overruns > entry.overruns,
                None if was_shown => true,
                None if entry.detached => shown.would_show(&entry.flow, &is_here),
                None => unaccounted > 0 && shown.would_show(&entry.flow, &is_here),
            };
            if entry.absent >= ABSENT && dropped {
                unaccounted = unaccounted.saturating_sub(u64::from(!entry.detached));
                absent.evicted.push(*cookie);
            } else if entry.absent >= ABSENT
                && entry.was_queried()
                && poll.at.since_ns(entry.absent_since) >= DESTROY_WITHIN_NS
            {
                absent.held.push(*cookie);
            } else if let Some(history) = &entry.history
                && !entry.was_queried()
            {
                absent.unqueried.push(SocketName {
                    cookie: *cookie,
                    local: entry.flow.local,
                    peer: entry.flow.peer,
                    interface: history.interface(),
                });
            }
        }
        absent
    }

    /// Flows of records that the last dump did not show: they may have closed, and are still listed.
    pub fn absent(&self) -> u64 {
        let of_records = |entry: &Entry| entry.history.is_none() && entry.absent > 0;
        let absent = self.flows.values().filter(|entry| of_records(entry));
        absent.count() as u64
    }

    /// Takes in that the programs were detached: a flow of records may have closed without a record. Until its next record, dumps that
    /// do not show it decide.
    pub fn detached(&mut self) {
        let of_records = self.flows.values_mut().filter(|of| of.history.is_none());
        of_records.for_each(|entry| entry.detached = true);
    }

    /// Whether a socket of unknown role is left to the next poll. Figures of a socket that sends without a pause contradict each other at
    /// many polls.
    fn waits_for_role(&mut self, cookie: u64) -> bool {
        let waited = self.role_pending.entry(cookie).or_default();
        *waited += 1;
        *waited <= POLLS_FOR_A_ROLE
    }

    /// Keeps the state found under the addresses of a flow that dumps do not show any more.
    pub fn set_post_close(&mut self, cookie: u64, found: PostCloseState) {
        let entry = self.flows.get_mut(&cookie);
        if let Some(history) = entry.and_then(|entry| entry.history.as_mut()) {
            history.set_post_close(found);
        }
    }

    fn adopt(
        &mut self,
        observed: &SocketSnapshot,
        info: &TcpInfo,
        poll: &PollContext,
    ) -> Option<Change> {
        let state = observed.state_of_counts();
        let wanted = match poll.adopt {
            Adopt::Nothing => false,
            Adopt::Restored => state.is_connected() && self.restores(observed.cookie),
            Adopt::Connected => state.is_connected(),
            Adopt::All => state.is_connected() || state == State::SynSent,
        };
        let late = self.evicted.contains(&observed.cookie) || self.restored.is_lost(observed);
        if !wanted || late {
            let may_be_older = poll.adopt == Adopt::Restored && state.is_connected();
            self.unadopted += u64::from(may_be_older && !late);
            return None;
        }
        // Without records a later poll, or the destroy event, reports a socket that this poll cannot take in.
        let again = poll.adopt == Adopt::All;
        let restored = self.restored.find(observed);
        if again {
            self.restored.mark_seen(observed.cookie);
        }
        if self.flows.len() >= self.capacity {
            self.over_capacity += 1;
            return None;
        }
        let mut history = History::new(observed);
        if let Some(known) = restored.as_ref().and_then(CheckpointFlow::history) {
            history = history.known_as(known.role());
        }
        // A flow stays in the series that it is first counted in, so an unknown role waits for later polls where there are any.
        if again && history.role() == Role::Unknown && self.waits_for_role(observed.cookie) {
            return None;
        }
        let waited = self.role_pending.remove(&observed.cookie);
        let first_dump = poll.dump - waited.unwrap_or(0);
        self.restored.take(observed.cookie);
        let mut flow = fresh(observed, history.role(), poll);
        if state.is_connected() {
            flow.established = Some(poll.at);
            self.opened_by_polls += 1;
            // Without records, later dumps show connections that opened since the first.
            flow.adopted = match &restored {
                Some(_) => Some(AdoptedBy::Restart),
                None if again && first_dump > 1 => None,
                None => Some(AdoptedBy::Startup),
            };
        }
        let mut watermark = PayloadWatermark::default();
        observe(&mut flow, &mut history, &mut watermark, observed, info);
        if let Some(reported) = &restored {
            flow.volume = flow.volume.max(&reported.volume_of_polls());
            reported.give_server(&mut flow);
        }
        let entry = Entry {
            flow: flow.clone(),
            history: Some(history),
            watermark,
            polled_segs_in: Some(info.segs_in),
            absent: 0,
            absent_since: Monotonic::default(),
            dump: poll.dump,
            overruns: poll.overruns,
            detached: false,
        };
        self.flows.insert(observed.cookie, Box::new(entry));
        self.adopted += 1;
        Some(Change {
            before: None,
            now: flow,
            replaced: None,
            restored,
            listed: true,
        })
    }
}

impl Flow {
    /// Whether a dump shows its socket with its addresses.
    fn has_addresses_of(&self, observed: &SocketSnapshot) -> bool {
        self.local == observed.local && self.peer == observed.peer
    }
}

impl Entry {
    /// Whether the addresses of an adopted flow that dumps do not show were queried, and it was not there.
    fn was_queried(&self) -> bool {
        let was_queried = |history: &History| history.post_close() != PostCloseState::NotPolled;
        self.history.as_ref().is_some_and(was_queried)
    }

    /// The flow as of a poll of its socket, and whether it was established since the previous one.
    fn polled(
        &mut self,
        observed: &SocketSnapshot,
        info: &TcpInfo,
        poll: &PollContext,
    ) -> (Change, bool) {
        let before = self.flow.clone();
        let flow = &mut self.flow;
        let mut opened = false;
        flow.seen = poll.at.max(flow.seen);
        match &mut self.history {
            Some(history) => {
                opened = flow.established.is_none() && observed.state_of_counts().is_connected();
                if opened {
                    flow.established = Some(poll.at);
                }
                observe(flow, history, &mut self.watermark, observed, info);
            }
            None => join(flow, &mut self.watermark, observed, info),
        }
        let change = Change {
            before: Some(before),
            now: flow.clone(),
            replaced: None,
            restored: None,
            listed: true,
        };
        (change, opened)
    }
}

/// Updates a flow of records by a poll. Retransmits and RTT samples stay those of the records, which know the cause and measure. So
/// do the counts while a FIN is under way; not those of half-closed connections, which may last long and send no sample records.
fn join(
    flow: &mut Flow,
    watermark: &mut PayloadWatermark,
    observed: &SocketSnapshot,
    info: &TcpInfo,
) {
    let open = matches!(
        observed.state_of_counts(),
        State::Established | State::CloseWait | State::FinWait2
    );
    flow.socket = Some(info.into());
    if open && flow.role != Role::Unknown {
        let polled = Volume {
            retransmits: flow.volume.retransmits,
            ..watermark.settle(History::of_role(flow.role).see(observed, info))
        };
        flow.volume = flow.volume.max(&polled);
    }
}

/// Updates a flow that polls alone report.
fn observe(
    flow: &mut Flow,
    history: &mut History,
    watermark: &mut PayloadWatermark,
    observed: &SocketSnapshot,
    info: &TcpInfo,
) {
    flow.volume = flow
        .volume
        .max(&watermark.settle(history.see(observed, info)));
    flow.socket = Some(info.into());
    if let Some(rtt_ns) = history.take_rtt(info) {
        flow.rtt.record(rtt_ns);
    }
}

pub(super) fn fresh(observed: &SocketSnapshot, role: Role, poll: &PollContext) -> Flow {
    let (seed, cookie) = (poll.seed, observed.cookie ^ poll.at.0.rotate_left(32));
    Flow {
        cookie: observed.cookie,
        role,
        local: observed.local,
        peer: observed.peer,
        trace: TraceIdentity::unshared(u128::from(seed) << 64 | u128::from(cookie)),
        started: poll.at,
        established: None,
        seen: poll.at,
        volume: Volume::default(),
        rtt: Histogram::default(),
        rtt_kind: RttKind::Smoothed,
        exchanges: Histogram::default(),
        asked: None,
        name: None,
        origin: Origin::new(observed.cgroup.unwrap_or_default(), 0),
        start_seen: false,
        polled: true,
        adopted: None,
        socket: None,
        outcome: None,
        reset_after_fin: false,
        series: None,
    }
}
