//! What arrived at the Collector, by pod.

use std::collections::BTreeMap;

use flowcar_tests::peers::{Received, attributes};
use jiff::Timestamp;
use serde_json::Value;

type Attributes = BTreeMap<String, String>;

/// A connection's span.
#[derive(Debug)]
pub(crate) struct Span {
    pub(crate) resource: Attributes,
    pub(crate) scope: Attributes,
    pub(crate) attributes: Attributes,
    pub(crate) trace: String,
    pub(crate) id: String,
    pub(crate) parent: String,
    /// When the connection closed.
    pub(crate) end: Timestamp,
}

/// Where the connections of a pod are, by its last report.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Books {
    pub(crate) opened: i64,
    pub(crate) closed: i64,
    pub(crate) live: i64,
    pub(crate) lost: i64,
    /// Seconds between the flowcar before a restart and the one after it.
    pub(crate) unfollowed_s: f64,
}

// === impl Span ===

impl Span {
    pub(crate) fn pod(&self) -> &str {
        &self.resource["k8s.pod.name"]
    }

    pub(crate) fn is_client(&self) -> bool {
        self.attributes["network.tcp.handshake.role"] == "client"
    }

    pub(crate) fn number(&self, attribute: &str) -> u64 {
        let value = self.attributes.get(attribute);
        let value = value.unwrap_or_else(|| panic!("no {attribute}: {self:#?}"));
        value.parse().unwrap()
    }

    fn of(resource: &Attributes, scope: &Attributes, span: &Value) -> Self {
        let text = |key: &str| span[key].as_str().unwrap_or_default().to_owned();
        Self {
            resource: resource.clone(),
            scope: scope.clone(),
            attributes: attributes(span),
            trace: text("traceId"),
            id: text("spanId"),
            parent: text("parentSpanId"),
            end: Timestamp::from_nanosecond(text("endTimeUnixNano").parse().unwrap()).unwrap(),
        }
    }
}

/// The spans of closed connections.
pub(crate) fn spans(received: &Received) -> Vec<Span> {
    let mut spans = Vec::new();
    for export in &received.traces {
        for (resource, scope) in scopes(export, "resourceSpans", "scopeSpans") {
            let all = scope["spans"].as_array().into_iter().flatten();
            let of_scope = attributes(&scope["scope"]);
            spans.extend(all.map(|span| Span::of(&resource, &of_scope, span)));
        }
    }
    spans.retain(|span| span.attributes.contains_key("flowcar.tcp.close.reason"));
    spans
}

// === impl Books ===

impl Books {
    /// Of the last report with connections, over the resources of the pod and of its containers; the unfollowed time is of the last report
    /// with self metrics.
    pub(crate) fn of(received: &Received, pod: &str) -> Option<Self> {
        let scopes_of = |export: &Value, is_own: bool| -> Vec<Value> {
            let scopes = scopes(export, "resourceMetrics", "scopeMetrics");
            let of_pod = scopes.into_iter().filter(|(resource, _)| {
                resource.get("k8s.pod.name").is_some_and(|name| name == pod)
                    && (resource["service.name"] == "flowcar") == is_own
            });
            of_pod.map(|(_, scope)| scope).collect()
        };
        let exports = || received.metrics.iter().rev();
        let unfollowed = exports().find_map(|export| {
            let own = scopes_of(export, true);
            own.iter()
                .find_map(|scope| sum(scope, "flowcar.self.unfollowed.time", "asDouble"))
        });
        exports().find_map(|export| {
            let scopes = scopes_of(export, false);
            let count = |name| -> i64 {
                let counts = scopes.iter().filter_map(|scope| sum(scope, name, "asInt"));
                counts.map(|count| count as i64).sum()
            };
            let began =
                count("flowcar.tcp.connection.opened") + count("flowcar.tcp.connection.adopted");
            (began > 0).then(|| Self {
                opened: began,
                closed: count("flowcar.tcp.connection.closed"),
                live: count("flowcar.tcp.connection.live"),
                lost: count("flowcar.tcp.connection.lost"),
                unfollowed_s: unfollowed.unwrap_or(0.0),
            })
        })
    }

    pub(crate) fn balance(self) -> bool {
        self.opened == self.closed + self.live + self.lost
    }
}

fn sum(scope: &Value, name: &str, kind: &str) -> Option<f64> {
    let metrics = scope["metrics"].as_array()?;
    let metric = metrics.iter().find(|metric| metric["name"] == name)?;
    let points = metric["sum"]["dataPoints"].as_array()?;
    // 64-bit integers are texts in JSON.
    let number = |point: &Value| match &point[kind] {
        Value::String(text) => text.parse::<f64>().ok(),
        value => value.as_f64(),
    };
    Some(points.iter().map(|point| number(point).unwrap()).sum())
}

/// Each scope of an export, with its resource's attributes.
fn scopes(export: &Value, resources: &str, scopes: &str) -> Vec<(Attributes, Value)> {
    let mut found = Vec::new();
    for entry in export[resources].as_array().into_iter().flatten() {
        let resource = attributes(&entry["resource"]);
        for scope in entry[scopes].as_array().into_iter().flatten() {
            found.push((resource.clone(), scope.clone()));
        }
    }
    found
}
