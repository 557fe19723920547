//! A port that is used again while the last connection's TIME_WAIT still holds its addresses.

use std::{net::SocketAddr, time::Duration};

use flowcar_tests::{
    place::TestPod,
    states,
    traffic::{CallPlan, Close, ServePlan, Serving, call_in},
    watch::{Mode, Watch},
};

use crate::can_run;

const CLIENTS_PORT: u16 = 4_000;

#[test]
fn reused_addresses_and_ports_are_two_flows() {
    if !can_run() {
        return;
    }
    for mode in [Mode::Both, Mode::Alone] {
        let pod = TestPod::new("reused").unwrap();
        let serving = Serving::start(&pod, &ServePlan::at("0.0.0.0:0".parse().unwrap())).unwrap();
        let target: SocketAddr = ([127, 0, 0, 1], serving.address().port()).into();
        let mut watch = Watch::start(&pod, mode, &[]);
        // Who closes first keeps the remains: the server, so that the client's port is free.
        let plan = CallPlan {
            local: Some(target.ip()),
            local_port: Some(CLIENTS_PORT),
            ..CallPlan::to(target).close(Close::Server)
        };
        let mut reports = Vec::new();
        for request in [100, 300] {
            let again = call_in(&pod, &plan.clone().sizes(request..=request, 1..=1)).unwrap();
            assert_eq!(again[0].failure, None);
            assert_eq!(again[0].local.unwrap().port(), CLIENTS_PORT);
            reports.extend(again);
            let remains = states::count(&pod, CLIENTS_PORT, states::TIME_WAIT);
            assert!(remains > 0, "the server's end is in TIME_WAIT");
            // Without eBPF who closed first is asked of what remains, which the next connection replaces.
            let ends = 2 * reports.len();
            watch.until("its ends", |seen| seen.flows.len() >= ends);
        }
        serving.reports(2, Duration::from_secs(30)).unwrap();
        let seen = watch.stop();
        assert_eq!(seen.flows.len(), 4, "{:#?}", seen.flows);
        let ends = |role: &str| {
            let mut ends: Vec<_> = seen
                .flows
                .iter()
                .filter(|flow| flow.role() == role)
                .collect();
            ends.sort_by_key(|flow| flow.sent + flow.received);
            ends
        };
        let (clients, servers) = (ends("client"), ends("server"));
        for (report, (client, server)) in reports.iter().zip(clients.iter().zip(&servers)) {
            assert_eq!(
                (client.sent, client.received),
                (report.sent, report.received)
            );
            assert_eq!(
                (server.sent, server.received),
                (report.received, report.sent)
            );
            assert_eq!((client.local, client.peer), (server.peer, server.local));
            assert_eq!((client.end(), server.end()), ("peer_fin", "local_fin"));
            if mode == Mode::Both {
                assert_eq!(client.trace_id, server.trace_id, "one connection");
            }
        }
        assert_ne!(clients[0].trace_id, clients[1].trace_id, "two connections");
        assert_eq!(seen.began(), 4.0);
        assert_eq!(seen.sum("flowcar.tcp.connection.closed", &[]), 4.0);
        assert_eq!(seen.sum("flowcar.tcp.connection.lost", &[]), 0.0);
    }
}
