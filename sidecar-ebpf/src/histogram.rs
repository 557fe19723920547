//! A histogram in a record: how a duration is counted in it.

use flowcar_shared::histogram::{MICROS, SLOTS};

use crate::verifier::through_memory;

/// The fields of a record that make a histogram of microseconds.
pub(crate) struct Histogram<'a> {
    pub(crate) sum_us: &'a mut u64,
    pub(crate) min_us: &'a mut u32,
    pub(crate) max_us: &'a mut u32,
    pub(crate) slots: &'a mut [u32; SLOTS],
    pub(crate) slots_used: &'a mut u16,
    /// For [`through_memory`].
    pub(crate) scratch: &'a mut u32,
}

impl Histogram<'_> {
    /// Counts one.
    #[inline(always)]
    pub(crate) fn count(self, duration_us: u32) {
        *self.sum_us += u64::from(duration_us);
        if duration_us < *self.min_us {
            *self.min_us = duration_us;
        }
        if duration_us > *self.max_us {
            *self.max_us = duration_us;
        }
        let slot = MICROS.slot(duration_us.into()) as u32;
        // SAFETY: a field of the record.
        let slot = unsafe { through_memory(self.scratch, slot) };
        if slot < SLOTS {
            // SAFETY: the index was just compared with the array's length.
            unsafe { *self.slots.get_unchecked_mut(slot) += 1 };
            let used = slot as u16 + 1;
            if used > *self.slots_used {
                *self.slots_used = used;
            }
        }
    }
}
