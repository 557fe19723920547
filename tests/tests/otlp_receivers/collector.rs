//! The Collector returns as JSON what it decoded.

use std::collections::{BTreeMap, BTreeSet};

use flowcar::flow::{Failure, Outcome, Role};
use flowcar_tests::peers::{Collector, Received, attributes};
use serde_json::{Value, json};

use crate::sample::{LOGS, flow, send_flow, send_metrics, snapshot};

/// Every `flowcar.tcp.*` metric of the telemetry contract that the sample has points of: name, unit, and what kind.
const CONTRACT: [(&str, &str, &str); 12] = [
    ("flowcar.tcp.connect.duration", "s", "histogram"),
    ("flowcar.tcp.rtt", "s", "histogram"),
    ("flowcar.tcp.exchange.duration", "s", "histogram"),
    ("flowcar.tcp.connection.duration", "s", "histogram"),
    ("flowcar.tcp.connection.opened", "{connection}", "counter"),
    ("flowcar.tcp.connection.closed", "{connection}", "counter"),
    ("flowcar.tcp.connection.failed", "{connection}", "counter"),
    ("flowcar.tcp.connection.lost", "{connection}", "counter"),
    ("flowcar.tcp.connection.live", "{connection}", "up-down"),
    ("flowcar.tcp.io", "By", "counter"),
    ("flowcar.tcp.segments", "{segment}", "counter"),
    ("flowcar.tcp.retransmits", "{segment}", "counter"),
];

fn metric<'a>(received: &'a Received, name: &str) -> &'a Value {
    let found = received.metrics_named(name);
    assert_eq!(found.len(), 1, "{name}");
    found[0]
}

fn points<'a>(metric: &'a Value, kind: &str) -> &'a Vec<Value> {
    let data = match kind {
        "histogram" => &metric["exponentialHistogram"],
        _ => &metric["sum"],
    };
    assert_eq!(data["aggregationTemporality"], 2, "cumulative: {metric}");
    data["dataPoints"].as_array().expect("points")
}

/// The value of the one point with this attribute.
fn value(received: &Received, name: &str, attribute: &str, is: &str) -> u64 {
    let metric = metric(received, name);
    let points = points(metric, "counter");
    let mut found = points.iter().filter(|point| {
        // Without the zero point of the series.
        point["startTimeUnixNano"] != point["timeUnixNano"]
            && attributes(point)
                .get(attribute)
                .is_some_and(|value| value == is)
    });
    let point = found
        .next()
        .unwrap_or_else(|| panic!("no {attribute}={is}: {metric}"));
    assert!(
        found.next().is_none(),
        "{attribute}={is} comes twice: {metric}"
    );
    let int = point["asInt"].as_str().expect("an integer");
    int.parse().expect("an integer")
}

