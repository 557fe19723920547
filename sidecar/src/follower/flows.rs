//! The flow table and the series, and how records, polls and destroy events change them.

mod destroyed;
mod doubts;
mod report;

use std::{
    collections::{BTreeMap, HashSet},
    time::{Duration, Instant},
};

use flowcar_shared::{
    counter::{COUNTERS, Counter},
    record::Kind,
};

use super::{
    Limits,
    attempts::Attempts,
    excluded::ExcludedFlows,
    readings::Readings,
    restore::Restore,
    room::Room,
    timers::{Reading, Recent, Timers},
};
use crate::{
    clock::{self, Anchor, ReportClock},
    container_stats::ContainerStats,
    flow::{
        self, Answers, Asked, Books, CloseReason, Event, Exchanges, Failure, Flow, Malformed,
        Monotonic, NamespaceCounts, OriginEvent, Outcome, PendingCloses, PollContext, Record, Role,
        SocketName, SocketNetns, SocketSnapshot, Table,
        checkpoint::{Checkpoint, KernelInstance},
    },
    origin::Origins,
    peer::{Packet, Resolved},
    series::{SeriesSet, Unattributed, count},
    source::{Turn, diag::DiagSource, ebpf::EbpfSource},
};

/// Address queries at most: enough for a pod with many addresses. Where the followed cgroup is in another network namespace, all fail.
const ADDRESS_QUERIES: u32 = 64;

/// Listeners are dumped so seldom beside the polls.
const LISTENERS_EVERY: Duration = Duration::from_millis(100);

/// Pairs of a name and an address at most, some 150 bytes each.
const MOST_NAMES: usize = 8_192;

/// A report of the previous flowcar that is further ahead of the wall clock came from a wrong clock.
const MOST_AHEAD_NS: u64 = 25 * 3_600 * 1_000_000_000;

/// All flows, and all that is counted of them.
pub(super) struct Flows {
    pub(super) table: Table,
    pub(super) series: SeriesSet,
    /// How long a series may be idle; for ever where there is none.
    series_idle_ns: Option<u64>,
    pub(super) anchor: Anchor,
    pub(super) start_unix_ns: u64,
    clock: ReportClock,
    pub(super) seed: u64,
    pending_closes: PendingCloses,
    readings: Readings,
    timers: Timers,
    /// The namespace's counts before the last dump, and before the previous one: a close after a dump that showed the connection, or that
    /// did not yet, was counted since.
    counted: [Reading; 2],
    recent: Recent,
    /// How many more queries may be made whether an address is in this network namespace.
    queries_left: u32,
    attempts: Attempts,
    records: BTreeMap<&'static str, u64>,
    malformed: u64,
    /// Open and sample records received.
    records_seen: u64,
    /// Whether records or destroy events of flows were taken in that are not excluded.
    is_active: bool,
    room: Room,
    inexact: u64,
    /// Whether clients' flows are given names.
    names: bool,
    resolved: Resolved,
    /// Clients' flows without a name, by reason.
    unnamed: BTreeMap<&'static str, u64>,
    pub(super) origins: Origins,
    /// None where nobody asks for statistics of containers.
    pub(super) container_stats: Option<ContainerStats>,
    /// When the listeners were dumped because two of one address may be open.
    listeners_dumped: Option<Instant>,
    /// Flows that closed or failed, until they are handed over.
    closed: Vec<Flow>,
    pub(super) excluded: ExcludedFlows,
    pub(super) unattributed: Unattributed,
    pub(super) restore: Option<Restore>,
    /// How long, at most, the programs were detached by another process.
    pub(super) detached_ns: u64,
}

/// Whether a socket of the network namespace waits for an answer, or may do so.
fn any_waits(diag: &mut DiagSource) -> bool {
    diag.any_waits().unwrap_or_else(|error| {
        tracing::debug!(%error, "the sockets that wait for an answer cannot be dumped");
        true
    })
}

/// Readings, at most, for the attempts of one turn.
const ROUNDS_OF_ATTEMPTS: u32 = 4;

