//! From the bytes of a ring buffer record to a [`Flow`].

mod brief;

use std::{
    mem::offset_of,
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroU64,
};

use flowcar_shared::{
    histogram::SLOTS,
    origin::{CGROUP_HIGH, CGROUP_LOW, TGID},
    record::{
        BRIEF_CLOSE_LEN, BRIEF_OPEN_LEN, FlowRecord, HEADER_LEN, INLINE_SAMPLES, Kind, OPEN_HEAD,
        OPEN_LEN, OpenRecord, Role, SHORT_LEN, flag,
    },
};

use super::{
    Answers, CloseEvidence, Failure, Flow, LastSeen, Malformed, Monotonic, Origin, Outcome,
    Retransmits, RttKind, TraceIdentity, Unanswered, Volume,
    raw::{self, socket_addr},
};
use crate::histogram::Histogram;

/// A decoded record: why it was sent, and the flow at that time.
#[derive(Clone, Debug)]
pub struct Record {
    /// Why it was sent.
    pub kind: Kind,
    /// The flow, cumulative since it began.
    pub flow: Flow,
    /// The cookie of the network namespace, of a server; `None` where the kernel does not return it, or the record that had it was lost.
    pub netns: Option<NonZeroU64>,
    /// Of an attempt that failed.
    pub failed: Option<FailedAttempt>,
}

/// What the record of a failed attempt has besides its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailedAttempt {
    /// `Some(true)` if it is in flowcar's network namespace. If not, it is in another, or the loaded program cannot know.
    pub is_here: Option<bool>,
    /// Set where the record does not show why it failed.
    pub unanswered: Option<Unanswered>,
}

/// States before a close (include/net/tcp_states.h).
mod tcp_state {
    pub(super) const SYN_SENT: u8 = 2;
    pub(super) const SYN_RECEIVED: u8 = 3;
    pub(super) const CLOSE: u8 = 7;
}

/// Decodes a record. `seed` makes the ids of flows without a handshake differ from process to process.
///
/// # Errors
/// [`Malformed`] if the bytes are not a record of this version's kernel programs.
pub fn decode(bytes: &[u8], seed: u64) -> Result<Record, Malformed> {
    let raw = read(bytes)?;
    let kind = Kind::from_u8(raw.kind).ok_or(Malformed::Kind(raw.kind))?;
    let role = Role::from_u8(raw.role).ok_or(Malformed::Role(raw.role))?;
    if raw.inline_samples_used as usize > INLINE_SAMPLES {
        return Err(Malformed::InlineSamples(raw.inline_samples_used));
    }
    if raw.slots_used != 0 && raw.rtt_min_us > raw.rtt_max_us {
        return Err(Malformed::Extremes {
            min_us: raw.rtt_min_us,
            max_us: raw.rtt_max_us,
        });
    }
    let established = (raw.established_ns != 0).then_some(Monotonic(raw.established_ns));
    // Where nothing was received, the application may have set the sequence numbers (TCP_REPAIR). An open record may end before its
    // counts.
    let received = kind == Kind::Open || raw.segs_in > 0;
    let trace = match established {
        Some(_) if received => TraceIdentity::of_handshake(raw.client_isn, raw.server_isn, role),
        _ => TraceIdentity::unshared(
            u128::from(seed) << 64 | u128::from(raw.cookie ^ raw.started_ns.rotate_left(32)),
        ),
    };
    let flow = Flow {
        cookie: raw.cookie,
        role,
        local: local(&raw),
        peer: socket_addr(raw.peer_addr, raw.peer_port),
        trace,
        started: Monotonic(raw.started_ns),
        established,
        seen: seen(&raw),
        volume: volume(&raw, role),
        rtt: rtt(&raw),
        rtt_kind: if raw.flags & flag::RTT_SMOOTHED != 0 {
            RttKind::Smoothed
        } else {
            RttKind::Measured
        },
        exchanges: Histogram::default(),
        asked: None,
        name: None,
        origin: origin(&raw, bytes),
        start_seen: raw.flags & flag::START_UNSEEN == 0,
        polled: false,
        adopted: None,
        socket: None,
        outcome: (kind == Kind::Close).then(|| outcome(&raw, established.is_some())),
        reset_after_fin: kind == Kind::Close
            && established.is_some()
            && CloseEvidence::of(&raw).reset_after_fin(&Answers::default()),
        series: None,
    };
    let failed = (kind == Kind::Close && established.is_none()).then(|| failed(&raw, &flow));
    Ok(Record {
        kind,
        flow,
        netns: netns(&raw, bytes),
        failed,
    })
}

