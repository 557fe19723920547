//! The mark that a later callback is compared with: how many segments had come when the connection was last seen alive.
//!
//! A state callback does not show what closed the connection. A RST counts as a segment received (net/ipv4/tcp_ipv4.c,
//! tcp_v4_rcv), so a connection that closes with no more segments than at the mark was closed by a timer or by this end.
//! Counts are kept modulo 2^16: no socket receives that many segments between two callbacks.

use core::mem::offset_of;

use flowcar_shared::record::{FlowRecord, flag};

use crate::{
    ctx::Ctx,
    verifier::{here, put},
};

/// Segments that had come, modulo 2^16.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Mark {
    segs_in: u16,
    data_segs_in: u16,
}

/// The progress of a close.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Closing {
    /// `bytes_received` when FIN_WAIT2 was entered, or the peer's FIN came, modulo 2^16.
    received: u16,
    /// The state in which the application closed the socket; 0 before. Written by the release hook alone while the
    /// connection lasts.
    pub(crate) released_in: u16,
}

/// Where both are in a record.
const MARKED: usize = offset_of!(FlowRecord, marked_segs_in);
const CLOSING: usize = offset_of!(FlowRecord, received_at_fin_wait2);

const _: () =
    assert!(MARKED + offset_of!(Mark, data_segs_in) == offset_of!(FlowRecord, marked_data_segs_in));
const _: () =
    assert!(CLOSING + offset_of!(Closing, released_in) == offset_of!(FlowRecord, released_in));

// === impl Mark ===

impl Mark {
    /// The mark in the record of a flow in socket storage, where it lies. A copy would lie on the stack.
    #[inline(always)]
    pub(crate) fn of(flow: &FlowRecord) -> &Self {
        // SAFETY: the two fields are laid out as this type, which is asserted above.
        unsafe { &*(&raw const *flow).byte_add(MARKED).cast() }
    }

    /// Writes it into the record at `flow`.
    #[inline(always)]
    pub(crate) fn write(self, flow: &mut FlowRecord) {
        put! { flow,
            marked_segs_in: self.segs_in,
            marked_data_segs_in: self.data_segs_in,
        }
    }

    /// The mark of a connection that is alive now.
    #[inline(always)]
    pub(crate) fn now(ctx: Ctx) -> Self {
        Self {
            segs_in: ctx.segs_in() as u16,
            data_segs_in: ctx.data_segs_in() as u16,
        }
    }

    /// Segments that came since, and how many of them with payload. Field by field, for few registers (see [`here`]).
    #[inline(always)]
    pub(crate) fn since(&self, ctx: Ctx) -> (u16, u16) {
        // SAFETY: a field of this value.
        let segs_in = unsafe { (&raw const self.segs_in).read_volatile() };
        let all = here((ctx.segs_in() as u16).wrapping_sub(segs_in).into());
        // SAFETY: as above.
        let data_segs_in = unsafe { (&raw const self.data_segs_in).read_volatile() };
        let with_data = here(
            (ctx.data_segs_in() as u16)
                .wrapping_sub(data_segs_in)
                .into(),
        );
        (all as u16, with_data as u16)
    }
}

/// The flags for the segments that came since the mark: how many, and how many with payload.
#[inline(always)]
pub(crate) const fn received((all, with_data): (u16, u16)) -> u16 {
    if all == 0 {
        flag::NOTHING_RECEIVED | flag::ONLY_DATA_RECEIVED
    } else if all == with_data {
        flag::ONLY_DATA_RECEIVED
    } else {
        0
    }
}

// === impl Closing ===

impl Closing {
    /// That in the record of a flow in socket storage, where it lies.
    #[inline(always)]
    pub(crate) fn of(flow: &FlowRecord) -> &Self {
        // SAFETY: the two fields are laid out as this type, which is asserted above.
        unsafe { &*(&raw const *flow).byte_add(CLOSING).cast() }
    }

    /// The same, to write it.
    #[inline(always)]
    pub(crate) fn of_mut(flow: &mut FlowRecord) -> &mut Self {
        // SAFETY: as in `of`.
        unsafe { &mut *(&raw mut *flow).byte_add(CLOSING).cast() }
    }

    /// Writes it into the record at `flow`, but for the release.
    #[inline(always)]
    pub(crate) fn write(self, flow: &mut FlowRecord) {
        put! { flow,
            received_at_fin_wait2: self.received,
        }
    }

    /// A segment is being processed that may end FIN_WAIT2 later, or now.
    #[inline(always)]
    pub(crate) fn receives(&mut self, ctx: Ctx) {
        let received = ctx.bytes_received() as u16;
        put! { self,
            received: received,
        }
    }

    /// Sequence numbers that came since, modulo 2^16.
    #[inline(always)]
    pub(crate) fn received_since(&self, ctx: Ctx) -> u16 {
        // SAFETY: a field of this value.
        let received = unsafe { (&raw const self.received).read_volatile() };
        here((ctx.bytes_received() as u16).wrapping_sub(received).into()) as u16
    }

    /// The state in which the application closed the socket; 0 before.
    #[inline(always)]
    pub(crate) fn released_in(&self) -> u16 {
        // SAFETY: as above.
        unsafe { (&raw const self.released_in).read_volatile() }
    }
}
