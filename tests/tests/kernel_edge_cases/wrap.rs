//! More bytes than there are sequence numbers.

use std::{net::SocketAddr, time::Duration};

use flowcar_tests::{
    place::TestPod,
    traffic::{CallPlan, ServePlan, Serving, call_in},
    watch::{Mode, Watch, bytes_hold},
};

use crate::can_run;

/// Past the wrap, wherever the first number lies.
const BYTES: u64 = (1 << 32) + 100_000_000;

const MODES: [Mode; 2] = [Mode::Both, Mode::Alone];

/// Beside eBPF and alone at the same time, because so many bytes take their time.
#[test]
fn sequence_numbers_wrap() {
    if !can_run() {
        return;
    }
    let pod = TestPod::new("wrap").unwrap();
    let serving = Serving::start(&pod, &ServePlan::at("[::]:0".parse().unwrap())).unwrap();
    let target: SocketAddr = ([127, 0, 0, 1], serving.address().port()).into();
    let watches = MODES.map(|mode| Watch::start(&pod, mode, &[]));
    let plan = CallPlan::to(target).sizes(BYTES..=BYTES, 1..=1);
    let clients = call_in(&pod, &plan).unwrap();
    let servers = serving.reports(1, Duration::from_secs(60)).unwrap();
    for (mut watch, mode) in watches.into_iter().zip(MODES) {
        // Alone one sees the other's exports, too.
        let has_port = |at: SocketAddr| at.port() == target.port();
        watch.until("both ends", |seen| {
            let ends = seen.flows.iter();
            ends.filter(|flow| has_port(flow.local) || has_port(flow.peer))
                .count()
                >= 2
        });
        let seen = watch.stop();
        for (report, end) in [(&clients[0], "local_fin"), (&servers[0], "peer_fin")] {
            assert_eq!(report.failure, None);
            let flow = seen.flow(report);
            bytes_hold(flow, report);
            assert_eq!(flow.end(), end);
        }
        let port = target.port().to_string();
        let transmitted = [
            ("network.io.direction", "transmit"),
            ("server.port", port.as_str()),
        ];
        let of_port = seen.sum("flowcar.tcp.io", &transmitted);
        let all = (BYTES + 32 + 1) as f64;
        let client = seen.flow(&clients[0]);
        let points = seen.metrics.get("flowcar.tcp.io");
        assert_eq!(of_port, all, "{mode:?} {client:?} {points:#?}");
    }
}
