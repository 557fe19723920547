//! Where a connection's state is while it is short: a seat in an array that is there already.
//!
//! Making socket storage takes the kernel two allocations charged to a memory cgroup, more than a microsecond,
//! which a connection that carries one exchange never earns back. A seat is one cache line, found by the socket's
//! cookie. Whoever finds its seat taken, and whoever needs more than a seat holds, gets socket storage instead.

use core::mem::offset_of;

use aya_ebpf::{
    bindings::bpf_spin_lock,
    helpers::{bpf_spin_lock, bpf_spin_unlock},
};
use flowcar_shared::record::{FEW_SAMPLES, FlowRecord, Role};

use crate::{
    ctx::Ctx,
    maps::{SEATS, SEATS_COUNT},
    verifier::put,
};

/// What is known of a connection that has no socket storage.
#[repr(C)]
pub(crate) struct Seat {
    /// Held while the seat is taken: two CPUs may want the same one. All else is written by the holder's callbacks alone,
    /// and its socket is locked while they run. First, because without CAP_PERFMON no pointer to it may be computed.
    lock: bpf_spin_lock,
    pub(crate) flags: u16,
    few_used: u16,
    /// The socket's cookie, shifted left by 2, and its role. 0 while nobody sits here.
    holder: u64,
    pub(crate) started_ns: u64,
    pub(crate) established_ns: u64,
    pub(crate) tick: u32,
    pub(crate) received_at_fin_wait2: u32,
    pub(crate) few: [u32; FEW_SAMPLES],
}

const _: () = assert!(offset_of!(Seat, lock) == 0);
const _: () = assert!(size_of::<Seat>() == 64);
// The index is a mask.
const _: () = assert!(SEATS_COUNT.is_power_of_two());

/// The socket's seat, if it has one.
#[inline(always)]
pub(crate) fn of(ctx: Ctx) -> Option<&'static mut Seat> {
    of_cookie(ctx.cookie())
}

/// The seat of the socket with this cookie, if it has one.
#[inline(always)]
pub(crate) fn of_cookie(cookie: u64) -> Option<&'static mut Seat> {
    at(cookie).filter(|seat| seat.cookie() == cookie)
}

/// Takes the socket's seat, if it is free.
#[inline(always)]
pub(crate) fn take(ctx: Ctx, role: Role) -> Option<&'static mut Seat> {
    let cookie = ctx.cookie();
    let seat = at(cookie).filter(|seat| seat.holder == 0)?;
    let (lock, holder) = (&raw mut seat.lock, &raw mut seat.holder);
    // SAFETY: fields of the element; between the two calls are a load and stores alone, as the verifier demands.
    let free = unsafe {
        bpf_spin_lock(lock);
        let free = holder.read_volatile() == 0;
        if free {
            holder.write_volatile(cookie << 2 | role as u64);
        }
        bpf_spin_unlock(lock);
        free
    };
    if !free {
        return None;
    }
    put! { seat,
        started_ns: 0,
        established_ns: 0,
        tick: 0,
        received_at_fin_wait2: 0,
        flags: 0,
        few_used: 0,
    }
    Some(seat)
}

/// A CPU numbers its sockets in batches of 4096 (include/linux/cookie.h), so cookies of two CPUs that make sockets at
/// the same pace have the same lower bits: the batch's number moves them apart.
#[inline(always)]
pub(crate) fn place(cookie: u64) -> u32 {
    (cookie.wrapping_add((cookie >> 12) * 1637) as usize & (SEATS_COUNT - 1)) as u32
}

#[inline(always)]
fn at(cookie: u64) -> Option<&'static mut Seat> {
    let seat = SEATS.get_ptr_mut(place(cookie))?;
    // SAFETY: an element of the array, which stays where it is.
    Some(unsafe { &mut *seat })
}

// === impl Seat ===

impl Seat {
    #[inline(always)]
    pub(crate) fn role(&self) -> u8 {
        (self.holder & 3) as u8
    }

    /// The cookie of the socket that sits here.
    #[inline(always)]
    pub(crate) fn cookie(&self) -> u64 {
        self.holder >> 2
    }

    /// How many samples are kept.
    #[inline(always)]
    pub(crate) fn few_used(&self) -> u32 {
        self.few_used.into()
    }

    /// Keeps a sample, if there is room.
    #[inline(always)]
    pub(crate) fn keep(&mut self, rtt_us: u32) -> bool {
        if usize::from(self.few_used) >= FEW_SAMPLES {
            return false;
        }
        // The others move up: in a value with a lock the verifier allows no computed index without CAP_PERFMON.
        macro_rules! shift {
            ($($from:literal => $to:literal)*) => {
                // SAFETY: elements of the array. One load and one store each, for no memmove.
                $(unsafe { (&raw mut self.few[$to]).write_volatile(self.few[$from]) };)*
            };
        }
        shift!(4 => 5 3 => 4 2 => 3 1 => 2 0 => 1);
        self.few[0] = rtt_us;
        self.few_used += 1;
        true
    }

    /// Frees the seat.
    #[inline(always)]
    pub(crate) fn leave(&mut self) {
        self.holder = 0;
    }

    /// Moves to socket storage; `None`, and still seated, if the kernel refuses it.
    #[inline(always)]
    pub(crate) fn promote(&mut self, ctx: Ctx) -> Option<&'static mut FlowRecord> {
        let flow = ctx.flow_or_new()?;
        flow.started_ns = self.started_ns;
        flow.established_ns = self.established_ns;
        flow.role = self.role();
        flow.flags = self.flags;
        flow.tick = self.tick;
        flow.received_at_fin_wait2 = self.received_at_fin_wait2;
        flow.rtt_min_us = u32::MAX;
        ctx.identify(flow, self.cookie());
        ctx.number(flow, self.role());
        flow.few[0] = self.few[0];
        flow.few[1] = self.few[1];
        flow.few[2] = self.few[2];
        flow.few[3] = self.few[3];
        flow.few[4] = self.few[4];
        flow.few[5] = self.few[5];
        flow.few_used = self.few_used();
        self.leave();
        Some(flow)
    }
}
