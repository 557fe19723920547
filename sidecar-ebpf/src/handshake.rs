//! Connections that begin: `TCP_CONNECT_CB` (5.10 and before), `ACTIVE_` and `PASSIVE_ESTABLISHED_CB`.

use aya_ebpf::bindings::{
    BPF_SOCK_OPS_RETRANS_CB_FLAG, BPF_SOCK_OPS_RTO_CB_FLAG, BPF_SOCK_OPS_RTT_CB_FLAG,
    BPF_SOCK_OPS_STATE_CB_FLAG,
};
use flowcar_shared::{
    counter::Counter,
    record::{FlowRecord, Kind, Role, flag},
};

use crate::{
    ctx::{Ctx, now},
    emit::{emit, emit_open},
    exchange,
    maps::{self, count},
    mark::Mark,
    seat::{self, Seat},
};

/// How an attempt fails. The round trip of the handshake is the time that it took to connect, and told as that.
const HANDSHAKE: u32 =
    BPF_SOCK_OPS_STATE_CB_FLAG | BPF_SOCK_OPS_RETRANS_CB_FLAG | BPF_SOCK_OPS_RTO_CB_FLAG;

/// What is heard of an established connection.
pub(crate) const CALLBACKS: u32 = HANDSHAKE | BPF_SOCK_OPS_RTT_CB_FLAG;

/// `connect()` was called and the SYN is about to go. Addresses are known, sequence numbers not yet.
#[inline(always)]
pub(crate) fn connecting(ctx: Ctx) {
    if let Some(seat) = seat::take(ctx, Role::Client) {
        seat.started_ns = now();
        if !ctx.arm(HANDSHAKE) {
            seat.leave();
        }
    } else {
        connecting_in_storage(ctx);
    }
}

#[cold]
#[inline(never)]
fn connecting_in_storage(ctx: Ctx) {
    let Some(flow) = ctx.flow_or_new() else {
        // The attempt goes on unseen; if it succeeds, `connected` tries again and counts what it finds.
        return;
    };
    begin(flow, Role::Client);
    if !ctx.arm(HANDSHAKE) {
        ctx.forget();
    }
}

/// The client's handshake is complete.
#[inline(always)]
pub(crate) fn connected(ctx: Ctx) {
    maps::established();
    if let Some(seat) = seat::of(ctx) {
        seated(ctx, seat);
    } else {
        in_storage(ctx, Role::Client);
    }
}

/// The server's handshake is complete and its socket is new, or two SYNs have crossed and the socket is a client's (RFC 9293
/// section 3.5; net/ipv4/tcp_input.c, tcp_rcv_state_process).
#[inline(always)]
pub(crate) fn accepted(ctx: Ctx) {
    maps::established();
    // A SYN-ACK that was sent again is a retransmission, which a seat has no room for.
    if ctx.total_retrans() == 0
        && let Some(seat) = seat::take(ctx, Role::Server)
    {
        seated(ctx, seat);
    } else {
        crossed_or_in_storage(ctx);
    }
}

#[cold]
#[inline(never)]
fn crossed_or_in_storage(ctx: Ctx) {
    if let Some(seat) = seat::of(ctx) {
        seated(ctx, seat);
    } else {
        in_storage(ctx, Role::Server);
    }
}

/// `role` is the socket's if its start was not seen.
#[cold]
#[inline(never)]
fn in_storage(ctx: Ctx, role: Role) {
    let Some(flow) = ctx.flow_or_new() else {
        count(Counter::StorageRefused);
        return;
    };
    if flow.started_ns == 0 {
        begin(flow, role);
        if let Role::Client = role {
            flow.flags |= flag::START_UNSEEN;
        }
    }
    established(ctx, flow);
}

#[inline(always)]
fn seated(ctx: Ctx, seat: &mut Seat) {
    if !ctx.arm(CALLBACKS) {
        count(Counter::ArmRefused);
        seat.leave();
        return;
    }
    seat.mark = Mark::now(ctx);
    exchange::begin(ctx, seat.role(), true);
    emit_open(ctx, seat);
}

#[inline(always)]
fn begin(flow: &mut FlowRecord, role: Role) {
    flow.started_ns = now();
    flow.role = role as u8;
    flow.rtt_min_us = u32::MAX;
}

#[inline(always)]
fn established(ctx: Ctx, flow: &mut FlowRecord) {
    ctx.identify(flow, ctx.cookie());
    ctx.number(flow, flow.role);
    ctx.measure(flow);
    // Until here only SYNs (client) or SYN-ACKs (server) can have been retransmitted.
    flow.retrans_handshake = flow.total_retrans;
    let now = now();
    flow.established_ns = now;
    Mark::now(ctx).write(flow);
    if !ctx.arm(CALLBACKS) {
        count(Counter::ArmRefused);
        ctx.forget();
        return;
    }
    exchange::begin(ctx, flow.role, false);
    emit(flow, Kind::Open, now, Counter::OpenDropped);
}
