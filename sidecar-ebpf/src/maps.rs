//! The maps that several hooks share, with their memory, and what the loader and userspace set. A map of one type stands beside the type.

use core::ffi::c_void;

use aya_ebpf::{
    btf_maps::SkStorage,
    helpers::bpf_map_lookup_elem,
    macros::{btf_map, map},
    maps::{PerCpuArray, RingBuf},
};
use flowcar_shared::{
    counter::{COUNTERS as COUNTER_COUNT, Counter},
    exchange::ExchangeRecord,
    record::FlowRecord,
};

use crate::verifier::add;

/// One record for each followed socket that has no short-flow slot, freed with the socket: 1 KiB of kernel memory each, charged
/// to the socket's option memory (net.core.optmem_max) and, from 5.11 on, to the sidecar's memory cgroup.
#[btf_map]
pub(crate) static FLOWS: SkStorage<FlowRecord> = SkStorage::new();

/// What userspace writes while the programs run: the one variable in `.bss`.
#[repr(C)]
struct Userspace {
    /// Paces samples: a flow sends one when the epoch of its last record differs.
    sample_epoch: u32,
    /// Not 0 where userspace's memory limit has no room for what is kept beside one more socket.
    full: u32,
    /// Not 0 while userspace sleeps: the next record wakes it, and sets this to 0.
    asleep: u32,
}

/// See [`Userspace`].
#[unsafe(no_mangle)]
static mut FLOWCAR_USERSPACE: Userspace = Userspace {
    sample_epoch: 0,
    full: 0,
    asleep: 0,
};

/// Bytes waiting in the ring buffer from which on userspace is woken. The loader sets it, as below.
#[unsafe(no_mangle)]
static FLOWCAR_WAKE_LEVEL: u32 = 0;

/// Whether exchanges are followed. The loader sets it before the programs are loaded, and the verifier removes what a 0 makes
/// unreachable.
#[unsafe(no_mangle)]
static FLOWCAR_EXCHANGES: u8 = 0;

/// Whether userspace wants to know whose the sockets are. The loader sets it.
#[unsafe(no_mangle)]
static FLOWCAR_ORIGINS: u8 = 0;

/// Whether it reads what the processes are called. The loader sets it.
#[unsafe(no_mangle)]
static FLOWCAR_CALLERS: u8 = 0;

/// Whether userspace wants to know whose the sockets are.
#[inline(always)]
pub(crate) fn reports_origins() -> bool {
    // SAFETY: a static; volatile, because the loader replaces its value.
    unsafe { (&raw const FLOWCAR_ORIGINS).read_volatile() != 0 }
}

/// Whether userspace reads what the processes are called.
#[inline(always)]
pub(crate) fn reports_callers() -> bool {
    // SAFETY: as above.
    unsafe { (&raw const FLOWCAR_CALLERS).read_volatile() != 0 }
}

/// The PID namespace by which userspace's /proc shows processes, if that is not the initial one; 0 otherwise. The device (`dev_t` of the
/// kernel) and inode number of its file in nsfs. The loader sets both.
#[unsafe(no_mangle)]
static FLOWCAR_PIDNS_DEVICE: u64 = 0;
#[unsafe(no_mangle)]
static FLOWCAR_PIDNS_INODE: u64 = 0;

/// The device and inode number of the PID namespace by which userspace's /proc shows processes; an inode number of 0 if that is the
/// initial one.
#[inline(always)]
pub(crate) fn userspace_pidns() -> (u64, u64) {
    // SAFETY: as above.
    unsafe {
        (
            (&raw const FLOWCAR_PIDNS_DEVICE).read_volatile(),
            (&raw const FLOWCAR_PIDNS_INODE).read_volatile(),
        )
    }
}

/// The cookie of userspace's network namespace. The loader sets it.
#[unsafe(no_mangle)]
static FLOWCAR_NETNS: u64 = 0;

