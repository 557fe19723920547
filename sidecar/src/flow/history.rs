//! What looks at one socket told so far, and what follows from them when it ends. Pure.

use flowcar_shared::record::Role;

use super::{
    Afterlife, End, Failure, Outcome, Retransmits, Sight, SocketFigures, State, TcpInfo, Told,
    Volume,
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
    /// Segments received when the RTT was last taken: without new ones it is the old value.
    segments_at_rtt: u32,
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

    /// Counts as of a look at the socket while it lives. Exact: which FINs are counted follows from the state.
    pub fn see(&mut self, sight: &Sight, info: &TcpInfo) -> Volume {
        let state = sight.state_of_counts();
        self.last = state;
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
    pub fn end(&self, told: &Told, info: &TcpInfo) -> Ending {
        let sight = &told.sight;
        let found = match self.afterlife {
            Afterlife::NotLooked => told.found,
            earlier => earlier,
        };
        let (role, fin_sent) = self.syn_and_fin(sight, info, found);
        let fin_acked = fin_sent.map(|sent| sent && sight.unacknowledged == 0);
        let end = self.how(sight, info, fin_acked, found);
        let (peers_fin, received_exact) = match told.peers_payload {
            Some(payload) if info.bytes_received == payload => (false, true),
            Some(payload) if info.bytes_received == payload + 1 => (true, true),
            _ => self.peers_fin(sight, info, end, found),
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

    fn how(&self, sight: &Sight, info: &TcpInfo, fin_acked: Option<bool>, found: Afterlife) -> End {
        match (fin_acked, found) {
            (_, Afterlife::TimeWait | Afterlife::FinWait2) => End::LocalFin,
            (Some(true), _) if matches!(self.last, State::CloseWait | State::LastAck) => {
                End::PeerFin
            }
            // Half-closed when last seen, and no trace: it may have been reset since.
            (Some(true), _) if self.last.has_closed() => End::Unknown,
            (Some(true), Afterlife::Nothing | Afterlife::Listener) => End::PeerFin,
            (Some(true), Afterlife::NotLooked) => End::Unknown,
            (None, _) if sight.unacknowledged == 0 => End::Unknown,
            // Its timers had run when it ended: the kernel may have given up, or a RST come in the meantime.
            _ if info.retransmits > 0 || info.probes > 0 => End::Unknown,
            _ => End::Reset,
        }
    }

    /// Whether the peer's FIN is among the bytes received, and whether that is certain.
    fn peers_fin(&self, sight: &Sight, info: &TcpInfo, end: End, found: Afterlife) -> (bool, bool) {
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
