//! Brief records of short connections over IPv4: what their longer form has, and zeros where the brief one has nothing.

use flowcar_shared::{
    origin::{CGROUP_HIGH, CGROUP_LOW, TGID},
    record::{
        AF_INET, BRIEF_CLOSE_LEN, BRIEF_OPEN_LEN, BRIEF_SAMPLES, BriefClose, BriefEnds, BriefOpen,
        FlowRecord, INLINE_SAMPLES, Kind, brief,
    },
};

use crate::flow::{Malformed, raw};

/// An open record.
pub(super) fn open(bytes: &[u8]) -> Result<FlowRecord, Malformed> {
    let record: BriefOpen = raw::read(bytes, BRIEF_OPEN_LEN).ok_or(wrong_length(bytes))?;
    let mut inline_samples = [0; INLINE_SAMPLES];
    inline_samples[CGROUP_LOW] = record.cgroup_id as u32;
    inline_samples[CGROUP_HIGH] = (record.cgroup_id >> 32) as u32;
    inline_samples[TGID] = record.tgid;
    Ok(FlowRecord {
        started_ns: record.started_ns,
        established_ns: record.established_ns,
        emitted_ns: record.established_ns,
        kind: Kind::Open as u8,
        inline_samples,
        ..socket(record.socket, &record.ends)
    })
}

/// A close record.
pub(super) fn close(bytes: &[u8]) -> Result<FlowRecord, Malformed> {
    let record: BriefClose = raw::read(bytes, BRIEF_CLOSE_LEN).ok_or(wrong_length(bytes))?;
    let inline_samples_used = brief::samples(record.socket);
    if inline_samples_used as usize > BRIEF_SAMPLES {
        return Err(Malformed::InlineSamples(inline_samples_used));
    }
    let mut inline_samples = [0; INLINE_SAMPLES];
    inline_samples[..BRIEF_SAMPLES].copy_from_slice(&record.samples);
    Ok(FlowRecord {
        started_ns: record.started_ns,
        established_ns: record.established_ns,
        emitted_ns: record.emitted_ns,
        kind: Kind::Close as u8,
        last_state: record.last_state,
        bytes_acked: record.bytes_acked.into(),
        bytes_received: record.bytes_received.into(),
        segs_out: record.segs_out.into(),
        segs_in: record.segs_in.into(),
        released_in: record.released_in,
        flags: record.flags,
        inline_samples_used,
        inline_samples,
        ..socket(record.socket, &record.ends)
    })
}

const fn wrong_length(bytes: &[u8]) -> Malformed {
    Malformed::Length {
        len: bytes.len(),
        slots: 0,
    }
}

/// A record with the socket's cookie, role and ends.
fn socket(word: u64, ends: &BriefEnds) -> FlowRecord {
    FlowRecord {
        cookie: brief::cookie(word),
        role: brief::role(word),
        family: AF_INET,
        local_addr: mapped(ends.local_addr),
        peer_addr: mapped(ends.peer_addr),
        local_port: ends.local_port,
        peer_port: ends.peer_port,
        client_isn: ends.client_isn,
        server_isn: ends.server_isn,
        ..raw::zeroed()
    }
}

/// An IPv4 address in network byte order, as [`FlowRecord::local_addr`] has it.
const fn mapped(address: u32) -> [u32; 4] {
    [0, 0, u32::from_ne_bytes([0, 0, 0xff, 0xff]), address]
}