fn check_metrics(received: &Received) {
    for (name, unit, kind) in CONTRACT {
        let metric = metric(received, name);
        assert_eq!(metric["unit"], unit, "{name}");
        assert!(!metric["description"].as_str().expect("a text").is_empty());
        for point in points(metric, kind) {
            let found = attributes(point);
            if name != "flowcar.tcp.connection.lost" {
                assert_eq!(found["network.tcp.handshake.role"], "client", "{name}");
                assert_eq!(found["server.port"], "8080", "{name}");
                assert_eq!(found["network.peer.address"], "10.1.2.3", "{name}");
            }
            assert!(
                !found.keys().any(|key| key.ends_with("peer.port")),
                "{name}: {found:?}"
            );
        }
        if kind != "histogram" {
            let monotonic = metric["sum"]["isMonotonic"] == true;
            assert_eq!(monotonic, kind == "counter", "{name}");
        }
    }
    let expected = [
        ("flowcar.tcp.connection.opened", "server.port", "8080", 7),
        (
            "flowcar.tcp.connection.closed",
            "flowcar.tcp.close.reason",
            "local_fin",
            4,
        ),
        (
            "flowcar.tcp.connection.closed",
            "flowcar.tcp.close.reason",
            "timeout",
            1,
        ),
        ("flowcar.tcp.connection.failed", "error.type", "refused", 2),
        (
            "flowcar.tcp.connection.lost",
            "flowcar.tcp.lost.reason",
            "ring_full",
            1,
        ),
        ("flowcar.tcp.connection.live", "server.port", "8080", 1),
        ("flowcar.tcp.io", "network.io.direction", "transmit", 1_000),
        ("flowcar.tcp.io", "network.io.direction", "receive", 50_000),
        (
            "flowcar.tcp.segments",
            "network.io.direction",
            "transmit",
            70,
        ),
        (
            "flowcar.tcp.segments",
            "network.io.direction",
            "receive",
            90,
        ),
        (
            "flowcar.tcp.retransmits",
            "flowcar.tcp.retransmit.type",
            "syn",
            1,
        ),
        (
            "flowcar.tcp.retransmits",
            "flowcar.tcp.retransmit.type",
            "tail_loss_probe",
            3,
        ),
        (
            "flowcar.self.record.decoded",
            "flowcar.self.record.kind",
            "close",
            7,
        ),
    ];
    for (name, attribute, is, count) in expected {
        assert_eq!(
            value(received, name, attribute, is),
            count,
            "{name} {attribute}={is}"
        );
    }
    check_histograms(received);
    let unbalanced = &metric(received, "flowcar.self.books.unbalanced")["gauge"]["dataPoints"][0];
    assert_eq!(unbalanced["asInt"], "0", "{unbalanced}");
}

fn check_histograms(received: &Received) {
    let rtt = &points(metric(received, "flowcar.tcp.rtt"), "histogram")[1];
    assert_eq!(attributes(rtt)["flowcar.tcp.rtt.kind"], "measured");
    assert_eq!((&rtt["count"], &rtt["scale"]), (&json!("110"), &json!(3)));
    assert_eq!(rtt["sum"].as_f64(), Some(0.7));
    // Those of a cumulative histogram are of the whole time since its start, and say little.
    assert_eq!((rtt.get("min"), rtt.get("max")), (None, None));
    // index = ceil(log2(value) * 2^scale) - 1 (the data model's formula).
    let index = |value: f64| (value.log2() * 8.0).ceil() as i64 - 1;
    assert_eq!(rtt["positive"]["offset"], index(0.005));
    let counts = rtt["positive"]["bucketCounts"].as_array().expect("buckets");
    let mut expected = vec![json!("0"); (index(0.02) - index(0.005) + 1) as usize];
    *expected.first_mut().expect("a bucket") = json!("100");
    *expected.last_mut().expect("a bucket") = json!("10");
    assert_eq!(*counts, expected);

    let connect = points(
        metric(received, "flowcar.tcp.connect.duration"),
        "histogram",
    );
    let by_error: BTreeMap<_, _> = connect
        .iter()
        .map(|point| {
            (
                attributes(point).remove("error.type"),
                point["count"].clone(),
            )
        })
        .collect();
    let expected = [(None, json!("7")), (Some("refused".to_owned()), json!("2"))];
    assert_eq!(by_error, BTreeMap::from(expected));
    let duration = points(
        metric(received, "flowcar.tcp.connection.duration"),
        "histogram",
    );
    let ends: BTreeSet<_> = duration
        .iter()
        .map(|point| attributes(point)["flowcar.tcp.close.reason"].clone())
        .collect();
    assert_eq!(
        ends,
        BTreeSet::from(["local_fin".to_owned(), "timeout".to_owned()])
    );
    let exchange = &points(
        metric(received, "flowcar.tcp.exchange.duration"),
        "histogram",
    )[1];
    assert_eq!(exchange["sum"].as_f64(), Some(0.36));
}

fn check_resource(received: &Received) {
    for resource in received.resources() {
        let found = attributes(resource);
        assert!(["web", "flowcar"].contains(&found["service.name"].as_str()));
        assert_eq!(found["service.instance.id"], "0b1d");
        assert_eq!(found["k8s.pod.uid"], "0b1d");
        assert_eq!(found["team"], "a,b");
    }
}

