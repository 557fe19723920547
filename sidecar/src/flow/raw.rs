//! The only place that reads the kernel's bytes as structs.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use flowcar_shared::{
    asked::AskedRecord,
    exchange::ExchangeRecord,
    origin::OriginRecord,
    record::{BriefClose, BriefOpen, FlowRecord, OpenRecord},
};

/// What the kernel programs send: `repr(C)` structs of integers, cut short behind their last histogram slot in use.
///
/// # Safety
/// Every bit pattern, all zeros too, is a value.
pub(super) unsafe trait Wire: Copy {}

// SAFETY: repr(C) of integers and arrays of integers.
unsafe impl Wire for FlowRecord {}
// SAFETY: as above.
unsafe impl Wire for ExchangeRecord {}
// SAFETY: as above.
unsafe impl Wire for AskedRecord {}
// SAFETY: as above.
unsafe impl Wire for OpenRecord {}
// SAFETY: as above.
unsafe impl Wire for BriefOpen {}
// SAFETY: as above.
unsafe impl Wire for BriefClose {}
// SAFETY: as above.
unsafe impl Wire for OriginRecord {}

/// All fields zero.
pub(super) fn zeroed<T: Wire>() -> T {
    // SAFETY: zeros are a value of a `Wire`.
    unsafe { std::mem::zeroed() }
}

/// Copies the bytes into a zeroed value; `None` if they are more than fit or fewer than `least`.
pub(super) fn read<T: Wire>(bytes: &[u8], least: usize) -> Option<T> {
    if bytes.len() < least || bytes.len() > size_of::<T>() {
        return None;
    }
    let mut value = zeroed::<T>();
    // SAFETY: any bytes are a value of a `Wire`; the copy stays within both, as the length was just checked.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), (&raw mut value).cast::<u8>(), bytes.len());
    }
    Some(value)
}

/// An address of the kernel's record: of IPv6, or of IPv4 mapped into it.
pub(super) fn socket_addr(words: [u32; 4], port: u16) -> SocketAddr {
    let mut octets = [0; 16];
    for (to, word) in octets.chunks_exact_mut(4).zip(words) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
    SocketAddr::new(IpAddr::V6(Ipv6Addr::from(octets)).to_canonical(), port)
}
