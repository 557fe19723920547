//! Which closes are timeouts, by readings of the namespace's counts.

use super::{super::readings::Readings, *};

const fn aborted_by_timer(count: u64) -> Since {
    Since {
        aborted_by_timer: Some(count),
        sent_no_reset: false,
        timewait_had_room: false,
        aborted_none_on_data: false,
        attempts_ended: None,
        undecided: 0,
    }
}

#[test]
fn timer_counts_decide_unambiguous_closes() {
    use Timer::{Expired, NotExpired, Unknown};
    for (quiet, others, since, uncertain, alone, expected) in [
        (1, 1, Since::default(), 0, true, (Unknown, Unknown)),
        (
            1,
            1,
            aborted_by_timer(0),
            0,
            false,
            (NotExpired, NotExpired),
        ),
        (1, 1, aborted_by_timer(1), 0, false, (Expired, NotExpired)),
        (2, 0, aborted_by_timer(1), 0, true, (Unknown, Unknown)),
        (0, 1, aborted_by_timer(1), 0, true, (Expired, Expired)),
        (0, 1, aborted_by_timer(1), 0, false, (Expired, Unknown)),
        (1, 2, aborted_by_timer(2), 0, true, (Expired, Unknown)),
        (1, 2, aborted_by_timer(3), 0, true, (Expired, Expired)),
        // The one that was counted may be another.
        (1, 0, aborted_by_timer(1), 1, true, (Unknown, Unknown)),
        (1, 0, aborted_by_timer(2), 1, false, (Expired, Unknown)),
        (1, 2, aborted_by_timer(3), 1, true, (Expired, Unknown)),
        (1, 2, aborted_by_timer(4), 1, true, (Expired, Expired)),
    ] {
        let candidates = Candidates { quiet, others };
        assert_eq!(
            candidates.judge(since, uncertain, alone),
            expected,
            "{candidates:?} {since:?} {uncertain}"
        );
    }
}

#[test]
fn closes_that_waited_share_a_reading() {
    let mut readings = Readings::new();
    let mut read = || Reading::from(readings.now());
    let mut timers = Timers::new(read());
    let at = Anchor::now().monotonic();
    let first = timers.reading_after(at, &mut read);
    assert!(first.from.since_ns(at) >= LAG_NS);
    let earlier = Monotonic(at.0 - LAG_NS);
    let from = timers.reading_after(earlier, &mut read).from;
    assert_eq!(from, first.from);
    // One more is known by now, and the reading does not include it.
    timers.is_known(first.to);
    let second = timers.reading_after(earlier, &mut read);
    assert!(second.from > first.from);
    // Nor does it a close that is later.
    assert!(timers.reading_after(second.to, &mut read).from > second.from);
}

const MS: u64 = 1_000_000;

const fn reading(from_ms: u64, to_ms: u64, aborted_by_timer: u64) -> Reading {
    Reading {
        from: Monotonic(from_ms * MS),
        to: Monotonic(to_ms * MS),
        counts: Some(Counts {
            aborted_by_timer,
            resets_sent: 4,
            timewait_overflows: 3,
            aborted_on_data: 0,
            attempts_failed: 0,
        }),
    }
}

/// A close that wakes flowcar is read a moment later, so that readings and closes come in pairs.
#[test]
fn closes_a_moment_before_a_reading_leave_later_ones_decided() {
    // Readings of turns, those made for closes, closes that are known, a close at 2,500 ms, and what is unexplained of its count
    // by 2,510 ms, which is 9.
    type Row = (
        &'static [(u64, u64)],
        &'static [(u64, u64)],
        &'static [u64],
        Option<u64>,
    );
    let rows: [Row; 6] = [
        (&[(1_000, 8)], &[], &[], Some(1)),
        (&[(1_000, 8)], &[], &[999], None),
        // The reading that was made for the known one includes it.
        (&[(1_000, 8)], &[(1_003, 8)], &[999], Some(1)),
        // Nothing was read for it: an older reading serves.
        (&[(1_000, 8), (2_000, 8)], &[], &[1_999], Some(0)),
        (
            &[(100, 7), (1_000, 8), (2_000, 8)],
            &[],
            &[999, 1_999],
            Some(0),
        ),
        // Each may have been counted before or after.
        (
            &[(100, 7), (1_000, 8), (2_000, 8)],
            &[],
            &[99, 999, 1_999],
            None,
        ),
    ];
    for (turns, afters, known, unexplained) in rows {
        let readings = |all: &[(u64, u64)]| {
            let newest_first = all.iter().rev();
            newest_first
                .map(|(at, count)| reading(*at, *at, *count))
                .collect()
        };
        let mut timers = Timers::new(reading(0, 0, 0));
        (timers.turns, timers.afters) = (readings(turns), readings(afters));
        known
            .iter()
            .for_each(|at| timers.is_known(Monotonic(at * MS)));
        let since = timers.since(Monotonic(2_500 * MS), &reading(2_510, 2_510, 9));
        assert_eq!(
            since.aborted_by_timer, unexplained,
            "{turns:?} {afters:?} {known:?}"
        );
    }
}

