//! `BPF_SOCK_OPS_STATE_CB` (since 4.16): how a connection closes.
//!
//! `args[0]` is the old state, `args[1]` the new one, and the callback comes before the change
//! (net/ipv4/tcp.c, tcp_set_state). The last state before the close shows who sent the first FIN and
//! which FINs are among the byte counts, for each is reached on one path (RFC 9293 section 3.3.2). What ended that state follows from
//! the segments that came since the connection was last seen alive ([`crate::mark`]), and from whether its application had closed it
//! ([`crate::release`]); userspace draws the conclusions.
//!
//! A half-closed connection ends with the peer's FIN or without. `BPF_SOCK_OPS_PARSE_HDR_OPT_CB` (since 5.10) shows the header of each
//! valid segment but a RST before the segment is processed (net/ipv4/tcp_input.c, tcp_validate_incoming): it is enabled for such a
//! connection alone.

use aya_ebpf::bindings::{
    BPF_SOCK_OPS_PARSE_ALL_HDR_OPT_CB_FLAG, BPF_TCP_CLOSE, BPF_TCP_CLOSE_WAIT, BPF_TCP_CLOSING,
    BPF_TCP_FIN_WAIT2, BPF_TCP_LAST_ACK,
};
use flowcar_shared::record::{FlowRecord, Kind, flag};

use crate::{
    connect,
    ctx::{Ctx, now},
    emit::{dropped_close, emit, emit_close},
    exchange, maps,
    mark::{self, Closing, Mark},
    short_flow,
};

/// The socket is about to change its state.
#[inline(always)]
pub(crate) fn changed<const NETNS: bool>(ctx: Ctx) {
    match ctx.arg::<1>() {
        BPF_TCP_FIN_WAIT2 => enter_fin_wait2(ctx),
        BPF_TCP_CLOSE => close::<NETNS>(ctx),
        // Other callbacks, or the last state, report them.
        _ => {}
    }
}

/// The FIN flag (RFC 9293 section 3.1).
const FIN: u32 = 1 << 0;

/// Keeps what the close reason will be derived from. Where the application holds the socket, the headers of what comes are shown.
#[inline(always)]
fn enter_fin_wait2(ctx: Ctx) {
    let released_in = if let Some(short_flow) = short_flow::of(ctx) {
        short_flow.mark = Mark::now(ctx);
        short_flow.closing.receives(ctx);
        short_flow.closing.released_in()
    } else if let Some(flow) = ctx.flow() {
        Mark::now(ctx).write(flow);
        let closing = Closing::of_mut(flow);
        closing.receives(ctx);
        closing.released_in()
    } else {
        return;
    };
    if released_in == 0 {
        ctx.arm(BPF_SOCK_OPS_PARSE_ALL_HDR_OPT_CB_FLAG);
    }
}

/// A segment of a half-closed connection is about to be processed: keeps whether it has the peer's FIN, and what had come before.
#[cold]
#[inline(never)]
pub(crate) fn header(ctx: Ctx) {
    if ctx.skb_tcp_flags() & FIN == 0 {
        return;
    }
    if let Some(short_flow) = short_flow::of(ctx) {
        short_flow.mark = Mark::now(ctx);
        short_flow.closing.receives(ctx);
        short_flow.flags |= flag::FIN_SEEN;
    } else if let Some(flow) = ctx.flow() {
        Mark::now(ctx).write(flow);
        Closing::of_mut(flow).receives(ctx);
        flow.flags |= flag::FIN_SEEN;
    }
}

#[inline(always)]
fn close<const NETNS: bool>(ctx: Ctx) {
    if let Some(short_flow) = short_flow::of(ctx) {
        let old = ctx.arg::<0>();
        if short_flow.established_ns == 0 {
            short_flow.flags |= attempt_flags::<NETNS>(ctx);
        }
        let flags = close_flags(
            ctx,
            old,
            short_flow.flags,
            &short_flow.mark,
            &short_flow.closing,
        );
        short_flow.flags |= flags | exchange::close(ctx);
        emit_close(ctx, short_flow);
        short_flow.free();
    } else if let Some(flow) = ctx.flow() {
        close_stored::<NETNS>(ctx, flow);
    }
}

