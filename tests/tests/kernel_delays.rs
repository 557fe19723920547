//! RTT and connect times against what the link truly did to the packets, in a file of its own, because the tests
//! of one file run at the same time and share two processors.

use std::time::Duration;

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

#[test]
fn percentiles_are_within_a_bucket_of_the_links() {
    if !can_run() {
        return;
    }
    for (rtt, exchanges) in [(5, 200), (20, 100), (100, 20)] {
        let pair = Pair::new(Plan::rtt(MS * rtt)).unwrap();
        for server in [pair.link().b4(), pair.link().b6()] {
            let arguments = ["--exchanges", &exchanges.to_string()];
            let called = pair.call(server, 1, &arguments).unwrap();
            let connection = &called.connections[0];
            let trace = pair.link().trace();
            let trace = trace.of_port(connection.client_flow.local.port);
            let name = format!("{rtt} ms, {server}");
            let flows = [&connection.client_flow, &connection.server_flow];
            for (flow, direction) in flows.into_iter().zip([AtoB, BtoA]) {
                samples_are_the_links(&format!("{name}, {}", flow.role), flow, &trace, direction);
                // One for each exchange, and one for the handshake.
                let count = flow.rtt.count;
                assert!(
                    (exchanges..=exchanges + 2).contains(&count),
                    "{name}: {count} samples"
                );
            }
            connect_is_the_links(&name, &connection.client_flow, &trace);
            let at_application =
                seconds(Duration::from_nanos(connection.client.connect_ns.unwrap()));
            let connect = connection.client_flow.connect_s.unwrap();
            assert!(
                connect <= at_application,
                "{name}: {connect} {at_application}"
            );
        }
    }
}

fn samples_are_the_links(name: &str, flow: &FlowLine, trace: &Trace, direction: Direction) {
    let mut carried = trace.round_trips(direction);
    // The handshake is measured at both ends: SYN to SYN-ACK, SYN-ACK to ACK.
    carried.extend(trace.handshakes(direction));
    assert_eq!(flow.rtt.kind, "measured", "{name}");
    let rtt = &flow.rtt;
    for (what, found, quantile) in [
        ("min", rtt.min_s, 0.0),
        ("p50", rtt.p50_s, 0.5),
        ("p99", rtt.p99_s, 0.99),
    ] {
        near(
            &format!("{name}, {what}"),
            found.unwrap(),
            percentile(&carried, quantile),
        );
    }
}

fn connect_is_the_links(name: &str, flow: &FlowLine, trace: &Trace) {
    let carried = trace.handshakes(AtoB);
    assert_eq!(carried.len(), 1);
    near(
        &format!("{name}, connect"),
        flow.connect_s.unwrap(),
        carried[0],
    );
}

#[track_caller]
fn near(name: &str, found: f64, carried: Duration) {
    let carried = seconds(carried);
    println!("{name}: {found} s, on the link {carried} s");
    assert!(
        found >= carried / BUCKET && found <= carried * BUCKET + LATE_S,
        "{name}: {found} s, on the link {carried} s"
    );
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}
