//! Loss by the sockets' own counts, without eBPF and of open connections, against what the link carried.

use std::{thread, time::Duration};

use flowcar_tests::{
    link::{
        Direction::{self, AtoB, BtoA},
        Only, Plan, TcpSummary, Trace, When,
    },
    place::{TestPod, require_cgroup2, require_root, require_tun},
    traffic::{CallPlan, ConnectionReport, Holding, Pods},
    watch::{Flow, Mode, Seen, Watch},
};

const RTT: Duration = Duration::from_millis(10);
const CONNECTIONS: u64 = 10;

fn lossy(chance: f64) -> Option<Pods> {
    if !require_root() || !require_cgroup2() || !require_tun() {
        return None;
    }
    let plan = Plan::rtt(RTT).drop(Only::Data, When::Chance(chance));
    Some(Pods::new(plan.seed(11)).unwrap())
}

/// Both ends of a connection: the pod of the socket, and the direction in which it sends.
fn ends(pods: &Pods) -> [(&TestPod, Direction); 2] {
    [(pods.client(), AtoB), (pods.server(), BtoA)]
}

/// A retransmitted FIN cannot always be distinguished from payload.
#[track_caller]
fn counts_are_the_links(flow: &Flow, application: &ConnectionReport, wire: &Trace, way: Direction) {
    let retransmits: u64 = flow.get("flowcar.tcp.retransmits").parse().unwrap();
    assert_eq!(retransmits, wire.sent_again(way), "{flow:?}");
    let fins = |way| wire.count(way, |tcp: &TcpSummary| tcp.fin);
    let of_fins = u64::from(fins(AtoB) > 1 || fins(BtoA) > 1);
    for (reported, payload) in [
        (flow.sent, application.sent),
        (flow.received, application.received),
    ] {
        assert!(
            reported.abs_diff(payload) <= of_fins,
            "{flow:?}: {application:?}"
        );
    }
}

fn without_ebpf(chance: f64, request: u64, response: u64) {
    let Some(pods) = lossy(chance) else { return };
    let watches = ends(&pods).map(|(pod, _)| Watch::start(pod, Mode::Alone, &[]));
    let plan = CallPlan::to(pods.v4()).connections(CONNECTIONS, 5);
    let plan = plan.sizes(request..=request, response..=response);
    let (clients, servers) = pods.call(&plan).unwrap();
    let trace = pods.link().trace();
    let all = |way| trace.dropped(way, TcpSummary::is_data);
    assert!(all(AtoB) + all(BtoA) > 5, "too little was dropped");
    for ((mut watch, reports), way) in watches
        .into_iter()
        .zip([&clients, &servers])
        .zip([AtoB, BtoA])
    {
        watch.until("every flow", |seen| seen.flows.len() as u64 == CONNECTIONS);
        let seen = watch.stop();
        for (report, client) in reports.iter().zip(&clients) {
            let wire = trace.of_port(client.local.unwrap().port());
            counts_are_the_links(seen.flow(report), report, &wire, way);
        }
        let reported = seen.sum(
            "flowcar.tcp.retransmits",
            &[("flowcar.tcp.retransmit.type", "unknown")],
        );
        let flows = seen.flows.iter();
        let of_flows = flows.map(|flow| flow.get("flowcar.tcp.retransmits").parse::<f64>());
        assert_eq!(reported, of_flows.map(Result::unwrap).sum::<f64>());
    }
}

#[test]
fn one_in_a_hundred_without_ebpf() {
    without_ebpf(0.01, 100_000, 300_000);
}

#[test]
fn one_in_twenty_without_ebpf() {
    without_ebpf(0.05, 50_000, 100_000);
}

/// The counts of an open, idle connection at the last poll.
fn while_it_lives(mode: Mode) {
    let Some(pods) = lossy(0.05) else { return };
    let mut watches = ends(&pods).map(|(pod, _)| Watch::start(pod, mode, &[]));
    let plan = CallPlan::to(pods.v4()).sizes(200_000..=200_000, 300_000..=300_000);
    let mut holding = Holding::start(pods.client(), &plan).unwrap();
    assert_eq!(holding.exchange().unwrap(), 1);
    // Segments sent again after the last round trip are reported with the next one.
    pods.link().set_both(Plan::rtt(RTT));
    for _ in 0..3 {
        thread::sleep(Duration::from_millis(300));
        assert_eq!(holding.exchange().unwrap(), 1);
    }
    for (watch, (way, back)) in watches.iter_mut().zip([(AtoB, BtoA), (BtoA, AtoB)]) {
        let is_reported =
            |seen: &Seen| live_figures(seen) == carried(&pods.link().trace(), way, back);
        watch.until("what the link carried", is_reported);
        let seen = watch.reports(2);
        assert!(is_reported(seen));
        assert!(live_figures(seen).2 > 0.0, "nothing was sent again");
        assert_eq!(seen.sum("flowcar.tcp.connection.live", &[]), 1.0);
    }
    holding.close().unwrap();
}

/// Segments sent, those received, and those sent again.
type Figures = (f64, f64, f64);

fn live_figures(seen: &Seen) -> Figures {
    let segments = |way| seen.sum("flowcar.tcp.segments", &[("network.io.direction", way)]);
    let again = seen.sum("flowcar.tcp.retransmits", &[]);
    (segments("transmit"), segments("receive"), again)
}

/// A server's socket does not exist yet when its SYN-ACK leaves; the SYN is among its segments.
fn carried(trace: &Trace, way: Direction, back: Direction) -> Figures {
    let any = |_: &TcpSummary| true;
    let sent = trace.count(way, any) - usize::from(way == BtoA);
    let received = trace.count(back, any) - trace.dropped(back, any);
    (sent as f64, received as f64, trace.sent_again(way) as f64)
}

#[test]
fn live_figures_without_ebpf() {
    while_it_lives(Mode::Alone);
}

#[test]
fn live_figures_beside_ebpf() {
    while_it_lives(Mode::Both);
}
