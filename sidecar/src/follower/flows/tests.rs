use std::time::Duration;

use super::*;
use crate::{
    flow::handover::Leaving,
    series::{Naming, PeerNaming},
    snapshot::Own,
};

const HOUR_NS: u64 = 3_600_000_000_000;

fn flows() -> Flows {
    Flows::new(&Limits {
        series_idle: Duration::ZERO,
        budget: None,
        report: Duration::from_secs(10),
        flows: 10,
        naming: Naming {
            peer: PeerNaming::Address,
            ports: true,
            limit: 10,
        },
    })
}

fn report(flows: &mut Flows) -> (u64, u64) {
    let report = flows.snapshot(&[0; COUNTERS], None, Own::default());
    (report.start_unix_ns, report.at_unix_ns)
}

/// Steps the wall clock, as the main loop sees it.
fn step(flows: &mut Flows, forward: bool, by_ns: u64) {
    let now = Anchor::now();
    let was = flows.anchor.unix_ns(now.monotonic());
    let is = if forward { was + by_ns } else { was - by_ns };
    let told = flows.anchor.refresh(Anchor::new(now.monotonic(), is));
    assert!(told.is_some());
}

#[test]
fn reports_have_one_start_and_later_and_later_times_over_every_step() {
    let mut flows = flows();
    let (start, mut last) = report(&mut flows);
    assert!(start < last);
    for (forward, hours) in [(false, 1), (true, 1), (true, 24), (false, 48), (true, 100)] {
        step(&mut flows, forward, hours * HOUR_NS);
        for _ in 0..3 {
            let (same, at) = report(&mut flows);
            assert_eq!(same, start);
            assert!(at > last, "{forward} {hours}");
            last = at;
        }
    }
    let wall = flows.anchor.unix_ns(Anchor::now().monotonic());
    assert!(
        last.abs_diff(wall) < HOUR_NS,
        "it is the wall clock's again"
    );
}

#[test]
fn reports_are_later_than_those_of_the_flowcar_before() {
    let place = Place {
        boot: "b".to_owned(),
        netns: 1,
    };
    for (ahead_ns, heeded) in [(HOUR_NS, true), (24 * HOUR_NS, true), (90 * HOUR_NS, false)] {
        let mut flows = flows();
        let taken_unix_ns = flows.start_unix_ns + ahead_ns;
        let handover = Handover {
            place: place.clone(),
            taken_unix_ns,
            leaving: Leaving::default(),
        };
        flows.inherit(&handover, &place, 1);
        let (start, at) = report(&mut flows);
        assert!(start < at);
        assert_eq!(start >= taken_unix_ns, heeded);
    }
}
