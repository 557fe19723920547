//! `BPF_SOCK_OPS_STATE_CB` (since 4.16): how a connection ends.
//!
//! `args[0]` is the old state, `args[1]` the new one, and the callback comes before the change
//! (net/ipv4/tcp.c, tcp_set_state). Who sent the first FIN, and which FINs are among the byte counts, is
//! read off the path through the states.

use aya_ebpf::bindings::{
    BPF_TCP_CLOSE, BPF_TCP_CLOSE_WAIT, BPF_TCP_CLOSING, BPF_TCP_ESTABLISHED, BPF_TCP_FIN_WAIT1,
    BPF_TCP_FIN_WAIT2, BPF_TCP_LAST_ACK,
};
use flowcar_shared::{
    counter::Counter,
    record::{FlowRecord, Kind, flag},
};

use crate::{
    ctx::{Ctx, now},
    emit::{emit, emit_few},
    exchange,
    seat::{self, Seat},
};

/// The socket is about to change its state.
#[inline(always)]
pub(crate) fn changed(ctx: Ctx) {
    let new = ctx.arg::<1>();
    // Told by callbacks of their own, or of no interest.
    if matches!(new, BPF_TCP_ESTABLISHED | BPF_TCP_LAST_ACK) {
        return;
    }
    if let Some(seat) = seat::of(ctx) {
        return seated(ctx, seat, new);
    }
    let Some(flow) = ctx.flow() else { return };
    flow.flags |= turn(new);
    match new {
        BPF_TCP_FIN_WAIT2 => flow.received_at_fin_wait2 = ctx.bytes_received() as u32,
        BPF_TCP_CLOSE => closed(ctx, flow),
        _ => {}
    }
}

#[inline(always)]
fn seated(ctx: Ctx, seat: &mut Seat, new: u32) {
    seat.flags |= turn(new);
    match new {
        BPF_TCP_FIN_WAIT2 => seat.received_at_fin_wait2 = ctx.bytes_received() as u32,
        BPF_TCP_CLOSE => {
            let old = ctx.arg::<0>();
            seat.flags |= ending(ctx, old, seat.received_at_fin_wait2) | exchange::end(ctx);
            let dropped = dropped(seat.established_ns);
            emit_few(ctx, seat, Kind::Close, now(), old as u8, dropped);
            seat.leave();
        }
        _ => {}
    }
}

#[inline(always)]
fn closed(ctx: Ctx, flow: &mut FlowRecord) {
    let old = ctx.arg::<0>();
    ctx.measure(flow);
    flow.last_state = old as u8;
    flow.flags |= ending(ctx, old, flow.received_at_fin_wait2) | exchange::end(ctx);
    if flow.established_ns == 0 {
        // Who failed to connect has not been identified yet.
        ctx.identify(flow, ctx.cookie());
    }
    let dropped = dropped(flow.established_ns);
    emit(flow, Kind::Close, now(), dropped);
    ctx.forget();
}

/// What is lost with the last record.
#[inline(always)]
const fn dropped(established_ns: u64) -> Counter {
    if established_ns == 0 {
        Counter::FailedDropped
    } else {
        Counter::CloseDropped
    }
}

/// What a new state says about FINs.
#[inline(always)]
const fn turn(new: u32) -> u16 {
    match new {
        BPF_TCP_FIN_WAIT1 => flag::LOCAL_FIN_FIRST,
        BPF_TCP_CLOSE_WAIT => flag::PEER_FIN_FIRST | flag::FIN_RECEIVED,
        BPF_TCP_CLOSING => flag::FIN_RECEIVED,
        BPF_TCP_FIN_WAIT2 => flag::FIN_ACKED,
        _ => 0,
    }
}

/// Tells an orderly end from an abort in a state that either can leave.
#[inline(always)]
fn ending(ctx: Ctx, old: u32, received_at_fin_wait2: u32) -> u16 {
    match old {
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
    }
}