impl Flows {
    pub(super) fn new(limits: &Limits) -> Self {
        let anchor = Anchor::now();
        let start_unix_ns = anchor.unix_ns(anchor.monotonic());
        let mut readings = Readings::new();
        let attempts = Attempts::new(&mut readings);
        let reading = Reading::from(readings.of_turn());
        Self {
            table: Table::new(limits.flows),
            series: SeriesSet::new(limits.naming),
            series_idle_ns: u64::try_from(limits.series_idle.as_nanos())
                .ok()
                .filter(|ns| *ns > 0),
            anchor,
            start_unix_ns,
            clock: ReportClock::after(start_unix_ns),
            seed: fastrand::u64(..),
            pending_closes: PendingCloses::default(),
            readings,
            timers: Timers::new(reading),
            counted: [reading; 2],
            recent: Recent::new(reading),
            queries_left: ADDRESS_QUERIES,
            attempts,
            records: BTreeMap::new(),
            malformed: 0,
            records_seen: 0,
            is_active: false,
            room: Room::new(limits),
            inexact: 0,
            names: limits.names,
            resolved: Resolved::new(MOST_NAMES),
            unnamed: BTreeMap::new(),
            origins: Origins::off(),
            container_stats: None,
            listeners_dumped: None,
            closed: Vec::new(),
            excluded: ExcludedFlows::default(),
            unattributed: Unattributed::default(),
            restore: None,
            detached_ns: 0,
        }
    }

    /// Restores a checkpoint, to be settled after so many polls. The previous flowcar's reports are of the same series, so that this
    /// one's must be later.
    pub(super) fn restore(&mut self, checkpoint: &Checkpoint, here: &KernelInstance, polls: u8) {
        let ahead = checkpoint.taken_unix_ns.saturating_sub(self.start_unix_ns);
        if (1..=MOST_AHEAD_NS).contains(&ahead) {
            tracing::warn!(
                ahead_s = ahead as f64 / 1e9,
                "the wall clock is behind the last report of the previous flowcar; reports keep that time until it has caught up"
            );
            self.start_unix_ns = checkpoint.taken_unix_ns;
            self.clock = ReportClock::after(self.start_unix_ns);
        }
        let since = self.start_unix_ns;
        let restore = Restore::begin(&mut self.table, checkpoint, here, polls, since);
        self.restore = Some(restore);
        if !self.names {
            self.table.adoption_mut().restore_no_names();
        }
    }

    /// A poll is over, and the closes that came by then are taken in.
    pub(super) fn poll_finished(&mut self) {
        if let Some(restore) = &mut self.restore {
            restore.poll_finished(&mut self.table);
        }
    }

    /// There will be no poll.
    pub(super) fn settle(&mut self) {
        if let Some(restore) = &mut self.restore {
            restore.settle(&mut self.table);
        }
    }

    /// Takes in the records that wait in the ring, for one turn. `diag` is queried for closes that records leave in doubt. Gives
    /// whether more waits.
    pub(super) fn records(
        &mut self,
        source: &mut EbpfSource,
        mut diag: Option<&mut DiagSource>,
        turn: Turn,
    ) -> bool {
        self.turn_begins();
        self.attempts.refresh(&mut self.readings);
        self.attempts.knows_netns = source.knows_netns();
        self.names &= source.observes_names();
        let mut more = self.take_in(source, diag.as_deref_mut(), turn);
        // Attempts that the kernel ended are counted before their records are sent: what came by a reading is taken in before it serves,
        // so that no other attempt is explained by its counts.
        for _ in 0..ROUNDS_OF_ATTEMPTS {
            let waiting = self.attempts.waiting();
            if more || waiting == 0 {
                break;
            }
            let counts = self.readings.now().of_attempts;
            // Before the records are taken in: a socket that closes meanwhile is in the one or in the other.
            let others = self.attempts.ask_for_others(counts.as_ref())
                && diag.as_deref_mut().is_none_or(any_waits);
            more = self.take_in(source, diag.as_deref_mut(), Turn::Short);
            if self.attempts.waiting() == waiting {
                self.settle_attempts_by(counts, others);
            }
        }
        self.settle_attempts();
        more
    }

