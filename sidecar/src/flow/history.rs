//! What polls of one socket have shown, and what follows from them when it closes. Pure.

use flowcar_shared::record::Role;

use super::{
    Answers, CloseEvent, CloseReason, Failure, OtherEnd, Outcome, PostCloseState, Retransmits,
    SocketFigures, SocketSnapshot, State, TcpInfo, Timer, Volume,
};

/// What is kept of a socket from poll to poll.
#[derive(Clone, Copy, Debug)]
pub struct History {
    interface: u32,
    /// The role by the first poll that showed it. It names the flow's series and so never changes.
    role: Role,
    last: State,
    post_close: PostCloseState,
    syn_retransmits: u64,
    polled: Option<Polled>,
    /// Segments received when the RTT was last taken: without new ones it is the old value.
    segments_at_rtt: u32,
}

/// What the last poll showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Polled {
    segs_in: u32,
    data_segs_in: u32,
    bytes_received: u64,
    /// The poll before showed the same data: a FIN among it would show in the state by now.
    has_no_fin: bool,
    /// Whether a timer had sent something that was not answered.
    is_unanswered: bool,
}

/// Whether a connection was closed in order.
enum Orderly {
    /// In order; this end or the peer sent the first FIN.
    Yes(CloseReason),
    No,
    Unknown,
}

/// What is known of what the peer sent.
struct PeerEvidence {
    other_end: OtherEnd,
    /// Whether its FIN is among the bytes received.
    fin_came: Option<bool>,
}

/// How a connection closed, or an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseSummary {
    /// Which end of the handshake this was.
    pub role: Role,
    /// The close reason or failure.
    pub outcome: Outcome,
    /// Its counts.
    pub volume: Volume,
    /// Whether the payload counts are exact.
    pub exact: bool,
    /// Whether a RST closed it after the peer had closed its direction.
    pub reset_after_fin: bool,
}

impl History {
    /// The history that begins with this poll.
    pub fn new(observed: &SocketSnapshot) -> Self {
        Self {
            interface: observed.interface,
            role: observed.role(),
            last: observed.state_of_counts(),
            post_close: PostCloseState::NotPolled,
            syn_retransmits: 0,
            polled: None,
            segments_at_rtt: 0,
        }
    }

    /// No poll before the close.
    pub const fn none() -> Self {
        Self {
            interface: 0,
            role: Role::Unknown,
            last: State::Closed,
            post_close: PostCloseState::NotPolled,
            syn_retransmits: 0,
            polled: None,
            segments_at_rtt: 0,
        }
    }

    /// Of a flow whose role is known from elsewhere.
    pub const fn of_role(role: Role) -> Self {
        Self {
            role,
            ..Self::none()
        }
    }

    /// Of a flow whose end is reported while its application still holds the socket. As a rule its last byte is the peer's FIN.
    pub const fn of_closed(role: Role, outcome: Option<Outcome>) -> Self {
        let of_role = Self::of_role(role);
        match outcome {
            Some(Outcome::Closed(CloseReason::PeerFin)) => Self {
                last: State::CloseWait,
                ..of_role
            },
            Some(Outcome::Closed(CloseReason::LocalFin)) => Self {
                post_close: PostCloseState::TimeWait,
                ..of_role
            },
            _ => of_role,
        }
    }

    /// The same of a flow whose role is known from elsewhere.
    pub const fn known_as(self, role: Role) -> Self {
        Self { role, ..self }
    }

    /// The role, which never changes.
    pub const fn role(&self) -> Role {
        self.role
    }

    /// The interface that the socket's link-local address belongs to; else 0.
    pub const fn interface(&self) -> u32 {
        self.interface
    }

    /// Keeps the state found under the addresses of a socket that dumps no longer show: closed, and still held by its application.
    pub const fn set_post_close(&mut self, found: PostCloseState) {
        self.post_close = found;
    }

    /// The state that was found under its addresses.
    pub const fn post_close(&self) -> PostCloseState {
        self.post_close
    }

