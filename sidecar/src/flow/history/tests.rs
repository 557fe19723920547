//! Final counts as Linux 6.18 reported them over loopback, each beside what the application did: the client sent 100 bytes and
//! received 50.

use OtherEnd::Acknowledged;

use super::*;

/// Nothing removed a timewait socket.
const QUIET: Answers = Answers {
    post_close: PostCloseState::NotPolled,
    timer: Timer::Unknown,
    sent_no_reset: false,
    sent_no_recent_reset: true,
    timewait_had_room: true,
    aborted_none_on_data: true,
    attempts_ended: None,
    polled_segs_in: None,
};

const CLIENT: (u64, u64) = (100, 50);
const SERVER: (u64, u64) = (50, 100);

/// The last counts of a closed socket.
struct LastCounts {
    unread: u32,
    unacknowledged: u32,
    acked: u64,
    received: u64,
    sent: u64,
    delivered: u32,
}

impl LastCounts {
    fn observed(&self) -> SocketSnapshot {
        let info = TcpInfo {
            state: State::Closed as u8,
            bytes_acked: self.acked,
            bytes_received: self.received,
            bytes_sent: self.sent,
            delivered: self.delivered,
            data_segs_out: 1,
            last_data_recv_ms: 20,
            segs_out: 4,
            segs_in: 4,
            ..TcpInfo::default()
        };
        SocketSnapshot {
            cookie: 1,
            local: "127.0.0.1:40000".parse().unwrap(),
            peer: "127.0.0.1:80".parse().unwrap(),
            interface: 0,
            state: State::Closed,
            unread: self.unread,
            unacknowledged: self.unacknowledged,
            cgroup: None,
            drops: None,
            info: Some(info),
        }
    }

    fn close(&self, history: History, found: PostCloseState) -> CloseSummary {
        self.close_beside(history, found, OtherEnd::Unknown)
    }

    fn close_beside(
        &self,
        history: History,
        found: PostCloseState,
        other_end: OtherEnd,
    ) -> CloseSummary {
        let observed = self.observed();
        let event = CloseEvent {
            observed,
            found,
            answers: QUIET,
            other_end,
        };
        history.close(&event, &observed.info.unwrap())
    }
}

const fn counts(unread: u32, acked: u64, received: u64, sent: u64, delivered: u32) -> LastCounts {
    LastCounts {
        unread,
        unacknowledged: 0,
        acked,
        received,
        sent,
        delivered,
    }
}

#[track_caller]
fn assert_close(
    summary: CloseSummary,
    role: Role,
    reason: CloseReason,
    payload: (u64, u64),
    exact: bool,
) {
    let volume = summary.volume;
    assert_eq!(
        (
            summary.role,
            summary.outcome,
            (volume.bytes_sent, volume.bytes_received),
            summary.exact
        ),
        (role, Outcome::Closed(reason), payload, exact)
    );
}

