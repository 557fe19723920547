//! Jaeger draws the trace and the edge.

use flowcar::flow::Role;
use flowcar_tests::peers::Jaeger;
use serde_json::json;

use crate::sample::{LIMIT, flow, send_flow};

#[test]
fn jaeger_shows_both_ends_as_one_trace_and_an_edge() {
    let jaeger = Jaeger::start();
    let client = flow(Role::Client, 0x1234_5678, 0x9abc_def0);
    let server = flow(Role::Server, 0x1234_5678, 0x9abc_def0);
    let http = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
    send_flow("shop", &jaeger.grpc_endpoint(), &[], &client);
    send_flow("stock", &jaeger.http_endpoint(), &[http], &server);

    let id = format!("{:032x}", client.0.trace.trace_id);
    let trace = jaeger.wait_for_trace(&id, 2, LIMIT);
    let spans = trace["spans"].as_array().expect("spans");
    assert_eq!(spans.len(), 2, "{trace}");
    let service = |role: &str| {
        let tag = json!({"key": "span.kind", "type": "string", "value": role});
        let span = spans.iter().find(|span| {
            let tags = span["tags"].as_array().expect("tags");
            tags.contains(&tag)
        });
        let span = span.unwrap_or_else(|| panic!("no {role}: {trace}"));
        let process = span["processID"].as_str().expect("a process");
        (span, &trace["processes"][process]["serviceName"])
    };
    let (parent, from) = service("client");
    let (child, to) = service("server");
    assert_eq!((from, to), (&json!("shop"), &json!("stock")));
    assert_eq!(
        child["references"][0]["spanID"], parent["spanID"],
        "{trace}"
    );
    assert_eq!(
        jaeger.dependencies(),
        [json!({"parent": "shop", "child": "stock", "callCount": 1})]
    );
}
