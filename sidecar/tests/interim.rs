//! A long-lived flow's interim spans follow each other without gap or overlap and add up to the flow.

mod common;

use flowcar::flow::{
    AdoptedBy, Flow, Instant, InterimSpan, InterimSpans, Monotonic, SpanTime, decode,
};
use flowcar_shared::record::FlowRecord;

const MINUTE_NS: u64 = 60_000_000_000;

fn flow(bytes: u64, edit: impl Fn(&mut FlowRecord)) -> Flow {
    let mut record = common::blank(7);
    record.bytes_received = bytes;
    common::sample(&mut record, 500);
    edit(&mut record);
    decode(common::bytes(&record), 0)
        .expect("a whole record")
        .flow
}

/// The wall clock and the clock of flows are the same.
fn cut(parts: &mut InterimSpans, flow: &Flow, at_ns: u64) -> Vec<InterimSpan> {
    let now = Instant {
        monotonic: Monotonic(at_ns),
        suspended_ns: 0,
        unix_ns: at_ns,
    };
    cut_at(parts, flow, &now)
}

fn cut_at(parts: &mut InterimSpans, flow: &Flow, now: &Instant) -> Vec<InterimSpan> {
    let mut cut = Vec::new();
    parts.cut([flow].into_iter(), now, |_, part| cut.push(*part));
    cut
}

#[test]
fn interim_spans_join_and_sum_to_the_flow() {
    let mut parts = InterimSpans::every(MINUTE_NS);
    let mut all = Vec::new();
    // Every 10 s, as reports come, with a byte more each time.
    for tick in 1..=30 {
        all.extend(cut(&mut parts, &flow(tick, |_| {}), tick * 10_000_000_000));
    }
    assert_eq!(all.len(), 4, "an interval is never cut short: {all:?}");
    assert_eq!(
        all[0].time.start_unix_ns, 2_000,
        "the first begins when the connection is established"
    );
    for (before, after) in all.iter().zip(&all[1..]) {
        assert_eq!(before.time.end_unix_ns, after.time.start_unix_ns);
        assert_eq!(before.number + 1, after.number);
    }
    let last_tick = all[3].time.end_unix_ns / 10_000_000_000;
    assert_eq!(
        all.iter()
            .map(|part| part.volume.bytes_received)
            .sum::<u64>(),
        last_tick
    );
}

#[test]
fn new_flow_under_an_old_cookie_starts_new_intervals() {
    let mut parts = InterimSpans::every(MINUTE_NS);
    assert_eq!(cut(&mut parts, &flow(100, |_| {}), 2 * MINUTE_NS).len(), 1);
    let again = flow(5, |record| {
        record.started_ns = 3 * MINUTE_NS;
        record.established_ns = 3 * MINUTE_NS;
    });
    let cut = cut(&mut parts, &again, 4 * MINUTE_NS);
    assert_eq!((cut[0].number, cut[0].volume.bytes_received), (0, 5));
}

/// What a connection carried before flowcar followed it is in none, whether it was adopted or restored; and silent intervals have none.
#[test]
fn interim_spans_of_an_adopted_flow_begin_when_it_is_adopted() {
    for by in [AdoptedBy::Startup, AdoptedBy::Restart] {
        let mut parts = InterimSpans::every(MINUTE_NS);
        let at = |bytes| Flow {
            adopted: Some(by),
            ..flow(bytes, |_| {})
        };
        let adopted = at(10_000_000_000);
        assert_eq!(cut(&mut parts, &adopted, 5 * MINUTE_NS), []);
        assert_eq!(cut(&mut parts, &adopted, 6 * MINUTE_NS), [], "silent");
        let has_cut = |parts: &InterimSpans, flow: &Flow| parts.time_of_parent(flow, 0).is_some();
        assert!(!has_cut(&parts, &adopted), "no span names it as its parent");
        let more = at(10_000_000_007);
        let cut = cut(&mut parts, &more, 7 * MINUTE_NS);
        let expected = SpanTime {
            start_unix_ns: 6 * MINUTE_NS,
            end_unix_ns: 7 * MINUTE_NS,
        };
        assert_eq!(cut[0].time, expected);
        assert_eq!((cut[0].number, cut[0].volume.bytes_received), (0, 7));
        assert!(has_cut(&parts, &more));
        let reused = Flow {
            started: Monotonic(8 * MINUTE_NS),
            ..more
        };
        assert!(!has_cut(&parts, &reused), "another flow of this cookie");
    }
}

