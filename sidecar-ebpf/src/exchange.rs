//! A connection's turns: when a request went, and how long its response took.
//!
//! The state has two homes, as the flow's own (see [`crate::seat`]), and moves on its own: an element of [`TURNS`], claimed
//! by whoever holds the seat with the same number, or socket storage. Packets that come find their socket unlocked, so
//! their program runs beside a callback of the same socket, or, where the network delivers one connection on two CPUs at
//! once, beside itself. Each field has one writer but for that last case, which costs a wrong turn at worst; counts only
//! grow, so a record that is sent meanwhile misses what the next one brings.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    helpers::{
        bpf_get_socket_cookie, bpf_ringbuf_output, bpf_sk_fullsock, bpf_sk_storage_delete,
        bpf_sk_storage_get,
    },
};
use flowcar_shared::{
    counter::Counter,
    exchange::{ExchangeHead, ExchangeRecord, FEW_EXCHANGES, HEAD_LEN, KIND, flag},
    histogram::{MICROS, SLOTS},
    record::{self, Role},
};

use crate::{
    ctx::{Ctx, now},
    emit::wake,
    maps::{EXCHANGES, RECORDS, TURNS, count, follows_exchanges},
    seat,
};

/// Which way a packet goes.
#[derive(Clone, Copy)]
pub(crate) enum Way {
    Out,
    In,
}

// --- callbacks of the socket, which is locked ---

/// The connection is established. `seated`: its flow has a seat.
#[inline(always)]
pub(crate) fn begin(ctx: Ctx, role: u8, seated: bool) {
    if !follows_exchanges() {
        return;
    }
    let cookie = ctx.cookie();
    // Only the holder of the seat claims this, so no two do at once.
    if seated
        && let Some(head) = element(cookie)
        && head.cookie == 0
    {
        clear(head, ctx, role);
        head.cookie = cookie;
        return;
    }
    let Some(record) = stored(ctx.sk(), BPF_SK_STORAGE_GET_F_CREATE.into()) else {
        count(Counter::DetailRefused);
        return;
    };
    clear(&mut record.head, ctx, role);
    record.head.cookie = cookie;
}

/// Sends what userspace has not heard of.
#[inline(always)]
pub(crate) fn tell(ctx: Ctx) {
    if !follows_exchanges() {
        return;
    }
    if let Some(head) = of(ctx.cookie()) {
        send(head, 0);
    } else if let Some(record) = stored(ctx.sk(), 0) {
        let slots = record.head.slots_used;
        send(&mut record.head, slots);
    }
}

/// The connection is over: sends what is left, and gives back the flow's flags.
#[inline(always)]
pub(crate) fn end(ctx: Ctx) -> u16 {
    if !follows_exchanges() {
        return 0;
    }
    if let Some(head) = of(ctx.cookie()) {
        send(head, 0);
        let flags = seen(head.flags);
        head.cookie = 0;
        return flags;
    }
    let sk = ctx.sk();
    let Some(record) = stored(sk, 0) else {
        return 0;
    };
    let slots = record.head.slots_used;
    send(&mut record.head, slots);
    let flags = seen(record.head.flags);
    // SAFETY: the map's own address and a socket that was checked.
    unsafe { bpf_sk_storage_delete((&raw const EXCHANGES).cast_mut().cast(), sk.cast()) };
    flags
}

// --- packets ---

/// A segment with payload that ends before the sequence number `end`.
#[inline(always)]
pub(crate) fn payload(skb: *mut __sk_buff, way: Way, end: u32) {
    if let Some(head) = of(cookie(skb)) {
        if let Some(duration_us) = turn(head, skb, way, end)
            && !keep(head, duration_us)
        {
            moved(head, skb, duration_us);
        }
        return;
    }
    if let Some(record) = stored(socket(skb), 0)
        && let Some(duration_us) = turn(&mut record.head, skb, way, end)
    {
        add(record, duration_us);
    }
}

/// A segment with RST came.
#[inline(always)]
pub(crate) fn reset(skb: *mut __sk_buff) {
    if let Some(head) = of(cookie(skb)) {
        head.flags |= flag::RESET_RECEIVED;
    } else if let Some(record) = stored(socket(skb), 0) {
        record.head.flags |= flag::RESET_RECEIVED;
    }
}

/// A packet whose headers are not understood, which may have been a turn.
#[inline(always)]
pub(crate) fn unread(skb: *mut __sk_buff) {
    if of(cookie(skb)).is_some() || stored(socket(skb), 0).is_some() {
        count(Counter::DetailRefused);
    }
}

/// The exchange that the segment completes, microseconds. One whose end is not new was sent again.
#[inline(always)]
fn turn(head: &mut ExchangeHead, skb: *mut __sk_buff, way: Way, end: u32) -> Option<u32> {
    let asks = match way {
        Way::Out => {
            if !after(end, head.sent_end) {
                return None;
            }
            head.sent_end = end;
            head.role == Role::Client as u8
        }
        Way::In => {
            if !after(end, head.received_end) {
                return None;
            }
            head.received_end = end;
            head.role != Role::Client as u8
        }
    };
    if asks {
        head.asked_ns = time(skb, way);
        return None;
    }
    let asked_ns = head.asked_ns;
    if asked_ns == 0 {
        return None;
    }
    head.asked_ns = 0;
    let duration_us = time(skb, way).saturating_sub(asked_ns) / 1000;
    Some(if duration_us > u64::from(u32::MAX) {
        u32::MAX
    } else {
        duration_us as u32
    })
}

