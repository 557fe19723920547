//! The RTT histogram that the kernel fills: slots that *are* OTLP exponential buckets.
//!
//! OTLP's exponential bucket `i` at scale 3 covers `(2^(i/8), 2^((i+1)/8)]` **seconds**
//! (opentelemetry-proto, `ExponentialHistogramDataPoint`). A bucket counted in the kernel
//! can therefore be sent as it is, without a second rounding, if the kernel decides by the boundaries in
//! seconds although it measures in microseconds. One second is not a power of two of microseconds,
//! so a plain logarithm of the microseconds would not nest.
//!
//! [`Unit::bucket`] finds the bucket with no floating point: the value is shifted until its top bit
//! is bit 63; within that octave there are eight boundaries, and their integer parts are constants.
//! A value is an integer and a boundary (but the whole powers of two) is irrational, so comparing
//! with the integer part is exact.
//!
//! ```
//! use flowcar_shared::histogram::{MICROS, NANOS};
//!
//! // A millisecond lies in (2^(-80/8), 2^(-79/8)] seconds: 0.977 to 1.065 ms.
//! assert_eq!(MICROS.bucket(1_000), Some(-80));
//! assert_eq!(NANOS.bucket(1_000_000), Some(-80));
//! assert_eq!(MICROS.bucket(0), None);
//! ```

/// Scale of the buckets: eight to each doubling.
pub const SCALE: i32 = 3;

/// The lowest OTLP bucket index that has a slot of its own: it begins above 2^-17 s (7.6 us).
pub const FIRST_BUCKET: i32 = -17 * 8;

/// The highest OTLP bucket index that has a slot of its own: it ends at 2^4 s (16 s).
pub const LAST_BUCKET: i32 = 4 * 8 - 1;

/// The slot of values in no bucket of their own because they are at most 2^-17 s: OTLP's zero bucket,
/// with that threshold.
pub const ZERO_SLOT: usize = 0;

/// The slot of values above 16 s. The kernel's RTT samples reach there only after a stall that a
/// retransmission would have made ambiguous, and then are not taken (Karn's rule, RFC 6298 section 3).
pub const OVER_SLOT: usize = (LAST_BUCKET - FIRST_BUCKET + 2) as usize;

/// Slots of a histogram: the zero slot, one for each bucket, the over slot.
pub const SLOTS: usize = OVER_SLOT + 1;

/// A unit of time that values are measured in, prepared for [`Unit::bucket`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// `floor(log2(units per second))`.
    log2_per_second: i32,
    /// `floor(b)` of the eight bucket boundaries `b` in `[2^63, 2^64)`, ascending. The last is one
    /// second itself, shifted left until bit 63 is set.
    boundaries: [u64; 8],
}

/// Microseconds, as in `tcp_sock.srtt_us` and the arguments of `BPF_SOCK_OPS_RTT_CB`.
pub const MICROS: Unit = Unit {
    log2_per_second: 19,
    boundaries: [
        0x851e_5ddc_7f9a_447e,
        0x912a_b8eb_868b_ef75,
        0x9e4e_3c6f_ecde_59ab,
        0xaca2_2c7f_bd77_1b14,
        0xbc42_169a_6f7a_7d91,
        0xcd4c_06a4_e114_3813,
        0xdfe0_c0b0_f761_9f98,
        0xf424_0000_0000_0000,
    ],
};

/// Nanoseconds, as `bpf_ktime_get_ns` gives.
pub const NANOS: Unit = Unit {
    log2_per_second: 29,
    boundaries: [
        0x81ff_a7a9_549c_a6e3,
        0x8dc3_b896_0164_a7d9,
        0x9a98_6705_4d51_2391,
        0xa896_5f74_bf06_5071,
        0xb7d8_8a12_d0dd_9ea0,
        0xc87c_3e7d_03cd_bec3,
        0xdaa1_7c2c_d195_55db,
        0xee6b_2800_0000_0000,
    ],
};

impl Unit {
    /// The OTLP bucket index at [`SCALE`] of a duration of `value` units; `None` for 0, which belongs
    /// into OTLP's zero bucket.
    #[inline(always)]
    pub const fn bucket(&self, value: u64) -> Option<i32> {
        if value == 0 {
            return None;
        }
        let zeros = value.leading_zeros();
        let mantissa = value << zeros;
        let b = &self.boundaries;
        // How many boundaries are below it. Spelled out: a loop here becomes table look-ups that the BPF verifier has to follow, and a
        // sum of eight comparisons takes more registers than there are.
        let below = if mantissa > b[3] {
            if mantissa > b[5] {
                if mantissa > b[6] {
                    7 + (mantissa > b[7]) as i32
                } else {
                    6
                }
            } else {
                4 + (mantissa > b[4]) as i32
            }
        } else if mantissa > b[1] {
            2 + (mantissa > b[2]) as i32
        } else {
            (mantissa > b[0]) as i32
        };
        let octave = 63 - zeros as i32 - self.log2_per_second;
        Some(octave * 8 + below - 8)
    }

    /// The slot of a duration of `value` units, below [`SLOTS`].
    #[inline(always)]
    pub const fn slot(&self, value: u64) -> usize {
        match self.bucket(value) {
            Some(bucket) if bucket > LAST_BUCKET => OVER_SLOT,
            Some(bucket) if bucket >= FIRST_BUCKET => (bucket - FIRST_BUCKET + 1) as usize,
            _ => ZERO_SLOT,
        }
    }
}

/// The OTLP bucket index that `slot` counts; `None` for the zero slot. The over slot is given the
/// first index past the last bucket.
pub const fn bucket_of_slot(slot: usize) -> Option<i32> {
    if slot == ZERO_SLOT {
        None
    } else {
        Some(FIRST_BUCKET + slot as i32 - 1)
    }
}
