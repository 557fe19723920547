//! `BPF_SOCK_OPS_STATE_CB` (since 4.16): how a connection ends.
//!
//! `args[0]` is the old state, `args[1]` the new one, and the callback comes before the change
//! (net/ipv4/tcp.c, tcp_set_state). Who sent the first FIN, and which FINs are among the byte counts, is
//! told by the last state before the close, for each is reached on one path (RFC 9293 section 3.3.2). What made it leave that
//! state is told by what came since the connection was last seen to go on ([`crate::mark`]), and by whether its application
//! had closed it ([`crate::release`]); userspace draws the conclusions.

use aya_ebpf::bindings::{
    BPF_TCP_CLOSE, BPF_TCP_CLOSE_WAIT, BPF_TCP_CLOSING, BPF_TCP_FIN_WAIT2, BPF_TCP_LAST_ACK,
};
use flowcar_shared::record::{FlowRecord, Kind, flag};

use crate::{
    ctx::{Ctx, now},
    emit::{emit, emit_few, lost_with_the_close},
    exchange, maps,
    mark::{self, Closing, Mark},
    seat,
};

/// The socket is about to change its state.
#[inline(always)]
pub(crate) fn changed<const NETNS: bool>(ctx: Ctx) {
    match ctx.arg::<1>() {
        BPF_TCP_FIN_WAIT2 => waits_for_the_peers_fin(ctx),
        BPF_TCP_CLOSE => closes::<NETNS>(ctx),
        // Told by callbacks of their own, or by the last state.
        _ => {}
    }
}

/// Keeps what the end of it will be told by.
#[inline(always)]
fn waits_for_the_peers_fin(ctx: Ctx) {
    if let Some(seat) = seat::of(ctx) {
        seat.mark = Mark::now(ctx);
        seat.closing.enter_fin_wait2(ctx);
    } else if let Some(flow) = ctx.flow() {
        Mark::now(ctx).write(flow);
        let mut closing = Closing::of(flow);
        closing.enter_fin_wait2(ctx);
        closing.write(flow);
    }
}

#[inline(always)]
fn closes<const NETNS: bool>(ctx: Ctx) {
    if let Some(seat) = seat::of(ctx) {
        let old = ctx.arg::<0>();
        if seat.established_ns == 0 {
            seat.flags |= attempt::<NETNS>(ctx);
        }
        let marked = (seat.mark, seat.closing);
        seat.flags |= ending(ctx, old, marked) | exchange::end(ctx);
        emit_few(ctx, seat, Kind::Close);
        seat.leave();
    } else if let Some(flow) = ctx.flow() {
        closed::<NETNS>(ctx, flow);
    }
}

/// What tells who ended an attempt.
#[cold]
#[inline(never)]
fn attempt<const NETNS: bool>(ctx: Ctx) -> u16 {
    let queue = if ctx.packets_out() == 0 {
        flag::SYN_DISCARDED
    } else {
        0
    };
    if NETNS && ctx.netns_cookie() == maps::own_netns() {
        queue | flag::OWN_NETNS
    } else {
        queue
    }
}

#[cold]
#[inline(never)]
fn closed<const NETNS: bool>(ctx: Ctx, flow: &mut FlowRecord) {
    let old = ctx.arg::<0>();
    ctx.measure(flow);
    flow.last_state = old as u8;
    let marked = (Mark::of(flow), Closing::of(flow));
    flow.flags |= ending(ctx, old, marked) | exchange::end(ctx);
    if flow.established_ns == 0 {
        // Who failed to connect has not been identified yet.
        ctx.identify(flow, ctx.cookie());
        flow.flags |= attempt::<NETNS>(ctx);
    }
    let dropped = lost_with_the_close(flow.established_ns);
    emit(flow, Kind::Close, now(), dropped);
    ctx.forget();
}

/// What a state says about FINs.
#[inline(always)]
pub(crate) const fn fins(state: u32) -> u16 {
    match state {
        BPF_TCP_CLOSE_WAIT | BPF_TCP_LAST_ACK => flag::PEER_FIN_FIRST | flag::FIN_RECEIVED,
        BPF_TCP_CLOSING => flag::FIN_RECEIVED,
        BPF_TCP_FIN_WAIT2 => flag::FIN_ACKED,
        _ => 0,
    }
}

/// What is known of the end: what the last state says, and what came since the mark.
#[inline(always)]
fn ending(ctx: Ctx, old: u32, (mark, closing): (Mark, Closing)) -> u16 {
    let since = mark.since(ctx);
    let orderly = match old {
        // Left when our FIN is acknowledged, or by a reset or the timer before that.
        BPF_TCP_LAST_ACK | BPF_TCP_CLOSING if ctx.snd_una() == ctx.snd_nxt() => {
            flag::FIN_ACKED | flag::ORDERLY
        }
        BPF_TCP_FIN_WAIT2 => after_fin_wait2(ctx, since, closing),
        _ => 0,
    };
    fins(old) | orderly | mark::received(since)
}

/// Left when the peer's FIN comes, which counts as one byte received, or by a reset or a timer. What is left of one that its
/// application has closed waits elsewhere, and so leaves at once, or when its time here is over, without anything coming.
#[inline(always)]
fn after_fin_wait2(ctx: Ctx, (all, with_data): (u16, u16), closing: Closing) -> u16 {
    let released_in = u32::from(closing.released_in);
    let is_orphan = released_in != 0 && released_in != BPF_TCP_FIN_WAIT2;
    let received = closing.received_since(ctx);
    // The segment that acknowledged our FIN may have brought payload, too, which is not among those since.
    if with_data != 0 || received > 1 {
        flag::FIN_UNCERTAIN
    } else if received == 1 {
        flag::ORDERLY | flag::FIN_RECEIVED
    } else if is_orphan && all == 0 {
        flag::ORDERLY
    } else {
        0
    }
}
