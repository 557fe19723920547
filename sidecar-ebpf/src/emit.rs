//! Sends records into the ring buffer, or counts them as dropped.

use aya_ebpf::helpers::bpf_ringbuf_output;
use flowcar_shared::{
    counter::Counter,
    histogram::SLOTS,
    record::{
        AF_INET, BRIEF_SAMPLES, BriefClose, BriefEnds, BriefOpen, FlowRecord, HEADER_LEN, Kind,
        OpenRecord, SHORT_LEN,
    },
};

use crate::{
    ctx::{Ctx, now},
    maps::{self, AVAIL_DATA, FORCE_WAKEUP, NO_WAKEUP, RECORDS},
    short_flow::ShortFlow,
    verifier::put,
};

/// One record of so many queries how full the ring buffer is.
const QUERY_EVERY: u64 = 16;

const _: () = assert!(QUERY_EVERY.is_power_of_two());

/// What a flow without socket storage sends once it is open, if it does not fit a [`BriefClose`].
pub(crate) type Short = [u64; SHORT_LEN / 8];

const _: () = assert!(size_of::<Short>() == SHORT_LEN);

/// Sends `flow` as a record of `kind`. Where the ring buffer is full, counts that under `dropped`: the
/// flow's next record has the same counts.
#[inline(always)]
pub(crate) fn emit(flow: &mut FlowRecord, kind: Kind, now: u64, dropped: Counter) {
    flow.kind = kind as u8;
    flow.emitted_ns = now;
    flow.sample_epoch = maps::sample_epoch();
    let slots = u64::from(flow.slots_used).min(SLOTS as u64);
    let len = HEADER_LEN as u64 + slots * 4;
    let flags = wake(flow.cookie, now);
    let ring = (&raw const RECORDS).cast_mut().cast();
    // SAFETY: `len` is at most the size of the value that `flow` points to.
    let result = unsafe { bpf_ringbuf_output(ring, (&raw mut *flow).cast(), len, flags) };
    if result != 0 {
        maps::count(dropped);
    }
}

/// Sends the close record of a flow without socket storage: a brief one where it has room, which is nearly always.
#[inline(always)]
pub(crate) fn emit_close(ctx: Ctx, short_flow: &mut ShortFlow) {
    if !has_room(ctx, short_flow) {
        return emit_short(ctx, short_flow, Kind::Close);
    }
    let Some(mut entry) = RECORDS.reserve::<BriefClose>(0) else {
        return maps::count(Counter::CloseDropped);
    };
    let record = entry.as_mut_ptr();
    // SAFETY: a field of the record.
    put_ends(ctx, short_flow.role(), unsafe { &raw mut (*record).ends });
    put! { record,
        socket: short_flow.holder(),
        started_ns: short_flow.started_ns,
        established_ns: short_flow.established_ns,
        bytes_acked: ctx.bytes_acked() as u32,
        bytes_received: ctx.bytes_received() as u32,
        samples[0]: short_flow.inline_samples[0],
        samples[1]: short_flow.inline_samples[1],
        samples[2]: short_flow.inline_samples[2],
        samples[3]: short_flow.inline_samples[3],
        kind: Kind::Close as u8,
        last_state: ctx.arg::<0>() as u8,
        flags: short_flow.flags,
        segs_out: ctx.segs_out() as u16,
        segs_in: ctx.segs_in() as u16,
        released_in: short_flow.closing.released_in,
    }
    let now = now();
    put! { record, emitted_ns: now, }
    entry.submit(wake(short_flow.cookie(), now));
}

/// Writes both ends of an IPv4 socket.
#[inline(always)]
fn put_ends(ctx: Ctx, role: u8, ends: *mut BriefEnds) {
    let (client_isn, server_isn) = ctx.initial_numbers(role);
    put! { ends,
        local_addr: ctx.local_ip4(),
        peer_addr: ctx.remote_ip4(),
        local_port: ctx.local_port() as u16,
        peer_port: ctx.peer_port(),
        client_isn: client_isn,
        server_isn: server_isn,
    }
}

/// Whether a [`BriefClose`] has room for all of it, and for what comes until it is written: packets are counted meanwhile. Without samples
/// it would lack the process that called.
#[inline(always)]
fn has_room(ctx: Ctx, short_flow: &ShortFlow) -> bool {
    let bytes = (ctx.bytes_acked() | ctx.bytes_received()) >> 32;
    let segments = (ctx.segs_out() | ctx.segs_in()) >> 15;
    let more = bytes | u64::from(segments | ctx.total_retrans());
    let samples = short_flow.inline_samples_used().wrapping_sub(1);
    more == 0
        && samples < BRIEF_SAMPLES as u32
        && short_flow.established_ns != 0
        && ctx.family() == AF_INET
}