/// No poll before the close, as for most short connections.
#[test]
fn unpolled_connections_get_their_close_reason() {
    let none = History::none();
    use PostCloseState::{FinWait2, Listener, Nothing, TimeWait};
    // The client closed, and the server's FIN came with the acknowledgement of its own, or later.
    let client = counts(1, 102, 51, 100, 3).close(none, TimeWait);
    assert_close(client, Role::Client, CloseReason::LocalFin, CLIENT, true);
    let client = counts(0, 102, 50, 100, 3).close(none, FinWait2);
    assert_close(client, Role::Client, CloseReason::LocalFin, CLIENT, true);
    // The client closed its direction only, and read up to the server's FIN: right, but not certain.
    let client = counts(0, 102, 51, 100, 3).close(none, TimeWait);
    assert_close(client, Role::Client, CloseReason::LocalFin, CLIENT, false);
    // The other end's count decides it, either way.
    let client = counts(0, 102, 51, 100, 3).close_beside(none, TimeWait, Acknowledged(50));
    assert_close(client, Role::Client, CloseReason::LocalFin, CLIENT, true);
    let client = counts(0, 102, 50, 100, 3).close_beside(none, TimeWait, Acknowledged(50));
    assert_close(client, Role::Client, CloseReason::LocalFin, CLIENT, true);
    // The server closed first, and second.
    let server = counts(1, 51, 101, 50, 3).close(none, TimeWait);
    assert_close(server, Role::Server, CloseReason::LocalFin, SERVER, true);
    let server = counts(0, 51, 101, 50, 3).close(none, Listener);
    assert_close(server, Role::Server, CloseReason::Unknown, SERVER, false);
    let client = counts(0, 102, 51, 100, 3).close(none, Nothing);
    assert_close(client, Role::Client, CloseReason::Unknown, CLIENT, false);
    // Without a listener any more, by the packets delivered: SYN-ACK, data, FIN.
    let server = counts(0, 51, 101, 50, 3).close(none, Nothing);
    assert_close(server, Role::Server, CloseReason::Unknown, SERVER, false);
}

#[test]
fn resets_are_classified_and_uncertain_counts_are_marked() {
    // The server was reset by its peer.
    let server = counts(0, 50, 100, 50, 2).close(History::none(), PostCloseState::Listener);
    assert_close(server, Role::Server, CloseReason::Reset, SERVER, false);
    // The same, and by the client's own count its FIN had come: no failure.
    let server = counts(0, 50, 101, 50, 2);
    let behind =
        |other_end| server.close_beside(History::none(), PostCloseState::Listener, other_end);
    assert_close(
        behind(Acknowledged(100)),
        Role::Server,
        CloseReason::PeerFin,
        SERVER,
        true,
    );
    assert!(behind(Acknowledged(100)).reset_after_fin);
    assert_eq!(
        behind(Acknowledged(101)).outcome,
        Outcome::Closed(CloseReason::Reset)
    );
    // The client closed with 10 bytes unread; seen as a client before.
    let client = History::of_role(Role::Client);
    let summary = counts(10, 101, 60, 100, 2).close(client, PostCloseState::Nothing);
    assert_close(summary, Role::Client, CloseReason::Reset, (100, 60), false);
    // The same, never polled: a client's SYN or a server's FIN is not decided.
    let summary = counts(10, 101, 60, 100, 2).close(History::none(), PostCloseState::Nothing);
    assert_close(
        summary,
        Role::Unknown,
        CloseReason::Unknown,
        (100, 60),
        false,
    );
}

/// The client's FIN was acknowledged and 50 bytes came; nothing is left of the socket.
#[test]
fn half_closed_connection_that_was_cut_off_is_not_a_peer_close() {
    let last = counts(0, 102, 50, 100, 3);
    let mut observed = last.observed();
    let mut close = |history: History, last_data_recv_ms, other_end| {
        let info = observed.info.as_mut().unwrap();
        info.last_data_recv_ms = last_data_recv_ms;
        let event = CloseEvent {
            observed,
            found: PostCloseState::Nothing,
            answers: QUIET,
            other_end,
        };
        history.close(&event, &observed.info.unwrap())
    };
    // It closed right after the payload, so that no acknowledgement of a FIN closed it for certain.
    let summary = close(History::none(), 0, OtherEnd::Unknown);
    assert_close(summary, Role::Client, CloseReason::Unknown, CLIENT, false);
    // The other end sent as much, and so no FIN came: a RST ended it half-closed, or removed its timewait socket.
    let summary = close(History::none(), 20, Acknowledged(50));
    assert_close(summary, Role::Client, CloseReason::Unknown, CLIENT, true);
    // A poll showed it half-closed.
    let mut seen = History::of_role(Role::Client);
    let mut living = last.observed();
    living.info.as_mut().unwrap().state = State::FinWait2 as u8;
    seen.see(&living, &living.info.unwrap());
    let summary = close(seen, 20, OtherEnd::Unknown);
    assert_close(summary, Role::Client, CloseReason::Reset, CLIENT, true);
}

