//! How the close of a socket (a destroy event) changes the table. Pure.

use super::{
    AdoptedBy, Answers, Change, CloseEvent, CloseReason, Failure, Flow, History, Monotonic,
    Outcome, Role, SocketFigures, SocketSnapshot, Table,
    checkpoint::CheckpointFlow,
    reconcile::{Adopt, PollContext, fresh},
    table::Entry,
};

impl Table {
    /// Whether the close of this socket needs a query for its addresses.
    pub fn needs_poll(&self, observed: &SocketSnapshot) -> bool {
        !observed.is_disconnected() && self.history_of(observed.cookie).needs_poll(observed)
    }

    /// Whether the payload count of this closed socket is uncertain by the peer's FIN, which the other end's count would settle.
    pub fn fin_is_uncertain(&self, event: &CloseEvent) -> bool {
        let observed = &event.observed;
        let Some(info) = &observed.info else {
            return false;
        };
        info.was_established()
            && !observed.is_disconnected()
            && !self.history_of(observed.cookie).close(event, info).exact
    }

    /// The history of a socket before its close.
    fn history_of(&self, cookie: u64) -> History {
        let entry = self.flows.get(&cookie);
        let known = entry.and_then(|entry| entry.history);
        let restored = || self.restored.history(cookie);
        known.or_else(restored).unwrap_or(History::none())
    }

    pub(super) fn destroyed(&mut self, event: &CloseEvent, poll: &PollContext) -> Option<Change> {
        let observed = &event.observed;
        self.role_pending.remove(&observed.cookie);
        if let Some(closed) = self.held.remove(&observed.cookie) {
            return rest_of_held(event, *closed);
        }
        if self.evicted.remove(&observed.cookie) || self.restored.is_lost(observed) {
            return None;
        }
        let known = match self.flows.get(&observed.cookie) {
            Some(entry) if entry.history.is_none() => return None,
            Some(_) => {
                self.adopted -= 1;
                self.flows.remove(&observed.cookie)
            }
            None => None,
        };
        let restored = match &known {
            Some(_) => None,
            // A disconnected socket has neither counts nor addresses: only its close is known.
            None if observed.is_disconnected() && self.restored.lose(observed.cookie) => {
                return None;
            }
            None => self.restored.find(observed),
        };
        if known.is_none() && restored.is_none() && poll.adopt != Adopt::All {
            return None;
        }
        let event = &CloseEvent {
            answers: answers_of(event, known.as_deref(), poll),
            ..*event
        };
        let before = known.as_ref().map(|entry| entry.flow.clone());
        let known_before = restored.as_ref().and_then(CheckpointFlow::history);
        let history = known.and_then(|entry| entry.history).or(known_before);
        let mut now = match &before {
            Some(flow) => flow.clone(),
            None => fresh(
                observed,
                history.map_or(Role::Unknown, |of| of.role()),
                poll,
            ),
        };
        if let Some(reported) = &restored {
            now.established = Some(poll.at);
            now.adopted = Some(AdoptedBy::Restart);
            reported.give_server(&mut now);
        }
        if observed.is_disconnected() {
            if !self.disconnected(event, before.is_some(), &mut now, poll.at) {
                return None;
            }
        } else if !finish(event, history, &mut now, poll.at) {
            self.restored.lose(observed.cookie);
            return None;
        }
        self.restored.take(observed.cookie);
        let was_open = before
            .as_ref()
            .is_some_and(|flow| flow.established.is_some());
        self.opened_by_polls += u64::from(now.established.is_some() && !was_open);
        self.count(now.outcome);
        Some(Change {
            before,
            now,
            replaced: None,
            restored,
            listed: false,
        })
    }

    /// The close of a disconnected socket, whose counts are erased. Gives whether anything can be reported of it.
    fn disconnected(
        &mut self,
        event: &CloseEvent,
        known: bool,
        now: &mut Flow,
        at: Monotonic,
    ) -> bool {
        let CloseEvent {
            observed, answers, ..
        } = event;
        let established = now.established.is_some() || !observed.disconnected_attempt();
        if !known && established {
            self.opened_by_polls += 1;
            self.disconnected += 1;
            return false;
        }
        now.seen = at;
        if established {
            now.established.get_or_insert(at);
            // Most likely reset; but the kernel also disconnects subflows of multipath connections that closed in order.
            now.outcome = Some(Outcome::Closed(CloseReason::Unknown));
            now.socket = now.socket.map(|figures| SocketFigures {
                exact: false,
                ..figures
            });
        } else {
            now.role = Role::Client;
            let is_dropped = known && answers.ended_no_attempt && answers.received_no_icmp_error;
            now.outcome = Some(Outcome::Failed(if is_dropped {
                Failure::Abandoned
            } else {
                Failure::Other
            }));
        }
        true
    }

