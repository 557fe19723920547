//! What looks at sockets (inet_diag) do to the table. Pure.
//!
//! A flow that records tell of is joined by its socket's cookie: a look feeds its counts between records, and keeps it on
//! the list. A flow that no record tells of is adopted: its handshake was not seen, and the news of its socket's
//! end closes it.

use std::{collections::HashSet, net::IpAddr};

use super::{
    AdoptedBy, Afterlife, Change, Flow, History, Looked, Monotonic, Role, RttKind, Sight,
    SocketName, State, Table, TcpInfo, TraceIdentity, Volume, table::Entry,
};
use crate::histogram::Histogram;

/// Which sockets that the table does not know become flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adopt {
    /// None.
    Nothing,
    /// Established ones that the flowcar before this one told of. Others may be older than the programs, or those whose opening
    /// found no room in the ring: they are counted.
    Inherited,
    /// Established ones: records will tell of those that are still connecting.
    Connected,
    /// All: there are no records.
    All,
}

/// The circumstances of a look.
#[derive(Clone, Copy, Debug)]
pub struct Looking {
    /// When; for a dump, when it began.
    pub at: Monotonic,
    /// The number of the dump, from 1.
    pub dump: u64,
    /// What becomes of unknown sockets.
    pub adopt: Adopt,
    /// News of sockets' ends that were dropped so far.
    pub overruns: u64,
    /// Records of connections' ends that were lost before it began.
    pub unheard: u64,
    /// Makes ids of flows without a handshake differ from process to process.
    pub seed: u64,
}

/// How many dumps in a row must not show a flow before it is given up: a dump walks a hash table that changes under it,
/// and may miss a socket whose bucket moved.
pub const ABSENT: u8 = 2;

/// How long the news of a socket's end may take, which brings its last counts: the kernel tells it from a work queue, and dumps
/// may come often.
const NEWS_WITHIN_NS: u64 = 1_000_000_000;

/// Local addresses that are remembered: more than a pod has.
const MOST_SHOWN: usize = 1_024;

/// Whether dumps show sockets of a flow's address. Where one flow is known to be here, so is its address.
pub(super) fn would_be_shown(
    shown: &mut HashSet<IpAddr>,
    flow: &Flow,
    is_here: impl FnOnce(&Flow) -> bool,
) -> bool {
    let ip = flow.local.ip();
    if shown.contains(&ip) {
        return true;
    }
    let known = is_here(flow);
    if known && shown.len() < MOST_SHOWN {
        shown.insert(ip);
    }
    known
}

impl Table {
    /// Whether a flow with this cookie is listed that looks told of.
    pub fn knows(&self, cookie: u64) -> bool {
        let entry = self.flows.get(&cookie);
        entry.is_some_and(|entry| entry.history.is_some())
    }

    /// Whether any listed flow is known by looks alone.
    pub const fn has_adopted(&self) -> bool {
        self.adopted > 0
    }

    /// Listed flows that looks alone tell of.
    pub const fn adopted(&self) -> usize {
        self.adopted
    }

    /// Sockets that may be older than the programs, and are not followed.
    pub const fn unadopted(&self) -> u64 {
        self.unadopted
    }

    /// Takes in one socket of a dump. One without counts is a request or the remains of one that ended.
    pub fn look(&mut self, sight: &Sight, looking: &Looking, mut each: impl FnMut(Change)) {
        let Some(info) = &sight.info else { return };
        if self.shown.len() < MOST_SHOWN {
            self.shown.insert(sight.local.ip());
        }
        let Some(entry) = self.flows.get_mut(&sight.cookie) else {
            return self.adopt(sight, info, looking, each);
        };
        let same = entry.flow.local == sight.local && entry.flow.peer == sight.peer;
        if same {
            entry.absent = 0;
            entry.polled_segs_in = Some(info.segs_in);
            if let Some(history) = &mut entry.history {
                history.unlisted(Afterlife::NotLooked);
            }
            entry.dump = looking.dump;
            entry.overruns = looking.overruns;
            let (change, opened) = entry.look(sight, info, looking);
            self.looked_up += u64::from(opened);
            each(change);
        } else if entry.history.is_some() {
            // The socket was disconnected and connected again between two dumps.
            self.end_unseen(sight.cookie, looking.at, &mut each);
            self.adopt(sight, info, looking, each);
        }
    }

