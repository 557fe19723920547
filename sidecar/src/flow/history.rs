//! What looks at one socket told so far, and what follows from them when it ends. Pure.

use flowcar_shared::record::Role;

use super::{
    Afterlife, Answers, End, Failure, Outcome, Retransmits, Sight, SocketFigures, State, TcpInfo,
    Timer, Told, Volume,
};

/// What is remembered of a socket from look to look.
#[derive(Clone, Copy, Debug)]
pub struct History {
    interface: u32,
    /// As told by the first look that could tell. It names the flow's series and so never changes.
    role: Role,
    last: State,
    afterlife: Afterlife,
    syn_retransmits: u64,
    /// Segments that had come by the last look, and whether a timer had sent something that was not answered.
    polled: Option<(u32, bool)>,
    /// Segments received when the RTT was last taken: without new ones it is the old value.
    segments_at_rtt: u32,
}

/// Whether a connection was closed in order.
enum Orderly {
    /// So, and this end or the peer went first.
    Yes(End),
    No,
    Unknown,
}

/// How a connection, or the attempt at one, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Which end of the handshake this was.
    pub role: Role,
    /// How it ended.
    pub outcome: Outcome,
    /// Its counts.
    pub volume: Volume,
    /// Whether the payload counts are exact.
    pub exact: bool,
    /// Whether a RST ended it after the peer had closed its direction.
    pub reset_after_fin: bool,
}

impl History {
    /// The history that begins with this look.
    pub fn new(sight: &Sight) -> Self {
        Self {
            interface: sight.interface,
            role: sight.role(),
            last: sight.state_of_counts(),
            afterlife: Afterlife::NotLooked,
            syn_retransmits: 0,
            polled: None,
            segments_at_rtt: 0,
        }
    }

