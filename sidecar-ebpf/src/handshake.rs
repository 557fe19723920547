//! Connections that begin: `TCP_CONNECT_CB` (5.10 and before), `ACTIVE_` and `PASSIVE_ESTABLISHED_CB`.

use aya_ebpf::{
    bindings::{
        BPF_SOCK_OPS_RETRANS_CB_FLAG, BPF_SOCK_OPS_RTO_CB_FLAG, BPF_SOCK_OPS_RTT_CB_FLAG,
        BPF_SOCK_OPS_STATE_CB_FLAG,
    },
    helpers::bpf_ktime_get_ns,
};
use flowcar_shared::{
    counter::Counter,
    record::{FlowRecord, Kind, Role, flag},
};

use crate::{ctx::Ctx, emit::emit, maps::count};

const CALLBACKS: u32 = BPF_SOCK_OPS_RTT_CB_FLAG
    | BPF_SOCK_OPS_STATE_CB_FLAG
    | BPF_SOCK_OPS_RETRANS_CB_FLAG
    | BPF_SOCK_OPS_RTO_CB_FLAG;

/// `connect()` was called and the SYN is about to go. Addresses are known, sequence numbers not yet.
#[inline(always)]
pub(crate) fn connecting(ctx: Ctx) {
    let Some(flow) = ctx.flow_or_new() else {
        // The attempt goes on unseen; if it succeeds, `connected` tries again and counts what it finds.
        return;
    };
    begin(ctx, flow, Role::Client);
    if !ctx.arm(CALLBACKS) {
        ctx.forget();
    }
}

/// The client's handshake is complete.
#[inline(always)]
pub(crate) fn connected(ctx: Ctx) {
    count(Counter::Established);
    let Some(flow) = ctx.flow_or_new() else {
        count(Counter::StorageRefused);
        return;
    };
    if flow.started_ns == 0 {
        begin(ctx, flow, Role::Client);
        flow.flags |= flag::START_UNSEEN;
    }
    // With data in the SYN (TCP Fast Open, RFC 7413) snd_nxt is ahead by what the server took of it;
    // bytes_acked counts that data and the SYN.
    let acked = ctx.bytes_acked() as u32;
    flow.client_isn = ctx.snd_nxt().wrapping_sub(acked);
    flow.server_isn = ctx.rcv_nxt().wrapping_sub(1);
    established(ctx, flow);
}

/// The server's handshake is complete; the socket is new.
#[inline(always)]
pub(crate) fn accepted(ctx: Ctx) {
    count(Counter::Established);
    let Some(flow) = ctx.flow_or_new() else {
        count(Counter::StorageRefused);
        return;
    };
    begin(ctx, flow, Role::Server);
    flow.client_isn = ctx.rcv_nxt().wrapping_sub(1);
    flow.server_isn = ctx.snd_nxt().wrapping_sub(1);
    established(ctx, flow);
}

#[inline(always)]
fn begin(ctx: Ctx, flow: &mut FlowRecord, role: Role) {
    // SAFETY: a helper without arguments.
    flow.started_ns = unsafe { bpf_ktime_get_ns() };
    flow.role = role as u8;
    flow.rtt_min_us = u32::MAX;
    ctx.identify(flow);
}

#[inline(always)]
fn established(ctx: Ctx, flow: &mut FlowRecord) {
    // The source address may have been chosen after the connect callback.
    ctx.identify(flow);
    ctx.measure(flow);
    // Until here only SYNs (client) or SYN-ACKs (server) can have been retransmitted.
    flow.retrans_handshake = flow.total_retrans;
    // SAFETY: a helper without arguments.
    flow.established_ns = unsafe { bpf_ktime_get_ns() };
    if !ctx.arm(CALLBACKS) {
        count(Counter::ArmRefused);
        ctx.forget();
        return;
    }
    emit(flow, Kind::Open, Counter::OpenDropped);
}
