//! What the verifier requires without CAP_PERFMON, and what the compiler cannot do.

use core::arch::asm;

/// Stores fields one by one, into whatever the pointer or reference points to. Left alone, the compiler makes a memset or
/// memcpy of neighbouring stores, a loop that the verifier refuses.
macro_rules! put {
    ($to:expr, $($field:ident $([$index:literal])?: $value:expr,)*) => {
        // SAFETY: fields of a value that the caller may write.
        $(unsafe { (&raw mut (*$to).$field$([$index])?).write_volatile($value) };)*
    };
}

pub(crate) use put;

/// Adds to a value atomically (BPF_XADD; RFC 9669 section 5.3). For this target core has no function that does.
///
/// # Safety
/// An aligned value that the caller may write.
#[inline(always)]
pub(crate) unsafe fn add(to: *mut u64, more: i64) {
    // SAFETY: the caller's.
    unsafe { asm!("lock *(u64 *)({} + 0) += {}", in(reg) to, in(reg) more, options(nostack)) };
}

/// The value, as an index into an array of a map value has to be: unknown, and with one bound on every path. The verifier
/// refuses an index whose bounds differ from path to path, so it goes through memory.
///
/// # Safety
/// `scratch` is a field of a value that the caller may write.
#[inline(always)]
pub(crate) unsafe fn through_memory(scratch: *mut u32, value: u32) -> usize {
    // SAFETY: the caller's.
    unsafe {
        scratch.write_volatile(value);
        scratch.read_volatile() as usize
    }
}

/// The value, computed at this place. The compiler otherwise computes it where it is used, and may keep what it is computed from on the
/// stack until then, where each first store costs a barrier without CAP_PERFMON.
#[inline(always)]
pub(crate) fn here(mut value: u64) -> u64 {
    // SAFETY: a move to where it is. Without an instruction the line of an operand has no place of its own, which the kernel refuses
    // ("Invalid line_info").
    unsafe { asm!("{0} = {0}", inout(reg) value, options(nostack)) };
    value
}
