//! Records into the ring buffer, or the drop into the books.

use aya_ebpf::helpers::bpf_ringbuf_output;
use flowcar_shared::{
    counter::Counter,
    histogram::SLOTS,
    record::{FlowRecord, HEADER_LEN, Kind, OPEN_LEN, SHORT_LEN},
};

use crate::{
    ctx::{Ctx, now},
    maps::{self, RECORDS},
    seat::Seat,
    verifier::put,
};

/// `BPF_RB_NO_WAKEUP`, `BPF_RB_FORCE_WAKEUP`, `BPF_RB_AVAIL_DATA` (include/uapi/linux/bpf.h).
pub(crate) const NO_WAKEUP: u64 = 1;
const FORCE_WAKEUP: u64 = 2;
const AVAIL_DATA: u64 = 0;

/// One record of so many asks how full the ring buffer is.
const ASKS: u64 = 16;

const _: () = assert!(ASKS.is_power_of_two());

/// What a flow without socket storage sends when it opens, and later.
type ShortOpen = [u64; OPEN_LEN / 8];
type Short = [u64; SHORT_LEN / 8];

const _: () = assert!(size_of::<ShortOpen>() == OPEN_LEN);
const _: () = assert!(size_of::<Short>() == SHORT_LEN);

/// Sends `flow` as a record of `kind`. Where the ring buffer is full, counts that under `dropped`; what
/// the record would have said is said by the flow's next one.
#[inline(always)]
pub(crate) fn emit(flow: &mut FlowRecord, kind: Kind, now: u64, dropped: Counter) {
    flow.kind = kind as u8;
    flow.emitted_ns = now;
    flow.tick = maps::tick();
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

/// The same for a flow without socket storage, once it is open. A close is told by the callback that names the state before it.
///
/// The clock is read last: the ring's cache lines were last read by userspace, on another CPU, and come back meanwhile. What is needed
/// after a helper's call is read after it: what is kept meanwhile may lie on the stack (see `seat::at`).
#[inline(always)]
pub(crate) fn emit_few(ctx: Ctx, seat: &mut Seat, kind: Kind) {
    seat.tell();
    let Some(mut entry) = RECORDS.reserve::<Short>(0) else {
        maps::count(match kind {
            Kind::Open => Counter::OpenDropped,
            Kind::Sample => Counter::SampleDropped,
            Kind::Close => lost_with_the_close(seat.established_ns),
        });
        return;
    };
    let flow = entry.as_mut_ptr().cast::<FlowRecord>();
    ctx.identify(flow, seat.cookie());
    ctx.number(flow, seat.role());
    ctx.measure(flow);
    let last_state = match kind {
        Kind::Close => ctx.arg::<0>() as u8,
        Kind::Open | Kind::Sample => 0,
    };
    put! { flow,
        started_ns: seat.started_ns,
        established_ns: seat.established_ns,
        kind: kind as u8,
        role: seat.role(),
        last_state: last_state,
        received_at_fin_wait2: 0,
        released_in: seat.closing.released_in,
        flags: seat.flags,
        slots_used: 0,
        few_used: seat.few_used(),
        few[0]: seat.few[0],
        few[1]: seat.few[1],
        few[2]: seat.few[2],
        few[3]: seat.few[3],
        few[4]: seat.few[4],
        few[5]: seat.few[5],
    }
    let now = now();
    put! { flow, emitted_ns: now, }
    entry.submit(wake(seat.cookie(), now));
}

/// What is lost with the last record.
#[inline(always)]
pub(crate) const fn lost_with_the_close(established_ns: u64) -> Counter {
    if established_ns == 0 {
        Counter::FailedDropped
    } else {
        Counter::CloseDropped
    }
}

/// Opens a flow without socket storage: says when in its seat, and sends its open record or counts that it was dropped.
#[inline(always)]
pub(crate) fn emit_open(ctx: Ctx, seat: &mut Seat) {
    seat.tell();
    let Some(mut entry) = RECORDS.reserve::<ShortOpen>(0) else {
        seat.open(now());
        maps::count(Counter::OpenDropped);
        return;
    };
    let flow = entry.as_mut_ptr().cast::<FlowRecord>();
    ctx.identify(flow, seat.cookie());
    ctx.number(flow, seat.role());
    put! { flow,
        kind: Kind::Open as u8,
        role: seat.role(),
        last_state: 0,
    }
    let now = now();
    seat.open(now);
    put! { flow,
        started_ns: seat.started_ns,
        established_ns: now,
        emitted_ns: now,
    }
    entry.submit(wake(seat.cookie(), now));
}

/// Userspace drains the ring on a timer, so a record wakes nobody until the ring fills up: a wake-up
/// for each connection would cost more than everything else here together.
///
/// Asking how full it is costs as much as a third of the record, so few do. Which ones is told by cookie and microsecond, for
/// no pattern of sockets may leave out those that ask.
#[inline(always)]
fn wake(cookie: u64, now: u64) -> u64 {
    if (cookie ^ now >> 10) & (ASKS - 1) != 0 {
        return NO_WAKEUP;
    }
    if RECORDS.query(AVAIL_DATA) >= u64::from(maps::wake_level()) {
        FORCE_WAKEUP
    } else {
        NO_WAKEUP
    }
}
