//! The figures of a connection's exchanges, and the record that they are sent in.

use aya_ebpf::helpers::bpf_ringbuf_output;
use flowcar_shared::{
    counter::Counter,
    exchange::{ExchangeHead, ExchangeRecord, FEW_EXCHANGES, HEAD_LEN, KIND},
    histogram::SLOTS,
};

use crate::{
    ctx::Ctx,
    emit::NO_WAKEUP,
    histogram::Histogram,
    maps::{RECORDS, count},
    verifier::{put, through_memory},
};

/// A state with nothing counted, and all that has been sent and received known as such.
#[inline(always)]
pub(super) fn clear(head: &mut ExchangeHead, ctx: Ctx, role: u8) {
    put! { head,
        asked_ns: 0,
        sum_us: 0,
        min_us: u32::MAX,
        max_us: 0,
        kind: KIND,
        role: role,
        few_used: 0,
        flags: 0,
        sent_end: ctx.snd_nxt(),
        received_end: ctx.rcv_nxt(),
        slots_used: 0,
        reserved: 0,
        scratch: 0,
        count: 0,
        told: 0,
    }
}

#[inline(always)]
pub(super) fn copy(from: &ExchangeHead, to: &mut ExchangeHead) {
    put! { to,
        cookie: from.cookie,
        asked_ns: from.asked_ns,
        sum_us: from.sum_us,
        few[0]: from.few[0],
        few[1]: from.few[1],
        few[2]: from.few[2],
        few[3]: from.few[3],
        few[4]: from.few[4],
        few[5]: from.few[5],
        few[6]: from.few[6],
        few[7]: from.few[7],
        few[8]: from.few[8],
        few[9]: from.few[9],
        few[10]: from.few[10],
        min_us: from.min_us,
        max_us: from.max_us,
        kind: from.kind,
        role: from.role,
        few_used: from.few_used,
        flags: from.flags,
        sent_end: from.sent_end,
        received_end: from.received_end,
        slots_used: 0,
        reserved: 0,
        scratch: 0,
        count: from.count,
        told: from.told,
    }
}

/// Keeps an exchange among the first few, if there is room.
#[inline(always)]
pub(super) fn keep(head: &mut ExchangeHead, duration_us: u32) -> bool {
    // SAFETY: a field of the value that `head` points to.
    let index = unsafe { through_memory(&raw mut head.scratch, head.few_used.into()) };
    if index >= FEW_EXCHANGES {
        return false;
    }
    // SAFETY: the index was just compared with the array's length.
    unsafe { *head.few.get_unchecked_mut(index) = duration_us };
    head.few_used = index as u8 + 1;
    head.count += 1;
    true
}

/// Counts an exchange in the histogram.
#[inline(always)]
pub(super) fn add(record: &mut ExchangeRecord, duration_us: u32) {
    let head = &mut record.head;
    head.count += 1;
    let histogram = Histogram {
        sum_us: &mut head.sum_us,
        min_us: &mut head.min_us,
        max_us: &mut head.max_us,
        slots: &mut record.slots,
        slots_used: &mut head.slots_used,
        scratch: &mut head.scratch,
    };
    histogram.count(duration_us);
}

/// Sends the record, cut behind `slots`, if it says anything new. It wakes nobody: the flow's own record comes next.
#[inline(always)]
pub(super) fn send(head: &mut ExchangeHead, slots: u16) {
    let counted = head.count;
    if counted == head.told {
        return;
    }
    let slots = if slots as usize > SLOTS {
        SLOTS as u64
    } else {
        slots.into()
    };
    let len = HEAD_LEN as u64 + slots * 4;
    let ring = (&raw const RECORDS).cast_mut().cast();
    // SAFETY: `len` is at most the size of the value that `head` is the first part of.
    let result = unsafe { bpf_ringbuf_output(ring, (&raw mut *head).cast(), len, NO_WAKEUP) };
    if result == 0 {
        head.told = counted;
    } else {
        count(Counter::ExchangeDropped);
    }
}
