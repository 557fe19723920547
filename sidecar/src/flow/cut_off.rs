//! The close reason of a connection that was not closed in order, from the evidence. Pure.
//!
//! A reason is given where it follows; else it is [`CloseReason::Unknown`], or [`CloseReason::Reset`] where a reset is certain and
//! its side is not. The kernel closes a connection without an exchange of FINs for one of three reasons: a RST came, one of its
//! timers expired, or this end aborted (net/ipv4/tcp.c, __tcp_close, tcp_disconnect and tcp_abort; tcp_timer.c; tcp_input.c, tcp_reset).

use flowcar_shared::record::{FlowRecord, flag};

use super::{CloseReason, Monotonic, PostCloseState, State};

/// No timer aborts a connection that lived no longer than this: the least time after which a probing timer does is the least
/// retransmission time-out, 200 ms (include/net/tcp.h, TCP_RTO_MIN).
const NO_TIMER_BEFORE_NS: u64 = 200_000_000;

/// Whether a timer of the kernel aborted the connection: for keepalive, user time-out, zero window, retransmission, or orphans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Timer {
    /// One did.
    Expired,
    /// None did.
    NotExpired,
    /// Not known.
    #[default]
    Unknown,
}

/// What else is known of a close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answers {
    /// What is under the connection's addresses.
    pub post_close: PostCloseState,
    /// Whether a timer expired.
    pub timer: Timer,
    /// No socket of the network namespace sent a RST since the connection was seen alive.
    pub sent_no_reset: bool,
    /// Neither a socket nor a timewait socket of the network namespace sent a RST from a moment before the close until the connection's
    /// addresses were queried: a timewait socket that data came for is removed so.
    pub sent_no_recent_reset: bool,
    /// Every timewait socket found room in that time.
    pub timewait_had_room: bool,
    /// No connection was aborted in that time because payload came for it, nor by SO_LINGER of 0.
    pub aborted_none_on_data: bool,
    /// Attempts that the kernel ended since the dump before the last one; `None` where that is not known.
    pub attempts_ended: Option<u64>,
    /// Segments that had come when the connection was last polled.
    pub polled_segs_in: Option<u32>,
}

/// What a close record shows of its reason.
#[derive(Clone, Copy, Debug)]
pub struct CloseEvidence {
    /// When it closed.
    pub at: Monotonic,
    state: u8,
    released_in: u8,
    flags: u16,
    segs_in: u32,
    lifetime_ns: u64,
}

/// How a connection closed, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The close reason.
    pub reason: CloseReason,
    /// Whether the peer's FIN is among the bytes received; `None` where that is not known.
    pub fin_received: Option<bool>,
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            post_close: PostCloseState::NotPolled,
            timer: Timer::Unknown,
            sent_no_reset: false,
            sent_no_recent_reset: false,
            timewait_had_room: false,
            aborted_none_on_data: false,
            attempts_ended: None,
            polled_segs_in: None,
        }
    }
}

impl CloseEvidence {
    /// The evidence of an established connection's close record.
    pub(super) const fn of(raw: &FlowRecord) -> Self {
        Self {
            at: Monotonic(raw.emitted_ns),
            state: raw.last_state,
            released_in: raw.released_in as u8,
            flags: raw.flags,
            segs_in: raw.segs_in,
            lifetime_ns: raw.emitted_ns.saturating_sub(raw.established_ns),
        }
    }

    const fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// Whether the record alone shows that a timer expired.
    pub const fn timed_out(&self) -> bool {
        self.has(flag::TIMED_OUT)
    }

    /// Whether the record does not show if the peer's FIN is among the bytes received.
    pub const fn fin_is_uncertain(&self) -> bool {
        self.has(flag::FIN_UNCERTAIN)
    }

    /// Whether the state under the connection's addresses is needed.
    pub const fn wants_post_close(&self) -> bool {
        let is_reported = self.has(flag::ORDERLY) || self.has(flag::TIMED_OUT);
        let in_doubt = self.has(flag::FIN_UNCERTAIN) && !self.has(flag::SEGMENTS_SEEN);
        !is_reported && (in_doubt || self.released_in == State::FinWait2 as u8)
    }

    /// Whether the reason depends on whether a timer expired.
    pub fn wants_timer(&self, post_close: PostCloseState) -> bool {
        let answers = Answers {
            post_close,
            ..Answers::default()
        };
        let of = |timer| self.verdict(&Answers { timer, ..answers });
        of(Timer::Expired) != of(Timer::NotExpired)
    }

    /// Whether no RST of the peer's can have closed it.
    pub fn is_quiet(&self, answers: &Answers) -> bool {
        self.received_nothing_since_poll(answers)
            || self.has(flag::NOTHING_RECEIVED)
            || (self.has(flag::ONLY_DATA_RECEIVED) && self.released_in == 0)
            || (self.has(flag::SEGMENTS_SEEN) && !self.has(flag::RESET_RECEIVED))
    }

