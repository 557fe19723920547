//! Records into the ring buffer, or the drop into the books.

use aya_ebpf::helpers::bpf_ringbuf_output;
use flowcar_shared::{
    counter::Counter,
    histogram::SLOTS,
    record::{FlowRecord, HEADER_LEN, Kind},
};

use crate::{
    ctx::Ctx,
    maps::{self, RECORDS},
    seat::Seat,
    verifier::put,
};

/// `BPF_RB_NO_WAKEUP`, `BPF_RB_FORCE_WAKEUP`, `BPF_RB_AVAIL_DATA` (include/uapi/linux/bpf.h).
const NO_WAKEUP: u64 = 1;
const FORCE_WAKEUP: u64 = 2;
const AVAIL_DATA: u64 = 0;

/// A record without a histogram.
type Header = [u64; HEADER_LEN / 8];

const _: () = assert!(size_of::<Header>() == HEADER_LEN);

/// Sends `flow` as a record of `kind`. Where the ring buffer is full, counts that under `dropped`; what
/// the record would have said is said by the flow's next one.
#[inline(always)]
pub(crate) fn emit(flow: &mut FlowRecord, kind: Kind, now: u64, dropped: Counter) {
    flow.kind = kind as u8;
    flow.emitted_ns = now;
    flow.tick = maps::tick();
    let slots = u64::from(flow.slots_used).min(SLOTS as u64);
    let len = HEADER_LEN as u64 + slots * 4;
    let ring = (&raw const RECORDS).cast_mut().cast();
    // SAFETY: `len` is at most the size of the value that `flow` points to.
    let result = unsafe { bpf_ringbuf_output(ring, (&raw mut *flow).cast(), len, wake()) };
    if result != 0 {
        maps::count(dropped);
    }
}

/// The same for a flow without socket storage. `last_state` is that before the close.
#[inline(always)]
pub(crate) fn emit_few(
    ctx: Ctx,
    seat: &mut Seat,
    kind: Kind,
    now: u64,
    last_state: u8,
    dropped: Counter,
) {
    seat.tick = maps::tick();
    let Some(mut entry) = RECORDS.reserve::<Header>(0) else {
        maps::count(dropped);
        return;
    };
    let flow = entry.as_mut_ptr().cast::<FlowRecord>();
    ctx.identify(flow);
    ctx.number(flow, seat.role());
    ctx.measure(flow);
    put! { flow,
        started_ns: seat.started_ns,
        established_ns: seat.established_ns,
        emitted_ns: now,
        kind: kind as u8,
        role: seat.role(),
        last_state: last_state,
        received_at_fin_wait2: seat.received_at_fin_wait2,
        reserved: 0,
        rtt_sum_us: 0,
        retrans_handshake: 0,
        retrans_fast: 0,
        retrans_timeout: 0,
        retrans_probe: 0,
        timeouts: 0,
        timeout_high_seq: 0,
        rtt_min_us: 0,
        rtt_max_us: 0,
        flags: seat.flags,
        slots_used: 0,
        tick: seat.tick,
        scratch: 0,
        few[0]: seat.few[0],
        few[1]: seat.few[1],
        few[2]: seat.few[2],
        few[3]: seat.few[3],
        few[4]: seat.few[4],
        few[5]: seat.few[5],
        few_used: seat.few_used(),
        reserved_too: 0,
    }
    entry.submit(wake());
}

/// Userspace drains the ring on a timer, so a record wakes nobody until the ring fills up: a wake-up
/// for each connection would cost more than everything else here together.
#[inline(always)]
pub(crate) fn wake() -> u64 {
    if RECORDS.query(AVAIL_DATA) >= u64::from(maps::wake_level()) {
        FORCE_WAKEUP
    } else {
        NO_WAKEUP
    }
}
