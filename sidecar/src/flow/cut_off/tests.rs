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

fn found(post_close: PostCloseState) -> Answers {
    Answers {
        post_close,
        ..timer(Timer::NotExpired)
    }
}

/// Each row: state, state when the application closed the socket, flags, what else is known, and the close reason.
#[test]
fn close_reason_follows_from_the_evidence() {
    use Timer::{Expired, NotExpired, Unknown};
    let no_reset_sent = Answers {
        sent_no_reset: true,
        ..timer(NotExpired)
    };
    let nothing_since_poll = Answers {
        polled_segs_in: Some(9),
        ..timer(NotExpired)
    };
    for (state, released_in, flags, answers, reason) in [
        // The application aborts: nothing else is needed.
        (OPEN, OPEN, 0, timer(Unknown), CloseReason::ResetSent),
        (
            PEER_CLOSED,
            PEER_CLOSED,
            0,
            timer(Expired),
            CloseReason::ResetSent,
        ),
        // The retransmission timer sets its flag in any state.
        (
            OPEN,
            0,
            flag::TIMED_OUT,
            timer(NotExpired),
            CloseReason::Timeout,
        ),
        (
            CLOSED,
            OPEN,
            flag::TIMED_OUT,
            timer(Unknown),
            CloseReason::Timeout,
        ),
        (
            HALF_CLOSED,
            0,
            flag::TIMED_OUT,
            timer(Unknown),
            CloseReason::Timeout,
        ),
        // Any other timer, or a RST that may have come.
        (OPEN, 0, 0, timer(Expired), CloseReason::Timeout),
        (OPEN, 0, 0, timer(NotExpired), CloseReason::Reset),
        (OPEN, 0, 0, no_reset_sent, CloseReason::ResetReceived),
        (OPEN, 0, 0, timer(Unknown), CloseReason::Unknown),
        // None came.
        (OPEN, 0, QUIET, timer(Expired), CloseReason::Timeout),
        (OPEN, 0, QUIET, timer(NotExpired), CloseReason::ResetSent),
        (OPEN, 0, QUIET, timer(Unknown), CloseReason::Unknown),
        (
            OPEN,
            0,
            flag::SEGMENTS_SEEN,
            timer(Expired),
            CloseReason::Timeout,
        ),
        (
            OPEN,
            0,
            flag::SEGMENTS_SEEN,
            timer(NotExpired),
            CloseReason::ResetSent,
        ),
        (
            OPEN,
            0,
            flag::SEGMENTS_SEEN,
            timer(Unknown),
            CloseReason::Unknown,
        ),
        (OPEN, 0, 0, nothing_since_poll, CloseReason::ResetSent),
        // One came.
        (
            OPEN,
            0,
            flag::SEGMENTS_SEEN | flag::RESET_RECEIVED,
            timer(Unknown),
            CloseReason::ResetReceived,
        ),
        // Orphans.
        (CLOSED, OPEN, QUIET, timer(Unknown), CloseReason::Timeout),
        (CLOSED, OPEN, 0, timer(Unknown), CloseReason::Unknown),
        (CLOSED, CLOSED, QUIET, timer(Unknown), CloseReason::Unknown),
        // Half-closed, and nothing has come since.
        (HALF_CLOSED, 0, QUIET, timer(Expired), CloseReason::Timeout),
        (HALF_CLOSED, 0, 0, timer(NotExpired), CloseReason::Reset),
    ] {
        let verdict = closed(state, released_in, flags).verdict(&answers);
        assert_eq!(
            verdict.reason, reason,
            "{state} {released_in} {flags:#x} {answers:?}"
        );
        assert_eq!(verdict.fin_received, Some(false));
    }
}

/// Payload came after this end's FIN: the post-close state shows whether the peer's FIN did.
#[test]
fn post_close_state_decides_a_half_closed_connection() {
    let in_doubt = closed(HALF_CLOSED, 0, flag::FIN_UNCERTAIN);
    assert!(in_doubt.wants_post_close());
    for (post_close, reason, fin_received) in [
        (PostCloseState::TimeWait, CloseReason::LocalFin, Some(true)),
        (PostCloseState::Nothing, CloseReason::Reset, Some(false)),
        (PostCloseState::Listener, CloseReason::Reset, Some(false)),
        (PostCloseState::NotPolled, CloseReason::Unknown, None),
    ] {
        let expected = Verdict {
            reason,
            fin_received,
        };
        assert_eq!(
            in_doubt.verdict(&found(post_close)),
            expected,
            "{post_close:?}"
        );
    }
    // Every segment was seen.
    let seen = flag::FIN_UNCERTAIN | flag::SEGMENTS_SEEN;
    let with_fin = closed(HALF_CLOSED, 0, seen | flag::FIN_SEEN);
    assert_eq!(
        with_fin.verdict(&Answers::default()).reason,
        CloseReason::LocalFin
    );
    let without = closed(HALF_CLOSED, 0, seen | flag::RESET_RECEIVED);
    let verdict = without.verdict(&Answers::default());
    assert_eq!(
        (verdict.reason, verdict.fin_received),
        (CloseReason::ResetReceived, Some(false))
    );
    // Closed by its application while it waited.
    let released = closed(HALF_CLOSED, HALF_CLOSED, 0);
    assert!(released.wants_post_close());
    assert_eq!(
        released.verdict(&found(PostCloseState::FinWait2)).reason,
        CloseReason::LocalFin
    );
    assert_eq!(
        released.verdict(&Answers::default()).reason,
        CloseReason::Unknown
    );
}

#[test]
fn short_connection_is_not_a_timeout() {
    let short = CloseEvidence {
        lifetime_ns: 100_000_000,
        ..closed(OPEN, 0, 0)
    };
    assert_eq!(
        short.verdict(&Answers::default()).reason,
        CloseReason::Reset
    );
}
