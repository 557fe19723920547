//! The sock_release hook (since 5.9; on a cgroup): the application closes a socket.
//!
//! A state callback does not show who caused the change. The hook runs before the protocol's close (net/ipv4/af_inet.c,
//! inet_release): an attempt to connect was abandoned by its application if it closed the socket first; and a connection that goes
//! from ESTABLISHED or CLOSE_WAIT straight to CLOSE was aborted by its application, because every other close sends a FIN.
//! And a socket that called `connect()` and sent no SYN shows that here at the latest ([`crate::connect`]).

use aya_ebpf::{
    bindings::{BPF_TCP_CLOSE, BPF_TCP_LISTEN, BPF_TCP_SYN_RECV, BPF_TCP_SYN_SENT, bpf_sock},
    helpers::bpf_get_socket_cookie,
    macros::cgroup_sock,
    programs::SockContext,
};
use flowcar_shared::record::flag;

use crate::{connect, ctx::TCP, maps::FLOWS, origin, short_flow, storage};

/// Marks the connection, or the attempt, as closed by its application. Always answers 1: 0 has no meaning here.
#[cgroup_sock(sock_release)]
pub(crate) fn flowcar_sock_release(context: SockContext) -> i32 {
    // SAFETY: the verifier has proven the context pointer; the fields are UAPI.
    let (state, protocol) = unsafe {
        (
            (&raw const (*context.sock).state).read_volatile(),
            (&raw const (*context.sock).protocol).read_volatile(),
        )
    };
    // A connected UDP socket has a state, too.
    let is_over = state == BPF_TCP_CLOSE || state == BPF_TCP_LISTEN;
    if protocol == TCP {
        if is_over {
            connect::closed(context.sock, state);
            if state == BPF_TCP_LISTEN {
                origin::stops_listening(context.sock);
            }
        } else {
            released(context.sock, state);
        }
    }
    1
}

#[inline(always)]
fn released(sock: *mut bpf_sock, state: u32) {
    // Of a client SYN_RECV is what follows when two SYNs cross.
    let abandoned = if state == BPF_TCP_SYN_SENT || state == BPF_TCP_SYN_RECV {
        flag::ABANDONED
    } else {
        0
    };
    // SAFETY: the helper takes the context.
    let cookie = || unsafe { bpf_get_socket_cookie(sock.cast()) };
    if let Some(short_flow) = short_flow::of_cookie(cookie) {
        short_flow.closing.released_in = state as u16;
        if abandoned != 0 {
            short_flow.flags |= abandoned;
        }
        return;
    }
    // SAFETY: the context is the socket. Its callbacks write other fields meanwhile, except for an attempt's, which an answer at
    // this moment ends anyway.
    let flow = unsafe { storage::get(&raw const FLOWS, sock.cast()) };
    if let Some(flow) = flow
        && !connect::is_unsent(flow)
    {
        flow.released_in = state as u16;
        if abandoned != 0 {
            flow.flags |= abandoned;
        }
    } else if state == BPF_TCP_SYN_SENT {
        connect::closed(sock, state);
    }
}
