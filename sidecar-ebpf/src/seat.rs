//! Where a connection's state is while it is short: a seat in an array that is there already.
//!
//! Making socket storage takes the kernel two allocations charged to a memory cgroup, more than a microsecond,
//! which a connection that carries one exchange never earns back. A seat is one cache line, found by the socket's
//! cookie. Whoever finds its seat taken, and whoever needs more than a seat holds, gets socket storage instead.

use core::mem::offset_of;

use flowcar_shared::record::{FEW_SAMPLES, FlowRecord, Role};

use crate::{
    ctx::Ctx,
    maps::{self, SEATS_COUNT},
    mark::{Closing, Mark},
    verifier::{add, put},
};

/// What is known of a connection that has no socket storage.
#[repr(C)]
pub(crate) struct Seat {
    /// How many want it or have it. All else is written by the holder's callbacks alone, and its socket is locked while they run;
    /// but for
    /// [`Closing::released_in`].
    claims: u32,
    pub(crate) mark: Mark,
    /// The socket's cookie, how many samples are kept, and its role ([`COOKIE_SHIFT`], [`FEW_SHIFT`]). 0 while nobody sits here.
    holder: u64,
    pub(crate) started_ns: u64,
    pub(crate) established_ns: u64,
    pub(crate) closing: Closing,
    pub(crate) flags: u16,
    tick: u16,
    pub(crate) few: [u32; FEW_SAMPLES],
}

const _: () = assert!(size_of::<Seat>() == 64 && offset_of!(Seat, claims) == 0);

/// In [`Seat::holder`]: two bits of the role, then six of the number of samples, and the cookie.
const ROLE: u64 = 3;
const FEW_SHIFT: u32 = 2;
const FEW: u64 = 0x3f;
const COOKIE_SHIFT: u32 = 8;

const _: () = assert!(FEW_SAMPLES as u64 <= FEW && (Role::Server as u64) <= ROLE);
// The index is a mask.
const _: () = assert!(SEATS_COUNT.is_power_of_two());

/// The socket's seat, if it has one.
#[inline(always)]
pub(crate) fn of(ctx: Ctx) -> Option<&'static mut Seat> {
    of_cookie(|| ctx.cookie())
}

/// The seat of the socket with this cookie, if it has one.
#[inline(always)]
pub(crate) fn of_cookie(cookie: impl FnOnce() -> u64) -> Option<&'static mut Seat> {
    let (cookie, seat) = at(cookie)?;
    (seat.cookie() == cookie).then_some(seat)
}

/// Takes the socket's seat, if it is free.
#[inline(always)]
pub(crate) fn take(ctx: Ctx, role: Role) -> Option<&'static mut Seat> {
    let (cookie, seat) = at(|| ctx.cookie())?;
    if seat.holder != 0 || !seat.claim() {
        return None;
    }
    put! { seat,
        holder: cookie << COOKIE_SHIFT | role as u64,
        started_ns: 0,
        established_ns: 0,
        flags: 0,
        tick: 0,
    }
    put! { &raw mut seat.closing,
        released_in: 0,
    }
    Some(seat)
}

/// A CPU numbers its sockets in batches of 4096 (include/linux/cookie.h), so cookies of two CPUs that make sockets at
/// the same pace have the same lower bits: the batch's number moves them apart.
#[inline(always)]
pub(crate) fn place(cookie: u64) -> u32 {
    (cookie.wrapping_add((cookie >> 12) * 1637) as usize & (SEATS_COUNT - 1)) as u32
}

/// The key is stored twice. Without CAP_PERFMON the verifier puts a barrier behind the first store to each place on the stack
/// (kernel/bpf/verifier.c, check_stack_write_fixed_off), where the processor waits for all that it has under way: before the cookie is asked
/// for, that is nothing yet.
#[inline(always)]
fn at(cookie: impl FnOnce() -> u64) -> Option<(u64, &'static mut Seat)> {
    let mut key = 0;
    let key_at = &raw mut key;
    // SAFETY: the variable above.
    unsafe { key_at.write_volatile(0) };
    let cookie = cookie();
    // SAFETY: as before.
    unsafe { key_at.write_volatile(place(cookie)) };
    let seat = maps::seat(&key)?;
    // SAFETY: an element of the array, which stays where it is.
    Some((cookie, unsafe { &mut *seat }))
}