    /// The close reason of a connection that is over while its application still holds the socket: there are no last counts.
    pub const fn reason_while_held(&self) -> CloseReason {
        match (self.post_close, self.last) {
            (PostCloseState::TimeWait | PostCloseState::FinWait2, _) => CloseReason::LocalFin,
            // A RST, or the timer that had sent what was not answered.
            (_, State::CloseWait | State::LastAck) if !self.was_unanswered() => {
                CloseReason::PeerFin
            }
            _ => CloseReason::Unknown,
        }
    }

    /// Whether a timer had sent something by the last poll that was not answered.
    pub(super) const fn was_unanswered(&self) -> bool {
        matches!(self.polled, Some(polled) if polled.is_unanswered)
    }

    /// Counts of a poll of the open socket. Exact: which FINs are counted follows from the state.
    pub fn see(&mut self, observed: &SocketSnapshot, info: &TcpInfo) -> Volume {
        let state = observed.state_of_counts();
        self.last = state;
        let has_no_fin = self.polled.is_some_and(|before| {
            (before.data_segs_in, before.bytes_received) == (info.data_segs_in, info.bytes_received)
        });
        self.polled = Some(Polled {
            segs_in: info.segs_in,
            has_no_fin,
            data_segs_in: info.data_segs_in,
            bytes_received: info.bytes_received,
            is_unanswered: info.has_unanswered(),
        });
        if state == State::SynSent {
            self.syn_retransmits = info.total_retrans.into();
            return Volume {
                segments_sent: info.segs_out.into(),
                segments_received: info.segs_in.into(),
                retransmits: self.retransmits(info),
                ..Volume::default()
            };
        }
        let fin_acked = state == State::FinWait2;
        Volume {
            bytes_sent: self.acked(self.role, fin_acked, observed, info).0,
            bytes_received: info.bytes_received
                - u64::from(state.has_peers_fin() && info.bytes_received > 0),
            segments_sent: info.segs_out.into(),
            segments_received: info.segs_in.into(),
            retransmits: self.retransmits(info),
        }
    }

    /// The smoothed RTT in nanoseconds, if segments came in since it was last taken.
    pub fn take_rtt(&mut self, info: &TcpInfo) -> Option<u64> {
        let is_new = info.rtt_us > 0 && info.segs_in != self.segments_at_rtt;
        self.segments_at_rtt = info.segs_in;
        is_new.then(|| u64::from(info.rtt_us) * 1000)
    }

    /// Whether the close of this socket can be classified only by a query for its addresses.
    pub fn needs_poll(&self, observed: &SocketSnapshot) -> bool {
        let reset = matches!(
            (self.role, observed.excess()),
            (Role::Client, Some(1)) | (Role::Server, Some(0))
        );
        let peer_first = matches!(self.last, State::CloseWait | State::LastAck);
        let established = observed.info.is_some_and(|info| info.was_established());
        established && !reset && !(peer_first && self.role != Role::Unknown)
    }