/// Flags that show who ended an attempt.
#[cold]
#[inline(never)]
fn attempt_flags<const NETNS: bool>(ctx: Ctx) -> u16 {
    let queue = if ctx.packets_out() == 0 {
        flag::SYN_DISCARDED
    } else {
        0
    };
    if NETNS && ctx.netns_cookie() == maps::userspace_netns() {
        queue | flag::OWN_NETNS
    } else {
        queue
    }
}

#[cold]
#[inline(never)]
fn close_stored<const NETNS: bool>(ctx: Ctx, flow: &mut FlowRecord) {
    // No SYN was sent, as for want of a port: the next call or the release reports it.
    if connect::is_unsent(flow) {
        return;
    }
    let old = ctx.arg::<0>();
    ctx.measure(flow);
    flow.last_state = old as u8;
    let flags = close_flags(ctx, old, flow.flags, Mark::of(flow), Closing::of(flow));
    flow.flags |= flags | exchange::close(ctx);
    if flow.established_ns == 0 {
        // The addresses of an attempt have not been written yet.
        ctx.identify(flow, ctx.cookie());
        flow.flags |= attempt_flags::<NETNS>(ctx);
    }
    let dropped = dropped_close(flow.established_ns);
    emit(flow, Kind::Close, now(), dropped);
    ctx.forget();
}

/// The FIN flags that follow from a state.
#[inline(always)]
pub(crate) const fn fins(state: u32) -> u16 {
    match state {
        BPF_TCP_CLOSE_WAIT | BPF_TCP_LAST_ACK => flag::PEER_FIN_FIRST | flag::FIN_RECEIVED,
        BPF_TCP_CLOSING => flag::FIN_RECEIVED,
        BPF_TCP_FIN_WAIT2 => flag::FIN_ACKED,
        _ => 0,
    }
}

/// Flags of the close: from the last state, and from the segments since the mark.
#[inline(always)]
fn close_flags(ctx: Ctx, old: u32, before: u16, mark: &Mark, closing: &Closing) -> u16 {
    let since = mark.since(ctx);
    let orderly = match old {
        // This state ends when our FIN is acknowledged, or before that by a reset or the timer.
        BPF_TCP_LAST_ACK | BPF_TCP_CLOSING if ctx.snd_una() == ctx.snd_nxt() => {
            flag::FIN_ACKED | flag::ORDERLY
        }
        BPF_TCP_FIN_WAIT2 => after_fin_wait2(ctx, since, before, closing),
        _ => 0,
    };
    fins(old) | orderly | mark::received(since)
}

/// FIN_WAIT2 ends with the peer's FIN, which counts as one byte received, or with a reset or a timer. A socket that its application
/// has closed becomes a timewait socket, at once or after a time-out, so this one closes without anything received.
#[inline(always)]
fn after_fin_wait2(ctx: Ctx, (all, with_data): (u16, u16), before: u16, closing: &Closing) -> u16 {
    let received = closing.received_since(ctx);
    if before & flag::FIN_SEEN != 0 && all == 0 && received != 0 {
        // The last segment has the FIN, and what it has was taken in. Without such a segment the FIN may have come all the same: before its
        // time, while headers were not shown yet.
        return flag::ORDERLY | flag::FIN_RECEIVED;
    }
    // The segment that acknowledged our FIN may have carried payload, too; it is not among those since.
    if with_data != 0 || received > 1 {
        flag::FIN_UNCERTAIN
    } else if received == 1 {
        flag::ORDERLY | flag::FIN_RECEIVED
    } else if all == 0 && is_orphan(closing) {
        flag::ORDERLY
    } else {
        0
    }
}

/// Whether its application closed the socket before FIN_WAIT2.
#[inline(always)]
fn is_orphan(closing: &Closing) -> bool {
    let released_in = u32::from(closing.released_in());
    released_in != 0 && released_in != BPF_TCP_FIN_WAIT2
}
