//! What the link itself wrote down, which is what flowcar's figures stand against on the screen.

use std::{collections::HashMap, time::Duration};

use flowcar_lab::link::{Direction, Fate, TcpSummary, Trace, percentile};

/// The link's own figures.
#[derive(Debug)]
pub(crate) struct Truth {
    /// Packets in all.
    pub(crate) packets: usize,
    /// Of them, those that it dropped.
    pub(crate) dropped: usize,
    /// From the first SYN to the SYN-ACK, median.
    pub(crate) handshake: Duration,
    /// Of what the client's pod sent.
    pub(crate) requests: Way,
    /// Of what the server's pod sent.
    pub(crate) responses: Way,
}

/// One direction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    /// Median round trip of payload sent this way.
    pub(crate) rtt: Duration,
    /// Segments that must arrive (payload, SYN or FIN), and that the link dropped.
    pub(crate) dropped: usize,
    /// Segments that carried only what had been sent before.
    pub(crate) again: usize,
}

// === impl Truth ===

impl Truth {
    /// Of everything that passed; round trips and handshakes of the server's port.
    pub(crate) fn of(trace: &Trace, port: u16) -> Self {
        let served = trace.of_port(port);
        let way = |direction| Way {
            rtt: percentile(&served.round_trips(direction), 0.5),
            dropped: trace.dropped(direction, must_arrive),
            again: again(trace, direction),
        };
        Self {
            packets: trace.records.len(),
            dropped: trace.fates(Fate::Dropped),
            handshake: percentile(&served.handshakes(Direction::AtoB), 0.5),
            requests: way(Direction::AtoB),
            responses: way(Direction::BtoA),
        }
    }
}

fn must_arrive(tcp: &TcpSummary) -> bool {
    tcp.payload > 0 || tcp.syn || tcp.fin
}

fn again(trace: &Trace, direction: Direction) -> usize {
    let mut newest = HashMap::new();
    let segments = trace.sent(direction).filter_map(|record| record.tcp);
    segments
        .filter(must_arrive)
        .filter(|tcp| {
            let newest = newest
                .entry((tcp.source, tcp.destination))
                .or_insert(tcp.seq);
            // Sequence numbers compare around the wrap (RFC 9293, 3.4).
            let is_new = tcp.end_seq().wrapping_sub(*newest).cast_signed() > 0;
            if is_new {
                *newest = tcp.end_seq();
            }
            !is_new
        })
        .count()
}