/// The cookie of userspace's network namespace.
#[inline(always)]
pub(crate) fn userspace_netns() -> u64 {
    // SAFETY: a static; volatile, because the loader replaces its value.
    unsafe { (&raw const FLOWCAR_NETNS).read_volatile() }
}

/// Exchanges of all others: 1 KiB for each socket, as [`FLOWS`].
#[btf_map]
pub(crate) static EXCHANGES: SkStorage<ExchangeRecord> = SkStorage::new();

/// Whether exchanges are followed.
#[inline(always)]
pub(crate) fn follows_exchanges() -> bool {
    // SAFETY: a static; volatile, because the loader replaces its value.
    unsafe { (&raw const FLOWCAR_EXCHANGES).read_volatile() != 0 }
}

/// Records on their way to userspace: 1 MiB unless the loader sets another size, some 13,100 records of short connections of IPv4 sockets.
#[map]
pub(crate) static RECORDS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// `BPF_RB_NO_WAKEUP`, `BPF_RB_FORCE_WAKEUP`, `BPF_RB_AVAIL_DATA` (include/uapi/linux/bpf.h).
pub(crate) const NO_WAKEUP: u64 = 1;
pub(crate) const FORCE_WAKEUP: u64 = 2;
pub(crate) const AVAIL_DATA: u64 = 0;

/// The kernel's side of the books ([`Counter`]): 8 bytes for each counter and CPU.
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTER_COUNT as u32, 0);

/// Counts a connection that was established.
#[inline(always)]
pub(crate) fn established() {
    // No store to the stack (see `short_flow::at`).
    static KEY: u32 = Counter::Established.index();
    add_one(&KEY);
}

/// Adds one to a counter, but for that of connections.
#[cold]
#[inline(never)]
pub(crate) fn count(counter: Counter) {
    add_one(&counter.index());
}

#[inline(always)]
fn add_one(key: &u32) {
    let value = element(&raw const COUNTERS, key);
    if !value.is_null() {
        // SAFETY: an element of the array. Atomic: an interrupt may run another callback between a load and a store.
        unsafe { add(value.cast(), 1) };
    }
}

/// The element of an array of either kind at a key in any memory; null where there is none.
#[inline(always)]
pub(crate) fn element<T>(array: *const T, key: &u32) -> *mut c_void {
    // SAFETY: the helper takes a map and a key of it.
    unsafe { bpf_map_lookup_elem(array.cast_mut().cast(), (&raw const *key).cast_mut().cast()) }
}

/// The current sample epoch.
#[inline(always)]
pub(crate) fn sample_epoch() -> u32 {
    // SAFETY: an aligned u32 that userspace alone writes, as a whole.
    unsafe { (&raw const FLOWCAR_USERSPACE.sample_epoch).read_volatile() }
}

/// Whether there is no room for what is kept beside one more socket.
#[inline(always)]
pub(crate) fn is_full() -> bool {
    // SAFETY: as for the epoch.
    unsafe { (&raw const FLOWCAR_USERSPACE.full).read_volatile() != 0 }
}

/// Whether userspace sleeps.
#[inline(always)]
pub(crate) fn is_asleep() -> bool {
    // SAFETY: as for the epoch.
    unsafe { (&raw const FLOWCAR_USERSPACE.asleep).read_volatile() != 0 }
}

/// Userspace is about to be woken, once. Userspace writes the value again only after it was woken, so this is not written in between.
#[cold]
#[inline(never)]
pub(crate) fn awake() {
    // SAFETY: an aligned u32, written as a whole.
    unsafe { (&raw mut FLOWCAR_USERSPACE.asleep).write_volatile(0) };
}

/// Bytes waiting in the ring buffer from which on userspace is woken.
#[inline(always)]
pub(crate) fn wake_level() -> u32 {
    // SAFETY: a static; volatile, because the loader replaces its value.
    unsafe { (&raw const FLOWCAR_WAKE_LEVEL).read_volatile() }
}
