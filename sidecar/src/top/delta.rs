//! What happened between two answers. Pure.

use std::collections::BTreeMap;

use crate::view::peers::{Buckets, PeerRow};

/// What happened between two answers.
#[derive(Clone, Debug, Default)]
pub(super) struct Delta {
    pub(super) seconds: f64,
    pub(super) opened: u64,
    pub(super) closed: u64,
    pub(super) cut_off: u64,
    pub(super) failed: u64,
    pub(super) bytes_sent: u64,
    pub(super) bytes_received: u64,
    pub(super) segments_sent: u64,
    /// By `flowcar.tcp.retransmit.type`.
    pub(super) retransmits: BTreeMap<String, u64>,
    pub(super) receive_window_limited_us: u64,
    pub(super) send_buffer_limited_us: u64,
    pub(super) connect: Buckets,
    pub(super) rtt: Buckets,
    pub(super) exchange: Buckets,
}

// === impl Delta ===

impl Delta {
    pub(super) fn between(now: &PeerRow, before: &PeerRow, seconds: f64) -> Self {
        let of = |pick: fn(&PeerRow) -> u64| pick(now).saturating_sub(pick(before));
        let retransmits = now.retransmits.iter().map(|(kind, count)| {
            let before = before.retransmits.get(kind).copied().unwrap_or(0);
            (kind.clone(), count.saturating_sub(before))
        });
        Self {
            seconds,
            opened: of(|row| row.opened),
            closed: of(|row| row.closed.values().sum()),
            cut_off: of(|row| row.cut_off),
            failed: of(|row| row.failed.values().sum()),
            bytes_sent: of(|row| row.bytes_sent),
            bytes_received: of(|row| row.bytes_received),
            segments_sent: of(|row| row.segments_sent),
            retransmits: retransmits.collect(),
            receive_window_limited_us: of(|row| row.receive_window_limited_us),
            send_buffer_limited_us: of(|row| row.send_buffer_limited_us),
            connect: now.connect.since(&before.connect),
            rtt: now.rtt.since(&before.rtt),
            exchange: now.exchange.since(&before.exchange),
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.seconds += other.seconds;
        self.opened += other.opened;
        self.closed += other.closed;
        self.cut_off += other.cut_off;
        self.failed += other.failed;
        self.bytes_sent += other.bytes_sent;
        self.bytes_received += other.bytes_received;
        self.segments_sent += other.segments_sent;
        for (kind, count) in &other.retransmits {
            *self.retransmits.entry(kind.clone()).or_default() += count;
        }
        self.receive_window_limited_us += other.receive_window_limited_us;
        self.send_buffer_limited_us += other.send_buffer_limited_us;
        self.connect.add(&other.connect);
        self.rtt.add(&other.rtt);
        self.exchange.add(&other.exchange);
    }

    /// So many a second.
    pub(super) fn rate(&self, count: u64) -> f64 {
        if self.seconds > 0.0 {
            count as f64 / self.seconds
        } else {
            0.0
        }
    }

    /// Segments sent again.
    pub(super) fn retransmitted(&self) -> u64 {
        self.retransmits.values().sum()
    }
}
