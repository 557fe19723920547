//! `BPF_SOCK_OPS_STATE_CB` (since 4.16): how a connection ends.
//!
//! `args[0]` is the old state, `args[1]` the new one, and the callback comes before the change
//! (net/ipv4/tcp.c, tcp_set_state). Who sent the first FIN, and which FINs are among the byte counts, is
//! told by the last state before the close, for each is reached on one path (RFC 9293 section 3.3.2).

use aya_ebpf::bindings::{
    BPF_TCP_CLOSE, BPF_TCP_CLOSE_WAIT, BPF_TCP_CLOSING, BPF_TCP_FIN_WAIT2, BPF_TCP_LAST_ACK,
};
use flowcar_shared::record::{FlowRecord, Kind, flag};

use crate::{
    ctx::{Ctx, now},
    emit::{emit, emit_few, lost_with_the_close},
    exchange, seat,
};

/// The socket is about to change its state.
#[inline(always)]
pub(crate) fn changed(ctx: Ctx) {
    match ctx.arg::<1>() {
        BPF_TCP_FIN_WAIT2 => waits_for_the_peers_fin(ctx),
        BPF_TCP_CLOSE => closes(ctx),
        // Told by callbacks of their own, or by the last state.
        _ => {}
    }
}

/// Keeps what a FIN that may come will be told by.
#[inline(always)]
fn waits_for_the_peers_fin(ctx: Ctx) {
    let received = ctx.bytes_received() as u32;
    if let Some(seat) = seat::of(ctx) {
        seat.received_at_fin_wait2 = received;
    } else if let Some(flow) = ctx.flow() {
        flow.received_at_fin_wait2 = received;
    }
}

#[inline(always)]
fn closes(ctx: Ctx) {
    if let Some(seat) = seat::of(ctx) {
        let old = ctx.arg::<0>();
        seat.flags |= ending(ctx, old, seat.received_at_fin_wait2) | exchange::end(ctx);
        emit_few(ctx, seat, Kind::Close);
        seat.leave();
    } else if let Some(flow) = ctx.flow() {
        closed(ctx, flow);
    }
}

#[cold]
#[inline(never)]
fn closed(ctx: Ctx, flow: &mut FlowRecord) {
    let old = ctx.arg::<0>();
    ctx.measure(flow);
    flow.last_state = old as u8;
    flow.flags |= ending(ctx, old, flow.received_at_fin_wait2) | exchange::end(ctx);
    if flow.established_ns == 0 {
        // Who failed to connect has not been identified yet.
        ctx.identify(flow, ctx.cookie());
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

/// What the last state says of the end. Tells an orderly one from an abort in a state that either can leave.
#[inline(always)]
fn ending(ctx: Ctx, old: u32, received_at_fin_wait2: u32) -> u16 {
    let orderly = match old {
        // Left when our FIN is acknowledged, or by a reset or the timer before that.
        BPF_TCP_LAST_ACK | BPF_TCP_CLOSING if ctx.snd_una() == ctx.snd_nxt() => {
            flag::FIN_ACKED | flag::ORDERLY
        }
        // Left when the peer's FIN comes, which counts as one byte received; an orphan leaves at once,
        // or when it has waited long enough, without it.
        BPF_TCP_FIN_WAIT2 if ctx.bytes_received() as u32 != received_at_fin_wait2 => {
            flag::ORDERLY | flag::FIN_RECEIVED
        }
        BPF_TCP_FIN_WAIT2 => flag::ORDERLY,
        _ => 0,
    };
    fins(old) | orderly
}
