//! The filter that docs/metrics.md gives for pipelines which make metrics from spans, in a Collector that has the `spanmetrics`
//! connector: the application's spans count, and flowcar's do not.

use std::collections::BTreeMap;

use flowcar::{clock::Anchor, flow::Role};
use flowcar_tests::peers::{Client, Collector, CollectorOptions, Net, Received, attributes};
use serde_json::{Value, json};

use crate::sample::{LIMIT, flow, send_flow};

/// The filter processor, as the page gives it.
fn documented() -> Value {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let block = page
        .split("```yaml\n")
        .find(|block| block.contains("filter/flowcar:"))
        .expect("the filter");
    let text = block.split("```").next().expect("an end");
    let processors: Value = serde_yaml_ng::from_str(text).expect("YAML");
    processors["processors"].clone()
}

/// A Collector that makes metrics from spans, behind these processors.
fn collector(processors: Value) -> Collector {
    let names: Vec<_> = processors.as_object().expect("names").keys().collect();
    let overlay = json!({
        "processors": processors,
        "connectors": {"spanmetrics": {"metrics_flush_interval": "1s"}},
        "service": {"pipelines": {
            "traces/red": {"receivers": ["otlp"], "processors": names, "exporters": ["spanmetrics"]},
            "metrics/red": {"receivers": ["spanmetrics"], "exporters": ["otlphttp"]},
        }},
    });
    Collector::start_with(CollectorOptions {
        overlay,
        ..Default::default()
    })
}

/// Sends a span of an application's own.
fn send_application_span(collector: &Collector) {
    let now = Anchor::now();
    let at = now.unix_ns(now.monotonic());
    let span = json!({
        "traceId": "0af7651916cd43dd8448eb211c80319c", "spanId": "b7ad6b7169203331", "kind": 3, "name": "GET /cart",
        "startTimeUnixNano": (at - 1_000_000).to_string(), "endTimeUnixNano": at.to_string(),
    });
    let request = json!({"resourceSpans": [{
        "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]},
        "scopeSpans": [{"scope": {"name": "io.example.http"}, "spans": [span]}],
    }]});
    let client = Client::new(Net::default(), collector.http_endpoint(), None);
    let reply = client
        .send(
            "POST",
            "/v1/traces",
            "application/json",
            request.to_string().into_bytes(),
        )
        .expect("an answer");
    assert!(reply.is_ok(), "{}", reply.text());
}

/// Calls that the connector has counted, by the span's name.
fn calls(received: &Received) -> BTreeMap<String, u64> {
    let mut calls = BTreeMap::new();
    for metric in received.metrics_named("traces.span.metrics.calls") {
        for point in metric["sum"]["dataPoints"].as_array().expect("points") {
            let count = point["asInt"].as_str().expect("a count");
            let count: u64 = count.parse().expect("a number");
            // The connector begins each count with a zero.
            let name = attributes(point)["span.name"].clone();
            if count > 0 {
                calls.insert(name, count);
            }
        }
    }
    calls
}

/// What the connector counts of one application's span and of both ends of a connection.
fn counted(processors: Value) -> BTreeMap<String, u64> {
    let collector = collector(processors);
    for role in [Role::Client, Role::Server] {
        let flow = flow(role, 0x0102_0304, 0x0506_0708);
        send_flow("shop", &collector.grpc_endpoint(), &[], &flow);
    }
    // The last: once it is counted, all before it were.
    send_application_span(&collector);
    collector.wait_for("the application's span, counted", LIMIT, |received| {
        Some(calls(received)).filter(|calls| calls.contains_key("GET /cart"))
    })
}

#[test]
fn documented_filter_keeps_flow_spans_out_of_span_metrics() {
    let application = ("GET /cart".to_owned(), 1);
    let flows = ("tcp 8080".to_owned(), 1);
    let all = counted(json!({}));
    assert_eq!(all.get("GET /cart"), Some(&application.1), "{all:?}");
    assert!(
        all.contains_key(&flows.0),
        "unfiltered, flows count: {all:?}"
    );
    assert_eq!(counted(documented()), BTreeMap::from([application]));
}
