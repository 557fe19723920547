//! Socket storage: memory that the kernel keeps beside a socket, and frees with it.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::BPF_SK_STORAGE_GET_F_CREATE,
    btf_maps::SkStorage,
    helpers::{bpf_sk_storage_delete, bpf_sk_storage_get},
};
use flowcar_shared::record::FlowRecord;

use crate::{
    ctx::Ctx,
    maps::{self, FLOWS},
};

/// The socket's value; `None` where it has none.
///
/// # Safety
/// `map` is the static, and `sk` a socket that was checked, or the context of a program that is one. It outlives the program, and no other
/// reference to the value is used meanwhile.
#[inline(always)]
pub(crate) unsafe fn get<T>(map: *const SkStorage<T>, sk: *mut c_void) -> Option<&'static mut T> {
    // SAFETY: the caller's.
    unsafe { find(map, sk, 0) }
}

/// The socket's value, made of zeros where there is none; `None` if the kernel refuses the memory, or userspace's limit has no
/// room for it.
///
/// # Safety
/// As [`get`].
#[inline(always)]
pub(crate) unsafe fn get_or_new<T>(
    map: *const SkStorage<T>,
    sk: *mut c_void,
) -> Option<&'static mut T> {
    let flags = if maps::is_full() {
        0
    } else {
        BPF_SK_STORAGE_GET_F_CREATE.into()
    };
    // SAFETY: the caller's.
    unsafe { find(map, sk, flags) }
}

/// Takes the socket's value away, if it has one.
///
/// # Safety
/// As [`get`].
#[inline(always)]
pub(crate) unsafe fn delete<T>(map: *const SkStorage<T>, sk: *mut c_void) {
    // SAFETY: the caller's.
    unsafe { bpf_sk_storage_delete(map.cast_mut().cast(), sk) };
}

#[inline(always)]
unsafe fn find<T>(map: *const SkStorage<T>, sk: *mut c_void, flags: u64) -> Option<&'static mut T> {
    // SAFETY: the caller's.
    unsafe {
        bpf_sk_storage_get(map.cast_mut().cast(), sk, core::ptr::null_mut(), flags)
            .cast::<T>()
            .as_mut()
    }
}

// === impl Ctx ===

impl Ctx {
    /// The socket's record, if it is followed.
    #[inline(always)]
    pub(crate) fn flow(self) -> Option<&'static mut FlowRecord> {
        let sk = self.sk();
        // SAFETY: a socket that was checked; it is locked while its callbacks run.
        (!sk.is_null()).then(|| unsafe { get(&raw const FLOWS, sk.cast()) })?
    }

    /// The socket's record, made where there is none; `None` if the kernel refuses the memory.
    #[inline(always)]
    pub(crate) fn flow_or_new(self) -> Option<&'static mut FlowRecord> {
        let sk = self.sk();
        // SAFETY: as in `flow`.
        (!sk.is_null()).then(|| unsafe { get_or_new(&raw const FLOWS, sk.cast()) })?
    }

    /// Stops following the socket: one that connects again after `connect(AF_UNSPEC)` starts afresh.
    #[inline(always)]
    pub(crate) fn forget(self) {
        let sk = self.sk();
        if !sk.is_null() {
            // SAFETY: as in `flow`.
            unsafe { delete(&raw const FLOWS, sk.cast()) };
        }
    }
}
