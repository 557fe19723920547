//! `BPF_SOCK_OPS_STATE_CB` (since 4.16): how a connection ends.
//!
//! `args[0]` is the old state, `args[1]` the new one, and the callback comes before the change
//! (net/ipv4/tcp.c, tcp_set_state). Who sent the first FIN, and which FINs are among the byte counts, is
//! read off the path through the states.

use aya_ebpf::bindings::{
    BPF_TCP_CLOSE, BPF_TCP_CLOSE_WAIT, BPF_TCP_CLOSING, BPF_TCP_FIN_WAIT1, BPF_TCP_FIN_WAIT2,
    BPF_TCP_LAST_ACK,
};
use flowcar_shared::{
    counter::Counter,
    record::{FlowRecord, Kind, flag},
};

use crate::{ctx::Ctx, emit::emit, maps::count};

/// The socket is about to change its state.
#[inline(always)]
pub(crate) fn changed(ctx: Ctx) {
    let Some(flow) = ctx.flow() else { return };
    let (old, new) = (ctx.arg::<0>(), ctx.arg::<1>());
    match new {
        BPF_TCP_FIN_WAIT1 => flow.flags |= flag::LOCAL_FIN_FIRST,
        BPF_TCP_CLOSE_WAIT => flow.flags |= flag::PEER_FIN_FIRST | flag::FIN_RECEIVED,
        BPF_TCP_CLOSING => flow.flags |= flag::FIN_RECEIVED,
        BPF_TCP_FIN_WAIT2 => {
            flow.flags |= flag::FIN_ACKED;
            flow.received_at_fin_wait2 = ctx.bytes_received();
        }
        BPF_TCP_CLOSE => closed(ctx, flow, old),
        _ => {}
    }
}

#[inline(always)]
fn closed(ctx: Ctx, flow: &mut FlowRecord, old: u32) {
    ctx.measure(flow);
    flow.last_state = old as u8;
    orderly(ctx, flow, old);
    if flow.established_ns == 0 {
        count(Counter::Failed);
        emit(flow, Kind::Close, Counter::FailedDropped);
    } else {
        count(Counter::Closed);
        emit(flow, Kind::Close, Counter::CloseDropped);
    }
    ctx.forget();
}

/// Tells an orderly end from an abort in a state that either can leave.
#[inline(always)]
fn orderly(ctx: Ctx, flow: &mut FlowRecord, old: u32) {
    match old {
        // Left when our FIN is acknowledged, or by a reset or the timer before that.
        BPF_TCP_LAST_ACK | BPF_TCP_CLOSING if ctx.snd_una() == ctx.snd_nxt() => {
            flow.flags |= flag::FIN_ACKED | flag::ORDERLY;
        }
        // Left when the peer's FIN comes, which counts as one byte received; an orphan leaves at once,
        // or when it has waited long enough, without it.
        BPF_TCP_FIN_WAIT2 => {
            flow.flags |= flag::ORDERLY;
            if flow.bytes_received > flow.received_at_fin_wait2 {
                flow.flags |= flag::FIN_RECEIVED;
            }
        }
        _ => {}
    }
}