/// Sends the record of a flow without socket storage, once it is open. For a close the callback's first argument is the state before it.
///
/// The clock is read last: userspace read the ring's cache lines last, on another CPU, and they come back meanwhile. A value that is
/// needed after a helper's call is read after it: kept meanwhile it may lie on the stack (see `short_flow::at`).
#[cold]
#[inline(never)]
pub(crate) fn emit_short(ctx: Ctx, short_flow: &mut ShortFlow, kind: Kind) {
    short_flow.report();
    let Some(mut entry) = RECORDS.reserve::<Short>(0) else {
        maps::count(match kind {
            Kind::Open => Counter::OpenDropped,
            Kind::Sample => Counter::SampleDropped,
            Kind::Close => dropped_close(short_flow.established_ns),
        });
        return;
    };
    let flow = entry.as_mut_ptr().cast::<FlowRecord>();
    ctx.identify(flow, short_flow.cookie());
    ctx.number(flow, short_flow.role());
    ctx.measure(flow);
    let last_state = match kind {
        Kind::Close => ctx.arg::<0>() as u8,
        Kind::Open | Kind::Sample => 0,
    };
    put! { flow,
        started_ns: short_flow.started_ns,
        established_ns: short_flow.established_ns,
        kind: kind as u8,
        role: short_flow.role(),
        last_state: last_state,
        received_at_fin_wait2: 0,
        released_in: short_flow.closing.released_in,
        flags: short_flow.flags,
        slots_used: 0,
        inline_samples_used: short_flow.inline_samples_used(),
        inline_samples[0]: short_flow.inline_samples[0],
        inline_samples[1]: short_flow.inline_samples[1],
        inline_samples[2]: short_flow.inline_samples[2],
        inline_samples[3]: short_flow.inline_samples[3],
        inline_samples[4]: short_flow.inline_samples[4],
        inline_samples[5]: short_flow.inline_samples[5],
    }
    let now = now();
    put! { flow, emitted_ns: now, }
    entry.submit(wake(short_flow.cookie(), now));
}

/// The counter of a dropped close record.
#[inline(always)]
pub(crate) const fn dropped_close(established_ns: u64) -> Counter {
    if established_ns == 0 {
        Counter::FailedDropped
    } else {
        Counter::CloseDropped
    }
}

/// Opens a flow without socket storage: writes the time into its slot, and sends its open record or counts it as dropped.
#[inline(always)]
pub(crate) fn emit_open(ctx: Ctx, short_flow: &mut ShortFlow) {
    if ctx.family() != AF_INET {
        return emit_open_ipv6(ctx, short_flow);
    }
    short_flow.report();
    let Some(mut entry) = RECORDS.reserve::<BriefOpen>(0) else {
        short_flow.open(now());
        return maps::count(Counter::OpenDropped);
    };
    let record = entry.as_mut_ptr();
    // SAFETY: a field of the record.
    put_ends(ctx, short_flow.role(), unsafe { &raw mut (*record).ends });
    // Until the handshake is complete there is no RTT sample in the place of who called.
    put! { record,
        socket: short_flow.holder(),
        cgroup_id: short_flow.cgroup(),
        tgid: short_flow.tgid(),
    }
    let now = now();
    short_flow.open(now);
    put! { record,
        started_ns: short_flow.started_ns,
        established_ns: now,
    }
    entry.submit(wake(short_flow.cookie(), now));
}

/// The same for an IPv6 socket.
#[cold]
#[inline(never)]
fn emit_open_ipv6(ctx: Ctx, short_flow: &mut ShortFlow) {
    short_flow.report();
    let Some(mut entry) = RECORDS.reserve::<OpenRecord>(0) else {
        short_flow.open(now());
        maps::count(Counter::OpenDropped);
        return;
    };
    let flow = entry.as_mut_ptr().cast::<FlowRecord>();
    ctx.identify(flow, short_flow.cookie());
    ctx.number(flow, short_flow.role());
    put! { flow,
        kind: Kind::Open as u8,
        role: short_flow.role(),
        last_state: 0,
    }
    // Until the handshake is complete there is no RTT sample in the place of who called.
    put! { entry.as_mut_ptr(),
        cgroup_id: short_flow.cgroup(),
        tgid: short_flow.tgid(),
    }
    let now = now();
    short_flow.open(now);
    put! { flow,
        started_ns: short_flow.started_ns,
        established_ns: now,
        emitted_ns: now,
    }
    entry.submit(wake(short_flow.cookie(), now));
}

/// Userspace drains the ring on a timer while records come, so a record wakes it only when the ring fills up: a wake-up for each
/// connection would cost more than everything else here together. After some empty drains userspace sleeps, and the first record wakes it.
///
/// Querying how full the ring is costs a third of a record, so one record in [`QUERY_EVERY`] does. Cookie and microsecond together
/// select it, so that no pattern of sockets avoids all queries.
#[inline(always)]
pub(crate) fn wake(cookie: u64, now: u64) -> u64 {
    if maps::is_asleep() {
        maps::awake();
        return FORCE_WAKEUP;
    }
    if (cookie ^ now >> 10) & (QUERY_EVERY - 1) != 0 {
        return NO_WAKEUP;
    }
    if RECORDS.query(AVAIL_DATA) >= u64::from(maps::wake_level()) {
        FORCE_WAKEUP
    } else {
        NO_WAKEUP
    }
}
