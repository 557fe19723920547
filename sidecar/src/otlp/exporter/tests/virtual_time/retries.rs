//! How often, and for how long, a receiver that is away is asked.

use super::*;

/// A lane with one span, whose receiver is away.
fn lane_with_a_span(stats: &ExportStats) -> FlowLane {
    lane_with_a_span_to(vec![Step::Away; 100], stats)
}

fn lane_with_a_span_to(steps: Vec<Step>, stats: &ExportStats) -> FlowLane {
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

/// A flush ends at once where the receiver asks for a longer wait, and only lack of time is mended by more time.
#[test]
fn flush_does_not_wait_for_a_receiver_that_asks_for_longer() {
    let raise = "raise FLOWCAR_SHUTDOWN_TIMEOUT";
    let waits = "asks flowcar to wait";
    for (step, least_s, most_s, printed, not_printed) in [
        (Step::Busy(60_000, false), 0, 1, waits, raise),
        (Step::Busy(60_000, true), 0, 1, waits, raise),
        (Step::Busy(3_000, true), 3, 4, waits, raise),
        (Step::Away, 5, 6, "the last try failed", raise),
        (Step::HangBefore, 5, 6, raise, waits),
    ] {
        in_virtual_time(async {
            let lines = Lines::default();
            let _logging = lines.logging();
            let steps = vec![step; 100];
            let (scripted, _) = Scripted::<ExportMetricsServiceRequest>::new(steps.clone());
            let reports = metrics_lane(scripted, Temporality::Cumulative);
            reports.send(snapshot(2_000, 1));
            let stats = ExportStats::default();
            let spans = lane_with_a_span_to(steps, &stats);
            let began = Instant::now();
            let deadline = began + Duration::from_secs(5);
            let (first, second) = tokio::join!(reports.flush(deadline), spans.flush(deadline));
            assert_eq!((first, second), (Delivery::Late, Delivery::Late));
            let took = began.elapsed().as_secs();
            assert!((least_s..most_s).contains(&took), "{step:?}: {took}");
            let text = lines.text();
            assert_eq!(text.matches(printed).count(), 2, "{step:?}: {text}");
            assert!(!text.contains(not_printed), "{step:?}: {text}");
            assert_eq!(
                stats.read().spans_dropped,
                BTreeMap::from([("shutdown", 1)])
            );
        });
    }
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