/// A server's FIN was acknowledged, and nothing is left of its socket: the client's FIN came first, or the server's did, and a RST removed
/// what it left.
#[test]
fn close_reason_of_a_socket_that_left_nothing_follows_from_the_evidence() {
    use CloseReason::{LocalFin, PeerFin, Reset, Unknown};
    use OtherEnd::Unacknowledged;
    use State::{CloseWait, Established, FinWait1, FinWait2};
    struct Row {
        /// The state, segments of data and bytes by the last poll.
        polled: Option<(State, u32, u64)>,
        /// Segments of data and bytes in the end, of which so many are unread.
        received: (u32, u64, u32),
        last_data_sent_ms: u32,
        last_data_recv_ms: u32,
        last_ack_recv_ms: u32,
        other_end: OtherEnd,
        answers: Answers,
        reason: CloseReason,
        /// Payload, and whether it is certain.
        payload: (u64, bool),
    }
    const RESET_SENT: Answers = Answers {
        sent_no_recent_reset: false,
        ..QUIET
    };
    const NO_ROOM: Answers = Answers {
        timewait_had_room: false,
        ..QUIET
    };
    const ABORTED_ON_DATA: Answers = Answers {
        sent_no_recent_reset: false,
        aborted_none_on_data: false,
        ..QUIET
    };
    let row = |polled, other_end, answers, reason, payload| Row {
        polled,
        received: (1, 101, 0),
        last_data_sent_ms: 20,
        last_data_recv_ms: 20,
        last_ack_recv_ms: 0,
        other_end,
        answers,
        reason,
        payload,
    };
    let open = |data, bytes| Some((Established, data, bytes));
    let unknown = OtherEnd::Unknown;
    let rows = [
        // Nothing was polled, and the other end is elsewhere.
        row(None, unknown, QUIET, Unknown, (100, false)),
        row(None, unknown, RESET_SENT, Unknown, (101, false)),
        row(None, unknown, NO_ROOM, Unknown, (101, false)),
        // Its last acknowledgement had come before: it waited half-closed, or the kernel was slow to make the event.
        Row {
            last_ack_recv_ms: 10,
            ..row(None, unknown, QUIET, Unknown, (101, false))
        },
        // Within a jiffy a request came, was answered, and its connection closed.
        Row {
            last_ack_recv_ms: 8,
            last_data_recv_ms: 8,
            last_data_sent_ms: 8,
            ..row(None, unknown, QUIET, Unknown, (100, false))
        },
        // It had sent its last payload before: what came last may be what a RST came with.
        Row {
            last_ack_recv_ms: 8,
            last_data_recv_ms: 8,
            last_data_sent_ms: 12,
            ..row(None, unknown, QUIET, Unknown, (101, false))
        },
        // The other end is here.
        row(None, Acknowledged(100), RESET_SENT, PeerFin, (100, true)),
        row(None, Acknowledged(100), NO_ROOM, Unknown, (100, true)),
        row(None, Acknowledged(101), QUIET, Unknown, (101, true)),
        row(None, Unacknowledged, RESET_SENT, LocalFin, (101, true)),
        // Payload that came may have ended the socket itself.
        row(None, Unacknowledged, ABORTED_ON_DATA, Unknown, (101, true)),
        // It had closed its direction only, and was cut off.
        Row {
            received: (1, 101, 101),
            ..row(None, Unacknowledged, RESET_SENT, Reset, (101, true))
        },
        Row {
            last_ack_recv_ms: 2_000,
            ..row(None, Unacknowledged, RESET_SENT, Reset, (101, true))
        },
        // The other end's counts are of an earlier connection.
        row(open(1, 100), Acknowledged(500), QUIET, PeerFin, (100, true)),
        // No data came since the poll, and a FIN or none.
        row(open(1, 100), unknown, RESET_SENT, PeerFin, (100, true)),
        row(open(1, 101), unknown, QUIET, Unknown, (101, true)),
        Row {
            last_ack_recv_ms: 2_000,
            ..row(open(1, 101), unknown, QUIET, Reset, (101, true))
        },
        Row {
            received: (1, 101, 101),
            ..row(open(1, 101), unknown, QUIET, Reset, (101, true))
        },
        // Data came, too.
        row(open(0, 0), unknown, QUIET, Unknown, (100, false)),
        row(open(0, 0), unknown, RESET_SENT, Unknown, (101, false)),
        // The poll showed who closed first.
        row(
            Some((CloseWait, 1, 101)),
            unknown,
            RESET_SENT,
            PeerFin,
            (100, true),
        ),
        row(
            Some((FinWait1, 1, 100)),
            unknown,
            QUIET,
            LocalFin,
            (100, true),
        ),
        row(Some((FinWait2, 1, 101)), unknown, QUIET, Reset, (101, true)),
    ];
    for (number, row) in rows.iter().enumerate() {
        let (data_segs_in, bytes_received, unread) = row.received;
        let mut last = counts(unread, 51, bytes_received, 50, 3).observed();
        let info = last.info.as_mut().unwrap();
        info.data_segs_in = data_segs_in;
        info.last_data_sent_ms = row.last_data_sent_ms;
        info.last_data_recv_ms = row.last_data_recv_ms;
        info.last_ack_recv_ms = row.last_ack_recv_ms;
        let mut history = History::of_role(Role::Server);
        if let Some((state, data_segs_in, bytes_received)) = row.polled {
            let polled = TcpInfo {
                state: state as u8,
                data_segs_in,
                bytes_received,
                ..*info
            };
            for _ in 0..2 {
                history.see(&last, &polled);
            }
            history.last = state;
        }
        let event = CloseEvent {
            observed: last,
            found: PostCloseState::Listener,
            answers: Answers {
                timer: Timer::NotExpired,
                ..row.answers
            },
            other_end: row.other_end,
        };
        let closed = history.close(&event, &last.info.unwrap());
        let payload = (closed.volume.bytes_received, closed.exact);
        assert_eq!(
            (closed.outcome, payload),
            (Outcome::Closed(row.reason), row.payload),
            "{number}"
        );
    }
}

