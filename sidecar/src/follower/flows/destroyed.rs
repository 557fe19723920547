//! Destroy events: the closes of sockets that polls alone report, and those whose close records were lost.

use super::Flows;
use crate::{
    flow::{
        Adopt, Answers, CloseEvent, CloseReason, Event, Failure, Flow, Monotonic, OtherEnd,
        Outcome, PollContext, PostCloseState, SocketSnapshot, Table,
    },
    source::{Turn, diag::DiagSource},
};

impl Flows {
    /// Takes in the destroy events that wait, for one turn. Gives whether more wait.
    pub(in crate::follower) fn destroy_events(
        &mut self,
        source: &mut DiagSource,
        turn: Turn,
        poll: &PollContext,
    ) -> bool {
        if source.is_subscribed() {
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
            table.knows(observed.cookie) || table.restores(observed.cookie)
        };
        let (closed, more) = source.closed(turn, |observed| known(table, observed), others);
        self.recent.taken_in(more);
        let mut queried = Vec::with_capacity(closed.len());
        for observed in &closed {
            if excluded.has(observed.cookie) {
                continue;
            }
            pending_closes.note_sent(observed, poll.at);
            let found = if table.needs_poll(observed) {
                source.find(&observed.name(), known(table, observed))
            } else {
                PostCloseState::NotPolled
            };
            queried.push((*observed, found));
        }
        let answers = if closed.is_empty() {
            Answers::default()
        } else {
            let alone = excluded.are_all_of(source.others());
            // Later than the queries: it counts what removed a timewait socket before its query.
            let now = self.readings.now().into();
            let since = self.timers.between(&self.counted[1], &now);
            let recent = self.timers.between(self.recent.before(), &now);
            // Timers that ended sockets whose events still wait are counted by now.
            since.answers(recent, &closed, alone && !more)
        };
        for (observed, found) in queried {
            let event = CloseEvent {
                observed,
                found,
                answers,
                other_end: OtherEnd::Unknown,
            };
            if table.fin_is_uncertain(&event) {
                table.expect_close(observed.cookie);
                pending_closes.wait(event, poll.at);
            } else {
                events.push(event);
            }
        }
        events.extend(pending_closes.ready(poll.at));
        self.close(&events, poll);
        more
    }

    /// Takes in the closes that still wait for their other end.
    pub(in crate::follower) fn conclude(&mut self, poll: &PollContext) {
        let events = self.pending_closes.ready(Monotonic(u64::MAX));
        self.close(&events, poll);
    }

    fn close(&mut self, events: &[CloseEvent], poll: &PollContext) {
        for event in events {
            let before = self.closed.len();
            let shown = self.table.last_shown(event.observed.cookie);
            self.apply(Event::Destroyed(event, poll));
            let timed_out = |flow: &Flow| {
                matches!(
                    flow.outcome,
                    Some(Outcome::Closed(CloseReason::Timeout) | Outcome::Failed(Failure::Timeout))
                )
            };
            if self.closed[before..].iter().any(timed_out) {
                // A socket that no dump showed opened after the last one.
                let from = shown.unwrap_or(self.counted[0].begun());
                self.timers.is_known_by_destroy_event(from, poll.at);
            }
        }
    }
}
