//! A flow for unit tests.

use super::{CloseReason, Flow, Monotonic, Origin, Outcome, Role, RttKind, TraceIdentity, Volume};
use crate::histogram::Histogram;

/// A client's connection without payload, closed by its FIN; its server's initial sequence number is 7.
pub(crate) fn closed(client_isn: u32) -> Flow {
    Flow {
        cookie: client_isn.into(),
        role: Role::Client,
        local: ([10, 0, 0, 1], 41_000).into(),
        peer: ([10, 0, 0, 2], 8080).into(),
        trace: TraceIdentity::of_handshake(client_isn, 7, Role::Client),
        started: Monotonic(0),
        established: Some(Monotonic(1_000)),
        seen: Monotonic(2_000),
        volume: Volume::default(),
        rtt: Histogram::default(),
        rtt_kind: RttKind::Measured,
        exchanges: Histogram::default(),
        asked: None,
        name: None,
        origin: Origin::default(),
        start_seen: true,
        polled: false,
        adopted: None,
        socket: None,
        outcome: Some(Outcome::Closed(CloseReason::LocalFin)),
        reset_after_fin: false,
        series: None,
    }
}