/// The kernel reads the state before the counts: a FIN between them is in the counts of an open socket.
#[test]
fn fin_that_one_poll_may_have_counted_is_not_denied() {
    let mut observed = counts(0, 51, 101, 50, 3).observed();
    let info = observed.info.as_mut().unwrap();
    info.state = State::Established as u8;
    let info = *info;
    let mut history = History::of_role(Role::Server);
    history.see(&observed, &info);
    assert_eq!(history.fin_since_poll(&info), None);
    history.see(&observed, &info);
    assert_eq!(history.fin_since_poll(&info), Some(false));
}

/// The application held the socket after the end, which was reported: the last byte is the peer's FIN where that end says so.
#[test]
fn last_byte_of_a_held_socket_follows_from_the_reported_reason() {
    let last = counts(0, 51, 101, 50, 3).observed();
    for (reason, found, bytes) in [
        (CloseReason::PeerFin, PostCloseState::Nothing, 100),
        (CloseReason::LocalFin, PostCloseState::TimeWait, 100),
        // The TIME_WAIT socket is over, too.
        (CloseReason::LocalFin, PostCloseState::Nothing, 100),
        (CloseReason::Unknown, PostCloseState::Nothing, 101),
        (CloseReason::Unknown, PostCloseState::TimeWait, 100),
    ] {
        let history = History::of_closed(Role::Server, Some(Outcome::Closed(reason)));
        let event = CloseEvent {
            observed: last,
            found,
            answers: Answers::default(),
            other_end: OtherEnd::Unknown,
        };
        let rest = history.close(&event, &last.info.unwrap());
        assert_eq!(rest.volume.bytes_received, bytes, "{reason:?} {found:?}");
    }
}

