//! RTT and connect times against what the link truly did to the packets, in a file of its own, because the tests
//! of one file run at the same time and share two processors.

use std::{net::IpAddr, time::Duration};

use flowcar_tests::{
    flowcar::{FlowLine, Pair},
    link::{
        Direction::{self, AtoB, BtoA},
        Plan, Trace, percentile,
    },
    place::{require_cgroup2, require_root, require_tun},
};

const MS: Duration = Duration::from_millis(1);

/// One bucket of scale 3.
const BUCKET: f64 = 1.090_507_732_665_257_7;

/// What a packet may wait in a device before the emulator takes it and starts its own clock, and what the two
/// clocks' readings lie apart.
const LATE_S: f64 = 0.000_5;

fn can_run() -> bool {
    require_root() && require_cgroup2() && require_tun()
}

/// Calls at most: what the machine itself does to one sample in a hundred is neither the link's nor flowcar's.
const CALLS: usize = 3;

#[test]
fn percentiles_are_within_a_bucket_of_the_links() {
    if !can_run() {
        return;
    }
    for (rtt, exchanges) in [(5, 200), (20, 100), (100, 20)] {
        let pair = Pair::new(Plan::rtt(MS * rtt)).unwrap();
        for server in [pair.link().b4(), pair.link().b6()] {
            let name = format!("{rtt} ms, {server}");
            let agrees = (0..CALLS).any(|_| call_agrees(&pair, &name, server, exchanges));
            assert!(agrees, "{name}: not in {CALLS} calls");
        }
    }
}

fn call_agrees(pair: &Pair, name: &str, server: IpAddr, exchanges: u64) -> bool {
    let arguments = ["--exchanges", &exchanges.to_string()];
    let called = pair.call(server, 1, &arguments).unwrap();
    let connection = &called.connections[0];
    let trace = pair.link().trace();
    let trace = trace.of_port(connection.client_flow.local.port);
    let flows = [&connection.client_flow, &connection.server_flow];
    let agree = flows
        .into_iter()
        .zip([AtoB, BtoA])
        .map(|(flow, direction)| {
            // One for each exchange, and one for the handshake.
            let count = flow.rtt.count;
            assert!(
                (exchanges..=exchanges + 2).contains(&count),
                "{name}: {count} samples"
            );
            samples_are_the_links(&format!("{name}, {}", flow.role), flow, &trace, direction)
        });
    // Each is asked, also after one that does not.
    let agree = agree.filter(|one| !one).count() == 0;
    let connect = connection.client_flow.connect_s.unwrap();
    let at_application = seconds(Duration::from_nanos(connection.client.connect_ns.unwrap()));
    assert!(
        connect <= at_application,
        "{name}: {connect} {at_application}"
    );
    agree & connect_is_the_links(name, &connection.client_flow, &trace)
}

fn samples_are_the_links(name: &str, flow: &FlowLine, trace: &Trace, direction: Direction) -> bool {
    let mut carried = trace.round_trips(direction);
    // The handshake is measured at both ends: SYN to SYN-ACK, SYN-ACK to ACK.
    carried.extend(trace.handshakes(direction));
    assert_eq!(flow.rtt.kind, "measured", "{name}");
    let rtt = &flow.rtt;
    [
        ("min", rtt.min_s, 0.0),
        ("p50", rtt.p50_s, 0.5),
        ("p99", rtt.p99_s, 0.99),
    ]
    .into_iter()
    .all(|(what, found, quantile)| {
        near(
            &format!("{name}, {what}"),
            found.unwrap(),
            percentile(&carried, quantile),
        )
    })
}

fn connect_is_the_links(name: &str, flow: &FlowLine, trace: &Trace) -> bool {
    let carried = trace.handshakes(AtoB);
    assert_eq!(carried.len(), 1);
    near(
        &format!("{name}, connect"),
        flow.connect_s.unwrap(),
        carried[0],
    )
}

fn near(name: &str, found: f64, carried: Duration) -> bool {
    let carried = seconds(carried);
    println!("{name}: {found} s, on the link {carried} s");
    // Nothing can be quicker than the link, whatever the machine does.
    assert!(found >= carried / BUCKET, "{name}: quicker than the link");
    found <= carried * BUCKET + LATE_S
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}