    /// Takes in the records that wait, and decides those closes that are decided together. Gives whether more waits.
    fn take_in(
        &mut self,
        source: &mut EbpfSource,
        mut diag: Option<&mut DiagSource>,
        turn: Turn,
    ) -> bool {
        // Records from the first close on that must be decided together with others: they are taken in in their order.
        let mut held_back: Vec<Box<[u8]>> = Vec::new();
        let before_dumps = diag.is_some().then_some(&self.counted[1]);
        self.timers
            .begin(before_dumps, || self.readings.of_turn().into());
        let mut more = source.drain(turn, |bytes| {
            self.take_or_hold_back(bytes, diag.as_deref_mut(), &mut held_back);
        });
        if !held_back.is_empty() {
            more = self.held_back(held_back, diag, |records| {
                source.drain(Turn::Short, |bytes| records.push(bytes.into()))
            });
        }
        more
    }

    /// Takes in a record, unless it must be decided together with others, or comes behind one that must.
    pub(super) fn take_or_hold_back(
        &mut self,
        bytes: &[u8],
        mut diag: Option<&mut DiagSource>,
        held_back: &mut Vec<Box<[u8]>>,
    ) {
        if let Some(diag) = diag.as_deref_mut() {
            self.learn_address(bytes, diag);
        }
        if self.take_origin(bytes) {
            return self.decide_listeners(diag);
        }
        if held_back.is_empty() {
            let doubts = self.doubts(bytes, diag.as_deref_mut(), None);
            if !doubts.is_some_and(|doubts| doubts.needs_the_others) {
                if let Some(doubts) = &doubts {
                    self.keep_undecided(doubts, doubts.answers.timer);
                }
                self.record(bytes, doubts.map(|doubts| doubts.answers));
                return self.decide_listeners(diag);
            }
        }
        held_back.push(bytes.into());
    }

    /// Destroy events are about to be taken in that no records go before.
    pub(super) const fn turn_begins(&mut self) {
        self.readings.turn_begins();
    }

    /// Dumps the listeners where two of one address may be open, and only that shows which are.
    fn decide_listeners(&mut self, diag: Option<&mut DiagSource>) {
        if !self.origins.wants_listeners() {
            return;
        }
        let dumped = self.listeners_dumped;
        // Else it is asked for with the next records, or answered by a poll.
        if let Some(diag) = diag
            && dumped.is_none_or(|dumped| dumped.elapsed() >= LISTENERS_EVERY)
        {
            self.listeners_dumped = Some(clock::now());
            let at = Anchor::now().monotonic();
            match diag.dump_listeners() {
                Ok(()) => self.dumped_listeners(diag, at),
                Err(error) => tracing::debug!(%error, "the listeners cannot be dumped"),
            }
        }
    }

    /// Takes in the listeners of a dump that began at this time.
    pub(super) fn dumped_listeners(&mut self, diag: &DiagSource, at: Monotonic) {
        if self.origins.are_wanted() {
            self.origins.dumped(diag.listening(), at);
        }
    }

    /// Takes in the attempts that wait for the counters.
    fn settle_attempts(&mut self) {
        if self.attempts.waiting() > 0 {
            let counts = self.readings.now().of_attempts;
            self.settle_attempts_by(counts, true);
        }
    }

    fn settle_attempts_by(&mut self, counts: Option<NamespaceCounts>, others: bool) {
        for record in self.attempts.settle(counts, others) {
            self.apply(Event::Record(record));
        }
    }

    /// Queries whether a connection that opened is in the network namespace that dumps show, unless its address is known to be. It may
    /// close before the next dump.
    fn learn_address(&mut self, bytes: &[u8], diag: &mut DiagSource) {
        if self.queries_left == 0 || flow::kind_of(bytes) != Some(Kind::Open) {
            return;
        }
        let Ok(Record { flow, .. }) = flow::decode(bytes, self.seed) else {
            return;
        };
        let queries_left = &mut self.queries_left;
        self.table.would_show(&flow, |flow| {
            *queries_left -= 1;
            diag.is_there(&name_of(flow))
        });
    }

    fn record(&mut self, bytes: &[u8], answers: Option<Answers>) {
        if let Err(error) = self.take_record(bytes, answers) {
            self.count_malformed(&error);
        }
    }