/// A timer's count of a close that was reported as unknown is no other's.
#[test]
fn undecided_closes_may_explain_counts() {
    let at = |ms| Monotonic(ms * MS);
    let mut timers = Timers::new(reading(0, 0, 0));
    // Before the first reading, between both, and after the second.
    [500, 1_500, 2_500]
        .iter()
        .for_each(|ms| timers.is_undecided(at(*ms)));
    timers.is_undecided_by_destroy_event(at(900), at(1_600));
    let since = timers.between(&reading(1_000, 1_000, 7), &reading(2_000, 2_000, 9));
    assert_eq!((since.aborted_by_timer, since.undecided), (Some(2), 2));
    let candidates = Candidates {
        quiet: 1,
        others: 0,
    };
    assert_eq!(candidates.judge(since, 0, true).0, Timer::Unknown);
    assert_eq!(since.answers(since, &[], true).timer, Timer::Expired);
    let fewer = Since {
        aborted_by_timer: Some(1),
        ..since
    };
    assert_eq!(fewer.answers(since, &[], true).timer, Timer::Unknown);
}

#[test]
fn foreseen_timeouts_are_known_once() {
    let at = |ms| Monotonic(ms * MS);
    let mut timers = Timers::new(reading(0, 0, 0));
    timers.is_foreseen(at(10), true);
    timers.is_foreseen(at(20), false);
    for (ms, is_here) in [(10, true), (20, false), (30, true), (40, false)] {
        timers.is_taken_in(at(ms), is_here);
    }
    let times = |closes: &VecDeque<Close>| closes.iter().map(|of| of.from).collect::<Vec<_>>();
    assert_eq!(times(&timers.known), [at(10), at(30)]);
    // Of another network namespace, as far as is known.
    assert_eq!(times(&timers.undecided), [at(20), at(40)]);
}

#[test]
fn known_timeouts_explain_counts() {
    // When others closed, by record, or between two times by destroy event, and how many are unexplained of two that were counted
    // since a reading that took from 1,000 to 1,050 ms.
    type Row = (&'static [u64], &'static [(u64, u64)], Option<u64>);
    let rows: [Row; 14] = [
        (&[], &[], Some(2)),
        (&[900], &[], Some(2)),
        // Later than the second reading, a moment before it, and while it was made.
        (&[1_100, 2_100], &[], Some(1)),
        (&[1_100, 1_999], &[], None),
        (&[1_100, 2_020], &[], None),
        (&[1_100], &[], Some(1)),
        (&[900, 1_100, 1_200], &[], Some(0)),
        // It may have been counted before the counts were read, or after.
        (&[1_020], &[], None),
        // It closed before, and may have been counted after.
        (&[999], &[], None),
        (&[900, 1_050], &[], None),
        // Its application may have held the socket: the timer was counted before the first reading, or after.
        (&[], &[(950, 1_200)], None),
        (&[], &[(900, 1_900)], None),
        (&[], &[(1_060, 1_900)], Some(1)),
        (&[], &[(650, 900), (1_150, 1_400)], Some(1)),
    ];
    for (closes, destroy_events, unexplained) in rows {
        let mut timers = Timers::new(reading(0, 0, 0));
        closes
            .iter()
            .for_each(|at| timers.is_known(Monotonic(at * MS)));
        destroy_events.iter().for_each(|(from, at)| {
            timers.is_known_by_destroy_event(Monotonic(from * MS), Monotonic(at * MS));
        });
        let since = timers.between(&reading(1_000, 1_050, 7), &reading(2_000, 2_050, 9));
        let expected = Since {
            aborted_by_timer: unexplained,
            sent_no_reset: true,
            timewait_had_room: true,
            aborted_none_on_data: true,
            attempts_ended: Some(0),
            undecided: 0,
        };
        assert_eq!(since, expected, "{closes:?} {destroy_events:?}");
    }
}