// === impl Seat ===

impl Seat {
    #[inline(always)]
    pub(crate) fn role(&self) -> u8 {
        (self.holder & ROLE) as u8
    }

    /// The cookie of the socket that sits here.
    #[inline(always)]
    pub(crate) fn cookie(&self) -> u64 {
        self.holder >> COOKIE_SHIFT
    }

    /// Whether a record was sent in this tick of userspace's, of which 65,536 pass before one could be taken for another.
    #[inline(always)]
    pub(crate) fn told(&self) -> bool {
        self.tick == maps::tick() as u16
    }

    /// A record is sent in this tick.
    #[inline(always)]
    pub(crate) fn tell(&mut self) {
        self.tick = maps::tick() as u16;
    }

    /// The connection is established; of a server's the start is not seen before.
    #[inline(always)]
    pub(crate) fn open(&mut self, now: u64) {
        self.established_ns = now;
        if self.started_ns == 0 {
            self.started_ns = now;
        }
    }

    /// How many samples are kept.
    #[inline(always)]
    pub(crate) fn few_used(&self) -> u32 {
        (self.holder >> FEW_SHIFT & FEW) as u32
    }

    /// Keeps a sample, if there is room.
    #[inline(always)]
    pub(crate) fn keep(&mut self, rtt_us: u32) -> bool {
        if self.few_used() >= FEW_SAMPLES as u32 {
            return false;
        }
        // The others move up, which takes less than an index that the verifier can follow (see `through_memory`).
        macro_rules! shift {
            ($($from:literal => $to:literal)*) => {
                // SAFETY: elements of the array. One load and one store each, for no memmove.
                $(unsafe { (&raw mut self.few[$to]).write_volatile(self.few[$from]) };)*
            };
        }
        shift!(4 => 5 3 => 4 2 => 3 1 => 2 0 => 1);
        self.few[0] = rtt_us;
        self.holder += 1 << FEW_SHIFT;
        true
    }

    /// Whether it is the caller's: of two that want it at once, neither gets it. By an addition, because kernels before 5.12 cannot
    /// exchange, and a lock takes two calls of helpers.
    #[inline(always)]
    fn claim(&mut self) -> bool {
        self.add_claims(1);
        // SAFETY: a field of this value.
        let claims = unsafe { (&raw const self.claims).read_volatile() };
        if claims != 1 {
            self.add_claims(-1);
        }
        claims == 1
    }

    #[inline(always)]
    fn add_claims(&mut self, more: i64) {
        // What lies above it in the word stays as it is: there is never less than nothing to take away, and the holder's plain
        // stores are not torn by an addition at once. For half a word the compiler has no such instruction on this target.
        // SAFETY: the first eight bytes of this value, which is aligned to as many.
        unsafe { add((&raw mut *self).cast(), more) };
    }

    /// Frees the seat.
    #[inline(always)]
    pub(crate) fn leave(&mut self) {
        self.holder = 0;
        self.add_claims(-1);
    }

    /// Moves to socket storage; `None`, and still seated, if the kernel refuses it.
    #[inline(always)]
    pub(crate) fn promote(&mut self, ctx: Ctx) -> Option<&'static mut FlowRecord> {
        let flow = ctx.flow_or_new()?;
        flow.started_ns = self.started_ns;
        flow.established_ns = self.established_ns;
        flow.role = self.role();
        flow.flags = self.flags;
        flow.tick = maps::tick();
        self.mark.write(flow);
        self.closing.write(flow);
        flow.released_in = self.closing.released_in;
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
