//! What holds connections back, as a word. Pure.

use super::delta::Delta;
use crate::view::peers::PeerRow;

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
    /// Attempts fail, or their first segments are sent again.
    Handshake,
}

impl HeldBack {
    /// Of a peer's connections.
    pub(super) fn of_peer(recent: &Delta, total: &PeerRow) -> Self {
        let retransmitted = |kinds: &[&str]| -> u64 {
            let counts = kinds
                .iter()
                .filter_map(|kind| recent.retransmits.get(*kind));
            counts.sum()
        };
        let handshakes = retransmitted(&["syn", "synack"]);
        let lost = retransmitted(&["fast", "timeout", "tail_loss_probe", "unknown"]);
        // Time with something to send is not known: the connections' time stands for it.
        let connections = (total.live.max(1)) as f64 * recent.seconds;
        if recent.failed > 0 || handshakes > 0 {
            return Self::Handshake;
        }
        let by_transport = Self::of_transport(
            recent.segments_sent,
            lost,
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
        match total.role.as_str() {
            "server" if exchange > THINKING_LEAST_S.max(rtt) => Self::OwnThinkTime,
            "client" if exchange - rtt > THINKING_LEAST_S && exchange > THINKING * rtt => {
                Self::ThinkTime
            }
            _ => Self::Nothing,
        }
    }

    /// Of one connection, by what was counted in so many seconds.
    pub(super) fn of_connection(
        segments: u64,
        retransmits: u64,
        receive_window_limited_us: u64,
        send_buffer_limited_us: u64,
        seconds: f64,
    ) -> Self {
        Self::of_transport(
            segments,
            retransmits,
            receive_window_limited_us,
            send_buffer_limited_us,
            seconds,
        )
    }

    fn of_transport(
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
            Self::Handshake => "handshake",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        histogram::Histogram,
        snapshot::{Peer, Series, SeriesKey},
    };

    fn buckets(ns: u64) -> crate::view::peers::Buckets {
        let mut series = Series::default();
        let mut histogram = Histogram::default();
        histogram.record(ns);
        series.exchange = histogram;
        let key = SeriesKey::Flows {
            role: crate::flow::Role::Client,
            peer: Peer::Unnamed,
            server_port: None,
        };
        PeerRow::of(&key, &series).exchange
    }

    #[test]
    fn each_cause_has_its_word() {
        let client = PeerRow {
            role: "client".to_owned(),
            live: 2,
            ..PeerRow::default()
        };
        let ten_seconds = || Delta {
            seconds: 10.0,
            segments_sent: 1_000,
            ..Delta::default()
        };
        let again = |kind: &str, count| BTreeMap::from([(kind.to_owned(), count)]);
        let of = |delta: Delta| HeldBack::of_peer(&delta, &client);
        assert_eq!(of(ten_seconds()), HeldBack::Nothing);
        assert_eq!(
            of(Delta {
                failed: 1,
                ..ten_seconds()
            }),
            HeldBack::Handshake
        );
        assert_eq!(
            of(Delta {
                retransmits: again("syn", 1),
                ..ten_seconds()
            }),
            HeldBack::Handshake
        );
        assert_eq!(
            of(Delta {
                retransmits: again("fast", 9),
                ..ten_seconds()
            }),
            HeldBack::Nothing
        );
        assert_eq!(
            of(Delta {
                retransmits: again("fast", 10),
                ..ten_seconds()
            }),
            HeldBack::Loss
        );
        // Two connections of ten seconds: a tenth is two seconds.
        let window = |us| Delta {
            receive_window_limited_us: us,
            ..ten_seconds()
        };
        assert_eq!(of(window(1_900_000)), HeldBack::Nothing);
        assert_eq!(of(window(2_100_000)), HeldBack::ReceiveWindow);
        let buffer = Delta {
            send_buffer_limited_us: 5_000_000,
            ..window(2_100_000)
        };
        assert_eq!(of(buffer), HeldBack::SendBuffer);
        let slow = |exchange, rtt| Delta {
            exchange: buckets(exchange),
            rtt: buckets(rtt),
            ..ten_seconds()
        };
        assert_eq!(of(slow(50_000_000, 1_000_000)), HeldBack::ThinkTime);
        assert_eq!(of(slow(50_000_000, 45_000_000)), HeldBack::Nothing);
        assert_eq!(of(slow(500_000, 50_000)), HeldBack::Nothing);
        let server = PeerRow {
            role: "server".to_owned(),
            ..client.clone()
        };
        assert_eq!(
            HeldBack::of_peer(&slow(50_000_000, 1_000_000), &server),
            HeldBack::OwnThinkTime
        );
    }
}
