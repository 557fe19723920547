//! How often, and for how long, a receiver that is away is asked.

use super::*;

/// A lane with one span, whose receiver is away.
fn lane_with_a_span(stats: &ExportStats) -> FlowLane {
    let steps = vec![Step::Away; 100];
    let (scripted, _) = Scripted::<ExportTraceServiceRequest>::new(steps);
    let bounds = Bounds {
        items: 10,
        bytes: 1 << 20,
        per_second: 10,
    };
    let lane = flow_lane(scripted, bounds, stats);
    let options = SpanOptions {
        trace_parent: crate::config::TraceParent::Never,
        source: "ebpf".to_owned(),
    };
    lane.send(Priority::Normal, 1, None, || {
        (span(&flow(1), &anchor(), &options), None)
    });
    lane
}

/// Retries while flowcar ends come ever more rarely, and until the time is over; the first comes at once.
#[test]
fn retries_of_a_flush_back_off_within_its_time() {
    in_virtual_time(async {
        let stats = ExportStats::default();
        let lane = lane_with_a_span(&stats);
        let tries = || stats.read().exports.get(&("traces", "failure")).copied();
        let began = Instant::now();
        let within = Duration::from_secs(5);
        let times = async {
            let (mut times, mut seen) = (Vec::new(), None);
            while began.elapsed() < within {
                if tries() != seen {
                    seen = tries();
                    times.push(began.elapsed());
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            times
        };
        let (delivery, times) = tokio::join!(lane.flush(began + within), times);
        assert_eq!(delivery, Delivery::Late);
        let (first, last) = (times[0], times[times.len() - 1]);
        assert!((6..=12).contains(&times.len()), "{times:?}");
        assert!(first < Duration::from_millis(50), "{times:?}");
        assert!(within - last < Duration::from_millis(450), "{times:?}");
    });
}

#[test]
fn spans_are_retried_for_15_minutes() {
    in_virtual_time(async {
        let stats = ExportStats::default();
        let lane = lane_with_a_span(&stats);
        tokio::time::sleep(queue::RETRY_FOR - Duration::from_secs(1)).await;
        assert_eq!(queued(&lane).0, 1);
        tokio::time::sleep(Duration::from_secs(40)).await;
        assert_eq!(queued(&lane), (0, 0));
        let self_metrics = stats.read();
        assert_eq!(self_metrics.spans_dropped, BTreeMap::from([("expired", 1)]));
        let tries = self_metrics.exports[&("traces", "failure")];
        assert!(
            (30..=70).contains(&tries),
            "it backs off to half a minute: {tries}"
        );
    });
}