    /// Takes in that a dump is over, all of it: what it did not show is not there any more, if a dump has shown it before. What
    /// no dump has shown may be of another network namespace. It is given up only for an end that was lost, and if dumps show
    /// sockets of its address: one was shown, or a flow of it else is known to be here (`is_here`), as short connections may come
    /// and go between all dumps. An adopted flow of which nothing was found under its addresses either is over: its application
    /// still holds the socket, or the news of its end would have come. `each` is told of the flows that are given up. Gives the adopted flows that this dump did not
    /// show and of which it is not known yet what is left: what is under their addresses now can tell how they ended, while their applications still hold them.
    pub fn looked(
        &mut self,
        looking: &Looking,
        is_here: impl Fn(&Flow) -> bool,
        mut each: impl FnMut(Change),
    ) -> Vec<SocketName> {
        let Self {
            flows,
            shown,
            forgone,
            ..
        } = self;
        let mut unaccounted = looking.unheard.saturating_sub(*forgone);
        let mut missing = Vec::new();
        let (mut gone, mut over) = (Vec::new(), Vec::new());
        for (cookie, entry) in flows {
            if entry.dump == looking.dump || entry.flow.seen > looking.at {
                continue;
            }
            if entry.absent == 0 {
                entry.absent_since = looking.at;
            }
            entry.absent = entry.absent.saturating_add(1);
            let was_shown = entry.dump > 0;
            let dropped = match entry.history {
                Some(_) => looking.overruns > entry.overruns,
                None if was_shown => true,
                None if entry.detached => would_be_shown(shown, &entry.flow, &is_here),
                None => unaccounted > 0 && would_be_shown(shown, &entry.flow, &is_here),
            };
            if entry.absent >= ABSENT && dropped {
                unaccounted = unaccounted.saturating_sub(u64::from(!entry.detached));
                gone.push(*cookie);
            } else if entry.absent >= ABSENT
                && entry.is_over()
                && looking.at.since_ns(entry.absent_since) >= NEWS_WITHIN_NS
            {
                over.push(*cookie);
            } else if let Some(history) = &entry.history
                && !entry.is_over()
            {
                missing.push(SocketName {
                    cookie: *cookie,
                    local: entry.flow.local,
                    peer: entry.flow.peer,
                    interface: history.interface(),
                });
            }
        }
        for cookie in gone {
            self.give_up(cookie, looking, &mut each);
        }
        for cookie in over {
            self.end_held(cookie, &mut each);
        }
        missing
    }

    /// Flows that records tell of and the last dump did not show: they may be over, and are still listed.
    pub fn absent(&self) -> u64 {
        let of_records = |entry: &&Entry| entry.history.is_none() && entry.absent > 0;
        self.flows.values().filter(of_records).count() as u64
    }

    /// Takes in that the programs were detached: a flow that records tell of may have ended without one. Dumps that do not show it
    /// tell, until its next record.
    pub fn detached(&mut self) {
        let of_records = self.flows.values_mut().filter(|of| of.history.is_none());
        of_records.for_each(|entry| entry.detached = true);
    }

    /// Keeps what was found under the addresses of a flow that dumps do not show any more.
    pub fn remains(&mut self, cookie: u64, found: Afterlife) {
        let entry = self.flows.get_mut(&cookie);
        if let Some(history) = entry.and_then(|entry| entry.history.as_mut()) {
            history.unlisted(found);
        }
    }