    /// No look before the end.
    pub const fn none() -> Self {
        Self {
            interface: 0,
            role: Role::Unknown,
            last: State::Closed,
            afterlife: Afterlife::NotLooked,
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

    /// Keeps what was found under the addresses of a socket that dumps no longer show: closed, and still held by its
    /// application.
    pub const fn unlisted(&mut self, found: Afterlife) {
        self.afterlife = found;
    }

    /// What was found under its addresses.
    pub const fn remains(&self) -> Afterlife {
        self.afterlife
    }

    /// The end of a connection that is over while its application still holds the socket: there are no last counts.
    pub const fn end_while_held(&self) -> End {
        match (self.afterlife, self.last) {
            (Afterlife::TimeWait | Afterlife::FinWait2, _) => End::LocalFin,
            (_, State::CloseWait | State::LastAck) => End::PeerFin,
            _ => End::Unknown,
        }
    }

    /// Counts as of a look at the socket while it lives. Exact: which FINs are counted follows from the state.
    pub fn see(&mut self, sight: &Sight, info: &TcpInfo) -> Volume {
        let state = sight.state_of_counts();
        self.last = state;
        self.polled = Some((info.segs_in, info.has_unanswered()));
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
            bytes_sent: self.acked(self.role, fin_acked, sight, info).0,
            bytes_received: info.bytes_received
                - u64::from(state.has_peers_fin() && info.bytes_received > 0),
            segments_sent: info.segs_out.into(),
            segments_received: info.segs_in.into(),
            retransmits: self.retransmits(info),
        }
    }

    /// The smoothed RTT in nanoseconds, if segments came in since it was last taken.
    pub fn take_rtt(&mut self, info: &TcpInfo) -> Option<u64> {
        let news = info.rtt_us > 0 && info.segs_in != self.segments_at_rtt;
        self.segments_at_rtt = info.segs_in;
        news.then(|| u64::from(info.rtt_us) * 1000)
    }

    /// Whether the end of this socket leaves open what only a look under its addresses can tell.
    pub fn needs_a_look(&self, sight: &Sight) -> bool {
        let reset = matches!(
            (self.role, sight.excess()),
            (Role::Client, Some(1)) | (Role::Server, Some(0))
        );
        let peer_first = matches!(self.last, State::CloseWait | State::LastAck);
        let established = sight.info.is_some_and(|info| info.was_established());
        established && !reset && !(peer_first && self.role != Role::Unknown)
    }

    /// The end, from the last counts of an established connection and what else is known of it.
    pub fn end(&self, told: &Told, info: &TcpInfo, answers: &Answers) -> Ending {
        let sight = &told.sight;
        let found = match self.afterlife {
            Afterlife::NotLooked => told.found,
            earlier => earlier,
        };
        let (role, fin_sent) = self.syn_and_fin(sight, info, found);
        let fin_acked = fin_sent.map(|sent| sent && sight.unacknowledged == 0);
        // Whether the peer's FIN came, by the other end's own count.
        let by_peer = told.peers_payload.and_then(|payload| {
            let more = info.bytes_received.checked_sub(payload)?;
            (more <= 1).then_some(more == 1)
        });
        let end = match self.orderly(role, info, (fin_acked, found), by_peer) {
            Orderly::Yes(end) => end,
            Orderly::No => match self.cut_off(sight, info, answers) {
                // What a RST does after the peer's FIN is no failure.
                End::Reset | End::ResetReceived if self.peer_closed_first() => End::PeerFin,
                end => end,
            },
            Orderly::Unknown => End::Unknown,
        };
        let (peers_fin, received_exact) = match by_peer {
            Some(came) => (came, true),
            None => self.peers_fin(sight, info, end, (fin_acked, found)),
        };
        let (bytes_sent, sent_exact) = self.acked(role, fin_acked == Some(true), sight, info);
        Ending {
            role,
            outcome: Outcome::Closed(end),
            volume: Volume {
                bytes_sent,
                bytes_received: info.bytes_received.saturating_sub(peers_fin.into()),
                segments_sent: info.segs_out.into(),
                segments_received: info.segs_in.into(),
                retransmits: self.retransmits(info),
            },
            exact: received_exact && sent_exact,
            reset_after_fin: end == End::PeerFin && fin_acked != Some(true),
        }
    }

    /// The end of an attempt that was never established. In SYN_SENT the only segment that ends it is a RST.
    pub fn fail(&self, info: &TcpInfo) -> Ending {
        let failure = if info.segs_in > 0 {
            Failure::Refused
        } else {
            Failure::Other
        };
        Ending {
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

    /// The role, and whether our FIN was sent where that can be told.
    fn syn_and_fin(&self, sight: &Sight, info: &TcpInfo, found: Afterlife) -> (Role, Option<bool>) {
        let excess = sight.excess();
        let served = matches!(
            found,
            Afterlife::TimeWait | Afterlife::FinWait2 | Afterlife::Listener
        ) || (sight.unacknowledged == 0 && info.delivered_bare_fin());
        match (self.role, excess) {
            (Role::Client, Some(excess @ 1..=2)) => (Role::Client, Some(excess == 2)),
            (Role::Server, Some(excess @ 0..=1)) => (Role::Server, Some(excess == 1)),
            (Role::Unknown, Some(0)) => (Role::Server, Some(false)),
            (Role::Unknown, Some(2)) => (Role::Client, Some(true)),
            // A SYN or a FIN: where our FIN was seen to be sent, it is that.
            (Role::Unknown, Some(1)) if served => (Role::Server, Some(true)),
            (role, _) => (role, None),
        }
    }

    /// Whether the peer had closed its direction first when the socket was last seen.
    const fn peer_closed_first(&self) -> bool {
        matches!(self.last, State::CloseWait | State::LastAck)
    }

    /// Whether both FINs were exchanged, as far as is known. `by_peer`: whether the peer's FIN came, by its own count.
    fn orderly(
        &self,
        role: Role,
        info: &TcpInfo,
        (fin_acked, found): (Option<bool>, Afterlife),
        by_peer: Option<bool>,
    ) -> Orderly {
        match (fin_acked, found) {
            (_, Afterlife::TimeWait | Afterlife::FinWait2) => Orderly::Yes(End::LocalFin),
            (Some(true), _) if self.peer_closed_first() => Orderly::Yes(End::PeerFin),
            (Some(true), Afterlife::NotLooked) | (None, _) => Orderly::Unknown,
            (Some(false), _) => Orderly::No,
            // Its FIN was acknowledged, and nothing is left: the peer's came first, or this one was cut off half-closed.
            (Some(true), Afterlife::Nothing | Afterlife::Listener) => match by_peer {
                Some(false) => Orderly::No,
                _ if self.last.has_closed() => Orderly::No,
                Some(true) => Orderly::Yes(End::PeerFin),
                // A server that closes its own direction first and is cut off between two looks is the exception.
                None if info.bytes_received > 0
                    && (role == Role::Server || info.ended_with_an_acknowledgement()) =>
                {
                    Orderly::Yes(End::PeerFin)
                }
                None => Orderly::Unknown,
            },
        }
    }

    /// Why it ended, where that was not in order.
    fn cut_off(&self, sight: &Sight, info: &TcpInfo, answers: &Answers) -> End {
        // With something unread, its application's own close may be what cut it off.
        let silent = self.polled == Some((info.segs_in, true)) && sight.unread == 0;
        match answers.timer {
            Timer::NotExpired if answers.sent_no_reset => End::ResetReceived,
            Timer::NotExpired => End::Reset,
            _ if !info.could_expire() => End::Reset,
            Timer::Expired => End::Timeout,
            Timer::Unknown if silent => End::Timeout,
            Timer::Unknown => End::Unknown,
        }
    }

    /// Whether the peer's FIN is among the bytes received, and whether that is certain.
    fn peers_fin(
        &self,
        sight: &Sight,
        info: &TcpInfo,
        end: End,
        (fin_acked, found): (Option<bool>, Afterlife),
    ) -> (bool, bool) {
        if info.bytes_received == 0 {
            return (false, true);
        }
        if self.last.has_peers_fin() {
            return (true, true);
        }
        match (end, found) {
            (_, Afterlife::FinWait2) => (false, true),
            // After an orderly close nothing can be unread but the peer's FIN. With nothing unread, the application read up to
            // it (it closed its direction first and waited), or it came so late that the remains took it.
            (_, Afterlife::TimeWait) => (true, sight.unread > 0),
            (End::PeerFin, _) => (true, true),
            // Seen half-closed, and nothing is left: the peer's FIN would have left something.
            (_, Afterlife::Nothing | Afterlife::Listener)
                if fin_acked == Some(true) && self.last.has_closed() =>
            {
                (false, true)
            }
            _ => (false, false),
        }
    }

    /// Payload that the peer acknowledged, and whether it is exact.
    fn acked(&self, role: Role, fin_acked: bool, sight: &Sight, info: &TcpInfo) -> (u64, bool) {
        let fin = u64::from(fin_acked);
        let in_flight = sight.unacknowledged.saturating_sub(info.notsent);
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
