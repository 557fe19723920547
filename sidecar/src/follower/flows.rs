//! The flow table and the series, and what each piece of news does to them.

mod report;

use std::collections::BTreeMap;

use flowcar_shared::{
    counter::{COUNTERS, Counter},
    record::Kind,
};

use super::{
    Limits,
    attempts::Attempts,
    inheritance::Inheritance,
    own::OwnFlows,
    room::Room,
    timers::{Candidates, Reading, Since, Timers},
};
use crate::{
    clock::{Anchor, ReportClock},
    flow::{
        self, Adopt, Afterlife, Answers, Books, Change, End, Ends, Exchanges, Failure, Flow,
        Looking, Malformed, Monotonic, Outcome, Record, Sight, SocketName, Table, Timer, Told,
        handover::{Handover, Place},
    },
    series::{Remainder, SeriesSet},
    source::{Turn, diag::DiagSource, ebpf::EbpfSource},
};

/// As many as a pod with many addresses has need of; where the followed cgroup is of another network namespace, all are in vain.
const ADDRESS_ASKS: u32 = 64;

/// What the record of a close leaves open.
#[derive(Clone, Copy, Debug)]
struct Doubts {
    at: Monotonic,
    answers: Answers,
    /// No RST can have closed it.
    is_quiet: bool,
    /// The kernel gave up connections in the meantime, and this may have been one.
    needs_the_others: bool,
    since: Since,
}

/// A report of the flowcar before this one that lies further ahead of the wall clock was made by a clock that was wrong.
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
    ends: Ends,
    timers: Timers,
    /// What the namespace had counted before the last dump, and before the one before it: whatever ends after a dump that showed
    /// it, or that did not yet, was counted since.
    counted: [Reading; 2],
    /// How often it may still be asked whether an address is of this network namespace.
    asks_left: u32,
    attempts: Attempts,
    records: BTreeMap<&'static str, u64>,
    malformed: u64,
    /// Records of flows that go on.
    heard: u64,
    room: Room,
    inexact: u64,
    pub(super) own: OwnFlows,
    pub(super) remainder: Remainder,
    /// Whether reports tell what to leave for the flowcar after this one.
    pub(super) leaves: bool,
    pub(super) inheritance: Option<Inheritance>,
    /// How long, at most, programs were detached by somebody else.
    pub(super) detached_ns: u64,
}

