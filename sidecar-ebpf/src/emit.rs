//! Records into the ring buffer, or the drop into the books.

use aya_ebpf::helpers::{bpf_ktime_get_ns, bpf_ringbuf_output};
use flowcar_shared::{
    counter::Counter,
    histogram::SLOTS,
    record::{FlowRecord, HEADER_LEN, Kind},
};

use crate::maps::{self, RECORDS};

/// `BPF_RB_NO_WAKEUP`, `BPF_RB_FORCE_WAKEUP`, `BPF_RB_AVAIL_DATA` (include/uapi/linux/bpf.h).
const NO_WAKEUP: u64 = 1;
const FORCE_WAKEUP: u64 = 2;
const AVAIL_DATA: u64 = 0;

/// Sends `flow` as a record of `kind`. Where the ring buffer is full, counts that under `dropped`; what
/// the record would have said is said by the flow's next one.
///
/// Userspace drains the ring on a timer, so a record wakes nobody until the ring fills up: a wake-up
/// for each connection would cost more than everything else here together.
#[inline(always)]
pub(crate) fn emit(flow: &mut FlowRecord, kind: Kind, dropped: Counter) {
    flow.kind = kind as u8;
    // SAFETY: helpers without arguments that could be wrong.
    flow.emitted_ns = unsafe { bpf_ktime_get_ns() };
    flow.tick = maps::tick();
    let slots = u64::from(flow.slots_used).min(SLOTS as u64);
    let len = HEADER_LEN as u64 + slots * 4;
    let wake = if RECORDS.query(AVAIL_DATA) >= u64::from(maps::wake_level()) {
        FORCE_WAKEUP
    } else {
        NO_WAKEUP
    };
    let ring = (&raw const RECORDS).cast_mut().cast();
    // SAFETY: `len` is at most the size of the value that `flow` points to.
    let result = unsafe { bpf_ringbuf_output(ring, (&raw mut *flow).cast(), len, wake) };
    if result != 0 {
        maps::count(dropped);
    }
}