/// What the close record of an established connection shows of its reason; `None` for any other record. The outcome that [`decode`]
/// gives follows from this alone.
pub fn evidence(bytes: &[u8]) -> Option<CloseEvidence> {
    let raw = read(bytes).ok()?;
    let is_close = raw.kind == Kind::Close as u8 && raw.established_ns != 0;
    is_close.then(|| CloseEvidence::of(&raw))
}

/// The kind that a record names, whether or not it decodes, if it goes so far and names one.
pub fn kind_of(bytes: &[u8]) -> Option<Kind> {
    if bytes.len() == BRIEF_OPEN_LEN {
        return Some(Kind::Open);
    }
    bytes
        .get(offset_of!(FlowRecord, kind))
        .copied()
        .and_then(Kind::from_u8)
}

fn read(bytes: &[u8]) -> Result<FlowRecord, Malformed> {
    match (bytes.len(), kind_of(bytes)) {
        (BRIEF_OPEN_LEN, _) => brief::open(bytes),
        (BRIEF_CLOSE_LEN, Some(Kind::Close)) => brief::close(bytes),
        _ => read_whole(bytes),
    }
}

fn read_whole(bytes: &[u8]) -> Result<FlowRecord, Malformed> {
    let flow = match bytes.len() {
        OPEN_LEN => &bytes[..OPEN_HEAD],
        _ => bytes,
    };
    let malformed = Malformed::Length {
        len: bytes.len(),
        slots: 0,
    };
    if bytes.len() < OPEN_LEN {
        return Err(malformed);
    }
    let raw: FlowRecord = raw::read(flow, OPEN_HEAD).ok_or(malformed)?;
    let slots = usize::from(raw.slots_used);
    // A record's place in the ring is rounded up to 8 bytes, its length is not.
    let is_short = match bytes.len() {
        OPEN_LEN => raw.kind == Kind::Open as u8,
        SHORT_LEN => slots == 0,
        _ => false,
    };
    if !is_short && (slots > SLOTS || bytes.len() != HEADER_LEN + 4 * slots) {
        return Err(Malformed::Length {
            len: bytes.len(),
            slots,
        });
    }
    Ok(raw)
}

/// The local address; of an attempt that failed before the kernel chose one the unspecified address of the peer's family.
fn local(raw: &FlowRecord) -> SocketAddr {
    let local = socket_addr(raw.local_addr, raw.local_port);
    let is_v4 = socket_addr(raw.peer_addr, raw.peer_port).is_ipv4();
    if is_v4 && local.ip().is_unspecified() {
        SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), local.port())
    } else {
        local
    }
}

/// The origin in a record that was read from these bytes: a client's alone, and as long as it has no RTT sample.
fn origin(raw: &FlowRecord, bytes: &[u8]) -> Origin {
    if raw.role != Role::Client as u8 {
        return Origin::default();
    }
    let (cgroup, tgid) = before_samples(raw, bytes);
    Origin::new(cgroup, tgid)
}

/// The network namespace in a record that was read from these bytes: a server's alone, and as long as it has no RTT sample.
fn netns(raw: &FlowRecord, bytes: &[u8]) -> Option<NonZeroU64> {
    if raw.role != Role::Server as u8 {
        return None;
    }
    NonZeroU64::new(before_samples(raw, bytes).0)
}

/// What stands at the end of an open record, and in the place of the RTT samples until there is one; zeros afterwards.
fn before_samples(raw: &FlowRecord, bytes: &[u8]) -> (u64, u32) {
    if bytes.len() == OPEN_LEN {
        let open = raw::read::<OpenRecord>(bytes, OPEN_LEN);
        return open.map_or((0, 0), |open| (open.cgroup_id, open.tgid));
    }
    if raw.inline_samples_used != 0 {
        return (0, 0);
    }
    let word = |at: usize| raw.inline_samples[at];
    let half = u64::from(word(CGROUP_LOW)) | u64::from(word(CGROUP_HIGH)) << 32;
    (half, word(TGID))
}

/// When the record was sent; of an attempt that failed before a SYN when it began, as it failed within the call of `connect()` and was
/// reported later.
fn seen(raw: &FlowRecord) -> Monotonic {
    let is_unsent = raw.established_ns == 0 && raw.last_state == tcp_state::CLOSE;
    Monotonic(if is_unsent {
        raw.started_ns
    } else {
        raw.emitted_ns
    })
}

