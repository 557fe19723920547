//! What holds connections back, as a word. Pure.

use super::delta::Delta;
use crate::{flow::Role, view::peers::PeerRow};

/// The share of sent segments that were sent again from which loss is what holds back.
const LOSS: f64 = 0.01;

/// The share of the time with something to send from which a full window or buffer is what holds back.
const LIMITED: f64 = 0.1;

/// An exchange that takes so many round trips is the peer's time, not the network's.
const THINKING: f64 = 2.0;

/// Less than this is no wait for an answer that a person has to look at.
const THINKING_LEAST_S: f64 = 0.001;

/// What holds connections back most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum HeldBack {
    /// Nothing that flowcar sees.
    #[default]
    Nothing,
    /// The peer takes long to answer.
    ThinkTime,
    /// This end takes long to answer: it is the server.
    OwnThinkTime,
    /// The send buffer of this end is full.
    SendBuffer,
    /// The peer's receive window is full: the peer's application does not read.
    ReceiveWindow,
    /// Segments are sent again.
    Loss,
    /// Connections are reset, or time out.
    CutOff,
    /// Attempts fail, or their first segments are sent again.
    Handshake,
}

impl HeldBack {
    /// Of a peer's connections.
    pub(super) fn of_peer(recent: &Delta, total: &PeerRow) -> Self {
        if recent.failed > 0 || recent.handshake_retransmits > 0 {
            return Self::Handshake;
        }
        if recent.cut_off > 0 {
            return Self::CutOff;
        }
        // How long each connection had something to send is not known: the connections' time stands for it.
        let connections = (total.live.max(1)) as f64 * recent.seconds;
        let by_transport = Self::of_transport(
            recent.segments_sent,
            recent.data_retransmits,
            recent.receive_window_limited_us,
            recent.send_buffer_limited_us,
            connections,
        );
        if by_transport != Self::Nothing {
            return by_transport;
        }
        let rtt = recent.rtt.quantile_s(0.5).unwrap_or(0.0);
        let exchange = recent.exchange.quantile_s(0.5).unwrap_or(0.0);
        // On a server's end an exchange is its own time; a client's includes the round trip.
        match total.role() {
            Role::Server if exchange > THINKING_LEAST_S.max(rtt) => Self::OwnThinkTime,
            Role::Client if exchange - rtt > THINKING_LEAST_S && exchange > THINKING * rtt => {
                Self::ThinkTime
            }
            _ => Self::Nothing,
        }
    }

    /// Of connections, by what was counted in so many seconds of all of them together.
    pub(super) fn of_transport(
        segments: u64,
        retransmits: u64,
        receive_window_limited_us: u64,
        send_buffer_limited_us: u64,
        seconds: f64,
    ) -> Self {
        let share = |us: u64| us as f64 / 1e6 / seconds.max(1e-9);
        let window = share(receive_window_limited_us);
        let buffer = share(send_buffer_limited_us);
        if retransmits > 0 && retransmits as f64 >= LOSS * segments as f64 {
            Self::Loss
        } else if window >= LIMITED && window >= buffer {
            Self::ReceiveWindow
        } else if buffer >= LIMITED {
            Self::SendBuffer
        } else {
            Self::Nothing
        }
    }

    /// The word, at most eleven characters.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Nothing => "-",
            Self::ThinkTime => "peer thinks",
            Self::OwnThinkTime => "own time",
            Self::SendBuffer => "send buffer",
            Self::ReceiveWindow => "peer window",
            Self::Loss => "loss",
            Self::CutOff => "cut off",
            Self::Handshake => "handshake",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        histogram::Histogram,
        snapshot::{Peer, Series, SeriesKey},
    };

    /// Two connections of this role.
    fn total(role: Role) -> PeerRow {
        let key = SeriesKey::Flows {
            container: None,
            role,
            peer: Peer::Unnamed,
            server_port: None,
        };
        let series = Series {
            live: 2,
            ..Series::default()
        };
        PeerRow::of(&key, &series)
    }

    fn one(ns: u64) -> Histogram {
        let mut histogram = Histogram::default();
        histogram.record(ns);
        histogram
    }

    fn ten_seconds() -> Delta {
        Delta {
            seconds: 10.0,
            segments_sent: 1_000,
            ..Delta::default()
        }
    }

    #[test]
    fn transport_and_handshakes_hold_back() {
        let of = |delta: Delta| HeldBack::of_peer(&delta, &total(Role::Client));
        assert_eq!(of(ten_seconds()), HeldBack::Nothing);
        type Change = fn(&mut Delta);
        let rows: [(Change, HeldBack); 9] = [
            (|delta| delta.failed = 1, HeldBack::Handshake),
            (|delta| delta.handshake_retransmits = 1, HeldBack::Handshake),
            (|delta| delta.cut_off = 1, HeldBack::CutOff),
            // One of a hundred.
            (|delta| delta.data_retransmits = 9, HeldBack::Nothing),
            (|delta| delta.data_retransmits = 10, HeldBack::Loss),
            // A tenth of twice ten seconds is two.
            (
                |delta| delta.receive_window_limited_us = 1_900_000,
                HeldBack::Nothing,
            ),
            (
                |delta| delta.receive_window_limited_us = 2_100_000,
                HeldBack::ReceiveWindow,
            ),
            (
                |delta| delta.send_buffer_limited_us = 2_100_000,
                HeldBack::SendBuffer,
            ),
            (
                |delta| {
                    delta.receive_window_limited_us = 2_100_000;
                    delta.send_buffer_limited_us = 5_000_000;
                },
                HeldBack::SendBuffer,
            ),
        ];
        for (number, (change, expected)) in rows.into_iter().enumerate() {
            let mut delta = ten_seconds();
            change(&mut delta);
            assert_eq!(of(delta), expected, "{number}");
        }
    }

    #[test]
    fn long_exchanges_hold_back_beyond_the_round_trip() {
        let ms = 1_000_000;
        for (role, exchange_ns, rtt_ns, expected) in [
            (Role::Client, 50 * ms, ms, HeldBack::ThinkTime),
            (Role::Client, 50 * ms, 45 * ms, HeldBack::Nothing),
            (Role::Client, ms / 2, ms / 20, HeldBack::Nothing),
            (Role::Server, 50 * ms, ms, HeldBack::OwnThinkTime),
            (Role::Server, ms / 2, ms / 20, HeldBack::Nothing),
            (Role::Unknown, 50 * ms, ms, HeldBack::Nothing),
        ] {
            let delta = Delta {
                exchange: one(exchange_ns),
                rtt: one(rtt_ns),
                ..ten_seconds()
            };
            let found = HeldBack::of_peer(&delta, &total(role));
            assert_eq!(found, expected, "{role:?} {exchange_ns} {rtt_ns}");
        }
    }
}