    /// Closes a flow of which no more will be reported: another has taken its socket.
    pub(super) fn reconnected(&mut self, cookie: u64, at: Monotonic) -> Option<Change> {
        let Entry { flow: before, .. } = *self.flows.remove(&cookie)?;
        self.adopted -= 1;
        let outcome = match before.established {
            Some(_) => Outcome::Closed(CloseReason::Unknown),
            None => Outcome::Failed(Failure::Other),
        };
        let socket = before.socket.map(|figures| SocketFigures {
            exact: false,
            ..figures
        });
        let now = Flow {
            seen: at,
            outcome: Some(outcome),
            socket,
            ..before.clone()
        };
        self.count(now.outcome);
        Some(Change::close(before, now))
    }

    /// Closes a connection that is over while its application still holds the socket. Its last counts come with the socket's destroy
    /// event, which may take long; until then they are those of the last poll.
    pub(super) fn close_held(&mut self, cookie: u64) -> Option<Change> {
        let entry = *self.flows.remove(&cookie)?;
        self.adopted -= 1;
        let before = entry.flow;
        let outcome = match (before.established, &entry.history) {
            (Some(_), Some(history)) => Outcome::Closed(history.reason_while_held()),
            _ => Outcome::Failed(Failure::Other),
        };
        let now = Flow {
            seen: entry.absent_since.max(before.seen),
            outcome: Some(outcome),
            socket: before.socket.map(|figures| SocketFigures {
                exact: false,
                ..figures
            }),
            ..before.clone()
        };
        self.count(now.outcome);
        if self.held.len() < self.capacity {
            self.held.insert(cookie, Box::new(now.clone()));
        } else {
            self.evicted.insert(cookie);
        }
        Some(Change::close(before, now))
    }

    /// Evicts a flow whose close was not delivered. The kernel has counted the close record that it dropped; a dropped destroy event is
    /// counted here, and so is a close without a record.
    pub(super) fn evict(&mut self, cookie: u64, poll: &PollContext) -> Option<Change> {
        let Entry {
            flow,
            history,
            detached,
            ..
        } = *self.flows.remove(&cookie)?;
        if history.is_some() {
            self.adopted -= 1;
            self.overrun += u64::from(flow.established.is_some());
            if self.evicted.len() < self.capacity {
                self.evicted.insert(cookie);
            }
        } else if detached {
            self.detached += 1;
        } else if self.evicted_after_known_loss < poll.lost_closes {
            self.evicted_after_known_loss += 1;
        } else {
            self.lost_closes += 1;
        }
        Some(Change {
            before: Some(flow.clone()),
            now: flow,
            replaced: None,
            restored: None,
            listed: false,
        })
    }
}

/// What the namespace's counts show of a socket that polls alone report. They are counts since before the last dump but one: a socket
/// that neither of the two showed may have closed before, and its application has held it since.
fn answers_of(event: &CloseEvent, entry: Option<&Entry>, poll: &PollContext) -> Answers {
    match entry {
        Some(entry) if entry.dump + 1 < poll.dump => Answers::default(),
        _ => event.answers,
    }
}

/// The destroy event of a connection that was already reported as closed: adds what was counted since the last poll.
fn rest_of_held(event: &CloseEvent, closed: Flow) -> Option<Change> {
    let observed = &event.observed;
    let counts = observed.info.as_ref();
    let info = counts.filter(|_| !observed.is_disconnected())?;
    let history = History::of_closed(closed.role, closed.outcome);
    let before = Flow {
        outcome: None,
        ..closed
    };
    // Its reason is reported, and only its counts are used. They are since a poll that may be long ago.
    let event = CloseEvent {
        answers: Answers::default(),
        ..*event
    };
    let summary = history.close(&event, info);
    let now = Flow {
        volume: before.volume.max(&summary.volume),
        ..before.clone()
    };
    // Open before and after: it is counted as closed already.
    Some(Change {
        before: Some(before),
        now,
        replaced: None,
        restored: None,
        listed: true,
    })
}

/// The close of a socket with all its counts. Gives whether it was a connection or an attempt at one.
fn finish(event: &CloseEvent, history: Option<History>, now: &mut Flow, at: Monotonic) -> bool {
    let observed = &event.observed;
    let Some(info) = &observed.info else {
        return false;
    };
    let known = history.is_some();
    let mut history = history.unwrap_or(History::none());
    let established = now.established.is_some() || info.was_established();
    // A listener, or a socket that never sent a SYN.
    let nothing = observed.peer.port() == 0 || info.segs_out == 0 && !established;
    if nothing && !known {
        return false;
    }
    let summary = if established {
        now.established.get_or_insert(at);
        history.close(event, info)
    } else {
        history.fail(info, &event.answers)
    };
    if !known {
        now.role = summary.role;
    }
    now.seen = at;
    now.outcome = Some(summary.outcome);
    now.reset_after_fin = summary.reset_after_fin;
    now.volume = now.volume.max(&summary.volume);
    now.socket = Some(SocketFigures {
        exact: summary.exact,
        ..info.into()
    });
    if let Some(rtt_ns) = history.take_rtt(info).filter(|_| established) {
        now.rtt.record(rtt_ns);
    }
    true
}
