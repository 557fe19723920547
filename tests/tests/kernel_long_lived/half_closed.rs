//! One end closes minutes before the other.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use flowcar_tests::{
    place::{TestPod, require_cgroup2, require_root},
    states,
    traffic::{CallPlan, Close, ServePlan, Serving, call_in},
    watch::{Mode, Seen, Watch, bytes_hold},
};

const HALF_CLOSED: Duration = Duration::from_secs(130);

/// How long a busy machine may take until it is half-closed, and until that is reported.
const MARGIN: Duration = Duration::from_secs(15);

/// Seldom: other tests use the machine meanwhile.
const REPORTS: (&str, &str) = ("OTEL_METRIC_EXPORT_INTERVAL", "2000");

/// By either end, beside eBPF and without: at the same time, because most of it is waiting.
#[test]
fn half_closed_for_minutes() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let by_client = (Close::HalfByClient, ("local_fin", "peer_fin"));
    let by_server = (Close::HalfByServer, ("peer_fin", "local_fin"));
    thread::scope(|scope| {
        for mode in [Mode::Both, Mode::Alone] {
            for (close, ends) in [by_client, by_server] {
                scope.spawn(move || half_closed(mode, close, ends));
            }
        }
    });
}

/// It stays in the books for as long as it lives, and its FIN is not taken for payload at any time.
fn half_closed(mode: Mode, close: Close, ends: (&str, &str)) {
    let pod = TestPod::new("half-closed").unwrap();
    let serving = Serving::start(&pod, &ServePlan::at("0.0.0.0:0".parse().unwrap())).unwrap();
    let target: SocketAddr = ([127, 0, 0, 1], serving.address().port()).into();
    let mut watch = Watch::start(&pod, mode, &[REPORTS]);
    let mut plan = CallPlan::to(target).close(close);
    // One of them keeps the connection half-closed, by whichever end waits.
    (plan.delay, plan.pause) = match close {
        Close::HalfByClient => (HALF_CLOSED, Duration::ZERO),
        _ => (Duration::ZERO, HALF_CLOSED),
    };
    let received = if close == Close::HalfByClient {
        132.0
    } else {
        1132.0
    };
    let clients = thread::scope(|scope| {
        let calling = scope.spawn(|| call_in(&pod, &plan).unwrap());
        let live = "flowcar.tcp.connection.live";
        let is_half_closed = || {
            let in_state = |state| states::count(&pod, target.port(), state);
            (in_state(states::FIN_WAIT2), in_state(states::CLOSE_WAIT)) == (1, 1)
        };
        watch.until("it is half-closed", |seen| {
            seen.sum(live, &[]) == 2.0 && is_half_closed()
        });
        let io = |seen: &Seen| seen.sum("flowcar.tcp.io", &[("network.io.direction", "receive")]);
        watch.until("all that was received", |seen| io(seen) >= received);
        let began = Instant::now();
        // A poll comes with each.
        while began.elapsed() + MARGIN < HALF_CLOSED {
            let seen = watch.reports(1);
            assert_eq!(io(seen), received, "{mode:?}: no FIN is payload");
            assert_eq!(seen.sum(live, &[]), 2.0);
            assert!(seen.flows.is_empty());
        }
        assert!(is_half_closed(), "it was all the time");
        calling.join().unwrap()
    });
    let servers = serving.reports(1, Duration::from_secs(30)).unwrap();
    watch.until("its close", |seen| seen.flows.len() >= 2);
    let seen = watch.stop();
    assert_eq!(seen.flows.len(), 2);
    for (report, end) in [(&clients[0], ends.0), (&servers[0], ends.1)] {
        assert_eq!(report.failure, None);
        let flow = seen.flow(report);
        bytes_hold(flow, report);
        assert_eq!(flow.end(), end, "{mode:?}");
    }
    assert_eq!(seen.sum("flowcar.tcp.connection.closed", &[]), 2.0);
}
