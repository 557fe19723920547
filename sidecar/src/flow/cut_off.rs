//! Why a connection ended that was not closed in order, from what was seen of it. Pure.
//!
//! A reason is told where it follows; else the end is [`End::Unknown`], or [`End::Reset`] where a reset is certain and its side is
//! not. The kernel closes a connection without an exchange of FINs for one of three reasons: a RST came, one of its timers gave
//! up, or this end aborted (net/ipv4/tcp.c, __tcp_close, tcp_disconnect and tcp_abort; tcp_timer.c; tcp_input.c, tcp_reset).

use flowcar_shared::record::{FlowRecord, flag};

use super::{Afterlife, End, Monotonic, State};

/// A connection that lived no longer than this was not given up by a timer: the least time after which one that probes does is
/// the least retransmission time-out, 200 ms (include/net/tcp.h, TCP_RTO_MIN).
const NO_TIMER_BEFORE_NS: u64 = 200_000_000;

/// Whether a timer of the kernel's gave up: for keepalive, user time-out, zero window, retransmission, or orphans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Timer {
    /// One did.
    Expired,
    /// None did.
    NotExpired,
    /// Nothing tells.
    #[default]
    Unknown,
}

/// What else tells of an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answers {
    /// What is under the connection's addresses.
    pub remains: Afterlife,
    /// Whether a timer gave up.
    pub timer: Timer,
    /// No socket of the network namespace sent a RST since the connection was seen alive.
    pub sent_no_reset: bool,
    /// Segments that had come when the connection was last looked at.
    pub polled_segs_in: Option<u32>,
}

/// What the record of a close says of its reason.
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

/// How a connection ended, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// How.
    pub end: End,
    /// Whether the peer's FIN is among the bytes received; `None` where that is not known.
    pub fin_received: Option<bool>,
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            remains: Afterlife::NotLooked,
            timer: Timer::Unknown,
            sent_no_reset: false,
            polled_segs_in: None,
        }
    }
}

impl CloseEvidence {
    /// That of the record of an established connection's close.
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

    /// Whether the record alone says that a timer gave up.
    pub const fn timed_out(&self) -> bool {
        self.has(flag::TIMED_OUT)
    }

    /// Whether the record does not say if the peer's FIN is among the bytes received.
    pub const fn leaves_fin_open(&self) -> bool {
        self.has(flag::FIN_UNCERTAIN)
    }

    /// Whether what is under the connection's addresses tells more.
    pub const fn wants_remains(&self) -> bool {
        let is_told = self.has(flag::ORDERLY) || self.has(flag::TIMED_OUT);
        let in_doubt = self.has(flag::FIN_UNCERTAIN) && !self.has(flag::SEGMENTS_SEEN);
        !is_told && (in_doubt || self.released_in == State::FinWait2 as u8)
    }

    /// Whether it was cut off, and it tells more whether a timer gave up.
    pub fn wants_timer(&self, remains: Afterlife) -> bool {
        let answers = Answers {
            remains,
            ..Answers::default()
        };
        let of = |timer| self.verdict(&Answers { timer, ..answers });
        of(Timer::Expired) != of(Timer::NotExpired)
    }

    /// Whether no RST of the peer's can have closed it.
    pub fn is_quiet(&self, answers: &Answers) -> bool {
        let nothing_since_poll = answers.polled_segs_in == Some(self.segs_in);
        nothing_since_poll
            || self.has(flag::NOTHING_RECEIVED)
            || (self.has(flag::ONLY_DATA_RECEIVED) && self.released_in == 0)
            || (self.has(flag::SEGMENTS_SEEN) && !self.has(flag::RESET_RECEIVED))
    }

