//! The state of a short connection: a slot in a preallocated array.
//!
//! Making socket storage takes the kernel two allocations charged to a memory cgroup, more than a microsecond, which a connection
//! with one exchange never earns back. A short-flow slot is one cache line, found by the socket's cookie. A socket whose slot is taken,
//! or that needs more than a slot holds, gets socket storage instead.

use core::mem::offset_of;

use aya_ebpf::{macros::map, maps::Array};
use flowcar_shared::{
    origin::{CGROUP_HIGH, CGROUP_LOW, NETNS_HIGH, NETNS_LOW, TGID},
    record::{FlowRecord, INLINE_SAMPLES, Role, brief},
};

use crate::{
    ctx::Ctx,
    maps,
    mark::{Closing, Mark},
    origin::Origin,
    verifier::{add, put},
};

/// The state of a connection that has no socket storage.
#[repr(C)]
pub(crate) struct ShortFlow {
    /// How many sockets claim or hold the slot. Only the holder's callbacks write the other fields, and its socket is locked while they
    /// run; except [`Closing::released_in`].
    claims: u32,
    pub(crate) mark: Mark,
    /// The socket's cookie, the number of inline samples, and its role ([`brief`]); or the cookie with [`UNSENT`]. 0 while the slot is
    /// free.
    holder: u64,
    pub(crate) started_ns: u64,
    pub(crate) established_ns: u64,
    pub(crate) closing: Closing,
    pub(crate) flags: u16,
    sample_epoch: u16,
    pub(crate) inline_samples: [u32; INLINE_SAMPLES],
}

const _: () = assert!(size_of::<ShortFlow>() == 64 && offset_of!(ShortFlow, claims) == 0);

/// How many [`SHORT_FLOWS`] there are.
pub(crate) const SHORT_FLOW_COUNT: usize = 4096;

/// Short-flow slots, 64 bytes each: 256 KiB, made once. A socket's slot is found by its cookie; cookies count up, so neighbours in
/// time are neighbours here.
///
/// By lookup, and not by a pointer that is moved from the first one to the socket's: without CAP_PERFMON kernels from 6.16 on
/// warn of a bug of their verifier where such a pointer is copied (adjust_ptr_min_max_vals, reg_bounds_sanity_check).
#[map]
static SHORT_FLOWS: Array<ShortFlow> = Array::with_max_entries(SHORT_FLOW_COUNT as u32, 0);

/// The short-flow slot with this number.
#[inline(always)]
fn element(number: &u32) -> Option<*mut ShortFlow> {
    let short_flow = maps::element(&raw const SHORT_FLOWS, number);
    (!short_flow.is_null()).then_some(short_flow.cast())
}

/// In [`ShortFlow::holder`]: `connect()` was called, and no SYN was sent yet. Above every cookie, so that such a slot is not found as
/// that of a connection.
const UNSENT: u64 = 1 << 63;

#[inline(always)]
const fn unsent_holder(cookie: u64) -> u64 {
    brief::pack(cookie, 0) | UNSENT
}

/// In [`ShortFlow::inline_samples`] until the SYN is sent: the address that `connect()` was asked for, then its port, and in the upper
/// half of that word the socket's family, then the process. The cgroup's id is in [`ShortFlow::established_ns`] until then, and moves to
/// the address's place.
const FAMILY_SHIFT: u32 = 16;

// The words that are stored by their numbers.
const _: () = assert!(CGROUP_LOW == 0 && CGROUP_HIGH == 1 && TGID == 5);
const _: () = assert!(NETNS_LOW == CGROUP_LOW && NETNS_HIGH == CGROUP_HIGH);
// The index is a mask.
const _: () = assert!(SHORT_FLOW_COUNT.is_power_of_two());

/// The socket's slot, if it has one.
#[inline(always)]
pub(crate) fn of(ctx: Ctx) -> Option<&'static mut ShortFlow> {
    of_cookie(|| ctx.cookie())
}

/// The slot of the socket with this cookie, if it has one.
#[inline(always)]
pub(crate) fn of_cookie(cookie: impl FnOnce() -> u64) -> Option<&'static mut ShortFlow> {
    let (cookie, short_flow) = at(cookie)?;
    (short_flow.cookie() == cookie).then_some(short_flow)
}

/// Takes the socket's slot, if it is free.
#[inline(always)]
pub(crate) fn take(ctx: Ctx, role: Role) -> Option<&'static mut ShortFlow> {
    let (cookie, short_flow) = at(|| ctx.cookie())?;
    if short_flow.holder != 0 || !short_flow.claim() {
        return None;
    }
    short_flow.hold(brief::pack(cookie, role as u8));
    Some(short_flow)
}

/// The slot for the socket with this cookie, which calls `connect()`: its own, or a free one. `unsent` gets its own if it holds an
/// earlier call after which no SYN was sent.
#[inline(always)]
pub(crate) fn of_call(
    cookie: impl FnOnce() -> u64,
    unsent: impl FnOnce(&mut ShortFlow),
) -> Option<&'static mut ShortFlow> {
    let (cookie, short_flow) = at(cookie)?;
    let holder = unsent_holder(cookie);
    if short_flow.holder == holder {
        unsent(short_flow);
    } else if short_flow.cookie() == cookie {
        // A connection of which no callback reported the close: the socket is closed, else the call would have been refused.
    } else if short_flow.holder != 0 || !short_flow.claim() {
        return None;
    }
    short_flow.hold(holder);
    Some(short_flow)
}

