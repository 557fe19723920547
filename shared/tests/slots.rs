//! The kernel's slots against OTLP's definition, in exact integers.
//!
//! Bucket `i` at scale 3 covers `(2^(i/8), 2^((i+1)/8)]` seconds (opentelemetry-proto,
//! `ExponentialHistogramDataPoint`). For a value of `v` units, of which a second has `u`, `v/u > 2^(i/8)`
//! is `v^8 > 2^i u^8`: no root, no rounding.

use flowcar_shared::histogram::{
    FIRST_BUCKET, LAST_BUCKET, MICROS, NANOS, OVER_SLOT, SCALE, SLOTS, Unit, ZERO_SLOT,
    bucket_of_slot,
};
use num_bigint::BigUint;
use proptest::prelude::*;

const UNITS: [(Unit, u64); 2] = [(MICROS, 1_000_000), (NANOS, 1_000_000_000)];

/// Whether `value` units are more than `2^(index/8)` seconds.
fn is_above(value: u64, per_second: u64, index: i32) -> bool {
    let value = BigUint::from(value).pow(8);
    let second = BigUint::from(per_second).pow(8);
    let shift = index.unsigned_abs();
    if index < 0 {
        value << shift > second
    } else {
        value > second << shift
    }
}

/// The greatest number of units that is no more than `2^(index/8)` seconds.
fn last_below(per_second: u64, index: i32) -> u64 {
    let second = BigUint::from(per_second).pow(8);
    let shift = index.unsigned_abs();
    let power = if index < 0 {
        second >> shift
    } else {
        second << shift
    };
    // Flooring the shifted power first changes no integer root.
    power.nth_root(8).try_into().expect("below 2^64 units")
}

#[track_caller]
fn holds(value: u64, bucket: i32, per_second: u64) {
    assert!(
        is_above(value, per_second, bucket) && !is_above(value, per_second, bucket + 1),
        "{value} of {per_second} a second does not lie in bucket {bucket}"
    );
}

#[test]
fn eight_buckets_to_a_doubling() {
    assert_eq!(1 << SCALE, 8);
}

/// Every boundary that a u64 reaches, from both sides.
#[test]
fn boundaries_are_inclusive_above_and_exclusive_below() {
    for (unit, per_second) in UNITS {
        let lowest = unit.bucket(1).expect("1 is not zero");
        let highest = unit.bucket(u64::MAX).expect("not zero");
        holds(1, lowest, per_second);
        holds(u64::MAX, highest, per_second);
        for bucket in lowest..highest {
            let last = last_below(per_second, bucket + 1);
            assert!(unit.bucket(last).is_none_or(|found| found <= bucket));
            let next = unit.bucket(last + 1).expect("not zero");
            assert!(next > bucket, "{} lies in {next}", last + 1);
            holds(last, unit.bucket(last).expect("not zero"), per_second);
            holds(last + 1, next, per_second);
        }
    }
}

/// Powers of two of a second are the only boundaries that a value can meet exactly.
#[test]
fn a_boundary_belongs_to_the_bucket_below_it() {
    for (unit, per_second) in UNITS {
        for (value, upper) in [
            (per_second, 0),
            (per_second * 2, 8),
            (per_second / 2, -8),
            (per_second / 64, -48),
            (per_second * 16, 32),
        ] {
            assert_eq!(unit.bucket(value), Some(upper - 1));
            assert_eq!(unit.bucket(value + 1), Some(upper));
        }
    }
}

#[test]
fn slots_are_buckets_between_the_zero_and_the_over_slot() {
    for (unit, per_second) in UNITS {
        assert_eq!(unit.bucket(0), None);
        assert_eq!(unit.slot(0), ZERO_SLOT);
        let threshold = last_below(per_second, FIRST_BUCKET);
        assert_eq!(unit.slot(threshold), ZERO_SLOT);
        assert_eq!(
            bucket_of_slot(unit.slot(threshold + 1)),
            unit.bucket(threshold + 1)
        );
        assert_ne!(unit.slot(threshold + 1), ZERO_SLOT);
        assert_eq!(unit.slot(per_second * 16), OVER_SLOT - 1);
        assert_eq!(unit.slot(per_second * 16 + 1), OVER_SLOT);
        assert_eq!(unit.slot(u64::MAX), OVER_SLOT);
    }
    assert_eq!(SLOTS, (LAST_BUCKET - FIRST_BUCKET + 1) as usize + 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    /// Values of every magnitude, as uniform ones would nearly all lie in the top octaves.
    #[test]
    fn every_value_lies_in_its_bucket(value in 1_u64.., shift in 0_u32..64) {
        let value = (value >> shift).max(1);
        for (unit, per_second) in UNITS {
            let bucket = unit.bucket(value).expect("not zero");
            holds(value, bucket, per_second);
            let slot = unit.slot(value);
            prop_assert!(slot < SLOTS);
            match bucket {
                ..FIRST_BUCKET => prop_assert_eq!(slot, ZERO_SLOT),
                FIRST_BUCKET..=LAST_BUCKET => prop_assert_eq!(bucket_of_slot(slot), Some(bucket)),
                _ => prop_assert_eq!(slot, OVER_SLOT),
            }
        }
    }

    #[test]
    fn longer_is_never_a_lower_slot(a in any::<u64>(), b in any::<u64>(), shift in 0_u32..64) {
        let (a, b) = (a >> shift, b >> shift);
        for (unit, _) in UNITS {
            prop_assert!(unit.slot(a.min(b)) <= unit.slot(a.max(b)));
        }
    }
}
