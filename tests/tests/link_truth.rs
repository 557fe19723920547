//! The link's log is the truth: it is complete by the kernel's own counters, and its times are those that
//! the application and the kernel measure.

use std::time::Duration;

use flowcar_tests::{
    link::{
        Direction::{AtoB, BtoA},
        Fate, MTU, Plan, percentile,
    },
    place::{Counters, require_cgroup2, require_root, require_tun},
    traffic::{CallPlan, Pods},
};

const MS: Duration = Duration::from_millis(1);

fn can_run() -> bool {
    require_root() && require_cgroup2() && require_tun()
}

/// The log, the application's clock and the kernel's smallest RTT agree with the setting. Medians, and
/// bounds for a machine that is busy with other things: on a quiet one all are within 0.4 ms.
#[test]
fn delays_are_those_of_the_plan() {
    if !can_run() {
        return;
    }
    for (rtt, exchanges) in [(5, 200), (20, 100), (100, 20)] {
        let rtt = MS * rtt;
        let pods = Pods::new(Plan::rtt(rtt)).unwrap();
        for target in [pods.v4(), pods.v6()] {
            let (clients, _) = pods
                .call(&CallPlan::to(target).exchanges(exchanges))
                .unwrap();
            let client = &clients[0];
            assert_eq!(client.failure, None);
            let trace = pods.link().trace().of_port(client.local.unwrap().port());

            // The emulator runs before everything else, so this holds on a busy machine too.
            for direction in [AtoB, BtoA] {
                let delay = percentile(&trace.delays(direction), 0.5);
                assert!(
                    delay >= rtt / 2 && delay < rtt / 2 + MS / 4,
                    "{rtt:?} {target} {direction:?}: {delay:?}"
                );
            }
            // The plan is the least that a packet waits; the rest is the machine's, the server included.
            let near = |what: &str, measured: Duration| {
                println!("{rtt:?} {target}: {what} {measured:?}");
                assert!(
                    measured >= rtt && measured < rtt + MS,
                    "{rtt:?} {target}: {what} {measured:?}"
                );
            };
            near(
                "round trip in the log, p50",
                percentile(&trace.round_trips(AtoB), 0.5),
            );
            near(
                "exchange by the application, p50",
                Duration::from_nanos(client.exchange.p50_ns),
            );
            near(
                "kernel's min_rtt",
                Duration::from_micros(client.tcp_info.unwrap().min_rtt.into()),
            );
            near("handshake in the log", trace.handshakes(AtoB)[0]);
            assert_eq!(
                trace.round_trips(AtoB).len() as u64,
                exchanges + 1,
                "one for each request, and the FIN's is none"
            );
        }
    }
}

/// Every segment that both kernels sent and received is in the log, and nothing else.
#[test]
fn the_log_is_complete_by_the_kernels_counters() {
    if !can_run() {
        return;
    }
    let pods = Pods::new(Plan::rtt(MS * 2)).unwrap();
    let read = || {
        (
            pods.client().netns().snmp().unwrap(),
            pods.server().netns().snmp().unwrap(),
        )
    };
    let before = read();
    for target in [pods.v4(), pods.v6(), pods.v4_mapped()] {
        let plan = CallPlan::to(target)
            .connections(20, 5)
            .exchanges(5)
            .sizes(1..=20_000, 1..=20_000);
        pods.call(&plan).unwrap();
    }
    // The last acknowledgement may still be on its way.
    let (client, server) = eventually(|| {
        let after = read();
        let grown = (after.0.since(&before.0), after.1.since(&before.1));
        let all = |from: &Counters, to: &Counters| from["Tcp.OutSegs"] == to["Tcp.InSegs"];
        (all(&grown.0, &grown.1) && all(&grown.1, &grown.0)).then_some(grown)
    });
    let trace = pods.link().trace();
    assert_eq!(trace.unrecorded, 0);
    assert_eq!(trace.count(AtoB, |_| true) as i64, client["Tcp.OutSegs"]);
    assert_eq!(trace.count(BtoA, |_| true) as i64, server["Tcp.OutSegs"]);
    assert_eq!(
        (client["Tcp.ActiveOpens"], server["Tcp.PassiveOpens"]),
        (60, 60)
    );
    assert_eq!(
        (client["Tcp.RetransSegs"], server["Tcp.RetransSegs"]),
        (0, 0)
    );
    for fate in [
        Fate::Dropped,
        Fate::Reordered,
        Fate::Refused,
        Fate::InFlight,
    ] {
        assert_eq!(trace.fates(fate), 0, "{fate:?}");
    }
    for place in [pods.client(), pods.server()] {
        assert_eq!(
            place.netns().device_drops(&pods.link().device()).unwrap(),
            0
        );
    }
}

/// A TUN device is given no segment larger than its MTU, whatever the stack offloads elsewhere.
#[test]
fn packets_are_those_of_a_wire() {
    if !can_run() {
        return;
    }
    let pods = Pods::new(Plan::rtt(MS)).unwrap();
    let (clients, servers) = pods
        .call(&CallPlan::to(pods.v4()).sizes(3_000_000..=3_000_000, 1..=1))
        .unwrap();
    assert_eq!(clients[0].failure, None);
    assert_eq!(servers[0].received, 3_000_032);
    let trace = pods.link().trace();
    assert_eq!(
        trace.records.iter().map(|record| record.length).max(),
        Some(MTU)
    );
    let payload: u64 = trace
        .sent(AtoB)
        .filter_map(|record| record.tcp)
        .map(|tcp| u64::from(tcp.payload))
        .sum();
    assert_eq!(
        payload,
        3_000_032 + clients[0].tcp_info.unwrap().bytes_retrans
    );
}

#[test]
fn jitter_spreads_delays_within_its_bounds() {
    if !can_run() {
        return;
    }
    let pods = Pods::new(Plan::rtt(MS * 20).jitter(MS * 5)).unwrap();
    pods.call(&CallPlan::to(pods.v4()).exchanges(200)).unwrap();
    let delays = pods.link().trace().delays(AtoB);
    assert!(delays.iter().all(|delay| *delay >= MS * 5));
    // Of a uniform distribution between 5 and 15 ms; 200 samples put each within 1 ms.
    for (quantile, expected) in [(0.1, 6), (0.5, 10), (0.9, 14)] {
        let delay = percentile(&delays, quantile);
        assert!(
            delay > MS * (expected - 1) && delay < MS * (expected + 2),
            "p{quantile}: {delay:?}"
        );
    }
}

#[test]
fn a_dropped_link_takes_its_devices_away() {
    if !can_run() {
        return;
    }
    let one = flowcar_tests::place::Netns::new("one").unwrap();
    let other = flowcar_tests::place::Netns::new("other").unwrap();
    let link = flowcar_tests::link::Link::between(&one, &other, Plan::rtt(MS)).unwrap();
    let device = link.device();
    assert!(one.device_drops(&device).is_ok() && other.device_drops(&device).is_ok());
    drop(link);
    assert!(one.device_drops(&device).is_err() && other.device_drops(&device).is_err());
}

/// Asks again until there is an answer, for at most ten seconds.
fn eventually<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(
            std::time::Instant::now() < deadline,
            "it did not come to be"
        );
        std::thread::sleep(MS);
    }
}
