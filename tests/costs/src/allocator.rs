//! An allocator that counts.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

thread_local! {
    /// Bytes that this thread took less those that it gave back.
    static LIVE: Cell<u64> = const { Cell::new(0) };
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

#[global_allocator]
static COUNTING: Counting = Counting;

struct Counting;

/// Bytes that this thread took less those that it gave back.
pub(crate) fn live() -> u64 {
    LIVE.get()
}

/// How often this thread took memory.
pub(crate) fn allocations() -> u64 {
    ALLOCATIONS.get()
}

/// As glibc rounds: 8 bytes more, 32 at least, in units of 16.
fn taken(layout: Layout) -> u64 {
    ((layout.size() as u64 + 8).next_multiple_of(16)).max(32)
}

// SAFETY: the system's allocator does it all.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.set(LIVE.get().wrapping_add(taken(layout)));
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        LIVE.set(LIVE.get().wrapping_add(taken(layout)));
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let larger = Layout::from_size_align(size, layout.align()).unwrap_or(layout);
        let live = LIVE.get().wrapping_add(taken(larger));
        LIVE.set(live.wrapping_sub(taken(layout)));
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get().wrapping_sub(taken(layout)));
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }
}