    /// How it ended. What a RST does to a connection whose peer had closed is no failure: the peer had said all that it would, and
    /// whoever still sends to it (as the close_notify of TLS) is answered by a RST (RFC 9293 section 3.10.7.1).
    pub fn verdict(&self, answers: &Answers) -> Verdict {
        let verdict = self.by_socket(answers);
        let end = match (self.has_peer_closed(), verdict.end) {
            (true, End::Reset | End::ResetSent | End::ResetReceived) => {
                if self.has(flag::PEER_FIN_FIRST) {
                    End::PeerFin
                } else {
                    End::LocalFin
                }
            }
            (_, end) => end,
        };
        Verdict { end, ..verdict }
    }

    /// Whether a RST ended it after the peer had closed its direction.
    pub fn reset_after_fin(&self, answers: &Answers) -> bool {
        let end = self.by_socket(answers).end;
        self.has_peer_closed() && matches!(end, End::Reset | End::ResetSent | End::ResetReceived)
    }

    const fn has_peer_closed(&self) -> bool {
        self.has(flag::PEER_FIN_FIRST) || self.state == State::Closing as u8
    }

    fn by_socket(&self, answers: &Answers) -> Verdict {
        let Self {
            state, released_in, ..
        } = *self;
        let told = |end| Verdict {
            end,
            fin_received: Some(self.has(flag::FIN_RECEIVED)),
        };
        if self.timed_out() {
            return told(End::Timeout);
        }
        if self.has(flag::ORDERLY) {
            let peer_first = self.has(flag::PEER_FIN_FIRST);
            return told(if peer_first {
                End::PeerFin
            } else {
                End::LocalFin
            });
        }
        if state == State::FinWait2 as u8 {
            return self.after_fin_wait2(answers);
        }
        let is_open = state == State::Established as u8 || state == State::CloseWait as u8;
        // Every other close by the application sends a FIN first.
        if is_open && released_in == state {
            return told(End::ResetSent);
        }
        told(self.cut_off(answers))
    }

    /// FIN_WAIT2 ends in order with the peer's FIN, or leaves remains that wait for it.
    fn after_fin_wait2(&self, answers: &Answers) -> Verdict {
        let seen = self.has(flag::SEGMENTS_SEEN);
        let fin_received = match answers.remains {
            _ if !self.has(flag::FIN_UNCERTAIN) => Some(false),
            _ if seen => Some(self.has(flag::FIN_SEEN)),
            Afterlife::TimeWait => Some(true),
            Afterlife::NotLooked => None,
            Afterlife::Nothing | Afterlife::FinWait2 | Afterlife::Listener => Some(false),
        };
        let left_remains = matches!(answers.remains, Afterlife::TimeWait | Afterlife::FinWait2);
        let is_open_question = fin_received.is_none()
            || (self.released_in == State::FinWait2 as u8
                && answers.remains == Afterlife::NotLooked);
        let end = if left_remains || fin_received == Some(true) {
            End::LocalFin
        } else if is_open_question {
            End::Unknown
        } else {
            self.cut_off(answers)
        };
        Verdict { end, fin_received }
    }

    fn cut_off(&self, answers: &Answers) -> End {
        if self.has(flag::RESET_RECEIVED) {
            return End::ResetReceived;
        }
        let timer = match answers.timer {
            Timer::Unknown if self.lifetime_ns < NO_TIMER_BEFORE_NS => Timer::NotExpired,
            told => told,
        };
        let is_quiet = self.is_quiet(answers);
        // A closed socket is not aborted any more, but by data that comes for it.
        let is_orphan = self.released_in != 0 && self.released_in != self.state;
        match timer {
            Timer::Expired => End::Timeout,
            Timer::NotExpired if self.has(flag::NOTHING_RECEIVED) => End::ResetSent,
            Timer::NotExpired if is_quiet && self.has(flag::SEGMENTS_SEEN) => End::ResetSent,
            Timer::NotExpired if answers.sent_no_reset && !is_quiet => End::ResetReceived,
            Timer::NotExpired => End::Reset,
            Timer::Unknown if is_orphan && self.has(flag::NOTHING_RECEIVED) => End::Timeout,
            Timer::Unknown => End::Unknown,
        }
    }
}

#[cfg(test)]
mod tests;
