//! The figures of a connection's exchanges, and the record that they are sent in.

use aya_ebpf::helpers::bpf_ringbuf_output;
use flowcar_shared::{
    counter::Counter,
    exchange::{ExchangeHead, ExchangeRecord, HEAD_LEN, INLINE_EXCHANGES, KIND},
    histogram::SLOTS,
};

use crate::{
    ctx::Ctx,
    histogram::Histogram,
    maps::{NO_WAKEUP, RECORDS, count},
    verifier::{put, through_memory},
};

/// A state with nothing counted, which takes what was sent and received so far as known.
#[inline(always)]
pub(super) fn clear(head: &mut ExchangeHead, ctx: Ctx, role: u8) {
    put! { head,
        asked_ns: 0,
        sum_us: 0,
        min_us: u32::MAX,
        max_us: 0,
        kind: KIND,
        role: role,
        inline_samples_used: 0,
        flags: 0,
        sent_end: ctx.snd_nxt(),
        received_end: ctx.rcv_nxt(),
        slots_used: 0,
        reset_sequence: 0,
        scratch: 0,
        count: 0,
        reported: 0,
    }
}

#[inline(always)]
pub(super) fn copy(from: &ExchangeHead, to: &mut ExchangeHead) {
    put! { to,
        cookie: from.cookie,
        asked_ns: from.asked_ns,
        sum_us: from.sum_us,
        inline_samples[0]: from.inline_samples[0],
        inline_samples[1]: from.inline_samples[1],
        inline_samples[2]: from.inline_samples[2],
        inline_samples[3]: from.inline_samples[3],
        inline_samples[4]: from.inline_samples[4],
        inline_samples[5]: from.inline_samples[5],
        inline_samples[6]: from.inline_samples[6],
        inline_samples[7]: from.inline_samples[7],
        inline_samples[8]: from.inline_samples[8],
        inline_samples[9]: from.inline_samples[9],
        inline_samples[10]: from.inline_samples[10],
        min_us: from.min_us,
        max_us: from.max_us,
        kind: from.kind,
        role: from.role,
        inline_samples_used: from.inline_samples_used,
        flags: from.flags,
        sent_end: from.sent_end,
        received_end: from.received_end,
        slots_used: 0,
        reset_sequence: from.reset_sequence,
        scratch: 0,
        count: from.count,
        reported: from.reported,
    }
}

/// Keeps an exchange as an inline sample, if there is room.
#[inline(always)]
pub(super) fn keep(head: &mut ExchangeHead, duration_us: u32) -> bool {
    // SAFETY: a field of the value that `head` points to.
    let index = unsafe { through_memory(&raw mut head.scratch, head.inline_samples_used.into()) };
    if index >= INLINE_EXCHANGES {
        return false;
    }
    // SAFETY: the index was just compared with the array's length.
    unsafe { *head.inline_samples.get_unchecked_mut(index) = duration_us };
    head.inline_samples_used = index as u8 + 1;
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

/// Sends the record, cut behind `slots`, if it has anything new. It does not wake userspace: the flow's record comes next.
#[inline(always)]
pub(super) fn send(head: &mut ExchangeHead, slots: u16) {
    let counted = head.count;
    if counted == head.reported {
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
        head.reported = counted;
    } else {
        count(Counter::ExchangeDropped);
    }
}
