//! Connections as fast as the machine makes them: the books are closed at all times, and to the last flow.
//!
//! `FLOWCAR_RATE_SECONDS` is the duration of the loads at full rate, 60 if it is not set.

use std::{
    env,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use flowcar_shared::record::{BRIEF_CLOSE_LEN, BRIEF_OPEN_LEN};
use flowcar_tests::{
    place::{TestPod, require_cgroup2, require_root},
    traffic::{CallPlan, LoadPlan, LoadReport, ServePlan, Serving, load_in},
    watch::{Mode, ProcessorWaits, Seen, Watch},
};

/// The rate on a machine that is fast enough.
const RATE: f64 = 10_000.0;

/// Spans are a sample at such a rate; the books are not.
const FEW_SPANS: (&str, &str) = ("FLOWCAR_SPANS_PER_SECOND", "100");

/// An open and a closed record of either end of a connection by IPv4 sockets, and the kernel's 8 bytes before each (kernel/bpf/ringbuf.c).
const BYTES_OF_EACH: f64 = 2.0 * (BRIEF_OPEN_LEN + 8 + BRIEF_CLOSE_LEN + 8) as f64;

/// `FLOWCAR_RING_BYTES` where it is not set.
const DEFAULT_RING_BYTES: u32 = 1 << 20;

/// Long enough for a hundred drains.
const FILLING: Duration = Duration::from_secs(10);

fn duration() -> Duration {
    let set = env::var("FLOWCAR_RATE_SECONDS").map(|seconds| seconds.parse().unwrap());
    Duration::from_secs(set.unwrap_or(60))
}

/// Each takes the whole machine, and the tests of a program run side by side.
pub(crate) fn the_machine() -> MutexGuard<'static, ()> {
    static MACHINE: Mutex<()> = Mutex::new(());
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a load gave.
struct Loaded {
    report: LoadReport,
    seen: Seen,
    waits: ProcessorWaits,
}

/// Both ends of every connection are in the pod; so many a second, or as many as possible.
fn load(
    name: &str,
    settings: &[(&str, &str)],
    rate: Option<f64>,
    duration: Duration,
) -> Option<Loaded> {
    if !require_root() || !require_cgroup2() {
        return None;
    }
    let _alone = the_machine();
    let pod = TestPod::new(name).unwrap();
    let range = ("net.ipv4.ip_local_port_range", "1024 65535");
    pod.netns().sysctl(range.0, range.1).unwrap();
    let serving = Serving::start(&pod, &ServePlan::at("0.0.0.0:0".parse().unwrap())).unwrap();
    let target: SocketAddr = ([127, 0, 0, 1], serving.address().port()).into();
    let mut watch = Watch::start(&pod, Mode::Both, settings);
    // As many threads as keep the machine busy, each with a share of the rate.
    let plan = LoadPlan {
        call: CallPlan::to(target).connections(0, 16),
        duration,
        rate,
    };
    let id = watch.id();
    let (report, waits) = thread::scope(|scope| {
        let loading = scope.spawn(|| load_in(&pod, &plan).unwrap());
        let waiting = scope.spawn(|| {
            let mut waits = ProcessorWaits::of(id);
            while !loading.is_finished() {
                waits.read();
                thread::sleep(Duration::from_millis(20));
            }
            waits.read();
            (loading, waits)
        });
        // Every report on the way asserts that the books balance.
        while !waiting.is_finished() {
            watch.reports(1);
        }
        let (loading, waits) = waiting.join().unwrap();
        (loading.join().unwrap(), waits)
    });
    assert!(report.failed.is_empty(), "{report:?}");
    let connections = usize::try_from(report.connections).unwrap();
    serving
        .reports(connections, Duration::from_secs(60))
        .unwrap();
    watch.until("none left", |seen| {
        seen.sum("flowcar.self.flow.count", &[]) == 0.0
            && seen.sum("flowcar.tcp.connection.live", &[]) == 0.0
    });
    let rate = report.connections as f64 / (report.elapsed_ns as f64 / 1e9);
    println!(
        "{name}: {} connections, {rate:.0} a second ({:.0} % of {RATE})",
        report.connections,
        100.0 * rate / RATE
    );
    Some(Loaded {
        report,
        seen: watch.stop(),
        waits,
    })
}

/// Connections of both ends, and the books over them.
#[track_caller]
fn closed_and_lost(report: &LoadReport, seen: &Seen) -> (f64, f64) {
    let sum = |name| seen.sum(name, &[]);
    let all = 2.0 * report.connections as f64;
    let (closed, lost) = (
        sum("flowcar.tcp.connection.closed"),
        sum("flowcar.tcp.connection.lost"),
    );
    assert_eq!(sum("flowcar.tcp.connection.failed"), 0.0);
    assert_eq!(closed + lost, all, "to the last flow");
    (closed, lost)
}

#[test]
fn no_connection_is_lost_at_full_rate() {
    let Some(Loaded {
        report,
        seen,
        waits,
    }) = load("rate", &[FEW_SPANS], None, duration())
    else {
        return;
    };
    let (_, lost) = closed_and_lost(&report, &seen);
    let seconds = report.elapsed_ns as f64 / 1e9;
    let filling =
        f64::from(DEFAULT_RING_BYTES) * seconds / (report.connections as f64 * BYTES_OF_EACH);
    let waited = waits.longest(Duration::from_secs_f64(filling));
    if waited.as_secs_f64() > filling / 2.0 {
        println!(
            "flowcar waited {waited:?} for a processor while the ring filled in {filling:.3} s"
        );
        let ring_full = [("flowcar.tcp.lost.reason", "ring_full")];
        assert_eq!(seen.sum("flowcar.tcp.connection.lost", &ring_full), lost);
        return;
    }
    assert_eq!(lost, 0.0, "{:#?}", seen.metrics);
    assert_eq!(seen.sum("flowcar.self.record.dropped", &[]), 0.0);
    let opened = seen.began();
    assert_eq!(opened, 2.0 * report.connections as f64);
    // What one end sends the other receives.
    let bytes = (report.sent + report.received) as f64;
    for direction in ["transmit", "receive"] {
        let reported = seen.sum("flowcar.tcp.io", &[("network.io.direction", direction)]);
        assert_eq!(reported, bytes, "{direction}");
    }
}

#[test]
fn too_small_ring_loses_only_counted_connections() {
    let tiny = [FEW_SPANS, ("FLOWCAR_RING_BYTES", "4096")];
    let Some(Loaded { report, seen, .. }) = load("tiny-ring", &tiny, None, duration()) else {
        return;
    };
    let (closed, lost) = closed_and_lost(&report, &seen);
    println!("{closed} closed, {lost} lost");
    assert!(lost > 0.0, "the ring never overran, so this shows nothing");
    let ring_full = [("flowcar.tcp.lost.reason", "ring_full")];
    assert_eq!(seen.sum("flowcar.tcp.connection.lost", &ring_full), lost);
}

/// The ring is drained ten times a second. What fills it sooner wakes flowcar.
#[test]
fn a_ring_that_fills_between_two_drains_is_drained_in_time() {
    const RING_BYTES: u32 = 16 << 10;
    const DRAINS_A_SECOND: f64 = 10.0;
    let rings = 2.0;
    let rate = rings * f64::from(RING_BYTES) * DRAINS_A_SECOND / BYTES_OF_EACH;
    let bytes = RING_BYTES.to_string();
    let settings = [FEW_SPANS, ("FLOWCAR_RING_BYTES", &*bytes)];
    let filled = load("filling-ring", &settings, Some(rate), FILLING);
    let Some(Loaded {
        report,
        seen,
        waits,
    }) = filled
    else {
        return;
    };
    let (_, lost) = closed_and_lost(&report, &seen);
    let all = 2.0 * report.connections as f64;
    let seconds = report.elapsed_ns as f64 / 1e9;
    let drained_by_time = (seconds * DRAINS_A_SECOND + 1.0) * f64::from(RING_BYTES);
    let lost_by_time = 1.0 - drained_by_time / (report.connections as f64 * BYTES_OF_EACH);
    println!(
        "{lost} of {all} lost; without waking it were {:.0} %",
        100.0 * lost_by_time
    );
    assert!(
        lost_by_time > 0.2,
        "too slow a machine to show it: {report:?}"
    );
    let fills = Duration::from_secs_f64(1.0 / (rings * DRAINS_A_SECOND));
    let waited = waits.longest(fills);
    if waited > fills / 2 {
        println!("flowcar waited {waited:?} for a processor while the ring filled in {fills:?}");
        let ring_full = [("flowcar.tcp.lost.reason", "ring_full")];
        assert_eq!(seen.sum("flowcar.tcp.connection.lost", &ring_full), lost);
        return;
    }
    assert!(lost / all < lost_by_time / 4.0, "{lost} of {all}");
}
