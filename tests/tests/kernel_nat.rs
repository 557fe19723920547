//! Both ends of a connection are in one trace although no address is the same at both.

use std::time::Duration;

use flowcar_tests::{
    flowcar::{self, Server},
    link::{Nat, Plan, Rewrite},
    place::{TestPod, require_cgroup2, require_program, require_root, require_tun},
};

#[test]
fn one_trace_through_translation() {
    if !require_root() || !require_cgroup2() || !require_tun() || !require_program("nft") {
        return;
    }
    for rewrite in [Rewrite::Destination, Rewrite::Source, Rewrite::Both] {
        let (client, server) = (
            TestPod::new("client").unwrap(),
            TestPod::new("server").unwrap(),
        );
        let plan = Plan::rtt(Duration::from_millis(2));
        let nat = Nat::between(client.netns(), server.netns(), plan, rewrite).unwrap();
        for service in [nat.service4(), nat.service6()] {
            let serving = Server::start(&server, 1).unwrap();
            let target = (service, serving.port()).into();
            let (called, at_client) = flowcar::call(&client, target, &[]).unwrap();
            let (served, at_server) = serving.finish().unwrap();
            assert_eq!((&called[0].failure, &served[0].failure), (&None, &None));

            assert_eq!((at_client.flows.len(), at_server.flows.len()), (1, 1));
            let (client_flow, server_flow) = (&at_client.flows[0], &at_server.flows[0]);
            let same = client_flow.peer() == server_flow.local();
            assert_eq!(same, rewrite == Rewrite::Source, "what the router rewrote");
            let same = client_flow.local() == server_flow.peer();
            assert_eq!(
                same,
                rewrite == Rewrite::Destination,
                "what the router rewrote"
            );

            assert_eq!(client_flow.peer(), target);
            assert_eq!(
                (&*client_flow.role, &*server_flow.role),
                ("client", "server")
            );
            assert_eq!(
                client_flow.trace_id, server_flow.trace_id,
                "{rewrite:?} {service}"
            );
            assert_ne!(client_flow.span_id, server_flow.span_id);
            assert_eq!(
                (client_flow.bytes_sent, client_flow.bytes_received),
                (server_flow.bytes_received, server_flow.bytes_sent)
            );
        }
    }
}