impl Flows {
    pub(super) fn new(limits: &Limits) -> Self {
        let anchor = Anchor::now();
        let start_unix_ns = anchor.unix_ns(anchor.monotonic());
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
            ends: Ends::default(),
            timers: Timers::new(),
            counted: [Reading::now(); 2],
            asks_left: ADDRESS_ASKS,
            attempts: Attempts::new(),
            records: BTreeMap::new(),
            malformed: 0,
            heard: 0,
            room: Room::new(limits),
            inexact: 0,
            own: OwnFlows::default(),
            remainder: Remainder::default(),
            leaves: false,
            inheritance: None,
            detached_ns: 0,
        }
    }

    /// Goes on from what the flowcar before this one left, to be settled after so many looks. Its reports are of the same
    /// series as this one's, so that these are later, too.
    pub(super) fn inherit(&mut self, handover: &Handover, here: &Place, looks: u8) {
        let ahead = handover.taken_unix_ns.saturating_sub(self.start_unix_ns);
        if (1..=MOST_AHEAD_NS).contains(&ahead) {
            tracing::warn!(
                ahead_s = ahead as f64 / 1e9,
                "the wall clock is behind the last report of the flowcar before this one; reports keep that time until it has caught up"
            );
            self.start_unix_ns = handover.taken_unix_ns;
            self.clock = ReportClock::after(self.start_unix_ns);
        }
        let since = self.start_unix_ns;
        let inheritance = Inheritance::begin(&mut self.table, handover, here, looks, since);
        self.inheritance = Some(inheritance);
    }

    /// A look is over, and the ends that were told by then are taken in.
    pub(super) fn look_is_over(&mut self) {
        if let Some(inheritance) = &mut self.inheritance {
            inheritance.look_is_over(&mut self.table);
        }
    }

    /// There will be no look.
    pub(super) fn settle(&mut self) {
        if let Some(inheritance) = &mut self.inheritance {
            inheritance.settle(&mut self.table);
        }
    }

    /// Takes in the records that wait in the ring, for one turn. `diag` tells more of ends that records leave in doubt. Gives
    /// whether more waits.
    pub(super) fn records(
        &mut self,
        source: &mut EbpfSource,
        mut diag: Option<&mut DiagSource>,
        turn: Turn,
        finished: &mut impl FnMut(&Flow, &Anchor),
    ) -> bool {
        self.attempts.refresh();
        self.attempts.tells_netns = source.tells_netns();
        // From the first end that only the count of the others can decide: they are taken in as they came.
        let mut held_back: Vec<Box<[u8]>> = Vec::new();
        self.timers.begin();
        let more = source.drain(turn, |bytes| {
            if let Some(diag) = diag.as_deref_mut().filter(|_| self.asks_left > 0) {
                self.learn_address(bytes, diag);
            }
            if held_back.is_empty() {
                let doubts = self.doubts(bytes, diag.as_deref_mut());
                if !doubts.is_some_and(|doubts| doubts.needs_the_others) {
                    return self.record(bytes, doubts.map(|doubts| doubts.answers), finished);
                }
            }
            held_back.push(bytes.into());
        });
        if !held_back.is_empty() {
            self.held_back(&held_back, diag, finished);
        }
        self.settle_attempts(finished);
        more
    }

    /// Takes in the attempts that wait for the counters.
    fn settle_attempts(&mut self, finished: &mut impl FnMut(&Flow, &Anchor)) {
        for record in self.attempts.settle() {
            let change = self.table.apply(record);
            take(&mut self.series, &change, &self.anchor, finished);
        }
    }

    /// Asks whether a connection that opened is in the network namespace that dumps show, unless its address is known to be. No
    /// dump may come before it ends.
    fn learn_address(&mut self, bytes: &[u8], diag: &mut DiagSource) {
        if flow::kind_of(bytes) != Some(Kind::Open) {
            return;
        }
        let Ok(Record { flow, .. }) = flow::decode(bytes, self.seed) else {
            return;
        };
        let asks_left = &mut self.asks_left;
        self.table.would_show(&flow, |flow| {
            *asks_left -= 1;
            diag.is_there(&name_of(flow))
        });
    }

    /// Takes in records of which some are of ends that are decided together.
    fn held_back(
        &mut self,
        records: &[Box<[u8]>],
        mut diag: Option<&mut DiagSource>,
        finished: &mut impl FnMut(&Flow, &Anchor),
    ) {
        let mut doubts = |bytes: &[u8]| self.doubts(bytes, diag.as_deref_mut());
        let all: Vec<_> = records.iter().map(|bytes| doubts(bytes)).collect();
        let mut candidates = Candidates::default();
        for doubts in all.iter().flatten().filter(|of| of.needs_the_others) {
            if doubts.is_quiet {
                candidates.quiet += 1;
            } else {
                candidates.others += 1;
            }
        }
        // All are as old as the first at least, and it asks for the longest time.
        let first = all.iter().flatten().find(|of| of.needs_the_others);
        let since = first.map_or_else(Since::default, |of| of.since);
        let alone = diag.is_some_and(|diag| self.own.are_all_of(diag.others()));
        let (quiet, others) = candidates.judge(since, alone);
        for (bytes, doubts) in records.iter().zip(all) {
            let answers = doubts.map(|doubts| {
                let mut answers = doubts.answers;
                if doubts.needs_the_others {
                    answers.timer = if doubts.is_quiet { quiet } else { others };
                    if answers.timer == Timer::Expired {
                        self.timers.is_known(doubts.at);
                    }
                }
                answers
            });
            self.record(bytes, answers, finished);
        }
    }

    /// What a record of a close leaves open, with what else tells of it; `None` where it leaves nothing open.
    fn doubts(&mut self, bytes: &[u8], diag: Option<&mut DiagSource>) -> Option<Doubts> {
        let evidence = flow::evidence(bytes)?;
        if evidence.timed_out() {
            return None;
        }
        let wants_remains = evidence.wants_remains();
        if !wants_remains && !evidence.wants_timer(Afterlife::NotLooked) {
            return None;
        }
        let flow = flow::decode(bytes, self.seed).ok()?.flow;
        let diag = diag?;
        let mut answers = Answers {
            polled_segs_in: self.table.polled_segs_in(flow.cookie),
            ..Answers::default()
        };
        let mut doubts = Doubts {
            at: evidence.at,
            answers,
            is_quiet: false,
            needs_the_others: false,
            since: Since::default(),
        };
        if !self.table.would_show(&flow, |flow| diag.is_here(flow)) {
            return Some(doubts);
        }
        if wants_remains {
            answers.remains = diag.find(&name_of(&flow), false);
        }
        if evidence.wants_timer(answers.remains) {
            let since = self.timers.since(&evidence);
            doubts.since = since;
            answers.sent_no_reset = since.sent_no_reset;
            if since.given_up == Some(0) {
                answers.timer = Timer::NotExpired;
            }
            doubts.needs_the_others = since.given_up.is_some_and(|count| count > 0);
            doubts.is_quiet = evidence.is_quiet(&answers);
        }
        doubts.answers = answers;
        Some(doubts)
    }

    fn record(
        &mut self,
        bytes: &[u8],
        answers: Option<Answers>,
        finished: &mut impl FnMut(&Flow, &Anchor),
    ) {
        if let Err(error) = self.take_record(bytes, answers, finished) {
            self.malformed += 1;
            tracing::error!(%error, "a kernel record was not understood: please report this");
        }
    }

    fn take_record(
        &mut self,
        bytes: &[u8],
        answers: Option<Answers>,
        finished: &mut impl FnMut(&Flow, &Anchor),
    ) -> Result<(), Malformed> {
        if Exchanges::are_in(bytes) {
            let exchanges = Exchanges::decode(bytes)?;
            *self.records.entry("exchange").or_default() += 1;
            if !self.own.has(exchanges.cookie) {
                self.table.exchanges(exchanges);
            }
            return Ok(());
        }
        let kind = flow::kind_of(bytes);
        self.heard += u64::from(matches!(kind, Some(Kind::Open | Kind::Sample)));
        let mut record =
            flow::decode(bytes, self.seed).inspect_err(|_| self.table.malformed(kind))?;
        *self.records.entry(kind_name(record.kind)).or_default() += 1;
        self.room.record(&record);
        if let Some(Outcome::Closed(End::Timeout) | Outcome::Failed(Failure::Timeout)) =
            record.flow.outcome
        {
            self.timers.is_known(record.flow.seen);
        }
        let is_exact = settle(&mut record.flow, bytes, answers);
        if self.own.has_record(&record) {
            return Ok(());
        }
        self.inexact += u64::from(!is_exact);
        if self.attempts.go_before(&record) {
            self.settle_attempts(finished);
        }
        if let Some(record) = self.attempts.sort(record) {
            let change = self.table.apply(record);
            take(&mut self.series, &change, &self.anchor, finished);
        }
        Ok(())
    }

    /// Takes in one socket of a dump.
    pub(super) fn look(
        &mut self,
        sight: &Sight,
        looking: &Looking,
        finished: &mut impl FnMut(&Flow, &Anchor),
    ) {
        if self.own.is_looked_at(sight.cookie, looking) {
            return;
        }
        let Self {
            table,
            series,
            anchor,
            ..
        } = self;
        table.look(sight, looking, |change| {
            take(series, &change, anchor, finished)
        });
    }

    /// Has the table and the series take no more memory than there is. Gives whether the kernel is to keep nothing beside one more
    /// socket.
    pub(super) fn bound_memory(&mut self) -> bool {
        self.room.bound(&mut self.table, &mut self.series)
    }

    /// A dump begins.
    pub(super) fn dump_begins(&mut self) {
        self.counted = [Reading::now(), self.counted[0]];
    }

    /// A dump is over: gives up what dumps do not show any more, and looks what is left of it.
    pub(super) fn looked(
        &mut self,
        source: &mut DiagSource,
        looking: &Looking,
        finished: &mut impl FnMut(&Flow, &Anchor),
    ) {
        self.own.looked(looking);
        let Self {
            table,
            series,
            anchor,
            ..
        } = self;
        let is_here = |flow: &Flow| source.is_here(flow);
        let missing = table.looked(looking, is_here, |change| {
            take(series, &change, anchor, finished)
        });
        for name in missing {
            table.remains(name.cookie, source.find(&name, true));
        }
    }

    /// Takes in the sockets whose end was told, for one turn. Gives whether more waits.
    pub(super) fn ends(
        &mut self,
        source: &mut DiagSource,
        turn: Turn,
        looking: &Looking,
        finished: &mut impl FnMut(&Flow, &Anchor),
    ) -> bool {
        let Self {
            table, ends, own, ..
        } = self;
        let others = looking.adopt == Adopt::All;
        let mut told = Vec::new();
        let known = |table: &Table, sight: &Sight| {
            table.knows(sight.cookie) || table.inherits(sight.cookie)
        };
        let (news, more) = source.ends(turn, |sight| known(table, sight), others);
        if !news.is_empty() {
            let alone = own.are_all_of(source.others());
            let since = self.timers.since_reading(&self.counted[1]);
            table.answer(since.of_news(&news, alone));
        }
        for sight in news {
            if own.has(sight.cookie) {
                continue;
            }
            ends.heard(&sight, looking.at);
            let found = if table.needs_a_look(&sight) {
                source.find(&sight.name(), known(table, &sight))
            } else {
                Afterlife::NotLooked
            };
            if table.leaves_open(&sight, found) {
                table.expect_end(sight.cookie);
                ends.wait(sight, found, looking.at);
            } else {
                told.push(Told {
                    sight,
                    found,
                    peers_payload: None,
                });
            }
        }
        told.extend(ends.ready(looking.at));
        self.end(&told, looking, finished);
        more
    }

    /// Ends what still waits for its other end.
    pub(super) fn conclude(
        &mut self,
        looking: &Looking,
        finished: &mut impl FnMut(&Flow, &Anchor),
    ) {
        let told = self.ends.ready(Monotonic(u64::MAX));
        self.end(&told, looking, finished);
    }

    fn end(&mut self, told: &[Told], looking: &Looking, finished: &mut impl FnMut(&Flow, &Anchor)) {
        let Self {
            table,
            series,
            anchor,
            inexact,
            timers,
            ..
        } = self;
        for told in told {
            table.destroyed(told, looking, |change| {
                if change.now.outcome == Some(Outcome::Closed(End::Timeout)) {
                    timers.is_known_by_news(looking.at);
                }
                let exact = change.now.socket.is_none_or(|figures| figures.exact);
                *inexact += u64::from(!exact);
                take(series, &change, anchor, finished);
            });
        }
    }

    pub(super) fn books(&self, kernel: &[u64; COUNTERS]) -> Books {
        let without = |own: u64| {
            self.table.books(|counter| {
                let count = kernel[counter.index() as usize];
                match counter {
                    Counter::Established => count.saturating_sub(own),
                    _ => count,
                }
            })
        };
        let own = self.own.established();
        let books = without(own);
        // More have gone than were opened: among the ends that the ring lost are some of its own.
        match books.excess().min(self.own.may_be_lost(kernel)) {
            0 => books,
            lost => without(own - lost),
        }
    }

    /// Records of flows that go on and have not been heard.
    pub(super) fn waiting(&self, kernel: &[u64; COUNTERS]) -> u64 {
        flow::waiting(|counter| kernel[counter.index() as usize], self.heard)
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

/// Tells the end of a flow by all that is known of it. Gives whether its payload counts are exact.
fn settle(flow: &mut Flow, bytes: &[u8], answers: Option<Answers>) -> bool {
    let Some(evidence) = flow::evidence(bytes) else {
        return true;
    };
    let answers = answers.unwrap_or_default();
    let verdict = evidence.verdict(&answers);
    flow.outcome = Some(Outcome::Closed(verdict.end));
    flow.reset_after_fin = evidence.reset_after_fin(&answers);
    // The record says so itself of every other FIN, and is decoded by that.
    if evidence.leaves_fin_open() && verdict.fin_received == Some(true) {
        flow.volume.bytes_received = flow.volume.bytes_received.saturating_sub(1);
    }
    verdict.fin_received.is_some()
}

/// Adds a change to the series, and tells of a flow that ended.
fn take(
    series: &mut SeriesSet,
    change: &Change,
    anchor: &Anchor,
    finished: &mut impl FnMut(&Flow, &Anchor),
) {
    series.apply(change);
    if change.now.outcome.is_some() {
        finished(&change.now, anchor);
    }
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
