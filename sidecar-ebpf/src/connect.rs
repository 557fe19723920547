//! The connect hooks (cgroup_sock_addr, since 4.17; on a cgroup): an application calls `connect()` on a TCP socket.
//!
//! They run before the kernel looks for a route and a port (net/ipv4/af_inet.c, __inet_stream_connect), and before the hooks of the
//! cgroups above, of which one may replace the address as a socket load balancer does. So they show two things that no later hook does:
//! the address that was asked for, and attempts of which no SYN is sent. A socket that is connecting, connected or listening does not
//! get here, nor does `connect(AF_UNSPEC)`.
//!
//! The call is kept in the socket's short-flow slot, or in socket storage, until `TCP_CONNECT_CB`. Where none comes by the next call or
//! by the close of the socket, the attempt failed before its SYN.

use core::arch::asm;

use aya_ebpf::{
    bindings::{BPF_TCP_CLOSE, BPF_TCP_SYN_SENT, bpf_sock, bpf_sock_addr},
    helpers::bpf_get_socket_cookie,
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use flowcar_shared::{
    asked::{self, AskedRecord},
    counter::Counter,
    origin::{CGROUP_HIGH, CGROUP_LOW, TGID},
    record::{AF_INET, FlowRecord, Kind, Role, flag},
};

use crate::{
    ctx::{Ctx, TCP, now},
    emit::{Short, emit, wake},
    maps::{FLOWS, RECORDS, count},
    origin::Origin,
    short_flow::{self, ShortFlow},
    storage,
    verifier::put,
};

/// An IPv4 address is asked for. Always answers 1: the call goes on.
#[cgroup_sock_addr(connect4)]
pub(crate) fn flowcar_connect4(context: SockAddrContext) -> i32 {
    Call(context.sock_addr).observe::<false, false>();
    1
}

/// An IPv6 address is asked for, or a v4-mapped one. Always answers 1.
#[cgroup_sock_addr(connect6)]
pub(crate) fn flowcar_connect6(context: SockAddrContext) -> i32 {
    Call(context.sock_addr).observe::<true, false>();
    1
}

/// The same for a userspace in a PID namespace of its own, on kernels that name its processes (6.10): loaded instead of the others, for the
/// same reason as the callbacks of newer kernels.
#[cgroup_sock_addr(connect4)]
pub(crate) fn flowcar_connect4_own(context: SockAddrContext) -> i32 {
    Call(context.sock_addr).observe::<false, true>();
    1
}

/// As above.
#[cgroup_sock_addr(connect6)]
pub(crate) fn flowcar_connect6_own(context: SockAddrContext) -> i32 {
    Call(context.sock_addr).observe::<true, true>();
    1
}

/// A call of `connect()`. Each field is loaded at its own width, as in [`Ctx`].
#[derive(Clone, Copy)]
struct Call(*mut bpf_sock_addr);

// === impl Call ===

impl Call {
    #[inline(always)]
    fn observe<const V6: bool, const OWN: bool>(self) {
        // SAFETY: the verifier has proven the context pointer; the field is UAPI.
        let protocol = unsafe { (&raw const (*self.0).protocol).read_volatile() };
        if protocol != TCP {
            return;
        }
        if let Some(short_flow) = short_flow::of_call(|| self.cookie(), unsent) {
            self.leave_storage();
            let (origin, now) = (Origin::current(), now());
            short_flow.started_ns = now;
            short_flow.ask(self.port(), self.family());
            self.address::<V6>(short_flow.asked_address());
            short_flow.call(origin);
            origin.called::<OWN>(now);
        } else {
            self.keep_in_storage::<V6, OWN>();
        }
    }

    /// The socket; null where there is no full one.
    #[inline(always)]
    fn sk(self) -> *mut bpf_sock {
        // SAFETY: as above.
        unsafe { (&raw const (*self.0).__bindgen_anon_1.sk).read_volatile() }
    }

    /// A socket has a slot or storage: an earlier call may have found no free slot.
    #[inline(always)]
    fn leave_storage(self) {
        let sk = self.sk();
        // SAFETY: a socket that was checked; it is locked during the call.
        let is_stored =
            !sk.is_null() && unsafe { storage::get(&raw const FLOWS, sk.cast()) }.is_some();
        if is_stored {
            self.forget_stored();
        }
    }

    /// What is left of an earlier call, which is reported, or of a connection of which no callback reported the close.
    #[cold]
    #[inline(never)]
    fn forget_stored(self) {
        let sk = self.sk();
        if !sk.is_null() {
            report_stored(sk, BPF_TCP_CLOSE);
            // SAFETY: as in `leave_storage`.
            unsafe { storage::delete(&raw const FLOWS, sk.cast()) };
        }
    }

    #[cold]
    #[inline(never)]
    fn keep_in_storage<const V6: bool, const OWN: bool>(self) {
        self.forget_stored();
        let sk = self.sk();
        if sk.is_null() {
            return count(Counter::AskedDropped);
        }
        // SAFETY: as in `leave_storage`.
        let Some(flow) = (unsafe { storage::get_or_new(&raw const FLOWS, sk.cast()) }) else {
            return count(Counter::AskedDropped);
        };
        let (origin, now) = (Origin::current(), now());
        flow.cookie = self.cookie();
        flow.started_ns = now;
        flow.inline_samples[CGROUP_LOW] = origin.cgroup as u32;
        flow.inline_samples[CGROUP_HIGH] = (origin.cgroup >> 32) as u32;
        flow.inline_samples[TGID] = origin.tgid;
        flow.peer_port = self.port();
        flow.family = self.family();
        self.address::<V6>((&raw mut flow.peer_addr).cast());
        origin.called::<OWN>(now);
    }

    #[inline(always)]
    fn cookie(self) -> u64 {
        // SAFETY: the helper takes the context.
        unsafe { bpf_get_socket_cookie(self.0.cast()) }
    }

    #[inline(always)]
    fn family(self) -> u8 {
        // SAFETY: as above.
        unsafe { (&raw const (*self.0).family).read_volatile() as u8 }
    }

    /// Host byte order.
    #[inline(always)]
    fn port(self) -> u16 {
        // SAFETY: as above. The kernel gives the port in network byte order, in the first bytes of the field.
        let port = unsafe { (&raw const (*self.0).user_port).read_volatile() };
        u16::from_be(port as u16)
    }

    /// Writes the four words of the address.
    #[inline(always)]
    fn address<const V6: bool>(self, to: *mut u32) {
        macro_rules! copy {
            ($($from:ident $([$index:literal])? => $at:literal,)*) => {
                $(
                    // SAFETY: a field as above; the caller vouches for four words.
                    unsafe {
                        let word = (&raw const (*self.0).$from$([$index])?).read_volatile();
                        to.add($at).write_volatile(word);
                    }
                )*
            };
        }
        if V6 {
            copy! {
                user_ip6[0] => 0,
                user_ip6[1] => 1,
                user_ip6[2] => 2,
                user_ip6[3] => 3,
            }
        } else {
            let mapped = u32::from_ne_bytes([0, 0, 0xff, 0xff]);
            // SAFETY: as in `copy`.
            unsafe {
                to.write_volatile(0);
                to.add(1).write_volatile(0);
                to.add(2).write_volatile(mapped);
            }
            copy! { user_ip4 => 3, }
        }
    }
}

/// Whether this is a call of `connect()` after which no SYN was sent, and not a connection.
#[inline(always)]
pub(crate) const fn is_unsent(flow: &FlowRecord) -> bool {
    flow.started_ns != 0 && flow.role == Role::Unknown as u8
}

/// Whether the socket connects to this address and port.
#[inline(always)]
pub(crate) fn is_as_asked(ctx: Ctx, address: *const u32, port: u16) -> bool {
    // SAFETY: the caller vouches for four words.
    let word = |at: usize| unsafe { address.add(at).read_volatile() };
    let is_same = if ctx.family() == AF_INET {
        let is_same = ctx.remote_ip4() == word(3);
        // As in `Ctx::addresses`.
        // SAFETY: no instruction at all.
        unsafe { asm!("", options(nostack)) };
        is_same
    } else {
        ctx.remote_ip6::<0>() == word(0)
            && ctx.remote_ip6::<1>() == word(1)
            && ctx.remote_ip6::<2>() == word(2)
            && ctx.remote_ip6::<3>() == word(3)
    };
    is_same && ctx.peer_port() == port
}

/// Sends what was asked for: the socket connects to something else.
#[cold]
#[inline(never)]
pub(crate) fn report_asked(ctx: Ctx, started_ns: u64, address: *const u32, port: u16) {
    let Some(mut entry) = RECORDS.reserve::<AskedRecord>(0) else {
        return count(Counter::AskedDropped);
    };
    let cookie = ctx.cookie();
    let record = entry.as_mut_ptr();
    // SAFETY: the caller vouches for four words.
    let word = |at: usize| unsafe { address.add(at).read_volatile() };
    put! { record,
        cookie: cookie,
        started_ns: started_ns,
        cgroup_id: 0,
        address[0]: word(0),
        address[1]: word(1),
        address[2]: word(2),
        address[3]: word(3),
        tgid: 0,
        port: port,
        kind: asked::KIND,
    }
    entry.submit(wake(cookie, started_ns));
}

/// The socket is closed in this state: reports a call of `connect()` after which no SYN was sent.
#[cold]
#[inline(never)]
pub(crate) fn closed(sock: *mut bpf_sock, state: u32) {
    // SAFETY: the helper takes the context.
    let cookie = || unsafe { bpf_get_socket_cookie(sock.cast()) };
    if let Some(short_flow) = short_flow::unsent(cookie) {
        report_unsent(short_flow, state);
        short_flow.free();
    } else {
        report_stored(sock, state);
    }
}

/// An earlier call of the socket that calls `connect()` again.
#[cold]
#[inline(never)]
fn unsent(short_flow: &mut ShortFlow) {
    report_unsent(short_flow, BPF_TCP_CLOSE);
}

/// Reports the socket's record if no SYN was sent. It is of no use afterwards; release hooks may not delete it.
#[inline(always)]
fn report_stored(sk: *mut bpf_sock, state: u32) {
    // SAFETY: the context, or a socket that was checked.
    let Some(flow) = (unsafe { storage::get(&raw const FLOWS, sk.cast()) }) else {
        return;
    };
    if is_unsent(flow) {
        flow.role = Role::Client as u8;
        flow.last_state = last_state(state);
        flow.flags = flags(state);
        emit(flow, Kind::Close, now(), Counter::FailedDropped);
    }
}

/// Sends the record of an attempt without a SYN, which is that of any other failed attempt.
#[inline(always)]
fn report_unsent(short_flow: &mut ShortFlow, state: u32) {
    let Some(mut entry) = RECORDS.reserve::<Short>(0) else {
        return count(Counter::FailedDropped);
    };
    let cookie = short_flow.cookie_of_call();
    let flow = entry.as_mut_ptr().cast::<FlowRecord>();
    let (cgroup, tgid) = (short_flow.established_ns, short_flow.tgid());
    let address = short_flow.asked_address();
    // SAFETY: the slot has four words there.
    let word = |at: usize| unsafe { address.add(at).read_volatile() };
    put! { flow,
        cookie: cookie,
        started_ns: short_flow.started_ns,
        established_ns: 0,
        local_addr[0]: 0,
        local_addr[1]: 0,
        local_addr[2]: 0,
        local_addr[3]: 0,
        peer_addr[0]: word(0),
        peer_addr[1]: word(1),
        peer_addr[2]: word(2),
        peer_addr[3]: word(3),
        local_port: 0,
        peer_port: short_flow.asked_port(),
        client_isn: 0,
        server_isn: 0,
        kind: Kind::Close as u8,
        role: Role::Client as u8,
        family: short_flow.asked_family(),
        last_state: last_state(state),
        bytes_acked: 0,
        bytes_received: 0,
        segs_out: 0,
        segs_in: 0,
        total_retrans: 0,
        received_at_fin_wait2: 0,
        released_in: 0,
        flags: flags(state),
        slots_used: 0,
        inline_samples_used: 0,
        inline_samples[0]: cgroup as u32,
        inline_samples[1]: (cgroup >> 32) as u32,
        inline_samples[5]: tgid,
    }
    let now = now();
    put! { flow, emitted_ns: now, }
    entry.submit(wake(cookie, now));
}

/// Only a deferred SYN (TCP_FASTOPEN_CONNECT) leaves a socket that waits to send it; a socket that listens failed to connect before.
#[inline(always)]
const fn last_state(state: u32) -> u8 {
    if state == BPF_TCP_SYN_SENT {
        state as u8
    } else {
        BPF_TCP_CLOSE as u8
    }
}

#[inline(always)]
const fn flags(state: u32) -> u16 {
    if state == BPF_TCP_SYN_SENT {
        flag::START_UNSEEN | flag::ABANDONED
    } else {
        flag::START_UNSEEN
    }
}