/// Unanswered probes: by the poll before, and by the kernel's count of connections that timers aborted.
#[test]
fn timeouts_are_distinguished_from_resets() {
    let mut closed = counts(0, 101, 50, 100, 2).observed();
    let info = closed.info.as_mut().unwrap();
    info.probes = 1;
    let info = *info;
    let mut seen = History::of_role(Role::Client);
    seen.see(&closed, &info);
    let close = |segs_in, timer| {
        let info = TcpInfo { segs_in, ..info };
        let event = CloseEvent {
            observed: SocketSnapshot {
                info: Some(info),
                ..closed
            },
            found: PostCloseState::Nothing,
            answers: Answers {
                timer,
                ..Answers::default()
            },
            other_end: OtherEnd::Unknown,
        };
        seen.close(&event, &info).outcome
    };
    let (same, more) = (info.segs_in, info.segs_in + 1);
    for (segs_in, timer, is) in [
        (same, Timer::Unknown, CloseReason::Timeout),
        (same, Timer::Expired, CloseReason::Timeout),
        (same, Timer::NotExpired, CloseReason::Reset),
        (more, Timer::Unknown, CloseReason::Unknown),
        (more, Timer::Expired, CloseReason::Timeout),
        (more, Timer::NotExpired, CloseReason::Reset),
    ] {
        assert_eq!(
            close(segs_in, timer),
            Outcome::Closed(is),
            "{segs_in} {timer:?}"
        );
    }
}

#[test]
fn data_in_flight_at_a_reset_is_not_counted_as_acknowledged() {
    let mut last = counts(0, 61, 50, 100, 1);
    last.unacknowledged = 40;
    let summary = last.close(History::of_role(Role::Client), PostCloseState::Nothing);
    assert_close(summary, Role::Client, CloseReason::Reset, (60, 50), false);
}

#[test]
fn roles_follow_from_the_counts_of_open_sockets() {
    let live = |acked, sent, unacknowledged, notsent, state: State| {
        let mut observed = counts(0, acked, 0, sent, 0).observed();
        let info = observed.info.as_mut().unwrap();
        (info.state, info.notsent) = (state as u8, notsent);
        (observed.state, observed.unacknowledged) = (state, unacknowledged);
        observed.role()
    };
    assert_eq!(live(101, 100, 0, 0, State::Established), Role::Client);
    assert_eq!(live(100, 100, 0, 0, State::Established), Role::Server);
    // With 40 bytes in flight and 7 not sent yet.
    assert_eq!(live(61, 100, 47, 7, State::Established), Role::Client);
    assert_eq!(live(60, 100, 47, 7, State::CloseWait), Role::Server);
    // Our FIN acknowledged, in flight, and waiting behind data.
    assert_eq!(live(102, 100, 0, 0, State::FinWait2), Role::Client);
    assert_eq!(live(100, 100, 1, 0, State::LastAck), Role::Server);
    assert_eq!(live(61, 100, 48, 8, State::FinWait1), Role::Client);
    // Figures of two moments decide nothing.
    assert_eq!(live(50, 100, 0, 0, State::Established), Role::Unknown);
    assert_eq!(live(0, 0, 1, 0, State::SynSent), Role::Client);
}

/// The state is read before the counts: a FIN in between is acknowledged, and no SYN.
#[test]
fn fin_during_a_poll_is_not_taken_for_a_syn() {
    let closing = |state: State, unacknowledged, acked, again| {
        let mut observed = counts(0, acked, 100, 50, 3).observed();
        let info = observed.info.as_mut().unwrap();
        (info.state, info.total_retrans) = (state as u8, again);
        (observed.state, observed.unacknowledged) = (state, unacknowledged);
        observed.role()
    };
    assert_eq!(closing(State::CloseWait, 0, 51, 0), Role::Server);
    assert_eq!(closing(State::CloseWait, 0, 52, 0), Role::Client);
    // In flight when that was read, and acknowledged when the counts were.
    assert_eq!(closing(State::LastAck, 1, 51, 0), Role::Server);
    assert_eq!(closing(State::FinWait1, 1, 52, 0), Role::Client);
    assert_eq!(closing(State::LastAck, 1, 51, 1), Role::Unknown);
}