#[test]
fn collector_decodes_metrics_by_any_transport_and_compression() {
    for (protocol, packing) in [
        ("grpc", "none"),
        ("grpc", "gzip"),
        ("grpc", "zstd"),
        ("http/protobuf", "none"),
        ("http/protobuf", "gzip"),
        ("http/protobuf", "zstd"),
    ] {
        let collector = Collector::start();
        let endpoint = match protocol {
            "grpc" => collector.grpc_endpoint(),
            _ => collector.http_endpoint(),
        };
        let settings = [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", packing),
            ("FLOWCAR_SELF_METRICS", "detailed"),
        ];
        send_metrics(&endpoint, &settings, snapshot());
        let received = collector.received();
        check_metrics(&received);
        check_resource(&received);
        let scope = &received.metrics[0]["resourceMetrics"][0]["scopeMetrics"][0];
        assert_eq!(scope["scope"]["name"], "flowcar", "{protocol} {packing}");
        let of_scope = attributes(&scope["scope"]);
        assert_eq!(of_scope["flowcar.source"], "ebpf", "{protocol} {packing}");
    }
}

#[test]
fn collector_decodes_explicit_histograms() {
    let collector = Collector::start();
    let explicit = [("FLOWCAR_HISTOGRAMS", "explicit")];
    send_metrics(&collector.grpc_endpoint(), &explicit, snapshot());
    let received = collector.received();
    let rtt = &metric(&received, "flowcar.tcp.rtt")["histogram"]["dataPoints"][1];
    let list = |name: &str| rtt[name].as_array().expect("a list").clone();
    let (bounds, counts) = (list("explicitBounds"), list("bucketCounts"));
    assert_eq!(counts.len(), bounds.len() + 1);
    let counted: Vec<_> = counts
        .iter()
        .enumerate()
        .filter(|(_, count)| **count != "0")
        .map(|(at, count)| (bounds[at - 1].as_f64(), bounds[at].as_f64(), count.clone()))
        .collect();
    // 5 ms lies between 2^-8 and 2^-7 s, 20 ms between 2^-6 and 2^-5 s.
    let expected = [
        (Some(0.003_906_25), Some(0.007_812_5), json!("100")),
        (Some(0.015_625), Some(0.031_25), json!("10")),
    ];
    assert_eq!(counted, expected);
}

#[test]
fn collector_decodes_spans_by_any_transport_and_compression() {
    let collector = Collector::start();
    let mut isn = 0;
    for (protocol, endpoint) in [
        ("grpc", collector.grpc_endpoint()),
        ("http/protobuf", collector.http_endpoint()),
    ] {
        for packing in ["none", "gzip", "zstd"] {
            isn += 1;
            let server = flow(Role::Server, isn, 9);
            let settings = [
                ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
                ("OTEL_EXPORTER_OTLP_COMPRESSION", packing),
            ];
            send_flow("web", &endpoint, &settings, &server);
            let received = collector.received();
            let spans = received.spans();
            assert_eq!(spans.len(), isn as usize, "{protocol} {packing}");
            check_server_span(spans[isn as usize - 1], &server.0);
        }
    }
    check_resource(&collector.received());
}

/// What a user of log records reads is what a user of spans reads of the same connection.
#[test]
fn collector_decodes_log_records_by_any_transport_and_compression() {
    let collector = Collector::start();
    let mut count = 0;
    for (protocol, endpoint) in [
        ("grpc", collector.grpc_endpoint()),
        ("http/protobuf", collector.http_endpoint()),
    ] {
        for packing in ["none", "gzip", "zstd"] {
            let settings = [
                ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
                ("OTEL_EXPORTER_OTLP_COMPRESSION", packing),
                LOGS,
            ];
            let orderly = flow(Role::Server, 2 * count + 1, 9);
            let mut failed = flow(Role::Client, 2 * count + 2, 9);
            failed.0.outcome = Some(Outcome::Failed(Failure::Refused));
            failed.0.established = None;
            for (sent, severity) in [(&orderly, "INFO"), (&failed, "ERROR")] {
                send_flow("web", &endpoint, &settings, sent);
                let received = collector.received();
                let records = received.log_records();
                assert_eq!(
                    records.len(),
                    received.spans().len(),
                    "{protocol} {packing}"
                );
                let span = received.spans().pop().expect("a span").clone();
                check_log_record(records[records.len() - 1], &span, severity);
            }
            count += 1;
        }
    }
    let received = collector.received();
    assert_eq!(received.log_records().len(), 12);
    check_resource(&received);
    let scope = &received.logs[0]["resourceLogs"][0]["scopeLogs"][0]["scope"];
    assert_eq!(scope["name"], "flowcar");
    assert_eq!(attributes(scope)["flowcar.source"], "ebpf");
}

