//! A long-lived flow's interim spans follow each other without gap or overlap and add up to the flow.

mod common;

use flowcar::flow::{AdoptedBy, Flow, InterimSpan, InterimSpans, Monotonic, decode};
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

fn cut(parts: &mut InterimSpans, flow: &Flow, at_ns: u64) -> Vec<InterimSpan> {
    let mut cut = Vec::new();
    parts.cut([flow].into_iter(), Monotonic(at_ns), |_, part| {
        cut.push(*part)
    });
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
        all[0].from,
        Monotonic(2_000),
        "the first begins when the connection is established"
    );
    for (before, after) in all.iter().zip(&all[1..]) {
        assert_eq!(before.to, after.from);
        assert_eq!(before.number + 1, after.number);
    }
    let last_tick = all[3].to.0 / 10_000_000_000;
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
        assert!(!parts.has_cut(&adopted), "no span names it as its parent");
        let more = at(10_000_000_007);
        let cut = cut(&mut parts, &more, 7 * MINUTE_NS);
        let expected = (Monotonic(6 * MINUTE_NS), Monotonic(7 * MINUTE_NS));
        assert_eq!((cut[0].from, cut[0].to), expected);
        assert_eq!((cut[0].number, cut[0].volume.bytes_received), (0, 7));
        assert!(parts.has_cut(&more));
        let reused = Flow {
            started: Monotonic(8 * MINUTE_NS),
            ..more
        };
        assert!(!parts.has_cut(&reused), "another flow of this cookie");
    }
}

#[test]
fn zero_interval_gives_no_interim_spans() {
    assert!(cut(&mut InterimSpans::every(0), &flow(1, |_| {}), u64::MAX).is_empty());
}
