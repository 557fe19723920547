//! The OTLP receivers of other tests: each starts, takes real OTLP made by hand, and returns it
//! as its users would see it.

use std::{
    net::TcpStream,
    os::unix::process::ExitStatusExt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use flowcar_tests::{
    peers::{
        Authority, Client, Collector, CollectorOptions, Jaeger, Net, Peer, Prometheus,
        PrometheusOptions, Tls,
    },
    place::Netns,
};
use opentelemetry_proto::tonic::{
    collector::{
        metrics::v1::ExportMetricsServiceRequest,
        trace::v1::{ExportTraceServiceRequest, trace_service_client::TraceServiceClient},
    },
    common::v1::{AnyValue, KeyValue, any_value::Value as Any},
    metrics::v1::{
        AggregationTemporality, ExponentialHistogram, ExponentialHistogramDataPoint, Metric,
        ResourceMetrics, ScopeMetrics, exponential_histogram_data_point::Buckets, metric::Data,
    },
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, span::SpanKind},
};
use prost::Message;
use serde_json::{Value, json};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

const LIMIT: Duration = Duration::from_secs(20);

fn now_ns() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a time after 1970");
    now.as_nanos().try_into().expect("a time before 2554")
}

fn service(name: &str) -> Option<Resource> {
    let value = Some(AnyValue {
        value: Some(Any::StringValue(name.to_owned())),
    });
    let attribute = KeyValue {
        key: "service.name".to_owned(),
        value,
        ..Default::default()
    };
    Some(Resource {
        attributes: vec![attribute],
        ..Default::default()
    })
}

fn span_export(service_name: &str, span: Span) -> ExportTraceServiceRequest {
    let scope_spans = vec![ScopeSpans {
        spans: vec![span],
        ..Default::default()
    }];
    let resource_spans = ResourceSpans {
        resource: service(service_name),
        scope_spans,
        ..Default::default()
    };
    ExportTraceServiceRequest {
        resource_spans: vec![resource_spans],
    }
}

/// A span of 5 ms; its last byte of id and its parent's.
fn span(trace_id: [u8; 16], id: u8, parent: Option<u8>, kind: SpanKind) -> Span {
    let start = now_ns();
    Span {
        trace_id: trace_id.to_vec(),
        span_id: vec![7, 7, 7, 7, 7, 7, 7, id],
        parent_span_id: parent
            .map(|id| vec![7, 7, 7, 7, 7, 7, 7, id])
            .unwrap_or_default(),
        name: "tcp 8080".to_owned(),
        kind: kind.into(),
        start_time_unix_nano: start,
        end_time_unix_nano: start + 5_000_000,
        ..Default::default()
    }
}

/// Sends a span as the gRPC client of opentelemetry-proto does.
fn send_by_grpc(endpoint: String, export: ExportTraceServiceRequest) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut client = TraceServiceClient::connect(endpoint)
            .await
            .expect("a gRPC connection");
        client.export(export).await.expect("an accepted export");
    });
}

/// A counter in OTLP's JSON, with an attribute of so many bytes.
fn counter_json(value: u64, padding: usize) -> Vec<u8> {
    let point = json!({
        "asInt": value.to_string(),
        "timeUnixNano": now_ns().to_string(),
        "attributes": [{"key": "padding", "value": {"stringValue": "x".repeat(padding)}}],
    });
    let sum = json!({"aggregationTemporality": 2, "isMonotonic": true, "dataPoints": [point]});
    let metric = json!({"name": "flowcar.tcp.io", "unit": "By", "sum": sum});
    json!({"resourceMetrics": [{"scopeMetrics": [{"metrics": [metric]}]}]})
        .to_string()
        .into_bytes()
}

fn client(endpoint: String) -> Client {
    Client::new(Net::loopback(), endpoint, None)
}