/// When the segment leaves, or now. TCP stamps what it sends with the time of its departure, `CLOCK_MONOTONIC`
/// (net/ipv4/tcp_output.c, __tcp_transmit_skb, since 4.20), which saves reading the clock.
#[inline(always)]
fn time(skb: *mut __sk_buff, way: Way) -> u64 {
    if let Way::Out = way {
        // SAFETY: the verifier has proven the context pointer; the field is UAPI.
        let departure = unsafe { (&raw const (*skb).tstamp).read_volatile() };
        if departure != 0 {
            return departure;
        }
    }
    now()
}

// --- where the state is ---

#[inline(always)]
fn of(cookie: u64) -> Option<&'static mut ExchangeHead> {
    element(cookie).filter(|head| head.cookie == cookie)
}

#[inline(always)]
fn element(cookie: u64) -> Option<&'static mut ExchangeHead> {
    let head = TURNS.get_ptr_mut(seat::place(cookie))?;
    // SAFETY: an element of the array, which stays where it is.
    Some(unsafe { &mut *head })
}

#[inline(always)]
fn stored(sk: *mut bpf_sock, flags: u64) -> Option<&'static mut ExchangeRecord> {
    if sk.is_null() {
        return None;
    }
    // SAFETY: the map's own address and a socket that was checked. The value lives as long as the socket, which the packet
    // or the callback holds.
    unsafe {
        bpf_sk_storage_get(
            (&raw const EXCHANGES).cast_mut().cast(),
            sk.cast(),
            core::ptr::null_mut(),
            flags,
        )
        .cast::<ExchangeRecord>()
        .as_mut()
    }
}

#[inline(always)]
fn cookie(skb: *mut __sk_buff) -> u64 {
    // SAFETY: the helper takes the context.
    unsafe { bpf_get_socket_cookie(skb.cast()) }
}

/// The packet's socket; null where it has none, or one that is not whole yet.
#[inline(always)]
fn socket(skb: *mut __sk_buff) -> *mut bpf_sock {
    // SAFETY: the verifier has proven the context pointer; the field is UAPI.
    let sk = unsafe { (&raw const (*skb).__bindgen_anon_2.sk).read_volatile() };
    if sk.is_null() {
        return sk;
    }
    // SAFETY: a socket that was checked.
    unsafe { bpf_sk_fullsock(sk) }
}

/// Moves to socket storage, where there is a histogram for what comes next.
#[inline(always)]
fn moved(head: &mut ExchangeHead, skb: *mut __sk_buff, duration_us: u32) {
    let Some(record) = stored(socket(skb), BPF_SK_STORAGE_GET_F_CREATE.into()) else {
        count(Counter::DetailRefused);
        return;
    };
    copy(head, &mut record.head);
    add(record, duration_us);
    head.cookie = 0;
}

// --- what is in it ---

/// One store each, here and below: the compiler would make loops of them, which the verifier refuses without CAP_PERFMON.
macro_rules! put {
    ($to:expr, $($field:ident $([$index:literal])?: $value:expr,)*) => {
        // SAFETY: fields of a value that is borrowed.
        $(unsafe { (&raw mut (*$to).$field$([$index])?).write_volatile($value) };)*
    };
}

/// A state with nothing counted, and all that has been sent and received known as such.
#[inline(always)]
fn clear(head: &mut ExchangeHead, ctx: Ctx, role: u8) {
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
fn copy(from: &ExchangeHead, to: &mut ExchangeHead) {
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
fn keep(head: &mut ExchangeHead, duration_us: u32) -> bool {
    let index = through_memory(&raw mut head.scratch, head.few_used.into());
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
fn add(record: &mut ExchangeRecord, duration_us: u32) {
    let head = &mut record.head;
    head.count += 1;
    head.sum_us += u64::from(duration_us);
    if duration_us < head.min_us {
        head.min_us = duration_us;
    }
    if duration_us > head.max_us {
        head.max_us = duration_us;
    }
    let slot = through_memory(
        &raw mut head.scratch,
        MICROS.slot(duration_us.into()) as u32,
    );
    if slot < SLOTS {
        // SAFETY: the index was just compared with the array's length.
        unsafe { *record.slots.get_unchecked_mut(slot) += 1 };
        let used = slot as u16 + 1;
        if used > head.slots_used {
            head.slots_used = used;
        }
    }
}

/// The value, as the verifier wants an index: unknown, and with one bound on every path.
#[inline(always)]
fn through_memory(scratch: *mut u32, value: u32) -> usize {
    // SAFETY: a field of the value that is borrowed.
    unsafe {
        scratch.write_volatile(value);
        scratch.read_volatile() as usize
    }
}

/// Sends the record, cut behind `slots`, if it says anything new.
#[inline(always)]
fn send(head: &mut ExchangeHead, slots: u16) {
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
    let result = unsafe { bpf_ringbuf_output(ring, (&raw mut *head).cast(), len, wake()) };
    if result == 0 {
        head.told = counted;
    } else {
        count(Counter::ExchangeDropped);
    }
}

/// What the end says of its segments, in the flow's own flags.
#[inline(always)]
const fn seen(flags: u8) -> u16 {
    if flags & flag::RESET_RECEIVED != 0 {
        record::flag::SEGMENTS_SEEN | record::flag::RESET_RECEIVED
    } else {
        record::flag::SEGMENTS_SEEN
    }
}

/// Sequence number comparison modulo 2^32 (RFC 9293 section 3.4).
#[inline(always)]
const fn after(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) as i32 > 0
}
