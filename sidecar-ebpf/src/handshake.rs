//! Connections that begin: `TCP_CONNECT_CB` (5.10 and before), `ACTIVE_` and `PASSIVE_ESTABLISHED_CB`.

use aya_ebpf::bindings::{
    BPF_SOCK_OPS_RETRANS_CB_FLAG, BPF_SOCK_OPS_RTO_CB_FLAG, BPF_SOCK_OPS_RTT_CB_FLAG,
    BPF_SOCK_OPS_STATE_CB_FLAG,
};
use flowcar_shared::{
    counter::Counter,
    origin::{NETNS_HIGH, NETNS_LOW},
    record::{FlowRecord, Kind, Role, flag},
};

use crate::{
    connect,
    ctx::{Ctx, now},
    emit::{emit, emit_open},
    exchange,
    maps::{self, count},
    mark::Mark,
    short_flow::{self, ShortFlow},
};

/// The callbacks that show how an attempt fails. The handshake's round trip is reported as the time to connect.
const HANDSHAKE: u32 =
    BPF_SOCK_OPS_STATE_CB_FLAG | BPF_SOCK_OPS_RETRANS_CB_FLAG | BPF_SOCK_OPS_RTO_CB_FLAG;

/// The callbacks of an established connection.
pub(crate) const CALLBACKS: u32 = HANDSHAKE | BPF_SOCK_OPS_RTT_CB_FLAG;

/// `connect()` was called and the SYN is about to go. Addresses are known, sequence numbers not yet.
#[inline(always)]
pub(crate) fn connecting(ctx: Ctx) {
    if let Some((short_flow, called)) = short_flow::of_client(ctx) {
        // The call found no free slot, and one is free by now.
        if !called && ctx.flow().is_some() {
            short_flow.free();
            return connecting_in_storage(ctx);
        }
        short_flow.started_ns = now();
        if called {
            let (address, port) = (short_flow.asked_address(), short_flow.asked_port());
            if !connect::is_as_asked(ctx, address, port) {
                connect::report_asked(ctx, short_flow.started_ns, address, port);
            }
            short_flow.keep_caller();
        } else {
            short_flow.forget_caller();
        }
        if !ctx.arm(HANDSHAKE) {
            short_flow.free();
        }
    } else {
        connecting_in_storage(ctx);
    }
}

#[cold]
#[inline(never)]
fn connecting_in_storage(ctx: Ctx) {
    let Some(flow) = ctx.flow_or_new() else {
        // The attempt goes on unseen; if it succeeds, `connected` tries again and counts the refusal.
        return;
    };
    let called = connect::is_unsent(flow);
    begin(flow, Role::Client);
    if called {
        let (address, port) = ((&raw const flow.peer_addr).cast(), flow.peer_port);
        if !connect::is_as_asked(ctx, address, port) {
            connect::report_asked(ctx, flow.started_ns, address, port);
        }
    }
    if !ctx.arm(HANDSHAKE) {
        ctx.forget();
    }
}

/// The client's handshake is complete.
#[inline(always)]
pub(crate) fn connected(ctx: Ctx) {
    maps::established();
    if let Some(short_flow) = short_flow::of(ctx) {
        in_short_flow(ctx, short_flow);
    } else {
        in_storage(ctx, Role::Client, 0);
    }
}

/// The server's handshake is complete and its socket is new, or two SYNs have crossed and the socket is a client's (RFC 9293
/// section 3.5; net/ipv4/tcp_input.c, tcp_rcv_state_process).
#[inline(always)]
pub(crate) fn accepted<const NETNS: bool>(ctx: Ctx) {
    maps::established();
    // A SYN-ACK that was sent again is a retransmission, which a short-flow slot has no room for.
    if ctx.total_retrans() == 0
        && let Some(short_flow) = short_flow::take(ctx, Role::Server)
    {
        // It called `connect()` when no slot was free, and SYNs have crossed.
        if ctx.flow().is_some() {
            short_flow.free();
            return crossed_or_in_storage(ctx, netns::<NETNS>(ctx));
        }
        short_flow.keep_netns(netns::<NETNS>(ctx));
        in_short_flow(ctx, short_flow);
    } else {
        crossed_or_in_storage(ctx, netns::<NETNS>(ctx));
    }
}

#[cold]
#[inline(never)]
fn crossed_or_in_storage(ctx: Ctx, netns: u64) {
    if let Some(short_flow) = short_flow::of(ctx) {
        in_short_flow(ctx, short_flow);
    } else {
        in_storage(ctx, Role::Server, netns);
    }
}

/// The network namespace of a server's socket, by which its listener is found; 0 where the kernel does not return it, or userspace does
/// not want to know.
#[inline(always)]
fn netns<const NETNS: bool>(ctx: Ctx) -> u64 {
    if NETNS && maps::reports_origins() {
        ctx.netns_cookie()
    } else {
        0
    }
}

/// `role` is the socket's if its start was not seen, and `netns` a server's.
#[cold]
#[inline(never)]
fn in_storage(ctx: Ctx, role: Role, netns: u64) {
    // A SYN was sent, and not seen.
    if let Some(short_flow) = short_flow::unsent(|| ctx.cookie()) {
        short_flow.free();
    }
    let Some(flow) = ctx.flow_or_new() else {
        count(Counter::StorageRefused);
        return;
    };
    if flow.started_ns == 0 || connect::is_unsent(flow) {
        begin(flow, role);
        if let Role::Client = role {
            flow.flags |= flag::START_UNSEEN;
        } else {
            flow.inline_samples[NETNS_LOW] = netns as u32;
            flow.inline_samples[NETNS_HIGH] = (netns >> 32) as u32;
        }
    }
    established(ctx, flow);
}

#[inline(always)]
fn in_short_flow(ctx: Ctx, short_flow: &mut ShortFlow) {
    if !ctx.arm(CALLBACKS) {
        count(Counter::ArmRefused);
        short_flow.free();
        return;
    }
    short_flow.mark = Mark::now(ctx);
    exchange::begin(ctx, short_flow.role(), true);
    emit_open(ctx, short_flow);
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