fn check_log_record(record: &Value, span: &Value, severity: &str) {
    assert_eq!(record["eventName"], "flowcar.tcp.flow.closed", "{record}");
    assert_eq!(record["severityText"], severity, "{record}");
    let number = if severity == "INFO" { 9 } else { 17 };
    assert_eq!(record["severityNumber"], number, "{record}");
    let is_error = span["status"]["code"] == 2;
    assert_eq!(is_error, severity == "ERROR", "{span}");
    for name in ["traceId", "spanId"] {
        assert_eq!(record[name], span[name], "{name}");
    }
    assert_eq!(record["timeUnixNano"], span["endTimeUnixNano"]);
    let time = |name: &str| -> u64 {
        let text = record[name].as_str().expect("a time");
        text.parse().expect("nanoseconds")
    };
    // flowcar notices an end after it.
    assert!(time("observedTimeUnixNano") >= time("timeUnixNano"));
    assert_eq!(attributes(record), attributes(span));
}

#[test]
fn collector_has_no_log_record_by_default() {
    let collector = Collector::start();
    let sent = flow(Role::Client, 1, 9);
    send_flow("web", &collector.grpc_endpoint(), &[], &sent);
    let received = collector.received();
    assert_eq!((received.spans().len(), received.logs.len()), (1, 0));
}

fn check_server_span(span: &Value, flow: &flowcar::flow::Flow) {
    assert_eq!(span["name"], "tcp 8080");
    assert_eq!(span["kind"], 2, "server");
    assert_eq!(span["traceId"], format!("{:032x}", flow.trace.trace_id));
    assert_eq!(span["spanId"], format!("{:016x}", flow.trace.span_id));
    let parent = flow.trace.parent_span_id.expect("the client's span");
    assert_eq!(span["parentSpanId"], format!("{parent:016x}"));
    let time = |name: &str| -> u64 {
        let text = span[name].as_str().expect("a time");
        text.parse().expect("nanoseconds")
    };
    let took = time("endTimeUnixNano") - time("startTimeUnixNano");
    assert_eq!(took, 1_000_000_000, "established to closed");
    let found = attributes(span);
    let expected = [
        ("network.transport", "tcp"),
        ("network.type", "ipv4"),
        ("network.tcp.handshake.role", "server"),
        ("network.local.address", "127.0.0.1"),
        ("network.local.port", "8080"),
        ("network.peer.address", "127.0.0.1"),
        ("network.peer.port", "41000"),
        ("server.address", "127.0.0.1"),
        ("server.port", "8080"),
        ("client.address", "127.0.0.1"),
        ("client.port", "41000"),
        ("flowcar.tcp.bytes.sent", "100"),
        ("flowcar.tcp.bytes.received", "4096"),
        ("flowcar.tcp.segments.sent", "5"),
        ("flowcar.tcp.segments.received", "6"),
        ("flowcar.tcp.retransmits", "2"),
        ("flowcar.tcp.rtt.min", "0.005"),
        ("flowcar.tcp.rtt.p50", "0.005"),
        ("flowcar.tcp.rtt.p99", "0.005"),
        ("flowcar.tcp.rtt.kind", "measured"),
        ("flowcar.tcp.exchanges", "1"),
        ("flowcar.tcp.exchange.p50", "0.03"),
        ("flowcar.tcp.exchange.p99", "0.03"),
        ("flowcar.tcp.close.reason", "local_fin"),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(found, BTreeMap::from(expected));
}
