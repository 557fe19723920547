//! Kernel records made by hand.

use flowcar_shared::{
    histogram::{MICROS, SLOTS},
    record::{AF_INET, FlowRecord, HEADER_LEN, INLINE_SAMPLES, Kind, Role},
};

/// A client's open record of an IPv4 connection with nothing transferred.
pub(crate) fn blank(cookie: u64) -> FlowRecord {
    let mapped = |last: u32| [0, 0, u32::from_ne_bytes([0, 0, 0xff, 0xff]), last.to_be()];
    FlowRecord {
        cookie,
        started_ns: 1_000,
        established_ns: 2_000,
        emitted_ns: 2_000,
        local_addr: mapped(0x0a00_0001),
        peer_addr: mapped(0x0a00_0002),
        local_port: 40_000,
        peer_port: 80,
        client_isn: cookie as u32,
        server_isn: !(cookie as u32),
        kind: Kind::Open as u8,
        role: Role::Client as u8,
        family: AF_INET,
        last_state: 0,
        bytes_acked: 1,
        bytes_received: 0,
        received_at_fin_wait2: 0,
        released_in: 0,
        segs_out: 0,
        segs_in: 0,
        total_retrans: 0,
        flags: 0,
        slots_used: 0,
        inline_samples_used: 0,
        inline_samples: [0; INLINE_SAMPLES],
        rtt_sum_us: 0,
        retrans_handshake: 0,
        retrans_fast: 0,
        retrans_timeout: 0,
        retrans_probe: 0,
        timeouts: 0,
        timeout_high_seq: 0,
        rtt_min_us: u32::MAX,
        rtt_max_us: 0,
        sample_epoch: 0,
        scratch: 0,
        marked_segs_in: 0,
        marked_data_segs_in: 0,
        reserved: 0,
        rtt_slots: [0; SLOTS],
    }
}

/// Counts an RTT sample as the kernel does.
pub(crate) fn sample(record: &mut FlowRecord, rtt_us: u32) {
    let slot = MICROS.slot(rtt_us.into());
    record.rtt_slots[slot] += 1;
    record.slots_used = record.slots_used.max(slot as u16 + 1);
    record.rtt_sum_us += u64::from(rtt_us);
    record.rtt_min_us = record.rtt_min_us.min(rtt_us);
    record.rtt_max_us = record.rtt_max_us.max(rtt_us);
}

/// The record as the ring buffer carries it.
pub(crate) fn bytes(record: &FlowRecord) -> &[u8] {
    let len = HEADER_LEN + 4 * usize::from(record.slots_used);
    // SAFETY: FlowRecord is repr(C) without padding, which its own assertions prove, and holds at least `len` bytes.
    unsafe { std::slice::from_raw_parts((&raw const *record).cast(), len) }
}