    /// The close, from the last counts of an established connection and what else is known of it.
    pub fn close(&self, event: &CloseEvent, info: &TcpInfo) -> CloseSummary {
        let CloseEvent {
            observed, answers, ..
        } = event;
        let found = match self.post_close {
            PostCloseState::NotPolled => event.found,
            earlier => earlier,
        };
        let (role, fin_sent) = self.syn_and_fin(observed, info, found);
        let fin_acked = fin_sent.map(|sent| sent && observed.unacknowledged == 0);
        let peer = PeerEvidence {
            other_end: event.other_end,
            fin_came: self.fin_came(info, event.other_end, fin_acked),
        };
        let reason = match self.orderly(observed, (fin_acked, found), &peer, answers) {
            Orderly::Yes(reason) => reason,
            Orderly::No => match self.cut_off(observed, info, answers) {
                // A RST after the peer's FIN is no failure.
                reason @ (CloseReason::Reset | CloseReason::ResetReceived) => {
                    match (peer.fin_came, fin_sent) {
                        _ if self.peer_closed_first() => CloseReason::PeerFin,
                        (Some(true), Some(false)) => CloseReason::PeerFin,
                        // Both sent one, and the order is unknown.
                        (Some(true), _) => CloseReason::Unknown,
                        _ => reason,
                    }
                }
                reason => reason,
            },
            Orderly::Unknown => CloseReason::Unknown,
        };
        let (peers_fin, received_exact) = match peer.fin_came {
            Some(came) => (came, true),
            None => match self.peers_fin(observed, info, reason, (fin_acked, found)) {
                (false, false) if fin_acked == Some(true) && reason == CloseReason::Unknown => {
                    (closed_second(info, role, answers), false)
                }
                known => known,
            },
        };
        let (bytes_sent, sent_exact) = self.acked(role, fin_acked == Some(true), observed, info);
        CloseSummary {
            role,
            outcome: Outcome::Closed(reason),
            volume: Volume {
                bytes_sent,
                bytes_received: info.bytes_received.saturating_sub(peers_fin.into()),
                segments_sent: info.segs_out.into(),
                segments_received: info.segs_in.into(),
                retransmits: self.retransmits(info),
            },
            exact: received_exact && sent_exact,
            reset_after_fin: reason == CloseReason::PeerFin && fin_acked != Some(true),
        }
    }

    /// The failure of an attempt. In SYN_SENT the only segment that ends it is a RST that acknowledges the SYN. Others are ignored, or
    /// answered by a RST, and the SYN is sent again, as a rule at once (net/ipv4/tcp_input.c, tcp_rcv_synsent_state_process).
    pub fn fail(&self, info: &TcpInfo, answers: &Answers) -> CloseSummary {
        // Of several the last one may have been a RST behind the peer's SYN, where both ends had called connect().
        let is_answered = info.segs_in == 1;
        let failure = match answers.timer {
            // Its application dropped it.
            _ if self.polled.is_some() && answers.attempts_ended == Some(0) => Failure::Other,
            _ if is_answered && info.total_retrans == 0 => Failure::Refused,
            // A RST that was sent may have been the answer to a segment that acknowledged another SYN.
            Timer::NotExpired
                if is_answered && (answers.sent_no_reset || answers.attempts_ended > Some(0)) =>
            {
                Failure::Refused
            }
            Timer::Expired if info.could_expire() => Failure::Timeout,
            _ => Failure::Other,
        };
        CloseSummary {
            role: Role::Client,
            outcome: Outcome::Failed(failure),
            volume: Volume {
                segments_sent: info.segs_out.into(),
                segments_received: info.segs_in.into(),
                retransmits: Retransmits {
                    syn: info.total_retrans.into(),
                    ..Retransmits::default()
                },
                ..Volume::default()
            },
            exact: true,
            reset_after_fin: false,
        }
    }

    /// The role, and whether our FIN was sent, where that is known.
    fn syn_and_fin(
        &self,
        observed: &SocketSnapshot,
        info: &TcpInfo,
        found: PostCloseState,
    ) -> (Role, Option<bool>) {
        let excess = observed.excess();
        let served = matches!(
            found,
            PostCloseState::TimeWait | PostCloseState::FinWait2 | PostCloseState::Listener
        ) || (observed.unacknowledged == 0 && info.delivered_bare_fin());
        match (self.role, excess) {
            (Role::Client, Some(excess @ 1..=2)) => (Role::Client, Some(excess == 2)),
            (Role::Server, Some(excess @ 0..=1)) => (Role::Server, Some(excess == 1)),
            (Role::Unknown, Some(0)) => (Role::Server, Some(false)),
            (Role::Unknown, Some(2)) => (Role::Client, Some(true)),
            // A SYN or a FIN: where our FIN was seen, it is the FIN.
            (Role::Unknown, Some(1)) if served => (Role::Server, Some(true)),
            (role, _) => (role, None),
        }
    }