fn values(metrics: &[&Value]) -> Vec<String> {
    metrics
        .iter()
        .map(|m| {
            m["sum"]["dataPoints"][0]["asInt"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        })
        .collect()
}

#[test]
fn collector_returns_what_it_decoded_by_either_transport() {
    let collector = Collector::start();

    let http = client(collector.http_endpoint());
    for value in [41, 42] {
        http.send(
            "POST",
            "/v1/metrics",
            "application/json",
            counter_json(value, 4 << 20),
        )
        .unwrap()
        .success();
    }
    let trace_id = [1; 16];
    send_by_grpc(
        collector.grpc_endpoint(),
        span_export("web", span(trace_id, 9, None, SpanKind::Client)),
    );

    // No waiting: it has handed on what it has accepted.
    let received = collector.received();
    assert_eq!(
        values(&received.metrics_named("flowcar.tcp.io")),
        ["41", "42"]
    );
    let padding = &received.metrics_named("flowcar.tcp.io")[1]["sum"]["dataPoints"][0]["attributes"]
        [0]["value"];
    assert_eq!(padding["stringValue"].as_str().map(str::len), Some(4 << 20));
    let spans = received.spans();
    assert_eq!(spans.len(), 1, "{spans:?}");
    assert_eq!(spans[0]["traceId"], "01010101010101010101010101010101");
    assert_eq!(spans[0]["spanId"], "0707070707070709");
    let services: Vec<_> = received
        .resources()
        .iter()
        .map(|r| r["attributes"][0]["value"]["stringValue"].clone())
        .collect();
    assert!(services.contains(&json!("web")), "{services:?}");
}

#[test]
fn collector_can_be_paused_killed_restarted_and_misconfigured() {
    let mut collector = Collector::start();
    let http = client(collector.http_endpoint());
    let send = |value| {
        http.send(
            "POST",
            "/v1/metrics",
            "application/json",
            counter_json(value, 0),
        )
    };

    collector.pause();
    std::thread::scope(|scope| {
        let request = scope.spawn(|| send(1));
        // State T in /proc is stopped: the request is on its way, and waits.
        let stat =
            std::fs::read_to_string(format!("/proc/{}/stat", collector.process().pid().unwrap()))
                .unwrap();
        assert!(stat.contains(") T "), "{stat}");
        assert!(collector.received_metrics().is_empty());
        collector.resume();
        request.join().unwrap().unwrap().success();
    });

    collector.kill();
    let refused = send(2).expect_err("nobody listens");
    assert!(refused.to_string().contains("refused"), "{refused}");
    assert_eq!(collector.process().pid(), None);

    collector.restart();
    send(3).unwrap().success();
    let seen = collector.wait_for("the counter's new value", LIMIT, |seen| {
        let values = values(&seen.metrics_named("flowcar.tcp.io"));
        values.contains(&"3".to_owned()).then_some(values)
    });
    assert_eq!(seen, ["1", "3"]);

    collector.reconfigure(
        &json!({"receivers": {"otlp": {"protocols": {"http": {"max_request_body_size": 64}}}}}),
    );
    let refusal = send(4).unwrap();
    assert!(
        (400..500).contains(&refusal.status),
        "{} {}",
        refusal.status,
        refusal.text()
    );
    assert_eq!(collector.received_metrics().len(), 2);
    // It listens a moment before it takes signals.
    let ended = collector.stop();
    assert!(
        ended.success() || ended.signal() == Some(libc::SIGTERM),
        "{ended}: {}",
        collector.log()
    );
}

#[test]
fn collector_with_tls_requires_its_authority() {
    let authority = Authority::new("collector tests");
    let tls = Tls {
        server: authority.server(&["127.0.0.1"]),
        client_ca: None,
    };
    let collector = Collector::start_with(CollectorOptions {
        tls: Some(tls),
        ..Default::default()
    });
    let reached_by = |ca: &Authority| {
        let client = Client::new(
            Net::loopback(),
            collector.http_endpoint(),
            Some(ca.certificate()),
        );
        client.send(
            "POST",
            "/v1/metrics",
            "application/json",
            counter_json(7, 0),
        )
    };

    reached_by(&authority).unwrap().success();
    reached_by(&Authority::new("somebody else"))
        .expect_err("a certificate that nobody vouches for");
    assert_eq!(collector.received_metrics().len(), 1);
}

#[test]
fn collector_with_mtls_requires_a_client_certificate() {
    let authority = Authority::new("collector tests");
    let tls = Tls {
        server: authority.server(&["127.0.0.1"]),
        client_ca: Some(authority.certificate().to_owned()),
    };
    let collector = Collector::start_with(CollectorOptions {
        tls: Some(tls),
        ..Default::default()
    });
    let trust =
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority.certificate()));
    let pair = authority.client("flowcar", "tests");
    let proof = trust
        .clone()
        .identity(Identity::from_pem(pair.certificate, pair.key));
    let export = |tls: ClientTlsConfig| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let endpoint = Endpoint::from_shared(collector.grpc_endpoint())
            .unwrap()
            .tls_config(tls)
            .unwrap();
        runtime.block_on(async {
            let mut client =
                TraceServiceClient::new(endpoint.connect().await.map_err(|e| e.to_string())?);
            let export = span_export("web", span([1; 16], 1, None, SpanKind::Client));
            client.export(export).await.map_err(|e| e.to_string())
        })
    };

    export(proof).expect("an export by a client with a certificate");
    export(trust).expect_err("no certificate");
    assert_eq!(collector.received_traces().len(), 1);
}

