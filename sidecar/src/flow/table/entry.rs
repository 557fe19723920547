//! A listed flow, and what records and polls do to it. Pure.
//!
//! A flow that records report is joined by its socket's cookie: a poll updates its counts between records, and keeps it listed.

use super::{Change, poll::PollContext};
use crate::{
    flow::{
        Flow, History, Monotonic, Origin, PayloadWatermark, PostCloseState, Role, RttKind,
        SocketName, SocketSnapshot, State, TcpInfo, TraceIdentity, Volume,
    },
    histogram::Histogram,
};

/// A listed flow.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) flow: Flow,
    /// Of a flow that polls alone report; records report all others.
    pub(super) history: Option<History>,
    watermark: PayloadWatermark,
    /// Segments that had come by its last poll.
    pub(super) polled_segs_in: Option<u32>,
    /// Dumps in a row that did not show it.
    pub(super) absent: u8,
    /// When the first of these dumps began.
    pub(super) absent_since: Monotonic,
    /// The dump that showed it last.
    pub(super) dump: u64,
    /// Destroy events dropped by then.
    pub(super) overruns: u64,
    /// The programs were detached since its last record, so that no further one may come.
    pub(super) detached: bool,
}

// === impl Entry ===

impl Entry {
    /// The flow of a record.
    pub(super) fn of_record(flow: Flow) -> Self {
        Self {
            flow,
            history: None,
            watermark: PayloadWatermark::default(),
            polled_segs_in: None,
            absent: 0,
            absent_since: Monotonic::default(),
            dump: 0,
            overruns: 0,
            detached: false,
        }
    }

    /// The flow of a socket that polls alone report, before what this poll shows is added ([`Self::polled`]).
    pub(super) fn adopted(flow: Flow, history: History) -> Self {
        Self {
            history: Some(history),
            ..Self::of_record(flow)
        }
    }

    /// A record takes the entry over. Gives the entry as it was. A socket that was disconnected and connected again is another flow under
    /// the same cookie.
    pub(super) fn renew(&mut self, flow: &mut Flow) -> Self {
        let same = self.flow.started == flow.started;
        if same {
            carry_over(flow, &self.flow);
        }
        let mut new = Self::of_record(flow.clone());
        if same {
            (new.dump, new.polled_segs_in) = (self.dump, self.polled_segs_in);
        }
        std::mem::replace(self, new)
    }

    /// The socket, as dumps name it.
    pub(super) fn name(&self) -> SocketName {
        SocketName {
            cookie: self.flow.cookie,
            local: self.flow.local,
            peer: self.flow.peer,
            interface: self.history.as_ref().map_or(0, History::interface),
        }
    }

    /// Whether a dump shows its socket with its addresses.
    pub(super) fn has_addresses_of(&self, observed: &SocketSnapshot) -> bool {
        self.flow.local == observed.local && self.flow.peer == observed.peer
    }

    /// Whether the addresses of an adopted flow that dumps do not show were queried, and it was not there.
    pub(super) fn was_queried(&self) -> bool {
        let was_queried = |history: &History| history.post_close() != PostCloseState::NotPolled;
        self.history.as_ref().is_some_and(was_queried)
    }

    /// A poll of its socket. `None` if the socket has another connection now.
    pub(super) fn polled(
        &mut self,
        observed: &SocketSnapshot,
        info: &TcpInfo,
        poll: &PollContext,
    ) -> Option<Change> {
        if !self.has_addresses_of(observed) {
            return None;
        }
        let before = self.flow.clone();
        self.shown(info, poll);
        let flow = &mut self.flow;
        flow.seen = poll.at.max(flow.seen);
        match &mut self.history {
            Some(history) => {
                history.set_post_close(PostCloseState::NotPolled);
                if flow.established.is_none() && observed.state_of_counts().is_connected() {
                    flow.established = Some(poll.at);
                }
                observe(flow, history, &mut self.watermark, observed, info);
            }
            None => join(flow, &mut self.watermark, observed, info),
        }
        Some(Change::update(before, flow.clone(), true))
    }

    /// The first poll of a flow that polls alone report.
    pub(super) fn first_polled(
        &mut self,
        observed: &SocketSnapshot,
        info: &TcpInfo,
        poll: &PollContext,
    ) {
        self.shown(info, poll);
        if let Some(history) = &mut self.history {
            observe(&mut self.flow, history, &mut self.watermark, observed, info);
        }
    }

    fn shown(&mut self, info: &TcpInfo, poll: &PollContext) {
        self.absent = 0;
        self.polled_segs_in = Some(info.segs_in);
        self.dump = poll.dump;
        self.overruns = poll.overruns;
    }
}

/// A poll may have shown more already than a record that waited in the ring has.
pub(super) fn carry_over(flow: &mut Flow, before: &Flow) {
    flow.series = before.series;
    flow.name.clone_from(&before.name);
    if !before.origin.is_unknown() {
        flow.origin.clone_from(&before.origin);
    }
    flow.volume = flow.volume.max(&before.volume);
    flow.seen = flow.seen.max(before.seen);
    flow.socket = before.socket;
    if flow.asked.is_none() {
        flow.asked.clone_from(&before.asked);
    }
    if flow.exchanges.count() < before.exchanges.count() {
        flow.exchanges = before.exchanges.clone();
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

/// A flow that polls alone report, as of its first poll or its destroy event.
pub(super) fn polled_flow(observed: &SocketSnapshot, role: Role, poll: &PollContext) -> Flow {
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