/// Payload bytes: the kernel's counts less the SYN, which only the active side's acknowledged bytes hold,
/// and less the FINs that it counted.
fn volume(raw: &FlowRecord, role: Role) -> Volume {
    let syn = u64::from(role == Role::Client && raw.established_ns != 0);
    let fin_acked = u64::from(raw.flags & flag::FIN_ACKED != 0);
    let fin_received = u64::from(raw.flags & flag::FIN_RECEIVED != 0);
    Volume {
        bytes_sent: raw.bytes_acked.saturating_sub(syn + fin_acked),
        bytes_received: raw.bytes_received.saturating_sub(fin_received),
        segments_sent: raw.segs_out.into(),
        segments_received: raw.segs_in.into(),
        retransmits: retransmits(raw, role),
    }
}

fn retransmits(raw: &FlowRecord, role: Role) -> Retransmits {
    let (fast, timeout, tail_loss_probe) = (
        u64::from(raw.retrans_fast),
        u64::from(raw.retrans_timeout),
        u64::from(raw.retrans_probe),
    );
    let handshake = u64::from(raw.retrans_handshake);
    let (syn, synack) = if role == Role::Server {
        (0, handshake)
    } else {
        (handshake, 0)
    };
    let known = handshake + fast + timeout + tail_loss_probe;
    Retransmits {
        syn,
        synack,
        fast,
        timeout,
        tail_loss_probe,
        unknown: u64::from(raw.total_retrans).saturating_sub(known),
    }
}

fn rtt(raw: &FlowRecord) -> Histogram {
    let mut histogram = Histogram::default();
    for rtt_us in &raw.inline_samples[..raw.inline_samples_used as usize] {
        histogram.record(u64::from(*rtt_us) * 1000);
    }
    let slots = raw.rtt_slots[..usize::from(raw.slots_used)]
        .iter()
        .map(|count| u64::from(*count))
        .enumerate();
    let extremes = (raw.slots_used != 0).then(|| {
        (
            u64::from(raw.rtt_min_us) * 1000,
            u64::from(raw.rtt_max_us) * 1000,
        )
    });
    histogram.add_slots(slots, u128::from(raw.rtt_sum_us) * 1000, extremes);
    histogram
}

fn outcome(raw: &FlowRecord, established: bool) -> Outcome {
    if established {
        Outcome::Closed(CloseEvidence::of(raw).verdict(&Answers::default()).reason)
    } else {
        Outcome::Failed(failure(raw).unwrap_or(Failure::Other))
    }
}

fn failed(raw: &FlowRecord, flow: &Flow) -> FailedAttempt {
    let has = |bit| raw.flags & bit != 0;
    let is_here = has(flag::OWN_NETNS).then_some(true);
    let last_seen = if has(flag::ABANDONED) {
        LastSeen::Closed
    } else if has(flag::SYN_DISCARDED) {
        LastSeen::Discarded
    } else {
        LastSeen::Queued
    };
    let unanswered = failure(raw).is_none().then_some(Unanswered {
        started: flow.started,
        at: flow.seen,
        ipv6: flow.peer.is_ipv6(),
        sent_again: raw.total_retrans > 0,
        last_seen,
        is_here,
    });
    FailedAttempt {
        is_here,
        unanswered,
    }
}

/// Why an attempt failed; `None` where the record does not show it.
///
/// The only segment that ends an attempt is a RST, and it discards the queue first (net/ipv4/tcp_input.c, tcp_reset); others that are
/// received, as the acknowledgement of an older connection, do not end it (RFC 9293 section 3.10.7.3).
fn failure(raw: &FlowRecord) -> Option<Failure> {
    let has = |bit| raw.flags & bit != 0;
    // Where SYNs crossed, the peer's is among the segments received.
    let (answers, by_reset) = match raw.last_state {
        tcp_state::SYN_SENT => (raw.segs_in, Failure::Refused),
        tcp_state::SYN_RECEIVED => (raw.segs_in.saturating_sub(1), Failure::Reset),
        // It never left this state: connect() failed before a SYN.
        tcp_state::CLOSE => return Some(Failure::Local),
        // Past these, an attempt that was not established is one that its application has closed.
        _ => return Some(Failure::Abandoned),
    };
    if has(flag::TIMED_OUT) {
        Some(Failure::Timeout)
    } else if raw.segs_out == 0 {
        // The SYN of a deferred Fast Open goes with the first data (TCP_FASTOPEN_CONNECT): its application sent none.
        let abandoned = has(flag::ABANDONED);
        Some(if abandoned {
            Failure::Abandoned
        } else {
            Failure::Local
        })
    } else if has(flag::SYN_DISCARDED) && !has(flag::ABANDONED) && answers > 0 {
        Some(by_reset)
    } else {
        None
    }
}
