//! Records as the kernel programs send them, made by hand.

#[path = "../../../sidecar/tests/common/mod.rs"]
mod common;

pub(crate) use common::{blank, bytes};
use flowcar_shared::record::{FlowRecord, Kind, OPEN_LEN, SHORT_LEN, flag};

/// `TCP_LAST_ACK`: a client that closed behind its server.
const LAST_ACK: u8 = 9;

/// The round trips of a connection that lives, microseconds.
const ROUND_TRIPS: u32 = 200;

/// The open record and the close record of a short connection: one exchange and an orderly close.
pub(crate) struct Short {
    open: FlowRecord,
    close: FlowRecord,
}

impl Short {
    /// Of a client of one of so many servers.
    pub(crate) fn of(cookie: u64, servers: u32) -> Self {
        let mut open = blank(cookie);
        open.peer_addr[3] = (0x0a00_0100 + cookie as u32 % servers).to_be();
        let close = FlowRecord {
            kind: Kind::Close as u8,
            emitted_ns: 9_000_000,
            last_state: LAST_ACK,
            flags: flag::FIN_RECEIVED | flag::FIN_ACKED | flag::PEER_FIN_FIRST | flag::ORDERLY,
            bytes_acked: 102,
            bytes_received: 1_001,
            segs_out: 6,
            segs_in: 5,
            inline_samples_used: 2,
            inline_samples: [120, 180, 0, 0, 0, 0],
            ..open
        };
        // As `OpenRecord` has it: the cgroup and the process of the caller.
        open.bytes_acked = 7;
        open.bytes_received = 42;
        Self { open, close }
    }

    pub(crate) fn open(&self) -> &[u8] {
        &bytes(&self.open)[..OPEN_LEN]
    }

    pub(crate) fn close(&self) -> &[u8] {
        &bytes(&self.close)[..SHORT_LEN]
    }
}

/// The open record of a connection that lives, as the kernel sends it once the connection has socket storage.
pub(crate) fn opened(cookie: u64) -> FlowRecord {
    blank(cookie)
}

/// The sample record of a connection that had one exchange.
pub(crate) fn idle(cookie: u64) -> FlowRecord {
    let mut record = sampled(cookie, 0);
    record.bytes_acked = 101;
    record.bytes_received = 1_000;
    record.inline_samples[0] = 100;
    record.inline_samples_used = 1;
    record
}

/// The sample record of a connection that had so many exchanges of different round trips.
pub(crate) fn sampled(cookie: u64, exchanges: u32) -> FlowRecord {
    let mut record = blank(cookie);
    record.kind = Kind::Sample as u8;
    record.emitted_ns = 1_000_000 * u64::from(exchanges);
    record.bytes_acked = 1 + 100 * u64::from(exchanges);
    record.bytes_received = 1_000 * u64::from(exchanges);
    record.segs_out = 2 + exchanges;
    record.segs_in = 1 + exchanges;
    for exchange in 0..exchanges {
        common::sample(&mut record, 100 + 7 * (exchange % ROUND_TRIPS));
    }
    record
}
