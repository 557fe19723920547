//! The only place that reads `bpf_sock_ops`: one volatile load for each field.
//!
//! Each field is loaded at its own width. Left alone, the compiler merges or narrows neighbouring loads
//! and the verifier refuses the result ("invalid bpf_context access").

use core::arch::asm;

use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_ops},
    helpers::{
        bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_ktime_get_ns, bpf_sock_ops_cb_flags_set,
    },
};
use flowcar_shared::record::{AF_INET, FlowRecord, Role};

use crate::verifier::put;

/// `IPPROTO_TCP` (RFC 9293).
pub(crate) const TCP: u32 = 6;

/// `CLOCK_MONOTONIC`, nanoseconds. Some 50 ns on a virtual machine, so it is read once a callback at most.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() }
}

/// The context of one callback.
#[derive(Clone, Copy)]
pub(crate) struct Ctx(pub(crate) *mut bpf_sock_ops);

macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident: $ty:ty,)*) => {
        $(
            $(#[$doc])*
            #[inline(always)]
            pub(crate) fn $name(self) -> $ty {
                // SAFETY: the verifier has proven the context pointer; the field is UAPI.
                unsafe { (&raw const (*self.0).$name).read_volatile() }
            }
        )*
    };
}

impl Ctx {
    fields! {
        /// `BPF_SOCK_OPS_*`.
        op: u32,
        /// The socket's state (include/net/tcp_states.h).
        state: u32,
        /// Smoothed RTT in microseconds, shifted left by 3.
        srtt_us: u32,
        rcv_nxt: u32,
        snd_nxt: u32,
        snd_una: u32,
        /// Segments sent and neither acknowledged nor discarded, a SYN included.
        packets_out: u32,
        /// Segments marked lost and not yet acknowledged.
        lost_out: u32,
        total_retrans: u32,
        /// The peer's address where the family is IPv4, network byte order.
        remote_ip4: u32,
        /// This end's address where the family is IPv4, network byte order.
        local_ip4: u32,
        /// This end's port, host byte order.
        local_port: u32,
        segs_in: u32,
        /// Callbacks that are enabled.
        bpf_sock_ops_cb_flags: u32,
        /// The TCP flags of the segment whose header is shown (since 5.10).
        skb_tcp_flags: u32,
        /// Segments received with payload.
        data_segs_in: u32,
        segs_out: u32,
        bytes_received: u64,
        bytes_acked: u64,
    }

    /// Argument `N` of the callback.
    #[inline(always)]
    pub(crate) fn arg<const N: usize>(self) -> u32 {
        // SAFETY: as above; N is a constant below 4.
        unsafe { (&raw const (*self.0).__bindgen_anon_1.args[N]).read_volatile() }
    }

    #[inline(always)]
    pub(crate) fn family(self) -> u8 {
        // SAFETY: as above.
        unsafe { (&raw const (*self.0).family).read_volatile() as u8 }
    }

    /// Word `N` of the peer's address where the family is IPv6, network byte order.
    #[inline(always)]
    pub(crate) fn remote_ip6<const N: usize>(self) -> u32 {
        // SAFETY: as above; N is a constant below 4.
        unsafe { (&raw const (*self.0).remote_ip6[N]).read_volatile() }
    }

    /// Word `N` of this end's address where the family is IPv6, network byte order.
    #[inline(always)]
    pub(crate) fn local_ip6<const N: usize>(self) -> u32 {
        // SAFETY: as above; N is a constant below 4.
        unsafe { (&raw const (*self.0).local_ip6[N]).read_volatile() }
    }

    /// The peer's port, host byte order.
    #[inline(always)]
    pub(crate) fn peer_port(self) -> u16 {
        // SAFETY: as above.
        let port = unsafe { (&raw const (*self.0).remote_port).read_volatile() };
        // Network byte order in the upper half of a u32 (net/core/filter.c, sock_ops_convert_ctx_access).
        u16::from_be((port >> 16) as u16)
    }

    #[inline(always)]
    pub(crate) fn sk(self) -> *mut bpf_sock {
        // SAFETY: as above; null where there is no full socket.
        unsafe { (&raw const (*self.0).__bindgen_anon_2.sk).read_volatile() }
    }

    /// The socket's cookie: unique among all sockets, past and present.
    #[inline(always)]
    pub(crate) fn cookie(self) -> u64 {
        // SAFETY: the helper takes the context.
        unsafe { bpf_get_socket_cookie(self.0.cast()) }
    }

    /// The cookie of the socket's network namespace: unique among all namespaces, past and present. Since 5.15 for these programs.
    #[inline(always)]
    pub(crate) fn netns_cookie(self) -> u64 {
        // SAFETY: the helper takes the context.
        unsafe { bpf_get_netns_cookie(self.0.cast()) }
    }

