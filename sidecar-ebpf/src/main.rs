//! flowcar's kernel programs: a list of what is attached to a pod's cgroup.
//!
//! Needs Linux 5.10: sk_storage from sock_ops (5.2, BTF-described maps), the ring buffer (5.8). Loads with
//! CAP_BPF and CAP_NET_ADMIN alone, so the verifier's rules for unprivileged pointer arithmetic apply.
//! Every context field that is read is kernel UAPI (include/uapi/linux/bpf.h); nothing is relocated.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod connect;
mod ctx;
mod dns;
mod emit;
mod exchange;
mod handshake;
mod histogram;
mod loss;
mod maps;
mod mark;
mod origin;
mod packet;
mod release;
mod rtt;
mod short_flow;
mod sock_ops;
mod state;
mod storage;
mod verifier;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// `bpf_ringbuf_query` and the storage helpers are not GPL-only, but the kernel wants a licence.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 11] = *b"Apache-2.0\0";
