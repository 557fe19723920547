//! Records of the kernel programs: how they are taken in, and what waits for others.

use flowcar_shared::record::Kind;

use super::{Flows, doubts, name_of, timed_out};
use crate::{
    flow::{
        self, Answers, Asked, Event, Exchanges, Malformed, NamespaceCounts, OriginEvent, Record,
    },
    peer::Packet,
    source::{Records, Sockets, Turn},
};

/// Readings, at most, for the attempts of one turn.
const ROUNDS_OF_ATTEMPTS: u32 = 4;

impl Flows {
    /// Takes in the records that wait in the ring, for one turn, which begins with them. The sockets are queried for closes that records
    /// leave in doubt. Gives whether more waits.
    pub(in crate::follower) fn records(
        &mut self,
        records: &mut Records,
        sockets: &mut Sockets,
        turn: Turn,
    ) -> bool {
        self.readings.turn_begins();
        if !records.are_sent() {
            return false;
        }
        self.attempts.refresh(&mut self.readings);
        self.attempts.knows_netns = records.show_netns();
        self.names &= records.have_names();
        let mut more = self.take_in(records, sockets, turn);
        // Attempts that the kernel ended are counted before their records are sent: what came by a reading is taken in before it serves,
        // so that no other attempt is explained by its counts.
        for _ in 0..ROUNDS_OF_ATTEMPTS {
            let waiting = self.attempts.waiting();
            if more || waiting == 0 {
                break;
            }
            let counts = self.readings.now().of_attempts;
            // Before the records are taken in: a socket that closes meanwhile is in the one or in the other.
            let others = self.attempts.ask_for_others(counts.as_ref()) && sockets.may_wait();
            more = self.take_in(records, sockets, Turn::Short);
            if self.attempts.waiting() == waiting {
                self.settle_attempts_by(counts, others);
            }
        }
        self.settle_attempts();
        more
    }

    /// Takes in the records that wait, and decides those closes that are decided together. Gives whether more waits.
    fn take_in(&mut self, records: &mut Records, sockets: &mut Sockets, turn: Turn) -> bool {
        // Records from the first close on that must be decided together with others: they are taken in in their order.
        let mut held_back: Vec<Box<[u8]>> = Vec::new();
        let before_dumps = sockets.are_shown().then_some(&self.counted[1]);
        self.timers
            .begin(before_dumps, || self.readings.of_turn().into());
        let mut more = records.drain(turn, |bytes| {
            self.take_or_hold_back(bytes, sockets, &mut held_back);
        });
        if !held_back.is_empty() {
            more = self.held_back(held_back, sockets, |held_back| {
                records.drain(Turn::Short, |bytes| held_back.push(bytes.into()))
            });
        }
        more
    }

    /// Takes in a record, unless it must be decided together with others, or comes behind one that must.
    pub(in crate::follower) fn take_or_hold_back(
        &mut self,
        bytes: &[u8],
        sockets: &mut Sockets,
        held_back: &mut Vec<Box<[u8]>>,
    ) {
        self.learn_address(bytes, sockets);
        if self.take_origin(bytes) {
            return self.decide_listeners(sockets);
        }
        if held_back.is_empty() {
            let doubts = self.doubts(bytes, sockets, None);
            if !doubts.is_some_and(|doubts| doubts.needs_the_others) {
                if let Some(doubts) = &doubts {
                    self.keep_undecided(doubts, doubts.answers.timer);
                }
                self.record(bytes, doubts.map(|doubts| doubts.answers));
                return self.decide_listeners(sockets);
            }
        }
        held_back.push(bytes.into());
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
    pub(super) fn learn_address(&mut self, bytes: &[u8], sockets: &mut Sockets) {
        if !sockets.are_shown()
            || self.queries_left == 0
            || flow::kind_of(bytes) != Some(Kind::Open)
        {
            return;
        }
        let Ok(Record { flow, .. }) = flow::decode(bytes, self.seed) else {
            return;
        };
        let queries_left = &mut self.queries_left;
        self.table.would_show(&flow, |flow| {
            *queries_left -= 1;
            sockets.is_there(&name_of(flow))
        });
    }

    pub(super) fn record(&mut self, bytes: &[u8], answers: Option<Answers>) {
        if let Err(error) = self.take_record(bytes, answers) {
            self.count_malformed(&error);
        }
    }

    /// Takes in a record of who called, without those before it: the name of a process can be read only while it runs. Gives whether it
    /// was one.
    pub(super) fn take_origin(&mut self, bytes: &[u8]) -> bool {
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

    /// Whether a record's socket is known to be in the network namespace that dumps show: by the kernel programs, or by its address.
    pub(super) fn is_here(&self, record: &Record) -> bool {
        let of_attempt = record.failed.as_ref().and_then(|failed| failed.is_here);
        of_attempt.unwrap_or_else(|| self.table.shows(&record.flow))
    }
}

const fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Open => "open",
        Kind::Sample => "sample",
        Kind::Close => "close",
    }
}
