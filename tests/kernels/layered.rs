//! What the kernel layers over TCP, or uses instead of it: kernel TLS, and SMC.

use std::{process::Command, time::Duration};

use flowcar_tests::{
    flowcar::{Connection, Pair},
    link::{Direction::AtoB, Plan},
    place::{lacks, require_cgroup2, require_root, require_tun},
};

const CONNECTIONS: usize = 3;
const EXCHANGES: u64 = 5;
/// Each request and each response is one write, and fits into one TLS record.
const ARGUMENTS: [&str; 6] = [
    "--exchanges",
    "5",
    "--request",
    "1000",
    "--response",
    "5000",
];

fn pair() -> Option<Pair> {
    let can_run = require_root() && require_cgroup2() && require_tun();
    can_run.then(|| Pair::new(Plan::rtt(Duration::from_millis(10))).unwrap())
}

/// Whether the kernel has this module, which is loaded if so.
fn has_module(name: &str) -> bool {
    Command::new("modprobe")
        .arg(name)
        .status()
        .unwrap()
        .success()
}

/// The flow of each end has its application's bytes and this many bytes more, and exchanges are reported
/// as on any connection.
fn has_bytes_besides(connection: &Connection, to_server: u64, to_client: u64) {
    let Connection {
        client,
        server,
        client_flow,
        server_flow,
    } = connection;
    assert_eq!((&client.failure, &server.failure), (&None, &None));
    let to_server = client.sent + to_server;
    let to_client = client.received + to_client;
    assert_eq!(
        (client_flow.bytes_sent, client_flow.bytes_received),
        (to_server, to_client)
    );
    assert_eq!(
        (server_flow.bytes_received, server_flow.bytes_sent),
        (to_server, to_client)
    );
    assert_eq!(client_flow.trace_id, server_flow.trace_id);
    for flow in [client_flow, server_flow] {
        assert_eq!(flow.exchanges.count, EXCHANGES, "{flow:?}");
    }
}

/// What is followed is what TCP carries: the records.
#[test]
fn kernel_tls_counts_its_records() {
    /// Of a TLS 1.3 record, besides its content: header, content type and tag (RFC 8446, 5.2; RFC 5116, 5.1).
    const OVERHEAD: u64 = 5 + 1 + 16;
    let Some(pair) = pair() else { return };
    if !has_module("tls") {
        return lacks("kernel TLS");
    }
    let pair = pair
        .set("FLOWCAR_EXCHANGE", "on")
        .sockets(&["--kernel-tls"]);
    let target = pair.link().b4();
    let called = pair.call(target, CONNECTIONS, &ARGUMENTS).unwrap();
    for connection in &called.connections {
        let records = EXCHANGES * OVERHEAD;
        has_bytes_besides(connection, records, records);
    }
}

/// Where no device for shared memory takes part, SMC declines and goes on with the TCP connection that it began with.
#[test]
fn smc_that_falls_back_counts_its_decline() {
    /// A CLC Decline message (RFC 7609; `struct smc_clc_msg_decline` of net/smc/smc_clc.h).
    const DECLINE: u64 = 28;
    let Some(pair) = pair() else { return };
    if !has_module("smc") {
        return lacks("SMC");
    }
    let pair = pair
        .set("FLOWCAR_EXCHANGE", "on")
        .sockets(&["--protocol", "smc"]);
    let target = pair.link().b4();
    let called = pair.call(target, CONNECTIONS, &ARGUMENTS).unwrap();
    for connection in &called.connections {
        has_bytes_besides(connection, DECLINE, 0);
    }
    let trace = pair.link().trace();
    let segments = trace.sent(AtoB).filter_map(|record| record.tcp);
    let syns = segments.filter(|tcp| tcp.syn).count();
    assert_eq!(syns, CONNECTIONS, "one TCP connection carries each");
}
