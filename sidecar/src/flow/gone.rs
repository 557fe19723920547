//! What the news of a socket's end does to the table. Pure.

use super::{
    AdoptedBy, Afterlife, Answers, Change, End, Failure, Flow, History, Monotonic, Outcome, Role,
    Sight, SocketFigures, Table, Told,
    looks::{Adopt, Looking, fresh},
    table::Entry,
};

impl Table {
    /// What must be known of a socket that ended besides the news of it: whether to look under its addresses.
    pub fn needs_a_look(&self, sight: &Sight) -> bool {
        !sight.is_wiped() && self.history_of(sight.cookie).needs_a_look(sight)
    }

    /// Whether the end of this socket leaves its payload open by the peer's FIN, which the other end's count would settle.
    pub fn leaves_open(&self, sight: &Sight, found: Afterlife) -> bool {
        let Some(info) = &sight.info else {
            return false;
        };
        let history = self.history_of(sight.cookie);
        let told = Told {
            sight: *sight,
            found,
            peers_payload: None,
        };
        info.was_established()
            && !sight.is_wiped()
            && !history.end(&told, info, &self.answers).exact
    }

    /// What is remembered of a socket before its end.
    fn history_of(&self, cookie: u64) -> History {
        let entry = self.flows.get(&cookie);
        let known = entry.and_then(|entry| entry.history);
        let inherited = || self.inherited.history(cookie);
        known.or_else(inherited).unwrap_or(History::none())
    }

    /// Takes in the news of a socket's end.
    pub fn destroyed(&mut self, told: &Told, looking: &Looking, mut each: impl FnMut(Change)) {
        let sight = &told.sight;
        self.undecided.remove(&sight.cookie);
        if let Some(ended) = self.held.remove(&sight.cookie) {
            return rest_of_held(told, ended, each);
        }
        if self.given_up.remove(&sight.cookie) || self.inherited.is_gone(sight) {
            return;
        }
        let known = match self.flows.get(&sight.cookie) {
            Some(entry) if entry.history.is_none() => return,
            Some(_) => {
                self.adopted -= 1;
                self.flows.remove(&sight.cookie)
            }
            None => None,
        };
        let inherited = match &known {
            Some(_) => None,
            // Nothing but that it ended can be told of one whose counts and whose addresses are wiped.
            None if sight.is_wiped() && self.inherited.lose(sight.cookie) => return,
            None => self.inherited.find(sight),
        };
        if known.is_none() && inherited.is_none() && looking.adopt != Adopt::All {
            return;
        }
        let before = known.as_ref().map(|entry| entry.flow.clone());
        let was_left = inherited.and_then(|left| left.history());
        let history = known.and_then(|entry| entry.history).or(was_left);
        let mut now = match &before {
            Some(flow) => flow.clone(),
            None => fresh(
                sight,
                history.map_or(Role::Unknown, |of| of.role()),
                looking,
            ),
        };
        if inherited.is_some() {
            now.established = Some(looking.at);
            now.adopted = Some(AdoptedBy::Restart);
        }
        if sight.is_wiped() {
            if !self.wiped(sight, before.is_some(), &mut now, looking.at) {
                return;
            }
        } else if !finish(told, history, &self.answers, &mut now, looking.at) {
            self.inherited.lose(sight.cookie);
            return;
        }
        self.inherited.take(sight.cookie);
        let was_open = before
            .as_ref()
            .is_some_and(|flow| flow.established.is_some());
        self.looked_up += u64::from(now.established.is_some() && !was_open);
        self.count(now.outcome);
        each(Change {
            before,
            now,
            replaced: None,
            inherited,
            listed: false,
        });
    }

    /// The end of a socket whose counts are wiped. Gives whether anything can be told of it.
    fn wiped(&mut self, sight: &Sight, known: bool, now: &mut Flow, at: Monotonic) -> bool {
        let established = now.established.is_some() || !sight.wiped_attempt();
        if !known && established {
            self.looked_up += 1;
            self.wiped += 1;
            return false;
        }
        now.seen = at;
        if established {
            now.established.get_or_insert(at);
            // Most likely reset; but the kernel also disconnects subflows of multipath connections that closed in order.
            now.outcome = Some(Outcome::Closed(End::Unknown));
            now.socket = now.socket.map(|figures| SocketFigures {
                exact: false,
                ..figures
            });
        } else {
            now.role = Role::Client;
            now.outcome = Some(Outcome::Failed(Failure::Other));
        }
        true
    }

