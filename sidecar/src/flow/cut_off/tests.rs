use super::*;

const OPEN: u8 = State::Established as u8;
const PEER_CLOSED: u8 = State::CloseWait as u8;
const CLOSED: u8 = State::FinWait1 as u8;
const HALF_CLOSED: u8 = State::FinWait2 as u8;

const QUIET: u16 = flag::NOTHING_RECEIVED | flag::ONLY_DATA_RECEIVED;

/// A connection of a minute.
fn closed(state: u8, released_in: u8, flags: u16) -> CloseEvidence {
    CloseEvidence {
        at: Monotonic(60_000_000_000),
        state,
        released_in,
        flags,
        segs_in: 9,
        lifetime_ns: 60_000_000_000,
    }
}

fn timer(timer: Timer) -> Answers {
    Answers {
        timer,
        ..Answers::default()
    }
}

fn found(remains: Afterlife) -> Answers {
    Answers {
        remains,
        ..timer(Timer::NotExpired)
    }
}

/// Each row: state, state when the application closed the socket, flags, what else is known, and the end.
#[test]
fn reasons_are_told_where_they_follow() {
    use Timer::{Expired, NotExpired, Unknown};
    let no_reset_sent = Answers {
        sent_no_reset: true,
        ..timer(NotExpired)
    };
    let nothing_since_poll = Answers {
        polled_segs_in: Some(9),
        ..timer(NotExpired)
    };
    for (state, released_in, flags, answers, end) in [
        // The application aborts: nothing else is asked.
        (OPEN, OPEN, 0, timer(Unknown), End::ResetSent),
        (PEER_CLOSED, PEER_CLOSED, 0, timer(Expired), End::ResetSent),
        // The retransmission timer says so itself, in any state.
        (OPEN, 0, flag::TIMED_OUT, timer(NotExpired), End::Timeout),
        (CLOSED, OPEN, flag::TIMED_OUT, timer(Unknown), End::Timeout),
        (
            HALF_CLOSED,
            0,
            flag::TIMED_OUT,
            timer(Unknown),
            End::Timeout,
        ),
        // Any other timer, or a RST that may have come.
        (OPEN, 0, 0, timer(Expired), End::Timeout),
        (OPEN, 0, 0, timer(NotExpired), End::Reset),
        (OPEN, 0, 0, no_reset_sent, End::ResetReceived),
        (OPEN, 0, 0, timer(Unknown), End::Unknown),
        // None came.
        (OPEN, 0, QUIET, timer(Expired), End::Timeout),
        (OPEN, 0, QUIET, timer(NotExpired), End::ResetSent),
        (OPEN, 0, QUIET, timer(Unknown), End::Unknown),
        (OPEN, 0, flag::SEGMENTS_SEEN, timer(Expired), End::Timeout),
        (
            OPEN,
            0,
            flag::SEGMENTS_SEEN,
            timer(NotExpired),
            End::ResetSent,
        ),
        (OPEN, 0, flag::SEGMENTS_SEEN, timer(Unknown), End::Unknown),
        (OPEN, 0, 0, nothing_since_poll, End::Reset),
        // One came.
        (
            OPEN,
            0,
            flag::SEGMENTS_SEEN | flag::RESET_RECEIVED,
            timer(Unknown),
            End::ResetReceived,
        ),
        // Orphans.
        (CLOSED, OPEN, QUIET, timer(Unknown), End::Timeout),
        (CLOSED, OPEN, 0, timer(Unknown), End::Unknown),
        (CLOSED, CLOSED, QUIET, timer(Unknown), End::Unknown),
        // Half-closed, and nothing has come since.
        (HALF_CLOSED, 0, QUIET, timer(Expired), End::Timeout),
        (HALF_CLOSED, 0, 0, timer(NotExpired), End::Reset),
    ] {
        let verdict = closed(state, released_in, flags).verdict(&answers);
        assert_eq!(
            verdict.end, end,
            "{state} {released_in} {flags:#x} {answers:?}"
        );
        assert_eq!(verdict.fin_received, Some(false));
    }
}

/// Payload came after this end's FIN: whether the peer's FIN did is told by what is left.
#[test]
fn what_is_left_tells_a_half_closed_end() {
    let in_doubt = closed(HALF_CLOSED, 0, flag::FIN_UNCERTAIN);
    assert!(in_doubt.wants_remains());
    for (remains, end, fin_received) in [
        (Afterlife::TimeWait, End::LocalFin, Some(true)),
        (Afterlife::Nothing, End::Reset, Some(false)),
        (Afterlife::Listener, End::Reset, Some(false)),
        (Afterlife::NotLooked, End::Unknown, None),
    ] {
        let told = Verdict { end, fin_received };
        assert_eq!(in_doubt.verdict(&found(remains)), told, "{remains:?}");
    }
    // Every segment was seen.
    let seen = flag::FIN_UNCERTAIN | flag::SEGMENTS_SEEN;
    let with_fin = closed(HALF_CLOSED, 0, seen | flag::FIN_SEEN);
    assert_eq!(with_fin.verdict(&Answers::default()).end, End::LocalFin);
    let without = closed(HALF_CLOSED, 0, seen | flag::RESET_RECEIVED);
    let told = without.verdict(&Answers::default());
    assert_eq!(
        (told.end, told.fin_received),
        (End::ResetReceived, Some(false))
    );
    // Closed by its application while it waited.
    let released = closed(HALF_CLOSED, HALF_CLOSED, 0);
    assert!(released.wants_remains());
    assert_eq!(
        released.verdict(&found(Afterlife::FinWait2)).end,
        End::LocalFin
    );
    assert_eq!(released.verdict(&Answers::default()).end, End::Unknown);
}

#[test]
fn a_short_connection_was_not_given_up_by_a_timer() {
    let short = CloseEvidence {
        lifetime_ns: 100_000_000,
        ..closed(OPEN, 0, 0)
    };
    assert_eq!(short.verdict(&Answers::default()).end, End::Reset);
}
