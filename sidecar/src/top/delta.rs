//! What happened between two answers. Pure.

use crate::{
    histogram::Histogram,
    view::peers::{Buckets, PeerRow},
};

/// What happened between two answers.
#[derive(Clone, Debug, Default)]
pub(super) struct Delta {
    pub(super) seconds: f64,
    pub(super) opened: u64,
    pub(super) failed: u64,
    pub(super) cut_off: u64,
    pub(super) bytes_sent: u64,
    pub(super) bytes_received: u64,
    pub(super) segments_sent: u64,
    pub(super) handshake_retransmits: u64,
    pub(super) data_retransmits: u64,
    pub(super) receive_window_limited_us: u64,
    pub(super) send_buffer_limited_us: u64,
    pub(super) connect: Histogram,
    pub(super) rtt: Histogram,
    pub(super) exchange: Histogram,
}

// === impl Delta ===

impl Delta {
    pub(super) fn between(now: &PeerRow, before: &PeerRow, seconds: f64) -> Self {
        let of = |pick: fn(&PeerRow) -> u64| pick(now).saturating_sub(pick(before));
        let since = |pick: fn(&PeerRow) -> &Buckets| {
            let now = pick(now).histogram();
            let since = now.checked_since(&pick(before).histogram());
            since.unwrap_or(now)
        };
        Self {
            seconds,
            opened: of(|row| row.opened),
            failed: of(|row| row.failed),
            cut_off: of(|row| row.cut_off),
            bytes_sent: of(|row| row.bytes_sent),
            bytes_received: of(|row| row.bytes_received),
            segments_sent: of(|row| row.segments_sent),
            handshake_retransmits: of(|row| row.handshake_retransmits),
            data_retransmits: of(|row| row.data_retransmits),
            receive_window_limited_us: of(|row| row.receive_window_limited_us),
            send_buffer_limited_us: of(|row| row.send_buffer_limited_us),
            connect: since(|row| &row.connect),
            rtt: since(|row| &row.rtt),
            exchange: since(|row| &row.exchange),
        }
    }

    /// Adds what happened in another time, or to another peer.
    pub(super) fn add(&mut self, other: &Self) {
        self.seconds += other.seconds;
        self.opened += other.opened;
        self.failed += other.failed;
        self.cut_off += other.cut_off;
        self.bytes_sent += other.bytes_sent;
        self.bytes_received += other.bytes_received;
        self.segments_sent += other.segments_sent;
        self.handshake_retransmits += other.handshake_retransmits;
        self.data_retransmits += other.data_retransmits;
        self.receive_window_limited_us += other.receive_window_limited_us;
        self.send_buffer_limited_us += other.send_buffer_limited_us;
        self.connect.merge(&other.connect);
        self.rtt.merge(&other.rtt);
        self.exchange.merge(&other.exchange);
    }

    /// So many a second.
    pub(super) fn rate(&self, count: u64) -> f64 {
        if self.seconds > 0.0 {
            count as f64 / self.seconds
        } else {
            0.0
        }
    }

    /// Attempts that failed, and connections that were cut off.
    pub(super) const fn failures(&self) -> u64 {
        self.failed + self.cut_off
    }

    /// Segments sent again.
    pub(super) const fn retransmits(&self) -> u64 {
        self.handshake_retransmits + self.data_retransmits
    }
}
