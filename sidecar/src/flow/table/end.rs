//! How flows end that polls alone report: by destroy events, or without them. Pure.

use super::{Change, Entry, entry::polled_flow, poll::PollContext};
use crate::flow::{
    AdoptedBy, Answers, CloseEvent, CloseReason, Failure, Flow, History, Monotonic, Outcome, Role,
    SocketFigures, checkpoint::CheckpointFlow,
};

/// What a destroy event reports.
pub(super) enum Destroyed {
    /// A connection or an attempt at one.
    Flow(Box<Change>),
    /// A connection of which only the close is known.
    Unseen,
    /// Neither a connection nor an attempt.
    Nothing,
}

// === impl Destroyed ===

impl Destroyed {
    /// The end of a socket that was listed as `known`, or whose connection the checkpoint has.
    pub(super) fn of(
        event: &CloseEvent,
        known: Option<Entry>,
        restored: Option<&CheckpointFlow>,
        poll: &PollContext,
    ) -> Self {
        let observed = &event.observed;
        let event = &CloseEvent {
            answers: answers_of(event, known.as_ref(), poll),
            ..*event
        };
        let (before, history) = match known {
            Some(entry) => (Some(entry.flow), entry.history),
            None => (None, restored.and_then(CheckpointFlow::history)),
        };
        let role = history.map_or(Role::Unknown, |history| history.role());
        let new = || polled_flow(observed, role, poll);
        let mut now = before.clone().unwrap_or_else(new);
        if let Some(reported) = restored {
            now.established = Some(poll.at);
            now.adopted = Some(AdoptedBy::Restart);
            reported.give_server(&mut now);
        }
        if observed.is_disconnected() {
            let established = now.established.is_some() || !observed.disconnected_attempt();
            if before.is_none() && established {
                return Self::Unseen;
            }
            disconnect(&mut now, established, poll.at);
        } else if !finish(event, history, &mut now, poll.at) {
            return Self::Nothing;
        }
        Self::Flow(Box::new(Change {
            before,
            ..Change::new(now, false)
        }))
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

/// The close of a disconnected socket, whose counts are erased.
fn disconnect(now: &mut Flow, established: bool, at: Monotonic) {
    now.seen = at;
    if established {
        now.established.get_or_insert(at);
        // Most likely reset; but the kernel also disconnects subflows of multipath connections that closed in order.
        now.outcome = Some(Outcome::Closed(CloseReason::Unknown));
        now.socket = inexact(now);
    } else {
        now.role = Role::Client;
        now.outcome = Some(Outcome::Failed(Failure::Other));
    }
}

/// The end of a flow whose last counts are not known.
pub(super) fn without_counts(before: Flow, reason: CloseReason, at: Monotonic) -> Change {
    let outcome = match before.established {
        Some(_) => Outcome::Closed(reason),
        None => Outcome::Failed(Failure::Other),
    };
    let now = Flow {
        seen: at,
        outcome: Some(outcome),
        socket: inexact(&before),
        ..before.clone()
    };
    Change::close(before, now)
}

fn inexact(flow: &Flow) -> Option<SocketFigures> {
    flow.socket.map(|figures| SocketFigures {
        exact: false,
        ..figures
    })
}

/// The destroy event of a connection that was already reported as closed: adds what was counted since the last poll.
pub(super) fn rest_of_held(event: &CloseEvent, closed: Flow) -> Option<Change> {
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
    Some(Change::update(before, now, true))
}