/// The slot of a client whose SYN is about to go: that of its call of `connect()`, or a free one. Also gives whether it is that of the
/// call.
#[inline(always)]
pub(crate) fn of_client(ctx: Ctx) -> Option<(&'static mut ShortFlow, bool)> {
    let (cookie, short_flow) = at(|| ctx.cookie())?;
    let holder = brief::pack(cookie, Role::Client as u8);
    if short_flow.holder == unsent_holder(cookie) {
        short_flow.holder = holder;
        return Some((short_flow, true));
    }
    if short_flow.holder != 0 || !short_flow.claim() {
        return None;
    }
    short_flow.hold(holder);
    Some((short_flow, false))
}

/// The slot of the socket with this cookie, if it called `connect()` and no SYN was sent.
#[inline(always)]
pub(crate) fn unsent(cookie: impl FnOnce() -> u64) -> Option<&'static mut ShortFlow> {
    let (cookie, short_flow) = at(cookie)?;
    (short_flow.holder == unsent_holder(cookie)).then_some(short_flow)
}

/// The number of the cookie's slot. A CPU numbers its sockets in batches of 4096 (include/linux/cookie.h), so cookies of two CPUs
/// that make sockets at the same pace have the same lower bits: the batch's number moves them apart.
#[inline(always)]
pub(crate) fn slot(cookie: u64) -> u32 {
    (cookie.wrapping_add((cookie >> 12) * 1637) as usize & (SHORT_FLOW_COUNT - 1)) as u32
}

/// The key is stored twice. Without CAP_PERFMON the verifier puts a barrier behind the first store to each stack slot
/// (kernel/bpf/verifier.c, check_stack_write_fixed_off), at which the processor waits for all outstanding work: before the call for
/// the cookie there is none.
#[inline(always)]
fn at(cookie: impl FnOnce() -> u64) -> Option<(u64, &'static mut ShortFlow)> {
    let mut key = 0;
    let key_at = &raw mut key;
    // SAFETY: the variable above.
    unsafe { key_at.write_volatile(0) };
    let cookie = cookie();
    // One that was made in an interrupt of the making of another counts down from 2^64 (include/linux/cookie.h, gen_cookie_next): it has
    // no room in a holder.
    if !brief::has_room(cookie) {
        return None;
    }
    // SAFETY: as before.
    unsafe { key_at.write_volatile(slot(cookie)) };
    let short_flow = element(&key)?;
    // SAFETY: an element of the array, which stays where it is.
    Some((cookie, unsafe { &mut *short_flow }))
}

// === impl ShortFlow ===

impl ShortFlow {
    /// Cookie, number of inline samples and role of the socket that holds the slot ([`brief`]).
    #[inline(always)]
    pub(crate) fn holder(&self) -> u64 {
        self.holder
    }

    #[inline(always)]
    pub(crate) fn role(&self) -> u8 {
        brief::role(self.holder)
    }

    /// The cookie of the socket that holds the slot; of none while no SYN was sent.
    #[inline(always)]
    pub(crate) fn cookie(&self) -> u64 {
        brief::cookie(self.holder)
    }

    /// The cookie of the socket that called `connect()` and sent no SYN.
    #[inline(always)]
    pub(crate) fn cookie_of_call(&self) -> u64 {
        brief::cookie(self.holder & !UNSENT)
    }

    /// Where the address is that `connect()` was asked for: network byte order, IPv4 in the last word.
    #[inline(always)]
    pub(crate) fn asked_address(&mut self) -> *mut u32 {
        (&raw mut self.inline_samples).cast()
    }

    /// The port that `connect()` was asked for, host byte order.
    #[inline(always)]
    pub(crate) fn asked_port(&self) -> u16 {
        self.inline_samples[4] as u16
    }

    /// The family of the socket that called `connect()`.
    #[inline(always)]
    pub(crate) fn asked_family(&self) -> u8 {
        (self.inline_samples[4] >> FAMILY_SHIFT) as u8
    }

    /// Keeps the port that `connect()` was asked for, and the socket's family.
    #[inline(always)]
    pub(crate) fn ask(&mut self, port: u16, family: u8) {
        let word = u32::from(port) | u32::from(family) << FAMILY_SHIFT;
        put! { self,
            inline_samples[4]: word,
        }
    }

    /// Keeps who called `connect()`, until the SYN is sent.
    #[inline(always)]
    pub(crate) fn call(&mut self, origin: Origin) {
        put! { self,
            established_ns: origin.cgroup,
            inline_samples[5]: origin.tgid,
        }
    }

