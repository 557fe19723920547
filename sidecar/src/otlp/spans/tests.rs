use std::collections::BTreeMap;

use opentelemetry::Value;

use super::*;
use crate::flow::{
    AdoptedBy, CloseReason, Failure, Outcome, Retransmits, TraceIdentity, Volume, example,
};

const CLIENT_ISN: u32 = 0x1234_5678;
const SERVER_ISN: u32 = 0x9abc_def0;

fn flow(role: Role) -> Flow {
    let (client, server) = ("10.0.0.1:41000", "10.0.0.2:8080");
    let (local, peer) = if role == Role::Server {
        (server, client)
    } else {
        (client, server)
    };
    Flow {
        cookie: 7,
        role,
        local: local.parse().expect("an address"),
        peer: peer.parse().expect("an address"),
        trace: TraceIdentity::of_handshake(CLIENT_ISN, SERVER_ISN, role),
        started: Monotonic(1_000),
        established: Some(Monotonic(51_000)),
        seen: Monotonic(1_000_051_000),
        volume: Volume {
            bytes_sent: 100,
            bytes_received: 4096,
            segments_sent: 5,
            segments_received: 6,
            retransmits: Retransmits {
                fast: 1,
                timeout: 2,
                ..Default::default()
            },
        },
        ..example::closed(CLIENT_ISN)
    }
}

fn made(flow: &Flow, trace_parent: TraceParent) -> SpanData {
    let anchor = Anchor::new(Monotonic(0), 1_700_000_000_000_000_000);
    let options = SpanOptions {
        trace_parent,
        source: "ebpf".to_owned(),
    };
    span(flow, &anchor, &options)
}

fn values(span: &SpanData) -> BTreeMap<String, Value> {
    let pairs = span.attributes.iter().cloned();
    let all: BTreeMap<_, _> = pairs
        .map(|pair| (pair.key.to_string(), pair.value))
        .collect();
    assert_eq!(all.len(), span.attributes.len(), "an attribute comes twice");
    all
}

#[test]
fn both_ends_share_a_trace_and_the_server_is_the_child() {
    let client = made(&flow(Role::Client), TraceParent::Auto);
    let server = made(&flow(Role::Server), TraceParent::Auto);
    let (parent, child) = (&client.span_context, &server.span_context);
    assert!(parent.is_valid() && child.is_valid());
    assert_eq!(parent.trace_id(), child.trace_id());
    assert_ne!(parent.span_id(), child.span_id());
    assert_eq!(server.parent_span_id, parent.span_id());
    assert!(server.parent_span_is_remote);
    assert_eq!(client.parent_span_id, SpanId::INVALID);
    assert_eq!(client.span_kind, SpanKind::Client);
    assert_eq!(server.span_kind, SpanKind::Server);
    assert_eq!(client.name, "tcp 8080");
    assert_eq!(server.name, "tcp 8080");
}

#[test]
fn parent_depends_on_setting_and_peer_address() {
    let has_parent = |peer: &str, rule| {
        let mut flow = flow(Role::Server);
        flow.peer.set_ip(peer.parse().expect("an address"));
        made(&flow, rule).parent_span_id != SpanId::INVALID
    };
    let private = [
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "127.0.0.1",
        "169.254.1.1",
        "100.64.0.1",
        "100.127.255.255",
        "::1",
        "fd00::1",
        "fe80::1",
        "::ffff:10.0.0.1",
    ];
    let public = [
        "8.8.8.8",
        "172.32.0.1",
        "100.128.0.1",
        "100.63.0.1",
        "2001:db8::1",
    ];
    for peer in private {
        assert!(has_parent(peer, TraceParent::Auto), "{peer}");
        assert!(!has_parent(peer, TraceParent::Never), "{peer}");
    }
    for peer in public {
        assert!(!has_parent(peer, TraceParent::Auto), "{peer}");
        assert!(has_parent(peer, TraceParent::Always), "{peer}");
    }
}