/// An application holds a socket that is over. Its peer had closed: a RST ended it, or the timer whose probes were not answered.
#[test]
fn held_socket_whose_probes_were_not_answered_has_no_certain_reason() {
    for (state, probes, is) in [
        (State::CloseWait, 0, CloseReason::PeerFin),
        (State::CloseWait, 2, CloseReason::Unknown),
        (State::Established, 0, CloseReason::Unknown),
        (State::Established, 2, CloseReason::Unknown),
    ] {
        let mut observed = counts(0, 50, 101, 50, 1).observed();
        observed.state = state;
        let info = observed.info.as_mut().unwrap();
        (info.state, info.probes) = (state as u8, probes);
        let info = *info;
        let mut history = History::of_role(Role::Server);
        history.see(&observed, &info);
        assert_eq!(history.reason_while_held(), is, "{state:?} {probes}");
    }
}

/// An attempt ends: a RST came, a timer expired, its application dropped it, or something else ended it.
#[test]
fn attempt_fails_by_the_evidence() {
    use Timer::{Expired, NotExpired, Unknown};
    let timer = |timer| Answers {
        timer,
        ..Answers::default()
    };
    let sent_no_reset = |of| Answers {
        sent_no_reset: true,
        ..timer(of)
    };
    let dropped = Answers {
        attempts_ended: Some(0),
        ..sent_no_reset(NotExpired)
    };
    let ended_one = Answers {
        attempts_ended: Some(1),
        ..timer(NotExpired)
    };
    let is = |polled, segs_in, again: u8, answers| {
        let info = TcpInfo {
            segs_in,
            retransmits: again,
            total_retrans: again.into(),
            segs_out: 1,
            ..TcpInfo::default()
        };
        let mut history = History::none();
        if polled {
            history.see(&counts(0, 0, 0, 0, 0).observed(), &info);
        }
        history.fail(&info, &answers).outcome
    };
    for (segs_in, again, answers, failure) in [
        (1, 0, timer(NotExpired), Failure::Refused),
        // The first one was no RST.
        (2, 0, timer(NotExpired), Failure::Other),
        (1, 1, sent_no_reset(NotExpired), Failure::Refused),
        // What came may have acknowledged what was not sent, and been answered by a RST.
        (1, 1, timer(NotExpired), Failure::Other),
        // On loopback the peer's RST is this namespace's, too.
        (1, 1, ended_one, Failure::Refused),
        (2, 1, ended_one, Failure::Other),
        (1, 1, sent_no_reset(Unknown), Failure::Other),
        (1, 1, sent_no_reset(Expired), Failure::Timeout),
        (2, 1, timer(Expired), Failure::Timeout),
        (0, 1, timer(Expired), Failure::Timeout),
        // Nothing was sent again: the timer of another socket.
        (0, 0, timer(Expired), Failure::Other),
        (0, 1, timer(NotExpired), Failure::Other),
        (0, 1, timer(Unknown), Failure::Other),
    ] {
        for polled in [false, true] {
            assert_eq!(
                is(polled, segs_in, again, answers),
                Outcome::Failed(failure),
                "{polled} {segs_in} {again} {answers:?}"
            );
        }
    }
    // The kernel would have counted it. Without a poll that showed it the kernel may have ended it long before.
    assert_eq!(is(true, 1, 0, dropped), Outcome::Failed(Failure::Other));
    assert_eq!(is(false, 1, 0, dropped), Outcome::Failed(Failure::Refused));
}