    /// The SYN is about to go: keeps who called until the first RTT sample.
    #[inline(always)]
    pub(crate) fn keep_caller(&mut self) {
        let cgroup = self.established_ns;
        put! { self,
            established_ns: 0,
            inline_samples[0]: cgroup as u32,
            inline_samples[1]: (cgroup >> 32) as u32,
        }
    }

    /// The call was not seen.
    #[inline(always)]
    pub(crate) fn forget_caller(&mut self) {
        put! { self,
            inline_samples[0]: 0,
            inline_samples[1]: 0,
            inline_samples[5]: 0,
        }
    }

    /// Keeps the cookie of a server's network namespace until the first RTT sample.
    #[inline(always)]
    pub(crate) fn keep_netns(&mut self, netns: u64) {
        put! { self,
            inline_samples[0]: netns as u32,
            inline_samples[1]: (netns >> 32) as u32,
        }
    }

    /// The cgroup of who called, before the first RTT sample; of a server the cookie of its network namespace.
    #[inline(always)]
    pub(crate) fn cgroup(&self) -> u64 {
        u64::from(self.inline_samples[CGROUP_LOW])
            | u64::from(self.inline_samples[CGROUP_HIGH]) << 32
    }

    /// The process that called, before the first RTT sample. Of a server it means nothing.
    #[inline(always)]
    pub(crate) fn tgid(&self) -> u32 {
        self.inline_samples[TGID]
    }

    /// Gives the slot, which was claimed, to this holder.
    #[inline(always)]
    fn hold(&mut self, holder: u64) {
        put! { self,
            holder: holder,
            started_ns: 0,
            established_ns: 0,
            flags: 0,
            sample_epoch: 0,
        }
        put! { &raw mut self.closing,
            released_in: 0,
        }
    }

    /// Whether a record was sent in this sample epoch; epochs repeat after 65,536.
    #[inline(always)]
    pub(crate) fn reported(&self) -> bool {
        self.sample_epoch == maps::sample_epoch() as u16
    }

    /// A record is sent in this sample epoch.
    #[inline(always)]
    pub(crate) fn report(&mut self) {
        self.sample_epoch = maps::sample_epoch() as u16;
    }

    /// The connection is established; a server's starts here.
    #[inline(always)]
    pub(crate) fn open(&mut self, now: u64) {
        self.established_ns = now;
        if self.started_ns == 0 {
            self.started_ns = now;
        }
    }

    /// How many inline samples there are.
    #[inline(always)]
    pub(crate) fn inline_samples_used(&self) -> u32 {
        brief::samples(self.holder)
    }

    /// Keeps a sample, if there is room.
    #[inline(always)]
    pub(crate) fn keep(&mut self, rtt_us: u32) -> bool {
        if self.inline_samples_used() >= INLINE_SAMPLES as u32 {
            return false;
        }
        // The others move up, which takes less than an index that the verifier can follow (see `through_memory`).
        macro_rules! shift {
            ($($from:literal => $to:literal)*) => {
                // SAFETY: elements of the array. One load and one store each, for no memmove.
                $(unsafe { (&raw mut self.inline_samples[$to]).write_volatile(self.inline_samples[$from]) };)*
            };
        }
        shift!(4 => 5 3 => 4 2 => 3 1 => 2 0 => 1);
        self.inline_samples[0] = rtt_us;
        self.holder += brief::ONE_SAMPLE;
        true
    }

    /// Claims the slot: of two sockets that claim it at once, neither gets it. By an addition, because kernels before 5.12 have no
    /// atomic exchange, and a lock takes two helper calls.
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
        // The upper half of the word stays as it is: the count never goes below zero, and an atomic addition does not tear the
        // holder's plain stores. For half a word the compiler has no such instruction on this target.
        // SAFETY: the first eight bytes of this value, which is aligned to as many.
        unsafe { add((&raw mut *self).cast(), more) };
    }

    /// Frees the slot.
    #[inline(always)]
    pub(crate) fn free(&mut self) {
        self.holder = 0;
        self.add_claims(-1);
    }

    /// Moves to socket storage; `None`, and still in the slot, if the kernel refuses it.
    #[inline(always)]
    pub(crate) fn promote(&mut self, ctx: Ctx) -> Option<&'static mut FlowRecord> {
        let flow = ctx.flow_or_new()?;
        flow.started_ns = self.started_ns;
        flow.established_ns = self.established_ns;
        flow.role = self.role();
        flow.flags = self.flags;
        flow.sample_epoch = maps::sample_epoch();
        self.mark.write(flow);
        self.closing.write(flow);
        flow.released_in = self.closing.released_in;
        flow.rtt_min_us = u32::MAX;
        ctx.identify(flow, self.cookie());
        ctx.number(flow, self.role());
        flow.inline_samples[0] = self.inline_samples[0];
        flow.inline_samples[1] = self.inline_samples[1];
        flow.inline_samples[2] = self.inline_samples[2];
        flow.inline_samples[3] = self.inline_samples[3];
        flow.inline_samples[4] = self.inline_samples[4];
        flow.inline_samples[5] = self.inline_samples[5];
        flow.inline_samples_used = self.inline_samples_used();
        self.free();
        Some(flow)
    }
}
