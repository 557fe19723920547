//! Exports for scripts.

use super::Received;

/// The request in OTLP's JSON, on one line, as the Collector's file exporter writes it.
pub fn json_line(export: &Received) -> String {
    let line = match export {
        Received::Metrics(metrics) => serde_json::to_string(metrics),
        Received::Traces(traces) => serde_json::to_string(traces),
        Received::Logs(logs) => serde_json::to_string(logs),
    };
    line.expect("an OTLP message has nothing that JSON has not")
}
