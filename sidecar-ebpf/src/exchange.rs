//! A connection's turns: when a request went, and how long its response took.
//!
//! The state has two homes, as the flow's own (see [`crate::seat`]), and moves on its own: an element of [`TURNS`], claimed
//! by whoever holds the seat with the same number, or socket storage. Packets that come find their socket unlocked, so
//! their program runs beside a callback of the same socket, or, where the network delivers one connection on two CPUs at
//! once, beside itself. Each field has one writer but for that last case, which costs a wrong turn at worst; counts only
//! grow, so a record that is sent meanwhile misses what the next one brings.

mod record;
mod turn;

use aya_ebpf::bindings::bpf_sock;
use flowcar_shared::{
    counter::Counter,
    exchange::{ExchangeHead, ExchangeRecord, flag},
    record as flow,
};

use self::record::{clear, send};
pub(crate) use self::turn::{Way, last, payload, unread};
use crate::{
    ctx::Ctx,
    maps::{EXCHANGES, TURNS, count, follows_exchanges},
    seat, storage,
};

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
    let Some(record) = stored_or_new(ctx.sk()) else {
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
    } else if let Some(record) = stored(ctx.sk()) {
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
    let Some(record) = stored(sk) else {
        return 0;
    };
    let slots = record.head.slots_used;
    send(&mut record.head, slots);
    let flags = seen(record.head.flags);
    // SAFETY: a socket that was checked.
    unsafe { storage::delete(&raw const EXCHANGES, sk.cast()) };
    flags
}

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
fn stored(sk: *mut bpf_sock) -> Option<&'static mut ExchangeRecord> {
    // SAFETY: a socket that was checked, which the packet or the callback holds.
    (!sk.is_null()).then(|| unsafe { storage::get(&raw const EXCHANGES, sk.cast()) })?
}

#[inline(always)]
fn stored_or_new(sk: *mut bpf_sock) -> Option<&'static mut ExchangeRecord> {
    // SAFETY: as in `stored`.
    (!sk.is_null()).then(|| unsafe { storage::get_or_new(&raw const EXCHANGES, sk.cast()) })?
}

/// What the end says of its segments, in the flow's own flags.
#[inline(always)]
const fn seen(flags: u8) -> u16 {
    let mut seen = flow::flag::SEGMENTS_SEEN;
    if flags & flag::RESET_RECEIVED != 0 {
        seen |= flow::flag::RESET_RECEIVED;
    }
    if flags & flag::FIN_RECEIVED != 0 {
        seen |= flow::flag::FIN_SEEN;
    }
    seen
}
