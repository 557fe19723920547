//! One socket's state at one time, as inet_diag reports it, and what follows from it. Pure.
//!
//! The kernel counts sequence numbers, applications count bytes; the SYN and the FINs lie between them. From
//! `tcp_info` alone, with nothing but arithmetic (net/ipv4/tcp.c, tcp_get_info; tcp_input.c, tcp_snd_una_update;
//! tcp_output.c, __tcp_transmit_skb and __tcp_retransmit_skb):
//!
//! - `bytes_sent - bytes_retrans` is the payload that was ever sent, without SYN and FIN;
//! - `bytes_acked` is how far the peer acknowledged: payload, the SYN of the **active** side only (the passive side
//!   begins to count behind its SYN-ACK), and our FIN once it is acknowledged;
//! - `idiag_wqueue - tcpi_notsent_bytes` is what is in flight, a FIN included.
//!
//! So `bytes_acked + in flight - payload sent` ([`SocketSnapshot::excess`]) is the number of our SYN and FIN: in the states
//! before our FIN, 1 for a client and 0 for a server. The role is derived, not guessed.

use std::net::SocketAddr;

use flowcar_shared::record::Role;

/// A socket's state (include/net/tcp_states.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "RFC 9293 is their documentation")]
#[repr(u8)]
pub enum State {
    Established = 1,
    SynSent = 2,
    SynReceived = 3,
    FinWait1 = 4,
    FinWait2 = 5,
    TimeWait = 6,
    Closed = 7,
    CloseWait = 8,
    LastAck = 9,
    Listen = 10,
    Closing = 11,
}

/// The part of `struct tcp_info` that is used (include/uapi/linux/tcp.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpInfo {
    /// `tcpi_state`: unlike `idiag_state` read together with the counts.
    pub state: u8,
    /// `tcpi_retransmits`: expiries of the retransmission timer in a row.
    pub retransmits: u8,
    /// `tcpi_probes`: probes of the window or of the peer's life without an answer.
    pub probes: u8,
    /// `tcpi_last_data_sent`: since payload was sent last, or since the socket was made, milliseconds, in steps of the kernel's tick.
    pub last_data_sent_ms: u32,
    /// `tcpi_last_data_recv`: since payload came last, milliseconds, in steps of the kernel's tick.
    pub last_data_recv_ms: u32,
    /// `tcpi_last_ack_recv`: since an acknowledgement came last, milliseconds.
    pub last_ack_recv_ms: u32,
    /// `tcpi_rtt`: smoothed RTT, microseconds.
    pub rtt_us: u32,
    /// `tcpi_total_retrans`: segments sent again.
    pub total_retrans: u32,
    /// `tcpi_bytes_acked`
    pub bytes_acked: u64,
    /// `tcpi_bytes_received`: payload received in order, and the peer's FIN.
    pub bytes_received: u64,
    /// `tcpi_segs_out`
    pub segs_out: u32,
    /// `tcpi_segs_in`
    pub segs_in: u32,
    /// `tcpi_notsent_bytes`
    pub notsent: u32,
    /// `tcpi_min_rtt`, microseconds; `u32::MAX` while there is none.
    pub min_rtt_us: u32,
    /// `tcpi_data_segs_in`: segments with payload; a FIN on its own is none.
    pub data_segs_in: u32,
    /// `tcpi_data_segs_out`
    pub data_segs_out: u32,
    /// `tcpi_delivery_rate`, bytes a second; 0 while there is none.
    pub delivery_rate: u64,
    /// `tcpi_rwnd_limited`: time held back by the peer's window, microseconds.
    pub rwnd_limited_us: u64,
    /// `tcpi_sndbuf_limited`: time held back by the send buffer, microseconds.
    pub sndbuf_limited_us: u64,
    /// `tcpi_delivered`: packets that reached the peer, SYN or SYN-ACK and FIN included.
    pub delivered: u32,
    /// `tcpi_bytes_sent`: payload sent, retransmissions included.
    pub bytes_sent: u64,
    /// `tcpi_bytes_retrans`: payload sent again.
    pub bytes_retrans: u64,
}