    /// Enables callbacks on this socket, and keeps those that other programs enabled.
    #[inline(always)]
    pub(crate) fn arm(self, flags: u32) -> bool {
        let present = self.bpf_sock_ops_cb_flags();
        if present & flags == flags {
            return true;
        }
        // SAFETY: the helper takes the context itself.
        unsafe { bpf_sock_ops_cb_flags_set(self.0, (present | flags) as i32) == 0 }
    }

    /// Writes the addresses into the record at `flow`, which must have at least the fields of a short record. `cookie` is the
    /// socket's.
    #[inline(always)]
    pub(crate) fn identify(self, flow: *mut FlowRecord, cookie: u64) {
        let ops = self.0;
        // SAFETY: the fields as above, one load each; the caller vouches for the record.
        unsafe {
            (*flow).cookie = cookie;
            (*flow).local_port = (&raw const (*ops).local_port).read_volatile() as u16;
            (*flow).peer_port = self.peer_port();
            (*flow).family = self.family();
        }
        self.addresses(flow);
    }

    /// Writes both initial sequence numbers into the record at `flow`.
    #[inline(always)]
    pub(crate) fn number(self, flow: *mut FlowRecord, role: u8) {
        let (client_isn, server_isn) = self.initial_numbers(role);
        // SAFETY: as in `identify`.
        unsafe {
            (*flow).client_isn = client_isn;
            (*flow).server_isn = server_isn;
        }
    }

    /// The client's initial sequence number and the server's, by this end's role. They follow at any time from what was acknowledged
    /// and received so far, which the kernel counts from them on (net/ipv4/tcp_input.c, tcp_snd_una_update and
    /// tcp_rcv_nxt_update): everything, but the passive side's own SYN and the peer's.
    #[inline(always)]
    pub(crate) fn initial_numbers(self, role: u8) -> (u32, u32) {
        let ours = self.snd_una().wrapping_sub(self.bytes_acked() as u32);
        let theirs = self
            .rcv_nxt()
            .wrapping_sub(self.bytes_received() as u32)
            .wrapping_sub(1);
        if role == Role::Server as u8 {
            (theirs, ours.wrapping_sub(1))
        } else {
            (ours, theirs)
        }
    }

    /// Word by word: if all were loaded before any is stored, they would go through the stack.
    #[inline(always)]
    fn addresses(self, flow: *mut FlowRecord) {
        macro_rules! copy {
            ($($from:ident $([$index:literal])? => $to:ident[$at:literal],)*) => {
                $(
                    // SAFETY: the context's fields as in `fields`, the record's as in `identify`.
                    unsafe {
                        let word = (&raw const (*self.0).$from$([$index])?).read_volatile();
                        (&raw mut (*flow).$to[$at]).write_volatile(word);
                    }
                )*
            };
        }
        if self.family() == AF_INET {
            let mapped = u32::from_ne_bytes([0, 0, 0xff, 0xff]);
            copy! {
                local_ip4 => local_addr[3],
                remote_ip4 => peer_addr[3],
            }
            put! { flow,
                local_addr[0]: 0,
                local_addr[1]: 0,
                local_addr[2]: mapped,
                peer_addr[0]: 0,
                peer_addr[1]: 0,
                peer_addr[2]: mapped,
            }
            // Else the compiler may merge loads of both branches into one from a computed offset in the context, which the
            // verifier refuses.
            // SAFETY: no instruction at all.
            unsafe { asm!("", options(nostack)) };
        } else {
            copy! {
                local_ip6[0] => local_addr[0],
                local_ip6[1] => local_addr[1],
                local_ip6[2] => local_addr[2],
                local_ip6[3] => local_addr[3],
                remote_ip6[0] => peer_addr[0],
                remote_ip6[1] => peer_addr[1],
                remote_ip6[2] => peer_addr[2],
                remote_ip6[3] => peer_addr[3],
            }
        }
    }

    /// Writes the socket's cumulative counts into the record at `flow`.
    #[inline(always)]
    pub(crate) fn measure(self, flow: *mut FlowRecord) {
        // SAFETY: as in `identify`.
        unsafe {
            (*flow).bytes_acked = self.bytes_acked();
            (*flow).bytes_received = self.bytes_received();
            (*flow).segs_out = self.segs_out();
            (*flow).segs_in = self.segs_in();
            (*flow).total_retrans = self.total_retrans();
        }
    }
}

/// Whether sequence number `a` comes before `b`, modulo 2^32 (RFC 9293 section 3.4).
#[inline(always)]
pub(crate) const fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}
