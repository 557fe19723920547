//! The sock_release hook (since 5.9; on a cgroup): the application closes a socket.
//!
//! A state callback does not say who wanted the change. The hook comes before the protocol's own close (net/ipv4/af_inet.c,
//! inet_release): an attempt to connect was abandoned by its application if it closed the socket first; and a connection that goes
//! from ESTABLISHED or CLOSE_WAIT straight to CLOSE was aborted by it, because every other close sends a FIN.

use aya_ebpf::{
    bindings::{BPF_TCP_CLOSE, BPF_TCP_LISTEN, BPF_TCP_SYN_RECV, BPF_TCP_SYN_SENT, bpf_sock},
    helpers::bpf_get_socket_cookie,
    macros::cgroup_sock,
    programs::SockContext,
};
use flowcar_shared::record::flag;

use crate::{maps::FLOWS, seat, storage};

/// `IPPROTO_TCP` (RFC 9293). A connected UDP socket has a state, too.
const TCP: u32 = 6;

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
    let is_over = state == BPF_TCP_CLOSE || state == BPF_TCP_LISTEN;
    if protocol == TCP && !is_over {
        released(context.sock, state);
    }
    1
}

#[inline(always)]
fn released(sock: *mut bpf_sock, state: u32) {
    // Of a client SYN_RECV is what follows when two SYNs cross.
    let given_up = if state == BPF_TCP_SYN_SENT || state == BPF_TCP_SYN_RECV {
        flag::ABANDONED
    } else {
        0
    };
    // SAFETY: the helper takes the context.
    let cookie = || unsafe { bpf_get_socket_cookie(sock.cast()) };
    if let Some(seat) = seat::of_cookie(cookie) {
        seat.closing.released_in = state as u16;
        if given_up != 0 {
            seat.flags |= given_up;
        }
        return;
    }
    // SAFETY: the context is the socket. What its callbacks write meanwhile is other fields, but for those of an attempt: an
    // answer that comes at this moment only ends it.
    let flow = unsafe { storage::get(&raw const FLOWS, sock.cast()) };
    if let Some(flow) = flow {
        flow.released_in = state as u16;
        if given_up != 0 {
            flow.flags |= given_up;
        }
    }
}