/// One socket's state at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketSnapshot {
    /// The socket's cookie, the same number as `bpf_get_socket_cookie`.
    pub cookie: u64,
    /// This end. IPv4-mapped addresses are given as IPv4.
    pub local: SocketAddr,
    /// The other end; all zero where the socket is disconnected.
    pub peer: SocketAddr,
    /// `idiag_if`: the interface that a link-local address belongs to; else 0.
    pub interface: u32,
    /// The state; [`State::Closed`] in a destroy event.
    pub state: State,
    /// `idiag_rqueue`: sequence numbers received and not read, the peer's FIN included.
    pub unread: u32,
    /// `idiag_wqueue`: sequence numbers written and not acknowledged, our FIN included.
    pub unacknowledged: u32,
    /// The id of its cgroup, which a destroy event does not have.
    pub cgroup: Option<u64>,
    /// The counts; none of a connection request that is not yet a socket.
    pub info: Option<TcpInfo>,
    /// Segments that it dropped so far, modulo 2^32 (`SK_MEMINFO_DROPS`); requested of listeners alone.
    pub drops: Option<u32>,
}

/// What names a connection's socket, now and after its close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketName {
    /// [`SocketSnapshot::cookie`]
    pub cookie: u64,
    /// [`SocketSnapshot::local`]
    pub local: SocketAddr,
    /// [`SocketSnapshot::peer`]
    pub peer: SocketAddr,
    /// [`SocketSnapshot::interface`]
    pub interface: u32,
}

/// The state found under a socket's addresses after its close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostCloseState {
    /// Not queried.
    NotPolled,
    /// Nothing.
    Nothing,
    /// The socket's timewait socket in TIME_WAIT: our FIN was sent first.
    TimeWait,
    /// The socket's timewait socket in FIN_WAIT2: our FIN was sent first, and the peer's has not come.
    FinWait2,
    /// A listener: the connection came from it.
    Listener,
}

impl State {
    /// The state with this number.
    pub const fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            1 => Self::Established,
            2 => Self::SynSent,
            // 12 is a request that is not yet a socket (TCP_NEW_SYN_RECV).
            3 | 12 => Self::SynReceived,
            4 => Self::FinWait1,
            5 => Self::FinWait2,
            6 => Self::TimeWait,
            7 => Self::Closed,
            8 => Self::CloseWait,
            9 => Self::LastAck,
            10 => Self::Listen,
            11 => Self::Closing,
            _ => return None,
        })
    }

    /// Whether the handshake is over and the connection not.
    pub const fn is_connected(self) -> bool {
        matches!(
            self,
            Self::Established
                | Self::FinWait1
                | Self::FinWait2
                | Self::CloseWait
                | Self::LastAck
                | Self::Closing
        )
    }

    /// Whether a FIN was received in order, and so counted, in a socket of this state.
    pub const fn has_peers_fin(self) -> bool {
        matches!(self, Self::CloseWait | Self::LastAck | Self::Closing)
    }

    /// Whether this end closed, or is closing, its direction.
    pub const fn has_closed(self) -> bool {
        matches!(
            self,
            Self::FinWait1 | Self::FinWait2 | Self::Closing | Self::LastAck
        )
    }
}

impl TcpInfo {
    /// Payload ever sent.
    pub const fn payload_sent(&self) -> u64 {
        self.bytes_sent.saturating_sub(self.bytes_retrans)
    }

    /// Whether the handshake was ever completed: the SYN, or the SYN-ACK, reached the peer.
    pub const fn was_established(&self) -> bool {
        self.bytes_acked > 0 || self.delivered > 0 || self.bytes_received > 0
    }

    /// Whether a timer has sent something that was not answered: data again, or a probe.
    pub const fn has_unanswered(&self) -> bool {
        self.retransmits > 0 || self.probes > 0
    }

    /// Whether a timer may have aborted it: only one that has sent something, or waits to send, does.
    pub const fn could_expire(&self) -> bool {
        self.has_unanswered() || self.notsent > 0
    }

