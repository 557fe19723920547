//! The link's delays are those of its plan, on the clocks of the link, the application and the kernel. In a
//! file of its own, because the tests of one file run at the same time and share two processors.

use std::time::Duration;

use flowcar_tests::{
    link::{
        Direction::{AtoB, BtoA},
        Plan, percentile,
    },
    place::{require_cgroup2, require_root, require_tun},
    traffic::{CallPlan, Pods},
};

const MS: Duration = Duration::from_millis(1);

fn can_run() -> bool {
    require_root() && require_cgroup2() && require_tun()
}

/// Batches of exchanges before a program's own times are believed. A neighbour that takes the processor shifts
/// all exchanges of a short batch, and a connection has but one handshake.
const BATCHES: usize = 50;

/// The link's delays are those of the plan, and what the application and the kernel measure lies above them
/// by no more than the programs need.
#[test]
fn delays_are_those_of_the_plan() {
    if !can_run() {
        return;
    }
    for (rtt, exchanges) in [(5, 100), (20, 50), (100, 20)] {
        let rtt = MS * rtt;
        let pods = Pods::new(Plan::rtt(rtt)).unwrap();
        for target in [pods.v4(), pods.v6()] {
            let plan = CallPlan::to(target).exchanges(exchanges);
            let calm = (0..BATCHES).any(|_| is_near(rtt, &one_batch(&pods, &plan)));
            assert!(calm, "{rtt:?} {target}: none of {BATCHES} batches is near");
        }
    }
}

/// Each clock's least round trip of a batch, which other processes delayed least.
#[derive(Debug)]
struct Measured {
    log: Duration,
    log_handshake: Duration,
    application: Duration,
    connect: Duration,
    kernel_least: Duration,
}

fn one_batch(pods: &Pods, plan: &CallPlan) -> Measured {
    let (clients, _) = pods.call(plan).unwrap();
    let client = &clients[0];
    assert_eq!(client.failure, None);
    let trace = pods.link().trace().of_port(client.local.unwrap().port());
    // One acknowledgement, with its response, for each request.
    assert_eq!(trace.round_trips(AtoB).len() as u64, client.exchanges);
    Measured {
        log: percentile(&trace.round_trips(AtoB), 0.0),
        log_handshake: trace.handshakes(AtoB)[0],
        // Reported to three digits, rounded down.
        application: Duration::from_nanos(client.exchange.min_ns + client.exchange.min_ns / 1000),
        connect: Duration::from_nanos(client.connect_ns.unwrap()),
        kernel_least: Duration::from_micros(client.tcp_info.unwrap().min_rtt.into()),
    }
}

fn is_near(rtt: Duration, measured: &Measured) -> bool {
    println!("{rtt:?}: {measured:?}");
    let Measured {
        log,
        log_handshake,
        application,
        connect,
        kernel_least,
    } = *measured;
    let all = [log, log_handshake, application, connect, kernel_least];
    // On no machine may anything arrive before its time.
    assert!(all.iter().all(|time| *time >= rtt), "{rtt:?}: {measured:?}");
    // The application waits for the whole of what the log sees.
    assert!(
        application >= log && connect >= log_handshake,
        "{rtt:?}: {measured:?}"
    );
    // Measurements against the link are in buckets of 2^(1/8), so the link's programs may take that much, and on a
    // machine that others share a millisecond of it is theirs.
    all.iter().all(|time| *time < rtt + MS.max(rtt / 11))
}

/// The emulator's own lateness, in which a neighbour has little part: the emulator runs before all else.
#[test]
fn packets_leave_when_they_are_due() {
    if !can_run() {
        return;
    }
    let pods = Pods::new(Plan::rtt(MS * 10)).unwrap();
    pods.call(&CallPlan::to(pods.v4()).exchanges(200)).unwrap();
    for direction in [AtoB, BtoA] {
        let delays = pods.link().trace().delays(direction);
        assert!(delays.iter().all(|delay| *delay >= MS * 5));
        let late = percentile(&delays, 0.1) - MS * 5;
        println!("{direction:?}: late by {late:?} at p10");
        assert!(late < MS / 2, "{direction:?}: {late:?}");
    }
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