/// Spans keep their order, lie within the connection's own, and last as long as what they stand for, whatever is done to the wall clock and
/// however long the machine is suspended.
#[test]
fn interim_spans_are_ordered_and_lie_within_their_parent_over_clock_steps_and_suspends() {
    const HOUR_NS: i64 = 60 * MINUTE_NS as i64;
    const EPOCH_NS: u64 = 1_700_000_000_000_000_000;
    // Before which report the clock is stepped, or the machine suspended, and by how long.
    type Row<'a> = (&'a str, &'a [(u64, i64)], &'a [(u64, u64)]);
    let rows: [Row<'_>; 10] = [
        ("nothing", &[], &[]),
        ("an hour forward", &[(10, HOUR_NS)], &[]),
        ("an hour back", &[(10, -HOUR_NS)], &[]),
        ("before the first span", &[(3, -HOUR_NS)], &[]),
        (
            "back and forward",
            &[(10, -HOUR_NS), (16, 2 * HOUR_NS)],
            &[],
        ),
        ("a little back, often", &[(8, -9), (9, -9), (15, -9)], &[]),
        ("to the epoch", &[(10, -(EPOCH_NS as i64))], &[]),
        ("suspended", &[], &[(10, 60 * HOUR_NS as u64)]),
        ("suspended twice", &[], &[(10, MINUTE_NS), (16, MINUTE_NS)]),
        (
            "suspended and stepped",
            &[(10, -HOUR_NS)],
            &[(10, MINUTE_NS), (16, MINUTE_NS)],
        ),
    ];
    for (name, steps, suspends) in rows {
        let mut parts = InterimSpans::every(MINUTE_NS);
        let mut all = Vec::new();
        let mut now = Instant {
            monotonic: Monotonic(0),
            suspended_ns: 0,
            unix_ns: EPOCH_NS,
        };
        for tick in 1..=30 {
            let step = steps.iter().filter(|(at, _)| *at == tick);
            let step: i64 = step.map(|(_, by)| by).sum();
            let suspend = suspends.iter().filter(|(at, _)| *at == tick);
            let suspend: u64 = suspend.map(|(_, by)| by).sum();
            now.monotonic.0 += MINUTE_NS / 6;
            now.suspended_ns += suspend;
            now.unix_ns = (now.unix_ns + MINUTE_NS / 6 + suspend).saturating_add_signed(step);
            let open = flow(tick, |record| record.emitted_ns = now.monotonic.0);
            for part in cut_at(&mut parts, &open, &now) {
                all.push((part.time, now));
            }
        }
        let closed = flow(31, |record| record.emitted_ns = now.monotonic.0);
        let parent = parts.time_of_parent(&closed, now.suspended_ns).unwrap();
        assert_eq!(all.len(), 4, "{name}");
        let life = now.monotonic.0 + now.suspended_ns - closed.started.0;
        assert_eq!(parent.end_unix_ns - parent.start_unix_ns, life, "{name}");
        let mut last = (parent.start_unix_ns, None::<Instant>);
        for (time, cut_at) in &all {
            assert!(last.0 <= time.start_unix_ns, "{name}: {all:?}");
            assert!(time.end_unix_ns <= parent.end_unix_ns, "{name}: {all:?}");
            if let Some(before) = last.1 {
                let since_start = |at: &Instant| at.monotonic.0 + at.suspended_ns;
                let lasted = since_start(cut_at) - since_start(&before);
                assert_eq!(time.end_unix_ns - time.start_unix_ns, lasted, "{name}");
            }
            last = (time.end_unix_ns, Some(*cut_at));
        }
        // The clock is that of the first span.
        assert_eq!(all[0].0.end_unix_ns, all[0].1.unix_ns, "{name}");
    }
}

#[test]
fn zero_interval_gives_no_interim_spans() {
    assert!(cut(&mut InterimSpans::every(0), &flow(1, |_| {}), u64::MAX).is_empty());
}