#[test]
fn span_times_are_wall_times_from_syn_to_close() {
    let span = made(&flow(Role::Client), TraceParent::Auto);
    let since = |time: SystemTime| {
        time.duration_since(UNIX_EPOCH)
            .expect("after 1970")
            .as_nanos()
    };
    assert_eq!(since(span.start_time), 1_700_000_000_000_001_000);
    assert_eq!(since(span.end_time), 1_700_000_001_000_051_000);
}

#[test]
fn attributes_have_addresses_volume_and_latencies() {
    let mut flow = flow(Role::Server);
    for ns in [40_000_000, 50_000_000, 60_000_000] {
        flow.rtt.record(ns);
    }
    flow.exchanges.record(7_000_000);
    let found = values(&made(&flow, TraceParent::Auto));
    let text = |name: &str| found[name].as_str().into_owned();
    assert_eq!(text("network.transport"), "tcp");
    assert_eq!(text("network.type"), "ipv4");
    assert_eq!(text("network.tcp.handshake.role"), "server");
    assert_eq!(text("server.address"), "10.0.0.2");
    assert_eq!(found["server.port"], Value::I64(8080));
    assert_eq!(text("client.address"), "10.0.0.1");
    assert_eq!(found["client.port"], Value::I64(41000));
    assert_eq!(text("network.peer.address"), "10.0.0.1");
    assert_eq!(found["flowcar.tcp.bytes.sent"], Value::I64(100));
    assert_eq!(found["flowcar.tcp.bytes.received"], Value::I64(4096));
    assert_eq!(found["flowcar.tcp.segments.sent"], Value::I64(5));
    assert_eq!(found["flowcar.tcp.segments.received"], Value::I64(6));
    assert_eq!(found["flowcar.tcp.retransmits"], Value::I64(3));
    assert_eq!(found["flowcar.tcp.rtt.min"], Value::F64(0.04));
    let Value::F64(median) = found["flowcar.tcp.rtt.p50"] else {
        panic!("no number")
    };
    assert!((0.05 / 1.1..0.05 * 1.1).contains(&median), "{median}");
    assert_eq!(found["flowcar.tcp.exchanges"], Value::I64(1));
    assert_eq!(text("flowcar.tcp.close.reason"), "local_fin");
    assert!(!found.contains_key("flowcar.tcp.connect.duration"));
    assert!(!found.contains_key("flowcar.tcp.adopted.by"));
}

#[test]
fn failed_attempt_is_a_span_with_an_error() {
    let mut flow = flow(Role::Client);
    flow.established = None;
    flow.trace = TraceIdentity::unshared(3);
    flow.seen = Monotonic(2_001_000);
    flow.outcome = Some(Outcome::Failed(Failure::Refused));
    let span = made(&flow, TraceParent::Always);
    assert_eq!(span.status, Status::error(""));
    assert!(span.span_context.is_valid());
    let found = values(&span);
    assert_eq!(found["error.type"], Value::from("refused"));
    assert_eq!(found["flowcar.tcp.connect.duration"], Value::F64(0.002));
    assert!(
        !found.contains_key("flowcar.tcp.close.reason"),
        "nothing was closed"
    );
    assert!(
        !found.contains_key("flowcar.tcp.adopted.by"),
        "it was seen whole"
    );
}

#[test]
fn flow_without_handshake_has_unknown_role() {
    let mut flow = flow(Role::Unknown);
    flow.trace = TraceIdentity::unshared(4);
    flow.polled = true;
    flow.adopted = Some(AdoptedBy::Startup);
    let span = made(&flow, TraceParent::Always);
    assert_eq!(span.span_kind, SpanKind::Internal);
    assert_eq!(span.parent_span_id, SpanId::INVALID);
    let found = values(&span);
    assert_eq!(found["flowcar.tcp.adopted.by"], Value::from("startup"));
    assert_eq!(
        span.name, "tcp",
        "which of the ports is the server's is not known"
    );
    assert!(!found.contains_key("server.address") && !found.contains_key("client.address"));
}