    /// Whether the peer had closed its direction first when the socket was last seen.
    const fn peer_closed_first(&self) -> bool {
        matches!(self.last, State::CloseWait | State::LastAck)
    }

    /// Whether the peer's FIN is among the bytes received, by the other end's own counts or by the last poll; `None` where neither shows it.
    fn fin_came(
        &self,
        info: &TcpInfo,
        other_end: OtherEnd,
        fin_acked: Option<bool>,
    ) -> Option<bool> {
        let by_other_end = match other_end {
            // Other counts are those of an earlier connection.
            OtherEnd::Acknowledged(payload) => match info.bytes_received.checked_sub(payload) {
                Some(more @ 0..=1) => Some(more == 1),
                _ => None,
            },
            // It acknowledged this end's FIN, which would have acknowledged its own.
            OtherEnd::Unacknowledged if fin_acked == Some(true) => Some(false),
            OtherEnd::Unacknowledged | OtherEnd::Unknown => None,
        };
        by_other_end.or_else(|| self.fin_since_poll(info))
    }

    /// Whether the peer's FIN came since the last poll; `None` where payload came, too. A FIN counts as a byte, and on its own in no
    /// segment of data. The kernel reads the state before the counts, so that those of one poll may have a FIN that the state does not show.
    fn fin_since_poll(&self, info: &TcpInfo) -> Option<bool> {
        let polled = self.polled?;
        if self.last.has_peers_fin() || polled.data_segs_in != info.data_segs_in {
            return None;
        }
        match info.bytes_received.checked_sub(polled.bytes_received)? {
            0 if polled.has_no_fin => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    /// Whether both FINs were exchanged, as far as is known.
    fn orderly(
        &self,
        observed: &SocketSnapshot,
        (fin_acked, found): (Option<bool>, PostCloseState),
        peer: &PeerEvidence,
        answers: &Answers,
    ) -> Orderly {
        match (fin_acked, found) {
            (_, PostCloseState::TimeWait | PostCloseState::FinWait2) => {
                Orderly::Yes(CloseReason::LocalFin)
            }
            (Some(true), _) if self.peer_closed_first() => Orderly::Yes(CloseReason::PeerFin),
            (Some(true), PostCloseState::NotPolled) | (None, _) => Orderly::Unknown,
            (Some(false), _) => Orderly::No,
            (Some(true), PostCloseState::Nothing | PostCloseState::Listener) => {
                self.left_nothing(observed, peer, answers)
            }
        }
    }

    /// Its FIN was acknowledged, and it left nothing: the peer's FIN had come first; or this end's was first, and a RST ended the socket
    /// half-closed, or removed its timewait socket.
    fn left_nothing(
        &self,
        observed: &SocketSnapshot,
        peer: &PeerEvidence,
        answers: &Answers,
    ) -> Orderly {
        let Some(info) = &observed.info else {
            return Orderly::Unknown;
        };
        match peer.fin_came {
            Some(true) if self.last.has_closed() => Orderly::Yes(CloseReason::LocalFin),
            Some(true) if answers.timewait_had_room => Orderly::Yes(CloseReason::PeerFin),
            Some(true) => Orderly::Unknown,
            _ if self.last.has_closed() => Orderly::No,
            // An application that closes with something unread sends a RST, and leaves no timewait socket.
            Some(false) if observed.unread > 0 || info.was_held_after_its_fin() => Orderly::No,
            // Data came for the timewait socket, which answers with a RST and is removed.
            _ if peer.other_end == OtherEnd::Unacknowledged && answers.aborted_none_on_data => {
                Orderly::Yes(CloseReason::LocalFin)
            }
            // Or for the socket itself, from which nobody would read any more (shutdown(2) with SHUT_RDWR): that ends it.
            _ if peer.other_end == OtherEnd::Unacknowledged => Orderly::Unknown,
            Some(false) => Orderly::Unknown,
            // A RST from another host that removed the timewait socket, or ended the half-closed socket at once, is in no count.
            None => Orderly::Unknown,
        }
    }

    /// The close reason of a connection that was not closed in order.
    fn cut_off(&self, observed: &SocketSnapshot, info: &TcpInfo, answers: &Answers) -> CloseReason {
        // With something unread, its application's close may have cut it off.
        let silent = self.was_unanswered()
            && self
                .polled
                .is_some_and(|polled| polled.segs_in == info.segs_in)
            && observed.unread == 0;
        match answers.timer {
            Timer::NotExpired if answers.sent_no_reset => CloseReason::ResetReceived,
            Timer::NotExpired => CloseReason::Reset,
            _ if !info.could_expire() => CloseReason::Reset,
            Timer::Expired => CloseReason::Timeout,
            Timer::Unknown if silent => CloseReason::Timeout,
            Timer::Unknown => CloseReason::Unknown,
        }
    }

    /// Whether the peer's FIN is among the bytes received, and whether that is certain.
    fn peers_fin(
        &self,
        observed: &SocketSnapshot,
        info: &TcpInfo,
        reason: CloseReason,
        (fin_acked, found): (Option<bool>, PostCloseState),
    ) -> (bool, bool) {
        if info.bytes_received == 0 {
            return (false, true);
        }
        if self.last.has_peers_fin() {
            return (true, true);
        }
        match (reason, found) {
            (_, PostCloseState::FinWait2) => (false, true),
            // After an orderly close nothing can be unread but the peer's FIN. With nothing unread, the application read up to
            // it (it closed its direction first and waited), or it came so late that the timewait socket took it.
            (_, PostCloseState::TimeWait) => (true, observed.unread > 0),
            (CloseReason::PeerFin, _) => (true, true),
            // Seen half-closed, and nothing is left: the peer's FIN would have left something.
            (_, PostCloseState::Nothing | PostCloseState::Listener)
                if fin_acked == Some(true) && self.last.has_closed() =>
            {
                (false, true)
            }
            _ => (false, false),
        }
    }

    /// Payload that the peer acknowledged, and whether it is exact.
    fn acked(
        &self,
        role: Role,
        fin_acked: bool,
        observed: &SocketSnapshot,
        info: &TcpInfo,
    ) -> (u64, bool) {
        let fin = u64::from(fin_acked);
        let in_flight = observed.unacknowledged.saturating_sub(info.notsent);
        match role {
            Role::Client => (info.bytes_acked.saturating_sub(1 + fin), true),
            Role::Server => (info.bytes_acked.saturating_sub(fin), true),
            Role::Unknown if in_flight == 0 => (info.payload_sent(), true),
            Role::Unknown => (info.bytes_acked.saturating_sub(1 + fin), false),
        }
    }

    fn retransmits(&self, info: &TcpInfo) -> Retransmits {
        Retransmits {
            syn: self.syn_retransmits,
            unknown: u64::from(info.total_retrans).saturating_sub(self.syn_retransmits),
            ..Retransmits::default()
        }
    }
}

/// Whether a connection that left nothing most likely closed behind the peer's FIN: its last byte is then that FIN. No reason follows from
/// it, as a RST may have come so soon.
fn closed_second(info: &TcpInfo, role: Role, answers: &Answers) -> bool {
    answers.sent_no_recent_reset
        && answers.timewait_had_room
        && info.ended_with_an_acknowledgement(role)
}

impl From<&TcpInfo> for SocketFigures {
    fn from(info: &TcpInfo) -> Self {
        Self {
            receive_window_limited_us: info.rwnd_limited_us,
            send_buffer_limited_us: info.sndbuf_limited_us,
            min_rtt_us: (info.min_rtt_us != u32::MAX && info.rtt_us > 0).then_some(info.min_rtt_us),
            delivery_rate: (info.delivery_rate > 0).then_some(info.delivery_rate),
            exact: true,
        }
    }
}

#[cfg(test)]
mod tests;