    /// Ends a flow of which no more will be told: another has taken its socket.
    pub(super) fn end_unseen(&mut self, cookie: u64, at: Monotonic, each: &mut impl FnMut(Change)) {
        let Some(Entry { flow: before, .. }) = self.flows.remove(&cookie) else {
            return;
        };
        self.adopted -= 1;
        let outcome = match before.established {
            Some(_) => Outcome::Closed(End::Unknown),
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
        each(Change {
            before: Some(before),
            now,
            replaced: None,
            inherited: None,
            listed: false,
        });
    }

    /// Ends a connection that is over while its application still holds the socket. Its last counts come with the news of the
    /// socket's end, which may be long in coming; until then they are those of the look before.
    pub(super) fn end_held(&mut self, cookie: u64, each: &mut impl FnMut(Change)) {
        let Some(entry) = self.flows.remove(&cookie) else {
            return;
        };
        self.adopted -= 1;
        let before = entry.flow;
        let outcome = match (before.established, &entry.history) {
            (Some(_), Some(history)) => Outcome::Closed(history.end_while_held()),
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
        if self.held.len() < self.bound {
            self.held.insert(cookie, now.clone());
        } else {
            self.given_up.insert(cookie);
        }
        each(Change {
            before: Some(before),
            now,
            replaced: None,
            inherited: None,
            listed: false,
        });
    }

    /// Takes a flow off the list whose end was not delivered. The kernel has counted the close record that it dropped; a
    /// dropped news of a socket's end is counted here, and so is an end without a record.
    pub(super) fn give_up(
        &mut self,
        cookie: u64,
        looking: &Looking,
        each: &mut impl FnMut(Change),
    ) {
        let Some(Entry {
            flow,
            history,
            detached,
            ..
        }) = self.flows.remove(&cookie)
        else {
            return;
        };
        if history.is_some() {
            self.adopted -= 1;
            self.overrun += u64::from(flow.established.is_some());
            if self.given_up.len() < self.bound {
                self.given_up.insert(cookie);
            }
        } else if detached {
            self.detached += 1;
        } else if self.forgone < looking.unheard {
            self.forgone += 1;
        } else {
            self.unheard += 1;
        }
        each(Change {
            before: Some(flow.clone()),
            now: flow,
            replaced: None,
            inherited: None,
            listed: false,
        });
    }
}

/// The socket of a connection that was told as ended is closed at last: what was counted since the last look at it.
fn rest_of_held(told: &Told, ended: Flow, mut each: impl FnMut(Change)) {
    let sight = &told.sight;
    let Some(info) = sight.info.as_ref().filter(|_| !sight.is_wiped()) else {
        return;
    };
    let before = Flow {
        outcome: None,
        ..ended
    };
    let ending = History::of_role(before.role).end(told, info, &Answers::default());
    let now = Flow {
        volume: before.volume.max(&ending.volume),
        ..before.clone()
    };
    // Open before and after: it is closed already, and lives no more.
    each(Change {
        before: Some(before),
        now,
        replaced: None,
        inherited: None,
        listed: true,
    });
}

/// The end of a socket whose counts are whole. Gives whether it was a connection or an attempt at one.
fn finish(
    told: &Told,
    history: Option<History>,
    answers: &Answers,
    now: &mut Flow,
    at: Monotonic,
) -> bool {
    let sight = &told.sight;
    let Some(info) = &sight.info else {
        return false;
    };
    let known = history.is_some();
    let mut history = history.unwrap_or(History::none());
    let established = now.established.is_some() || info.was_established();
    // A listener, or a socket that never sent a SYN.
    let nothing = sight.peer.port() == 0 || info.segs_out == 0 && !established;
    if nothing && !known {
        return false;
    }
    let ending = if established {
        now.established.get_or_insert(at);
        history.end(told, info, answers)
    } else {
        history.fail(info)
    };
    if !known {
        now.role = ending.role;
    }
    now.seen = at;
    now.outcome = Some(ending.outcome);
    now.reset_after_fin = ending.reset_after_fin;
    now.volume = now.volume.max(&ending.volume);
    now.socket = Some(SocketFigures {
        exact: ending.exact,
        ..info.into()
    });
    if let Some(rtt_ns) = history.take_rtt(info).filter(|_| established) {
        now.rtt.record(rtt_ns);
    }
    true
}
