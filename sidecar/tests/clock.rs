//! Wall time across steps of the clock.

use flowcar::{clock::Anchor, flow::Monotonic};
use proptest::prelude::*;

/// 50 ms: more than that is a step.
const STEP: i64 = 50_000_000;

const DAY: u64 = 86_400_000_000_000;
/// Some time in 2026.
const EPOCH: u64 = 20_500 * DAY;

fn anchor(monotonic: u64, unix: u64) -> Anchor {
    Anchor::new(Monotonic(monotonic), unix)
}

proptest! {
    #[test]
    fn both_clocks_advance_equally(at in DAY..2 * DAY, before in 0..DAY, after in 0..DAY) {
        let anchor = anchor(at, EPOCH);
        prop_assert_eq!(anchor.unix_ns(Monotonic(at)), EPOCH);
        prop_assert_eq!(anchor.unix_ns(Monotonic(at - before)), EPOCH - before);
        prop_assert_eq!(anchor.unix_ns(Monotonic(at + after)), EPOCH + after);
    }

    #[test]
    fn only_clock_steps_are_reported(elapsed in 0..DAY, step in -10 * STEP..10 * STEP) {
        let mut held = anchor(DAY, EPOCH);
        let now = EPOCH + elapsed;
        let newer = anchor(DAY + elapsed, now.checked_add_signed(step).expect("in range"));
        let reported = held.refresh(newer);
        prop_assert_eq!(reported, (step.abs() > STEP).then_some(step));
        prop_assert_eq!(held, newer, "the newer pair holds either way");
    }
}

#[test]
fn step_equal_to_the_bound_is_drift() {
    for (step, reported) in [
        (STEP, None),
        (STEP + 1, Some(STEP + 1)),
        (-STEP, None),
        (-STEP - 1, Some(-STEP - 1)),
    ] {
        let mut held = anchor(DAY, EPOCH);
        let newer = anchor(DAY, EPOCH.checked_add_signed(step).unwrap());
        assert_eq!(held.refresh(newer), reported);
    }
}

/// The clock of flows stands still while the machine is suspended, and the wall clock goes on.
#[test]
fn suspend_is_no_step() {
    let hour = DAY / 24;
    let least = STEP as u64;
    // How long the machine was suspended by the first and by the second reading, how far the wall clock went, and the step.
    for (before, after, wall, step) in [
        (0, hour, hour, None),
        (DAY, DAY + hour, hour, None),
        (0, hour, 3 * hour, Some(2 * hour as i64)),
        (0, hour, 0, Some(-(hour as i64))),
        // The clocks are read one after the other.
        (7, 0, 0, None),
        (0, least, 0, None),
    ] {
        let mut held = anchor(DAY, EPOCH).suspended_for(before);
        let newer = anchor(DAY, EPOCH + wall).suspended_for(after);
        assert_eq!(held.refresh(newer), step, "{before} {after} {wall}");
        let suspended = if after > before + least {
            after
        } else {
            before
        };
        assert_eq!(held.suspended_ns(), suspended, "{before} {after} {wall}");
    }
}

/// A step shifts flows that close after it, and does not change their durations.
#[test]
fn durations_are_unaffected_by_clock_steps() {
    let mut held = anchor(DAY, EPOCH);
    let hour = DAY / 24;
    held.refresh(anchor(DAY + hour, EPOCH + 2 * hour));
    let (start, end) = (Monotonic(DAY + hour / 2), Monotonic(DAY + hour));
    assert_eq!(held.unix_ns(end) - held.unix_ns(start), hour / 2);
    assert_eq!(held.unix_ns(end), EPOCH + 2 * hour);
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "the other reader, which the clock is held to"
)]
fn both_clocks_are_read_together() {
    let wall = || {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
    };
    let before = wall();
    let anchor = Anchor::now();
    let after = wall();
    let unix = u128::from(anchor.unix_ns(anchor.monotonic()));
    assert!(before.as_nanos() <= unix && unix <= after.as_nanos());
}
