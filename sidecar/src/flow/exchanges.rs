//! From the bytes of an exchange record to the distribution of a flow's exchanges.

use std::mem::offset_of;

use flowcar_shared::{
    exchange::{ExchangeHead, ExchangeRecord, HEAD_LEN, INLINE_EXCHANGES, KIND},
    histogram::SLOTS,
};

use super::{Malformed, raw};
use crate::histogram::Histogram;

/// All exchanges of a flow so far. The flow's record follows directly.
#[derive(Clone, Debug)]
pub struct Exchanges {
    /// The flow's cookie.
    pub cookie: u64,
    /// Last byte of the request to first byte of the response, as seen at this end.
    pub durations: Histogram,
}

impl Exchanges {
    /// Whether a record of the kernel's is of this kind.
    pub fn are_in(bytes: &[u8]) -> bool {
        bytes.get(offset_of!(ExchangeHead, kind)) == Some(&KIND)
    }

    /// Decodes a record.
    ///
    /// # Errors
    /// [`Malformed`] if the bytes are not a record of this version's kernel programs.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let malformed = Malformed::Exchanges { len: bytes.len() };
        let ExchangeRecord { head, slots } = raw::read(bytes, HEAD_LEN).ok_or(malformed)?;
        let (inline_samples, used) = (
            usize::from(head.inline_samples_used),
            usize::from(head.slots_used),
        );
        let whole = inline_samples <= INLINE_EXCHANGES
            && used <= SLOTS
            && bytes.len() == HEAD_LEN + 4 * used;
        if !whole || (used != 0 && head.min_us > head.max_us) {
            return Err(malformed);
        }
        let mut durations = Histogram::default();
        for duration_us in &head.inline_samples[..inline_samples] {
            durations.record(u64::from(*duration_us) * 1000);
        }
        let slots = slots[..used].iter().map(|count| u64::from(*count));
        let extremes =
            (used != 0).then(|| (u64::from(head.min_us) * 1000, u64::from(head.max_us) * 1000));
        durations.add_slots(slots.enumerate(), u128::from(head.sum_us) * 1000, extremes);
        Ok(Self {
            cookie: head.cookie,
            durations,
        })
    }
}