    /// Takes in a record of who called, without those before it: the name of a process can be read only while it runs. Gives whether it
    /// was one.
    fn take_origin(&mut self, bytes: &[u8]) -> bool {
        if !OriginEvent::is_in(bytes) {
            return false;
        }
        match OriginEvent::decode(bytes) {
            Ok(event) => {
                *self.records.entry("origin").or_default() += 1;
                self.origins.apply(&event);
                self.is_active = true;
            }
            Err(error) => self.count_malformed(&error),
        }
        true
    }

    fn count_malformed(&mut self, error: &Malformed) {
        self.malformed += 1;
        tracing::error!(%error, "a kernel record did not decode: please report this");
    }

    fn take_record(&mut self, bytes: &[u8], answers: Option<Answers>) -> Result<(), Malformed> {
        if Exchanges::are_in(bytes) {
            let exchanges = Exchanges::decode(bytes)?;
            *self.records.entry("exchange").or_default() += 1;
            if !self.excluded.has(exchanges.cookie) {
                self.table.exchanges(exchanges);
            }
            return Ok(());
        }
        if Packet::is_in(bytes) {
            let packet = Packet::decode(bytes)?;
            *self.records.entry("dns").or_default() += 1;
            self.resolved.packet(&packet);
            return Ok(());
        }
        if Asked::is_in(bytes) {
            let asked = Asked::decode(bytes)?;
            *self.records.entry("asked").or_default() += 1;
            if !self.excluded.has(asked.cookie) {
                self.table.asked(asked);
            }
            return Ok(());
        }
        let kind = flow::kind_of(bytes);
        self.records_seen += u64::from(matches!(kind, Some(Kind::Open | Kind::Sample)));
        let mut record =
            flow::decode(bytes, self.seed).inspect_err(|_| self.table.malformed(kind))?;
        *self.records.entry(kind_name(record.kind)).or_default() += 1;
        self.room.record(&record);
        let is_here = self.is_here(&record);
        if timed_out(&record.flow) {
            self.timers.is_taken_in(record.flow.seen, is_here);
        }
        let is_exact = doubts::settle(&mut record.flow, bytes, answers);
        if self.excluded.has_record(&record) {
            return Ok(());
        }
        self.inexact += u64::from(!is_exact);
        if self.attempts.must_settle_before(&record) {
            self.settle_attempts();
        }
        if let Some(record) = self.attempts.sort(record, is_here) {
            self.apply(Event::Record(record));
        }
        Ok(())
    }

    /// Takes in one socket of a dump.
    pub(super) fn poll_sockets(&mut self, observed: &SocketSnapshot, poll: &PollContext) {
        if self.excluded.is_excluded_socket(observed.cookie, poll) {
            return;
        }
        if self.table.listing().is_reconnected(observed) {
            self.apply(Event::Reconnected(observed, poll));
        }
        self.apply(Event::Polled(observed, poll));
    }

    /// Takes in an event: its change goes into the series, and a flow that closed waits to be handed over.
    fn apply(&mut self, event: Event<'_>) {
        self.is_active |= !matches!(event, Event::Polled(..));
        let netns = self.netns_of(&event);
        let Some(mut change) = self.table.apply(event) else {
            return;
        };
        if change.before.is_none() && self.names {
            self.give_name(&mut change.now);
        }
        if change.before.is_none() {
            self.origins.resolve(&mut change.now, netns);
        }
        count(&mut self.table, &mut self.series, &mut change);
        // One dump or one turn may bring more flows, and more series, than both have room for.
        if change.before.is_none() && change.listed {
            self.room.bound(&mut self.table, &mut self.series);
        }
        if let Some(closed) = change.into_closed() {
            let exact = closed.socket.is_none_or(|figures| figures.exact);
            self.inexact += u64::from(!exact);
            self.closed.push(closed);
        }
    }

    /// Whether a record's socket is known to be in the network namespace that dumps show: by the kernel programs, or by its address.
    fn is_here(&self, record: &Record) -> bool {
        let of_attempt = record.failed.as_ref().and_then(|failed| failed.is_here);
        of_attempt.unwrap_or_else(|| self.table.shows(&record.flow))
    }

    /// The network namespace of the socket that an event is of.
    fn netns_of(&self, event: &Event<'_>) -> SocketNetns {
        match event {
            Event::Record(record) => match record.netns {
                Some(netns) => SocketNetns::Of(netns),
                None if self.attempts.knows_netns => SocketNetns::Lost,
                None => SocketNetns::Unread,
            },
            _ => SocketNetns::Dumped,
        }
    }

