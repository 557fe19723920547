//! The sock_ops hook (since 4.13; on a cgroup): what happens to the sockets of the cgroup.
//!
//! A callback starts with cold caches, so the amount of code that a short connection runs decides its cost. What it seldom needs is in
//! functions of its own (`#[cold]`, `#[inline(never)]`).

use aya_ebpf::{
    bindings::{
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PARSE_HDR_OPT_CB,
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_RETRANS_CB, BPF_SOCK_OPS_RTO_CB,
        BPF_SOCK_OPS_RTT_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_TCP_CONNECT_CB,
        BPF_SOCK_OPS_TCP_LISTEN_CB,
    },
    macros::sock_ops,
    programs::SockOpsContext,
};

use crate::{ctx::Ctx, handshake, loss, origin, rtt, state};

/// Returns 1, as every program here must: with 0 the kernel would return -EPERM to other programs on the way.
#[sock_ops]
pub(crate) fn flowcar_sock_ops(context: SockOpsContext) -> u32 {
    dispatch::<false, false>(Ctx(context.ops))
}

/// The same for kernels that return the network namespace of a socket (5.15): loaded instead of the other. A constant that the
/// loader sets would not do, because without CAP_PERFMON verifiers also check what it makes unreachable.
#[sock_ops]
pub(crate) fn flowcar_sock_ops_netns(context: SockOpsContext) -> u32 {
    dispatch::<true, false>(Ctx(context.ops))
}

/// The same for kernels that tell callbacks of a system call who calls (6.10): listeners need no further hook there.
#[sock_ops]
pub(crate) fn flowcar_sock_ops_origin(context: SockOpsContext) -> u32 {
    dispatch::<true, true>(Ctx(context.ops))
}

#[inline(always)]
fn dispatch<const NETNS: bool, const ORIGIN: bool>(ctx: Ctx) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_RTT_CB => rtt::sample(ctx),
        BPF_SOCK_OPS_STATE_CB => state::changed::<NETNS>(ctx),
        BPF_SOCK_OPS_TCP_CONNECT_CB => handshake::connecting(ctx),
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => handshake::connected(ctx),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => handshake::accepted::<NETNS>(ctx),
        BPF_SOCK_OPS_RETRANS_CB => loss::retransmitted(ctx),
        BPF_SOCK_OPS_RTO_CB => loss::timer_expired(ctx),
        BPF_SOCK_OPS_PARSE_HDR_OPT_CB => state::header(ctx),
        BPF_SOCK_OPS_TCP_LISTEN_CB if ORIGIN => origin::listening(ctx),
        _ => {}
    }
    1
}