    fn adopt(
        &mut self,
        sight: &Sight,
        info: &TcpInfo,
        looking: &Looking,
        mut each: impl FnMut(Change),
    ) {
        let state = sight.state_of_counts();
        let wanted = match looking.adopt {
            Adopt::Nothing => false,
            Adopt::Inherited => state.is_connected() && self.inherits(sight.cookie),
            Adopt::Connected => state.is_connected(),
            Adopt::All => state.is_connected() || state == State::SynSent,
        };
        let late = self.given_up.contains(&sight.cookie) || self.inherited.is_gone(sight);
        if !wanted || late {
            let may_be_older = looking.adopt == Adopt::Inherited && state.is_connected();
            self.unadopted += u64::from(may_be_older && !late);
            return;
        }
        // Without records a later look, or the news of its end, tells of what this one cannot take in.
        let again = looking.adopt == Adopt::All;
        let inherited = self.inherited.find(sight);
        if again {
            self.inherited.hear(sight.cookie);
        }
        if self.flows.len() >= self.bound {
            self.unlisted += 1;
            return;
        }
        let mut history = History::new(sight);
        if let Some(known) = inherited.and_then(|left| left.history()) {
            history = history.known_as(known.role());
        }
        // A flow stays in the series that it is first counted in, so a role is worth a second look where there is one.
        if again && history.role() == Role::Unknown && self.undecided.insert(sight.cookie) {
            return;
        }
        let first_dump = looking.dump - u64::from(self.undecided.remove(&sight.cookie));
        self.inherited.take(sight.cookie);
        let mut flow = fresh(sight, history.role(), looking);
        if state.is_connected() {
            flow.established = Some(looking.at);
            self.looked_up += 1;
            // Without records, dumps after the first show what began since.
            flow.adopted = match &inherited {
                Some(_) => Some(AdoptedBy::Restart),
                None if again && first_dump > 1 => None,
                None => Some(AdoptedBy::Startup),
            };
        }
        let mut looked = Looked::default();
        observe(&mut flow, &mut history, &mut looked, sight, info);
        if let Some(left) = &inherited {
            flow.volume = flow.volume.max(&left.volume_of_looks());
        }
        let entry = Entry {
            flow: flow.clone(),
            history: Some(history),
            looked,
            polled_segs_in: Some(info.segs_in),
            absent: 0,
            absent_since: Monotonic::default(),
            dump: looking.dump,
            overruns: looking.overruns,
            detached: false,
        };
        self.flows.insert(sight.cookie, entry);
        self.adopted += 1;
        each(Change {
            before: None,
            now: flow,
            replaced: None,
            inherited,
            listed: true,
        });
    }
}

impl Entry {
    /// Whether an adopted flow that dumps do not show was looked for by its addresses, and is not there.
    fn is_over(&self) -> bool {
        let is_over = |history: &History| history.remains() != Afterlife::NotLooked;
        self.history.as_ref().is_some_and(is_over)
    }

    /// The flow as of a look at its socket, and whether it was established since the one before.
    fn look(&mut self, sight: &Sight, info: &TcpInfo, looking: &Looking) -> (Change, bool) {
        let before = self.flow.clone();
        let flow = &mut self.flow;
        let mut opened = false;
        flow.seen = looking.at.max(flow.seen);
        match &mut self.history {
            Some(history) => {
                opened = flow.established.is_none() && sight.state_of_counts().is_connected();
                if opened {
                    flow.established = Some(looking.at);
                }
                observe(flow, history, &mut self.looked, sight, info);
            }
            None => join(flow, &mut self.looked, sight, info),
        }
        let change = Change {
            before: Some(before),
            now: flow.clone(),
            replaced: None,
            inherited: None,
            listed: true,
        };
        (change, opened)
    }
}

/// Feeds a flow that records tell of. Their retransmits are by cause, which a later record may still name, and their RTT
/// samples are measured: both stay theirs. So do counts while a FIN is under way; half-closed connections, which may go on
/// for long and of which samples tell nothing, are past that.
fn join(flow: &mut Flow, looked: &mut Looked, sight: &Sight, info: &TcpInfo) {
    let open = matches!(
        sight.state_of_counts(),
        State::Established | State::CloseWait | State::FinWait2
    );
    flow.socket = Some(info.into());
    if open && flow.role != Role::Unknown {
        let told = Volume {
            retransmits: flow.volume.retransmits,
            ..looked.settle(History::of_role(flow.role).see(sight, info))
        };
        flow.volume = flow.volume.max(&told);
    }
}

/// Feeds a flow that looks alone tell of.
fn observe(
    flow: &mut Flow,
    history: &mut History,
    looked: &mut Looked,
    sight: &Sight,
    info: &TcpInfo,
) {
    flow.volume = flow.volume.max(&looked.settle(history.see(sight, info)));
    flow.socket = Some(info.into());
    if let Some(rtt_ns) = history.take_rtt(info) {
        flow.rtt.record(rtt_ns);
    }
}

pub(super) fn fresh(sight: &Sight, role: Role, looking: &Looking) -> Flow {
    let (seed, cookie) = (looking.seed, sight.cookie ^ looking.at.0.rotate_left(32));
    Flow {
        cookie: sight.cookie,
        role,
        local: sight.local,
        peer: sight.peer,
        trace: TraceIdentity::unshared(u128::from(seed) << 64 | u128::from(cookie)),
        started: looking.at,
        established: None,
        seen: looking.at,
        volume: Volume::default(),
        rtt: Histogram::default(),
        rtt_kind: RttKind::Smoothed,
        exchanges: Histogram::default(),
        start_seen: false,
        looked_up: true,
        adopted: None,
        socket: None,
        outcome: None,
        reset_after_fin: false,
    }
}