    /// A RST counts in `segs_in`, as every segment does (net/ipv4/tcp_ipv4.c, tcp_v4_rcv).
    fn received_nothing_since_poll(&self, answers: &Answers) -> bool {
        answers.polled_segs_in == Some(self.segs_in)
    }

    /// How it closed. A RST on a connection whose peer had closed is no failure: the peer had sent all its data, and what is still sent
    /// to it (as the close_notify of TLS) is answered by a RST (RFC 9293 section 3.10.7.1).
    pub fn verdict(&self, answers: &Answers) -> Verdict {
        let verdict = self.by_socket(answers);
        let reason = match (self.has_peer_closed(), verdict.reason) {
            (true, CloseReason::Reset | CloseReason::ResetSent | CloseReason::ResetReceived) => {
                if self.has(flag::PEER_FIN_FIRST) {
                    CloseReason::PeerFin
                } else {
                    CloseReason::LocalFin
                }
            }
            (_, reason) => reason,
        };
        Verdict { reason, ..verdict }
    }

    /// Whether a RST closed it after the peer had closed its direction.
    pub fn reset_after_fin(&self, answers: &Answers) -> bool {
        let reason = self.by_socket(answers).reason;
        self.has_peer_closed()
            && matches!(
                reason,
                CloseReason::Reset | CloseReason::ResetSent | CloseReason::ResetReceived
            )
    }

    const fn has_peer_closed(&self) -> bool {
        self.has(flag::PEER_FIN_FIRST) || self.state == State::Closing as u8
    }

    fn by_socket(&self, answers: &Answers) -> Verdict {
        let Self {
            state, released_in, ..
        } = *self;
        let verdict = |reason| Verdict {
            reason,
            fin_received: Some(self.has(flag::FIN_RECEIVED)),
        };
        if self.timed_out() {
            return verdict(CloseReason::Timeout);
        }
        if self.has(flag::ORDERLY) {
            let peer_first = self.has(flag::PEER_FIN_FIRST);
            return verdict(if peer_first {
                CloseReason::PeerFin
            } else {
                CloseReason::LocalFin
            });
        }
        if state == State::FinWait2 as u8 {
            return self.after_fin_wait2(answers);
        }
        let is_open = state == State::Established as u8 || state == State::CloseWait as u8;
        // Every other close by the application sends a FIN first.
        if is_open && released_in == state {
            return verdict(CloseReason::ResetSent);
        }
        verdict(self.cut_off(answers))
    }

    /// FIN_WAIT2 ends in order with the peer's FIN, or leaves a timewait socket that waits for it.
    fn after_fin_wait2(&self, answers: &Answers) -> Verdict {
        let seen = self.has(flag::SEGMENTS_SEEN);
        let fin_received = match answers.post_close {
            _ if !self.has(flag::FIN_UNCERTAIN) => Some(false),
            _ if seen => Some(self.has(flag::FIN_SEEN)),
            PostCloseState::TimeWait => Some(true),
            PostCloseState::NotPolled => None,
            PostCloseState::Nothing | PostCloseState::FinWait2 | PostCloseState::Listener => {
                Some(false)
            }
        };
        let left_timewait = matches!(
            answers.post_close,
            PostCloseState::TimeWait | PostCloseState::FinWait2
        );
        let is_open_question = fin_received.is_none()
            || (self.released_in == State::FinWait2 as u8
                && answers.post_close == PostCloseState::NotPolled);
        let reason = if left_timewait || fin_received == Some(true) {
            CloseReason::LocalFin
        } else if is_open_question {
            CloseReason::Unknown
        } else {
            self.cut_off(answers)
        };
        Verdict {
            reason,
            fin_received,
        }
    }

    fn cut_off(&self, answers: &Answers) -> CloseReason {
        if self.has(flag::RESET_RECEIVED) {
            return CloseReason::ResetReceived;
        }
        let timer = match answers.timer {
            Timer::Unknown if self.lifetime_ns < NO_TIMER_BEFORE_NS => Timer::NotExpired,
            known => known,
        };
        let is_quiet = self.is_quiet(answers);
        // Only data that comes for it aborts a closed socket.
        let is_orphan = self.released_in != 0 && self.released_in != self.state;
        match timer {
            Timer::Expired => CloseReason::Timeout,
            Timer::NotExpired if self.has(flag::NOTHING_RECEIVED) => CloseReason::ResetSent,
            Timer::NotExpired
                if is_quiet
                    && (self.has(flag::SEGMENTS_SEEN)
                        || self.received_nothing_since_poll(answers)) =>
            {
                CloseReason::ResetSent
            }
            Timer::NotExpired if answers.sent_no_reset && !is_quiet => CloseReason::ResetReceived,
            Timer::NotExpired => CloseReason::Reset,
            Timer::Unknown if is_orphan && self.has(flag::NOTHING_RECEIVED) => CloseReason::Timeout,
            Timer::Unknown => CloseReason::Unknown,
        }
    }
}

#[cfg(test)]
mod tests;
