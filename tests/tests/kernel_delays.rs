//! RTT and connect times against a packet capture at the same end, with the kernel's timestamps. In a file of its own,
//! because the tests of one file run at the same time and share two processors.

use std::{net::IpAddr, time::Duration};

use flowcar_tests::{
    flowcar::{FlowLine, Pair},
    link::{Capture, Captured, Plan, is_within_a_bucket, percentile},
    place::{require_cgroup2, require_root, require_tun},
};

const MS: Duration = Duration::from_millis(1);

/// A segment may wait between the socket and the device, on a busy machine for a millisecond. What flowcar measures wrongly is wrong in
/// each call.
const TRIES: usize = 5;

fn can_run() -> bool {
    require_root() && require_cgroup2() && require_tun()
}

#[test]
fn percentiles_are_within_a_bucket_of_the_wires() {
    if !can_run() {
        return;
    }
    // With jitter each way takes up to 5 ms more or less than half a round trip.
    for jitter in [0, 5] {
        for (rtt, exchanges) in [(5, 200), (20, 100), (100, 20)] {
            let plan = Plan::rtt(MS * rtt).jitter(MS * jitter).seed(rtt.into());
            percentiles(&format!("{rtt} ms, jitter {jitter} ms"), plan, exchanges);
        }
    }
}

fn percentiles(link: &str, plan: Plan, exchanges: u64) {
    let pair = Pair::new(plan).unwrap();
    let captures = [pair.client(), pair.server()]
        .map(|pod| Capture::start(pod.netns(), &pair.link().device()).unwrap());
    for server in [pair.link().b4(), pair.link().b6()] {
        let name = format!("{link}, {server}");
        let is_right =
            (0..TRIES).any(|_| has_the_wires(&pair, &captures, server, &name, exchanges));
        assert!(is_right, "{name}: none of {TRIES} calls");
    }
}

fn has_the_wires(
    pair: &Pair,
    captures: &[Capture; 2],
    server: IpAddr,
    name: &str,
    exchanges: u64,
) -> bool {
    let arguments = ["--exchanges", &exchanges.to_string()];
    let called = pair.call(server, 1, &arguments).unwrap();
    let connection = &called.connections[0];
    let port = connection.client_flow.local.port;
    let [client, server_end] = captures
        .each_ref()
        .map(|capture| capture.take().unwrap().of_port(port));
    let at_application = seconds(Duration::from_nanos(connection.client.connect_ns.unwrap()));
    let connect = connection.client_flow.connect_s.unwrap();
    assert!(
        connect <= at_application,
        "{name}: {connect} {at_application}"
    );
    samples_are_the_wires(name, &connection.client_flow, &client, exchanges)
        && samples_are_the_wires(name, &connection.server_flow, &server_end, exchanges)
        && connect_is_the_wires(name, &connection.client_flow, &client)
}

fn samples_are_the_wires(name: &str, flow: &FlowLine, captured: &Captured, exchanges: u64) -> bool {
    let name = format!("{name}, {}", flow.role);
    let carried = captured.round_trips();
    assert_eq!(flow.rtt.kind, "measured", "{name}");
    let rtt = &flow.rtt;
    assert_eq!(rtt.count, carried.len() as u64, "{name}: samples");
    assert!(
        rtt.count >= exchanges,
        "{name}: one for each exchange at least"
    );
    let mut figures = [
        ("min", rtt.min_s, 0.0),
        ("p50", rtt.p50_s, 0.5),
        ("p99", rtt.p99_s, 0.99),
    ]
    .into_iter();
    figures.all(|(what, found, quantile)| {
        let what = format!("{name}, {what}");
        is_within_a_bucket(&what, found.unwrap(), percentile(&carried, quantile))
    })
}

fn connect_is_the_wires(name: &str, flow: &FlowLine, captured: &Captured) -> bool {
    let carried = captured.handshakes();
    assert_eq!(carried.len(), 1);
    let what = format!("{name}, connect");
    is_within_a_bucket(&what, flow.connect_s.unwrap(), carried[0])
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}
