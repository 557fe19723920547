//! What happened between two answers. Pure.

use super::by_type::ByType;
use crate::{
    answer::{PeerCounts, RetransmitCounts},
    histogram::Histogram,
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
    /// Both by type; `None` where the flowcar is older.
    pub(super) retransmits_by_type: Option<RetransmitCounts>,
    pub(super) receive_window_limited_us: u64,
    pub(super) send_buffer_limited_us: u64,
    pub(super) connect: Histogram,
    pub(super) rtt: Histogram,
    pub(super) exchange: Histogram,
}

// === impl Delta ===

impl Delta {
    pub(super) fn between(now: &PeerCounts, before: &PeerCounts, seconds: f64) -> Self {
        let of = |pick: fn(&PeerCounts) -> u64| pick(now).saturating_sub(pick(before));
        let since = |pick: fn(&PeerCounts) -> &Histogram| {
            let now = pick(now);
            let since = now.checked_since(pick(before));
            since.unwrap_or_else(|| now.clone())
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
            retransmits_by_type: now
                .retransmits_by_type
                .map(|now| now.since(&before.retransmits_by_type.unwrap_or_default())),
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
        self.opened = self.opened.saturating_add(other.opened);
        self.failed = self.failed.saturating_add(other.failed);
        self.cut_off = self.cut_off.saturating_add(other.cut_off);
        self.bytes_sent = self.bytes_sent.saturating_add(other.bytes_sent);
        self.bytes_received = self.bytes_received.saturating_add(other.bytes_received);
        self.segments_sent = self.segments_sent.saturating_add(other.segments_sent);
        self.handshake_retransmits = self
            .handshake_retransmits
            .saturating_add(other.handshake_retransmits);
        self.data_retransmits = self.data_retransmits.saturating_add(other.data_retransmits);
        self.retransmits_by_type = match (self.retransmits_by_type, other.retransmits_by_type) {
            (Some(one), Some(other)) => Some(one.plus(&other)),
            (one, other) => one.or(other),
        };
        self.receive_window_limited_us = self
            .receive_window_limited_us
            .saturating_add(other.receive_window_limited_us);
        self.send_buffer_limited_us = self
            .send_buffer_limited_us
            .saturating_add(other.send_buffer_limited_us);
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

    /// Segments sent again a second, by type.
    pub(super) fn retransmits_by_type(&self) -> ByType {
        if self.seconds > 0.0 {
            ByType::of(self.retransmits_by_type, self.retransmits(), self.seconds)
        } else {
            ByType::of(self.retransmits_by_type, 0, 1.0)
        }
    }

    /// Attempts that failed, and connections that were cut off.
    pub(super) const fn failures(&self) -> u64 {
        self.failed.saturating_add(self.cut_off)
    }

    /// Segments sent again.
    pub(super) const fn retransmits(&self) -> u64 {
        self.handshake_retransmits
            .saturating_add(self.data_retransmits)
    }
}