    /// Gives a client's flow the name that its application asked for, or counts why it has none.
    fn give_name(&mut self, flow: &mut Flow) {
        if flow.role != Role::Client || flow.polled {
            return;
        }
        let asked = flow.asked();
        match self.resolved.name_of(asked.ip(), flow.started) {
            Ok(name) => flow.name = Some(name),
            Err(reason) => *self.unnamed.entry(reason.name()).or_default() += 1,
        }
    }

    /// The flows that closed or failed since this was last called, in the order in which that was reported.
    pub(super) fn take_closed(&mut self) -> Vec<Flow> {
        std::mem::take(&mut self.closed)
    }

    /// The cookies of the flows that closed and are not handed over yet, from this number on.
    pub(super) fn closed_from(&self, number: usize) -> HashSet<u64> {
        let closed = self.closed.iter().skip(number);
        closed.map(|flow| flow.cookie).collect()
    }

    /// How many flows closed that are not handed over yet.
    pub(super) const fn closed(&self) -> usize {
        self.closed.len()
    }

    /// Limits the table and the series by the memory budget. Gives whether the kernel must not allocate storage for one more socket.
    pub(super) fn bound_memory(&mut self) -> bool {
        let most = self.room.bound(&mut self.table, &mut self.series);
        most.is_some_and(|most| self.room.is_full(most))
    }

    /// Whether nothing by which closes are judged is counted in the network namespace.
    pub(super) const fn is_namespace_quiet(&self) -> bool {
        self.readings.is_quiet()
    }

    /// A dump begins.
    pub(super) fn dump_begins(&mut self) {
        self.counted = [self.readings.now().into(), self.counted[0]];
        self.timers.dump_begins(self.counted[1]);
    }

    /// A dump is complete: evicts flows that dumps do not show any more, and queries their addresses.
    pub(super) fn finish_poll(&mut self, source: &mut DiagSource, poll: &PollContext) {
        self.excluded.finish_poll(poll);
        let absent = self.table.finish_poll(poll, |flow| source.is_here(flow));
        for cookie in absent.evicted {
            self.apply(Event::Evicted(cookie, poll));
        }
        for cookie in absent.held {
            self.apply(Event::Held(cookie));
        }
        for name in absent.unqueried {
            let found = source.find(&name, true);
            self.table.listing_mut().set_post_close(name.cookie, found);
        }
    }

    /// Whether records or events were taken in since this was last called, but for those of excluded flows, or a close waits for its other
    /// end.
    pub(super) fn take_activity(&mut self) -> bool {
        std::mem::take(&mut self.is_active) || !self.pending_closes.is_empty()
    }

    pub(super) fn books(&self, kernel: &[u64; COUNTERS]) -> Books {
        let without = |excluded: u64| {
            self.table.books(|counter| {
                let count = kernel[counter.index() as usize];
                match counter {
                    Counter::Established => count.saturating_sub(excluded),
                    _ => count,
                }
            })
        };
        let excluded = self.excluded.established();
        let books = without(excluded);
        // More were closed or lost than opened: some of the closes that the ring lost are of excluded flows.
        match books.excess().min(self.excluded.may_be_lost(kernel)) {
            0 => books,
            lost => without(excluded - lost),
        }
    }

    /// Open and sample records that were sent and not received yet.
    pub(super) fn waiting(&self, kernel: &[u64; COUNTERS]) -> u64 {
        flow::waiting(
            |counter| kernel[counter.index() as usize],
            self.records_seen,
        )
    }
}

const fn name_of(flow: &Flow) -> SocketName {
    SocketName {
        cookie: flow.cookie,
        local: flow.local,
        peer: flow.peer,
        interface: 0,
    }
}

/// Whether a timer ended it.
const fn timed_out(flow: &Flow) -> bool {
    matches!(
        flow.outcome,
        Some(Outcome::Closed(CloseReason::Timeout) | Outcome::Failed(Failure::Timeout))
    )
}

const fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Open => "open",
        Kind::Sample => "sample",
        Kind::Close => "close",
    }
}

#[cfg(test)]
mod tests;
