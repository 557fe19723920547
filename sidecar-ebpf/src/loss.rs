//! `BPF_SOCK_OPS_RETRANS_CB` and `BPF_SOCK_OPS_RTO_CB` (since 4.16): retransmissions, and their cause.

use aya_ebpf::bindings::BPF_TCP_SYN_SENT;
use flowcar_shared::{
    counter::Counter,
    record::{FlowRecord, flag},
};

use crate::{
    ctx::{Ctx, before},
    maps::count,
    mark::Mark,
    short_flow,
};

/// Segments were retransmitted: `args[0]` is the first one's sequence number, `args[1]` how many.
///
/// The kernel marks segments lost before a recovery sends them again (tcp_mark_skb_lost), so a
/// retransmission with nothing marked is a tail loss probe (RFC 8985 section 7). After the timer expired,
/// it causes the retransmission of all that was in flight then, until something newer is sent again.
#[cold]
#[inline(never)]
pub(crate) fn retransmitted(ctx: Ctx) {
    let Some(flow) = stored(ctx) else { return };
    Mark::now(ctx).write(flow);
    let segments = ctx.arg::<1>();
    if flow.established_ns == 0 {
        flow.retrans_handshake += segments;
    } else if ctx.lost_out() == 0 {
        flow.retrans_probe += segments;
    } else if flow.timeouts != 0 && before(ctx.arg::<0>(), flow.timeout_high_seq) {
        flow.retrans_timeout += segments;
    } else {
        flow.retrans_fast += segments;
    }
}

/// The retransmission timer expired: `args[2]` is set if the kernel aborts the connection.
#[cold]
#[inline(never)]
pub(crate) fn timer_expired(ctx: Ctx) {
    // An aborted connection needs no room for causes: its flag is set even where the kernel refuses socket storage.
    if ctx.arg::<2>() != 0
        && let Some(short_flow) = short_flow::of(ctx)
    {
        short_flow.flags |= flag::TIMED_OUT;
        return;
    }
    let Some(flow) = stored(ctx) else { return };
    Mark::now(ctx).write(flow);
    if ctx.arg::<2>() != 0 {
        flow.flags |= flag::TIMED_OUT;
    }
    if ctx.state() != BPF_TCP_SYN_SENT {
        flow.timeouts += 1;
        flow.timeout_high_seq = ctx.snd_nxt();
    }
}

/// The flow's record in socket storage, where it is moved if need be.
#[inline(always)]
fn stored(ctx: Ctx) -> Option<&'static mut FlowRecord> {
    let Some(short_flow) = short_flow::of(ctx) else {
        return ctx.flow();
    };
    let flow = short_flow.promote(ctx);
    if flow.is_none() {
        count(Counter::DetailRefused);
    }
    flow
}
