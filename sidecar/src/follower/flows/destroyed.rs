//! Destroy events: the closes of sockets that polls alone report, and those whose close records were lost.

use std::collections::HashSet;

use super::{Flows, name_of};
use crate::{
    flow::{
        Adopt, Answers, CloseEvent, Event, Flow, Monotonic, OtherEnd, PollContext, PostCloseState,
        SocketSnapshot, Table,
    },
    source::{Turn, diag::DiagSource},
};

/// Flows that are queried, at most, before a timer's count is taken for closes: some 10 us of CPU time each.
const QUERIES: usize = 256;

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
            // Timers that ended sockets whose events still wait, or whose applications hold them, are counted by now.
            let alone = alone
                && !more
                && since.aborted_by_timer.is_some_and(|count| count > 0)
                && !table.holds_since(self.counted[1].begun())
                && others_are_open(table, &closed, source);
            since.answers(recent, &closed, alone)
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
            if self.closed[before..].iter().any(super::timed_out) {
                // A socket that no dump showed opened after the last one.
                let from = shown.unwrap_or(self.counted[0].begun());
                self.timers.is_known_by_destroy_event(from, poll.at);
            }
        }
    }
}

/// Whether all flows but the closed ones are still open, where they are few enough to query each.
fn others_are_open(table: &Table, closed: &[SocketSnapshot], source: &mut DiagSource) -> bool {
    let closed: HashSet<u64> = closed.iter().map(|observed| observed.cookie).collect();
    let is_other = |flow: &&Flow| flow.established.is_some() && !closed.contains(&flow.cookie);
    let others: Vec<_> = table.iter().filter(is_other).take(QUERIES + 1).collect();
    // What is open is reported as not polled.
    let is_open = |flow: &Flow| source.find(&name_of(flow), true) == PostCloseState::NotPolled;
    others.len() <= QUERIES && others.into_iter().all(is_open)
}
