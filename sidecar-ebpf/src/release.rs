//! The sock_release hook (since 5.9; on a cgroup): the application closes a socket.
//!
//! A state callback does not say who wanted the change. An attempt to connect that ends without an answer was given up by
//! the application if it closed the socket first; else the network told the kernel that there is no way (an ICMP error).

use aya_ebpf::{
    bindings::{BPF_TCP_SYN_SENT, bpf_sock},
    helpers::bpf_get_socket_cookie,
    macros::cgroup_sock,
    programs::SockContext,
};
use flowcar_shared::record::flag;

use crate::{maps::FLOWS, seat, storage};

/// Marks an attempt as given up. Always answers 1: 0 has no meaning here.
#[cgroup_sock(sock_release)]
pub(crate) fn flowcar_sock_release(context: SockContext) -> i32 {
    // SAFETY: the verifier has proven the context pointer; the field is UAPI.
    let state = unsafe { (&raw const (*context.sock).state).read_volatile() };
    if state == BPF_TCP_SYN_SENT {
        abandoned(context.sock);
    }
    1
}

#[inline(always)]
fn abandoned(sock: *mut bpf_sock) {
    // SAFETY: the helper takes the context.
    let cookie = || unsafe { bpf_get_socket_cookie(sock.cast()) };
    if let Some(seat) = seat::of_cookie(cookie) {
        seat.flags |= flag::ABANDONED;
        return;
    }
    // SAFETY: the context is the socket. Its callbacks cannot run meanwhile: the socket is about to be closed by its last
    // owner, and an answer that comes at this moment only ends the attempt.
    let flow = unsafe { storage::get(&raw const FLOWS, sock.cast()) };
    if let Some(flow) = flow {
        flow.flags |= flag::ABANDONED;
    }
}