    /// Whether the socket closed on an acknowledgement, as one does that its application closed and that waited for the acknowledgement of
    /// its FIN. One that is reset closes when its application closes it, or right after the payload that came last, which carries an
    /// acknowledgement, too. A server that sent its last payload no earlier than it received its client's is taken for one whose client
    /// closes first: a short connection takes no jiffy.
    pub fn ended_with_an_acknowledgement(&self, role: Role) -> bool {
        // A few jiffies: the kernel makes the destroy event later (net/core/sock_diag.c, a work queue).
        const AT_ONCE_MS: u32 = 10;
        let has_answered = role == Role::Server && self.last_data_sent_ms <= self.last_data_recv_ms;
        let is_later = self.last_ack_recv_ms < self.last_data_recv_ms;
        self.last_ack_recv_ms < AT_ONCE_MS && (is_later || has_answered)
    }

    /// Whether the application held the socket long after the acknowledgement that came last, which was that of its FIN: a socket that
    /// its application has closed is gone with that acknowledgement.
    pub const fn was_held_after_its_fin(&self) -> bool {
        // Longer than the kernel takes, on a busy machine, to make the destroy event.
        const HELD_MS: u32 = 1_000;
        self.last_ack_recv_ms >= HELD_MS
    }

    /// Whether a FIN on its own reached the peer: a packet delivered that is neither SYN nor data. Known only where nothing
    /// was sent twice; a FIN that was sent with data cannot be distinguished from none. The kernel's counts wrap.
    pub const fn delivered_bare_fin(&self) -> bool {
        self.total_retrans == 0 && self.delivered == self.data_segs_out.wrapping_add(2)
    }
}

impl SocketSnapshot {
    /// What names the socket.
    pub const fn name(&self) -> SocketName {
        SocketName {
            cookie: self.cookie,
            local: self.local,
            peer: self.peer,
            interface: self.interface,
        }
    }

    /// The state that the counts belong to.
    pub fn state_of_counts(&self) -> State {
        let state = self.info.and_then(|info| State::from_u8(info.state));
        state.unwrap_or(self.state)
    }

    /// How many of our SYN and our FIN were sent; `None` where the figures contradict each other: they are not read
    /// under one lock.
    pub fn excess(&self) -> Option<u8> {
        let info = self.info?;
        let in_flight = self.unacknowledged.saturating_sub(info.notsent);
        let reached = info.bytes_acked + u64::from(in_flight);
        match reached.checked_sub(info.payload_sent())? {
            excess @ 0..=2 => Some(excess as u8),
            _ => None,
        }
    }

    /// The role of an open connection.
    pub fn role(&self) -> Role {
        let state = self.state_of_counts();
        if state == State::SynSent {
            return Role::Client;
        }
        let Some(info) = &self.info else {
            return Role::Unknown;
        };
        // The kernel reads what is unacknowledged, then the state, and then waits for the socket's lock to read the rest
        // (net/ipv4/tcp_diag.c, tcp_diag_get_info; net/ipv4/tcp.c, tcp_get_info). A FIN that was acknowledged meanwhile may
        // be in neither of the first two, or in all three. Nothing comes after a FIN, so that the last alone decide.
        if info.delivered_bare_fin() {
            return match info.bytes_acked.checked_sub(info.payload_sent()) {
                Some(1) => Role::Server,
                Some(2) => Role::Client,
                _ => Role::Unknown,
            };
        }
        // A FIN that waits behind unsent data is not sent.
        let fin = state.has_closed() && info.notsent == 0;
        // Where something was sent twice, a FIN in flight cannot be distinguished from one that was acknowledged meanwhile.
        if fin && self.unacknowledged == 1 && info.total_retrans > 0 {
            return Role::Unknown;
        }
        match self
            .excess()
            .and_then(|excess| excess.checked_sub(fin.into()))
        {
            Some(1) if state.is_connected() => Role::Client,
            Some(0) if state.is_connected() => Role::Server,
            _ => Role::Unknown,
        }
    }

    /// Whether the socket was disconnected (`SO_LINGER` of 0 or a blocking `connect` that failed: net/ipv4/tcp.c,
    /// tcp_disconnect), which erases the peer's address and every count before the destroy event.
    pub fn is_disconnected(&self) -> bool {
        // The write sequence was moved on by 2 and by the largest window that the peer ever offered.
        self.peer.port() == 0 && self.unacknowledged > 2
    }

    /// Whether a disconnected socket was never established: its SYN is unacknowledged and the peer offered no window.
    pub const fn disconnected_attempt(&self) -> bool {
        self.unacknowledged == 3
    }
}
