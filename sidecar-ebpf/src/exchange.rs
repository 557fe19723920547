//! A connection's exchanges: when the request was sent, and how long the response took.
//!
//! The state is in an element of [`TURNS`], which belongs to the holder of the short-flow slot of the same number, or in socket
//! storage (see [`crate::short_flow`]); it moves independently of the flow's record. A received packet finds its socket unlocked, so
//! its program runs beside a callback of the same socket, or, where the network delivers one connection on two CPUs at once, beside
//! itself. Each field has one writer except in that last case, which costs one wrong exchange at worst. Counts only grow, so a record
//! that is sent meanwhile lacks only what the next one has.

mod record;
mod turn;

use aya_ebpf::{bindings::bpf_sock, macros::map, maps::Array};
use flowcar_shared::{
    counter::Counter,
    exchange::{ExchangeHead, ExchangeRecord, flag},
    record as flow,
};

use self::record::{clear, send};
pub(crate) use self::turn::{Way, last, payload, unread};
use crate::{
    ctx::Ctx,
    maps::{EXCHANGES, count, follows_exchanges},
    short_flow::{self, SHORT_FLOW_COUNT},
    storage,
};

/// Exchanges of short connections, found as their short-flow slots are: 104 bytes each, 416 KiB. A single one where exchanges are
/// not followed.
#[map]
static TURNS: Array<ExchangeHead> = Array::with_max_entries(SHORT_FLOW_COUNT as u32, 0);

/// The connection is established. `in_short_flow`: its flow has a short-flow slot.
#[inline(always)]
pub(crate) fn begin(ctx: Ctx, role: u8, in_short_flow: bool) {
    if !follows_exchanges() {
        return;
    }
    let cookie = ctx.cookie();
    // Only the holder of the short-flow slot claims this, so no two do at once.
    if in_short_flow
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

/// Sends the exchanges that were not reported yet.
#[inline(always)]
pub(crate) fn report(ctx: Ctx) {
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

/// The connection closed: sends the rest, and returns the flow's flags.
#[inline(always)]
pub(crate) fn close(ctx: Ctx) -> u16 {
    if !follows_exchanges() {
        return 0;
    }
    if let Some(head) = of(ctx.cookie()) {
        send(head, 0);
        let flags = seen(ctx, head);
        head.cookie = 0;
        return flags;
    }
    let sk = ctx.sk();
    let Some(record) = stored(sk) else {
        return 0;
    };
    let slots = record.head.slots_used;
    send(&mut record.head, slots);
    let flags = seen(ctx, &record.head);
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
    let head = TURNS.get_ptr_mut(short_flow::slot(cookie))?;
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

/// The peer's RST and FIN, as flags of the flow's record. A RST ends a connection only if it has the next sequence number, one less behind
/// the peer's FIN (net/ipv4/tcp_input.c, tcp_validate_incoming and tcp_reset_check; RFC 5961 section 3.2), or the greatest that was
/// selectively acknowledged. Of another one, which a forger may have sent, it is not known whether the connection ended by it: then as little
/// is known as without these programs.
#[inline(always)]
fn seen(ctx: Ctx, head: &ExchangeHead) -> u16 {
    let mut seen = flow::flag::SEGMENTS_SEEN;
    if head.flags & flag::RESET_RECEIVED != 0 {
        let ahead = head.reset_sequence.wrapping_sub(ctx.rcv_nxt() as u16);
        if ahead != 0 && ahead != u16::MAX {
            return 0;
        }
        seen |= flow::flag::RESET_RECEIVED;
    }
    if head.flags & flag::FIN_RECEIVED != 0 {
        seen |= flow::flag::FIN_SEEN;
    }
    seen
}
