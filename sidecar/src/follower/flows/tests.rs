use std::time::Duration;

use super::*;
use crate::{
    flow::checkpoint::CheckpointFlows,
    series::{PeerLabel, SeriesLabels},
    snapshot::SelfMetrics,
    source::Sockets,
};

const HOUR_NS: u64 = 3_600_000_000_000;

fn flows() -> Flows {
    Flows::new(&Limits {
        series_idle: Duration::ZERO,
        budget: None,
        names: false,
        report: Duration::from_secs(10),
        flows: 10,
        naming: SeriesLabels {
            peer: PeerLabel::Address,
            ports: true,
            limit: 10,
        },
    })
}

fn report(flows: &mut Flows) -> (u64, u64) {
    let report = flows.snapshot(&[0; COUNTERS], &Sockets::none(), SelfMetrics::default());
    (report.start_unix_ns, report.at_unix_ns)
}

/// Steps the wall clock, as the main loop sees it.
fn step(flows: &mut Flows, forward: bool, by_ns: u64) {
    let now = Anchor::now();
    let was = flows.anchor.unix_ns(now.monotonic());
    let is = if forward { was + by_ns } else { was - by_ns };
    let stepped = flows.anchor.refresh(Anchor::new(now.monotonic(), is));
    assert!(stepped.is_some());
}

#[test]
fn report_times_increase_over_clock_steps() {
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
fn reports_are_later_than_the_checkpoint() {
    let instance = KernelInstance {
        boot: "b".to_owned(),
        netns: 1,
    };
    for (ahead_ns, heeded) in [(HOUR_NS, true), (24 * HOUR_NS, true), (90 * HOUR_NS, false)] {
        let mut flows = flows();
        let taken_unix_ns = flows.start_unix_ns + ahead_ns;
        let checkpoint = Checkpoint {
            instance: instance.clone(),
            taken_unix_ns,
            reported: CheckpointFlows::default(),
        };
        flows.restore(&checkpoint, &instance, 1);
        let (start, at) = report(&mut flows);
        assert!(start < at);
        assert_eq!(start >= taken_unix_ns, heeded);
    }
}