#[test]
fn collector_lives_in_another_network_namespace() {
    let namespace = Arc::new(Netns::new("collector").unwrap());
    let net = Net::in_namespace(namespace, [127, 0, 0, 1].into());
    let collector = Collector::start_with(CollectorOptions {
        net: net.clone(),
        ..Default::default()
    });

    let inside = Client::new(net, collector.http_endpoint(), None);
    inside
        .send(
            "POST",
            "/v1/metrics",
            "application/json",
            counter_json(5, 0),
        )
        .unwrap()
        .success();
    assert_eq!(collector.received_metrics().len(), 1);

    let address = collector.http_endpoint().replace("http://", "");
    TcpStream::connect(&address).expect_err("nobody listens there outside the namespace");
}

/// 100 values of 5 ms and 10 of 20 ms, in the buckets of scale 3 that the specification's formula gives:
/// index = ceil(log2(value) * 2^3) - 1.
fn histogram_export() -> ExportMetricsServiceRequest {
    let index = |value: f64| (value.log2() * 8.0).ceil() as i32 - 1;
    let (low, high) = (index(0.005), index(0.020));
    let mut bucket_counts = vec![0; (high - low + 1) as usize];
    bucket_counts[0] = 100;
    bucket_counts[(high - low) as usize] = 10;
    let time = now_ns();
    let point = ExponentialHistogramDataPoint {
        start_time_unix_nano: time - 60_000_000_000,
        time_unix_nano: time,
        count: 110,
        sum: Some(0.7),
        scale: 3,
        positive: Some(Buckets {
            offset: low,
            bucket_counts,
        }),
        ..Default::default()
    };
    let histogram = ExponentialHistogram {
        aggregation_temporality: AggregationTemporality::Cumulative.into(),
        data_points: vec![point],
    };
    let metric = Metric {
        name: "flowcar.tcp.rtt".to_owned(),
        unit: "s".to_owned(),
        data: Some(Data::ExponentialHistogram(histogram)),
        ..Default::default()
    };
    let scope_metrics = vec![ScopeMetrics {
        metrics: vec![metric],
        ..Default::default()
    }];
    let resource_metrics = vec![ResourceMetrics {
        resource: service("web"),
        scope_metrics,
        ..Default::default()
    }];
    ExportMetricsServiceRequest { resource_metrics }
}

