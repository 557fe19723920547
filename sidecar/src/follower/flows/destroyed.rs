//! Destroy events: the closes of sockets that polls alone report, and those whose close records were lost.

use std::collections::HashSet;

use super::{Flows, doubts::are_open};
use crate::{
    clock::Anchor,
    flow::{
        Adopt, Answers, CloseEvent, Event, Monotonic, OtherEnd, PollContext, PostCloseState,
        SocketSnapshot, Table, Timer,
    },
    source::{Sockets, Turn},
};

impl Flows {
    /// Takes in the destroy events that wait, for one turn. `records_wait`: the ring has more. Gives whether more wait.
    pub(in crate::follower) fn destroy_events(
        &mut self,
        sockets: &mut Sockets,
        turn: Turn,
        poll: &PollContext,
        records_wait: bool,
    ) -> bool {
        if sockets.report_closes() {
            self.recent.begin(|| self.readings.of_turn().into());
        }
        let Self {
            table,
            pending_closes,
            excluded,
            ..
        } = self;
        let others = poll.adopt == Adopt::All;
        let mut events = Vec::new();
        let known = |table: &Table, observed: &SocketSnapshot| {
            let adoption = table.adoption();
            let of_adoption = |cookie| adoption.restores(cookie) || adoption.holds(cookie);
            table.listing().knows(observed.cookie) || of_adoption(observed.cookie)
        };
        let (closed, more) = sockets.closed(turn, |observed| known(table, observed), others);
        self.recent.taken_in(more);
        let mut queried = Vec::with_capacity(closed.len());
        for observed in &closed {
            if excluded.has(observed.cookie) {
                continue;
            }
            pending_closes.note_sent(observed, poll.at);
            let found = if table.needs_poll(observed) {
                sockets.find(&observed.name(), known(table, observed))
            } else {
                PostCloseState::NotPolled
            };
            queried.push((*observed, found));
        }
        let answers = self.answers_to(&closed, sockets, poll, more || records_wait);
        let Self {
            table,
            pending_closes,
            ..
        } = self;
        for (observed, found) in queried {
            let event = CloseEvent {
                observed,
                found,
                answers,
                other_end: OtherEnd::Unknown,
            };
            if table.fin_is_uncertain(&event) {
                table.adoption_mut().expect_close(observed.cookie);
                pending_closes.wait(event, poll.at);
            } else {
                events.push(event);
            }
        }
        events.extend(pending_closes.ready(poll.at));
        self.close(&events, poll);
        more
    }

    /// What the namespace's counts show of sockets that were just closed. `more`: other closes wait to be taken in.
    fn answers_to(
        &mut self,
        closed: &[SocketSnapshot],
        sockets: &mut Sockets,
        poll: &PollContext,
        more: bool,
    ) -> Answers {
        if closed.is_empty() {
            return Answers::default();
        }
        // Later than the queries: it counts what removed a timewait socket before its query.
        let now = self.readings.now().into();
        let since = self.timers.between(&self.counted[1], &now);
        let recent = self.timers.between(self.recent.before(), &now);
        // Timers that ended sockets whose closes still wait, or whose applications hold them, are counted by now.
        let alone = self.excluded.are_all_of(sockets.others())
            && !more
            && since.aborted_by_timer.is_some_and(|count| count > 0)
            && !self.table.adoption().holds_since(self.counted[1].begun())
            && self.others_are_open(closed, sockets);
        let answers = since.answers(recent, closed, alone);
        if answers.timer == Timer::Unknown {
            self.keep_undecided_sockets(closed, poll);
        }
        answers
    }

    fn others_are_open(&self, closed: &[SocketSnapshot], sockets: &mut Sockets) -> bool {
        let closed: HashSet<u64> = closed.iter().map(|of| of.cookie).collect();
        let others = self.table.listing().established();
        are_open(
            others.filter(|of| !closed.contains(&of.name.cookie)),
            sockets,
        )
    }

    /// Notes the sockets of which it is not known whether a timer ended them, but for those of records.
    fn keep_undecided_sockets(&mut self, closed: &[SocketSnapshot], poll: &PollContext) {
        let at = Anchor::now().monotonic();
        let could_expire = |of: &&SocketSnapshot| of.info.is_some_and(|info| info.could_expire());
        for observed in closed.iter().filter(could_expire) {
            let shown = self.table.listing().last_shown(observed.cookie);
            if shown.is_some() || poll.adopt == Adopt::All {
                let from = shown.unwrap_or(self.counted[0].begun());
                self.timers.is_undecided_by_destroy_event(from, at);
            }
        }
    }

    /// Takes in the closes that still wait for their other end.
    pub(in crate::follower) fn conclude(&mut self, poll: &PollContext) {
        let events = self.pending_closes.ready(Monotonic(u64::MAX));
        self.close(&events, poll);
    }

    fn close(&mut self, events: &[CloseEvent], poll: &PollContext) {
        for event in events {
            let before = self.closed.len();
            let shown = self.table.listing().last_shown(event.observed.cookie);
            self.apply(Event::Destroyed(event, poll));
            if self.closed[before..].iter().any(super::timed_out) {
                // A socket that no dump showed opened after the last one.
                let from = shown.unwrap_or(self.counted[0].begun());
                // Later than the event: the turn may have waited since it began.
                let at = Anchor::now().monotonic();
                self.timers.is_known_by_destroy_event(from, at);
            }
        }
    }
}
