//! Link-local addresses are valid on their link only: on two links the same addresses and ports are two connections.

use std::{net::SocketAddrV6, time::Duration};

use flowcar_tests::{
    flowcar::{Run, Server, both_ends},
    link::{Link, Plan, PodPair},
    place::TestPod,
    traffic,
};
use nix::net::if_::if_nametoindex;

use crate::can_link;

const CLIENTS_PORT: u16 = 4_000;

#[test]
fn the_same_addresses_and_ports_on_two_links() {
    if !can_link() {
        return;
    }
    let client = TestPod::new("client").unwrap();
    let servers = ["one", "other"].map(|name| TestPod::new(name).unwrap());
    let plan = || Plan::rtt(Duration::from_millis(10));
    let links = servers
        .each_ref()
        .map(|server| Link::between(client.netns(), server.netns(), plan()).unwrap());
    let serving = servers.each_ref().map(|server| {
        let listen = ["serve", "--listen", "[::]:7000", "--until", "1"];
        let mut run = Run::start(server, &traffic::program().unwrap(), &listen).unwrap();
        let mut output = run.stdout().unwrap();
        std::io::BufRead::read_line(&mut output, &mut String::new()).unwrap();
        (run, output)
    });
    let scope = |link: &Link| client.netns().run(|| if_nametoindex(&*link.device()));
    // At the same time: the server waits before it answers.
    let call = |link: &Link, request: &str| {
        let index = scope(link).unwrap().unwrap();
        let target = SocketAddrV6::new(Link::link_local(2), 7000, 0, index);
        format!(
            "{} call '{target}' --local {} --local-port {CLIENTS_PORT} --request {request} --delay 300 >/dev/null",
            traffic::program().unwrap().display(),
            Link::link_local(1),
        )
    };
    let script = format!(
        "{} & {} & wait",
        call(&links[0], "100"),
        call(&links[1], "300")
    );
    let run = Run::start(&client, "sh".as_ref(), &["-c", &script]).unwrap();
    let (status, report) = run.finish().unwrap();
    assert!(status.success());
    println!("{report:#?}");

    assert_eq!((report.summary.opened, report.summary.closed), (2, 2));
    assert_eq!((report.summary.failed, report.summary.lost), (0, 0));
    for ((run, output), sent) in serving.into_iter().zip([132, 332]) {
        assert_eq!(std::io::BufRead::lines(output).count(), 1);
        let (_, at_server) = run.finish().unwrap();
        let [other] = &at_server.flows[..] else {
            panic!("not one flow: {at_server:?}");
        };
        let mut found = report.flows.iter().filter(|flow| flow.bytes_sent == sent);
        let flow = found.next().expect("a flow of so many bytes");
        assert!(found.next().is_none());
        assert_eq!(flow.local(), (Link::link_local(1), CLIENTS_PORT).into());
        assert_eq!(flow.peer(), (Link::link_local(2), 7000).into());
        assert_eq!((other.local(), other.peer()), (flow.peer(), flow.local()));
        assert_eq!(flow.bytes_received, 1000);
        assert_eq!((other.bytes_received, other.bytes_sent), (sent, 1000));
        assert_eq!(flow.trace_id, other.trace_id);
        assert_eq!(flow.end, "local_fin");
    }
    assert_ne!(report.flows[0].trace_id, report.flows[1].trace_id);
}

/// A server that is followed sees one, too.
#[test]
fn both_ends_of_a_link_local_connection() {
    if !can_link() {
        return;
    }
    let pods = PodPair::new(Plan::rtt(Duration::from_millis(10))).unwrap();
    let client = pods.client();
    let serving = Server::start(pods.server(), 2).unwrap();
    let device = pods.link().device();
    let scope = client.netns().run(|| if_nametoindex(&*device));
    let target = SocketAddrV6::new(
        Link::link_local(2),
        serving.port(),
        0,
        scope.unwrap().unwrap(),
    );
    let arguments = ["--connections", "2"];
    let (clients, at_client) =
        flowcar_tests::flowcar::call(client, target.into(), &arguments).unwrap();
    let (servers, at_server) = serving.finish().unwrap();
    assert_eq!((clients.len(), servers.len()), (2, 2));
    for application in &clients {
        let [flow, _] = both_ends(application, &at_client, &at_server);
        assert_eq!(flow.peer.address, Link::link_local(2));
    }
}