#[test]
fn prometheus_takes_an_exponential_histogram_as_a_native_one() {
    let prometheus = Prometheus::start(&["service.name"]);
    let client = client(prometheus.otlp_endpoint());
    let body = histogram_export().encode_to_vec();
    let reply = client
        .send("POST", "/v1/metrics", "application/x-protobuf", body)
        .unwrap();
    assert!(reply.is_ok(), "{} {}", reply.status, reply.text());

    let series = prometheus.wait_for("flowcar_tcp_rtt_seconds", LIMIT, |result| {
        Some(result[0].clone()).filter(|series| !series.is_null())
    });
    assert_eq!(series["metric"]["service_name"], "web", "{series}");
    assert_eq!(series["histogram"][1]["count"], "110", "{series}");
    let median = prometheus
        .number("histogram_quantile(0.5, flowcar_tcp_rtt_seconds)")
        .expect("one number");
    // 5 ms lies in bucket -62 of scale 3, from 4.645 to 5.066 ms.
    let (lower, upper) = (2f64.powf(-62.0 / 8.0), 2f64.powf(-61.0 / 8.0));
    assert!(
        lower < median && median <= upper,
        "{median} is not between {lower} and {upper}"
    );
    assert_eq!(
        prometheus.number("histogram_count(flowcar_tcp_rtt_seconds)"),
        Some(110.0)
    );

    let now = now_ns() as f64 / 1e9;
    let range = prometheus.query_range(
        "histogram_sum(flowcar_tcp_rtt_seconds)",
        now - 10.0,
        now + 10.0,
        1.0,
    );
    let last = range[0]["values"]
        .as_array()
        .and_then(|values| values.last())
        .expect("values over time");
    assert_eq!(last[1], "0.7", "{range}");

    // Its data is on its disk: the same series after a restart.
    prometheus.restart();
    prometheus.wait_for(
        "histogram_count(flowcar_tcp_rtt_seconds)",
        LIMIT,
        |result| (result[0]["value"][1] == "110").then_some(()),
    );
}

#[test]
fn prometheus_with_its_delta_feature_adds_deltas_up() {
    let prometheus = Prometheus::start_with(PrometheusOptions {
        args: vec!["--enable-feature=otlp-deltatocumulative".to_owned()],
        ..Default::default()
    });
    let client = client(prometheus.otlp_endpoint());
    let start = now_ns() - 60_000_000_000;
    for step in 0..2 {
        let mut export = histogram_export();
        let metric = &mut export.resource_metrics[0].scope_metrics[0].metrics[0];
        let Some(Data::ExponentialHistogram(histogram)) = &mut metric.data else {
            panic!("a histogram was made")
        };
        histogram.aggregation_temporality = AggregationTemporality::Delta.into();
        histogram.data_points[0].start_time_unix_nano = start + step * 1_000_000_000;
        histogram.data_points[0].time_unix_nano = start + (step + 1) * 1_000_000_000;
        let reply = client
            .send(
                "POST",
                "/v1/metrics",
                "application/x-protobuf",
                export.encode_to_vec(),
            )
            .unwrap();
        assert!(reply.is_ok(), "{} {}", reply.status, reply.text());
    }
    let count = prometheus.wait_for(
        "histogram_count(flowcar_tcp_rtt_seconds)",
        LIMIT,
        |result| result[0]["value"][1].as_str().map(str::to_owned),
    );
    assert_eq!(count, "220");
}

#[test]
fn jaeger_makes_a_trace_and_an_edge_of_two_services() {
    let jaeger = Jaeger::start();
    let trace_id = [0xab; 16];
    let hex = "ab".repeat(16);
    assert_eq!(jaeger.trace(&hex), None);

    send_by_grpc(
        jaeger.grpc_endpoint(),
        span_export("client", span(trace_id, 1, None, SpanKind::Client)),
    );
    let server =
        span_export("server", span(trace_id, 2, Some(1), SpanKind::Server)).encode_to_vec();
    let reply = client(jaeger.http_endpoint())
        .send("POST", "/v1/traces", "application/x-protobuf", server)
        .unwrap();
    assert!(reply.is_ok(), "{} {}", reply.status, reply.text());

    let trace = jaeger.wait_for_trace(&hex, 2, LIMIT);
    let child = trace["spans"]
        .as_array()
        .unwrap()
        .iter()
        .find(|s| s["spanID"] == "0707070707070702")
        .expect("the child");
    assert_eq!(child["references"][0]["spanID"], "0707070707070701");
    let services = jaeger.services();
    assert!(
        ["client", "server"]
            .iter()
            .all(|name| services.iter().any(|have| have == name)),
        "{services:?}"
    );
    assert_eq!(
        jaeger.dependencies(),
        [json!({"parent": "client", "child": "server", "callCount": 1})]
    );
}