#[test]
fn resets_and_timeouts_are_errors_and_fins_are_not() {
    for end in CloseReason::ALL {
        let mut flow = flow(Role::Client);
        flow.outcome = Some(Outcome::Closed(end));
        let is_error = made(&flow, TraceParent::Auto).status != Status::Unset;
        let expected = matches!(
            end,
            CloseReason::Reset
                | CloseReason::ResetReceived
                | CloseReason::ResetSent
                | CloseReason::Timeout
        );
        assert_eq!(is_error, expected, "{}", end.name());
    }
}

#[test]
fn reset_after_peer_fin_is_marked_and_is_no_error() {
    let mut flow = flow(Role::Server);
    flow.outcome = Some(Outcome::Closed(CloseReason::PeerFin));
    flow.reset_after_fin = true;
    let span = made(&flow, TraceParent::Auto);
    assert_eq!(span.status, Status::Unset);
    let found = values(&span);
    assert_eq!(found["flowcar.tcp.reset_after_fin"], Value::Bool(true));
    assert_eq!(found["flowcar.tcp.close.reason"], Value::from("peer_fin"));
    assert!(!found.contains_key("error.type"));
}

/// A sum over the spans of connections does not count the attributes of interim spans.
#[test]
fn interim_span_is_marked_and_has_only_interim_attributes() {
    let flow = Flow {
        outcome: None,
        ..flow(Role::Server)
    };
    let cut = InterimSpan {
        number: 2,
        time: SpanTime {
            start_unix_ns: 1_700_000_000_000_060_000,
            end_unix_ns: 1_700_000_000_000_120_000,
        },
        volume: flow.volume,
    };
    let anchor = Anchor::new(Monotonic(0), 1_700_000_000_000_000_000);
    let options = SpanOptions {
        trace_parent: TraceParent::Auto,
        source: "ebpf".to_owned(),
    };
    let (whole, interim) = (
        span(&flow, &anchor, &options),
        interim_span(&flow, &cut, &anchor, &options),
    );
    assert_eq!(interim.name, "tcp 8080 interim");
    assert_eq!(interim.parent_span_id, whole.span_context.span_id());
    assert_eq!(interim.span_kind, SpanKind::Internal);
    let (of_whole, of_interim) = (values(&whole), values(&interim));
    assert_eq!(of_interim["flowcar.tcp.is_interim"], Value::Bool(true));
    assert_eq!(
        of_interim["flowcar.tcp.interim.bytes.sent"],
        Value::I64(100)
    );
    assert_eq!(of_whole["flowcar.tcp.open"], Value::Bool(true));
    let figures = |of: &BTreeMap<String, Value>| -> Vec<String> {
        let self_metrics = of.keys().filter(|name| name.starts_with("flowcar."));
        self_metrics.cloned().collect()
    };
    let shared = figures(&of_interim)
        .into_iter()
        .filter(|name| of_whole.contains_key(name));
    assert_eq!(shared.collect::<Vec<_>>(), Vec::<String>::new());
}

/// An attempt of which the kernel shows no more than that it failed, as inet_diag may, and one that failed before it had an address.
#[test]
fn end_that_is_not_known_has_no_attributes() {
    for (local, peer, expected) in [
        (
            "0.0.0.0:0",
            "10.0.0.2:8080",
            &["network.peer", "server"][..],
        ),
        ("10.0.0.1:41000", "0.0.0.0:0", &["client", "network.local"]),
        ("[::]:0", "[::]:0", &[]),
        (
            "10.0.0.1:41000",
            "10.0.0.2:8080",
            &["client", "network.local", "network.peer", "server"],
        ),
    ] {
        let flow = Flow {
            local: local.parse().expect("an address"),
            peer: peer.parse().expect("an address"),
            ..flow(Role::Client)
        };
        let all = values(&made(&flow, TraceParent::Never));
        for part in ["address", "port"] {
            let ends = all
                .keys()
                .filter_map(|key| key.strip_suffix(part)?.strip_suffix('.'));
            assert_eq!(ends.collect::<Vec<_>>(), expected, "{local} {peer}");
        }
    }
    let disconnected = Flow {
        local: "0.0.0.0:41000".parse().expect("an address"),
        ..flow(Role::Client)
    };
    let all = values(&made(&disconnected, TraceParent::Never));
    assert!(!all.contains_key("client.address") && all.contains_key("client.port"));
}
