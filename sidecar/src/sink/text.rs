//! Exports for people.

use std::{
    collections::BTreeMap,
    fmt::{self, Write},
};

use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    },
    common::v1::{AnyValue, KeyValue, any_value::Value},
    logs::v1::LogRecord,
    metrics::v1::{Metric, NumberDataPoint, metric::Data, number_data_point},
    resource::v1::Resource,
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};

use super::{Received, plot::Plot};
use crate::view::quantity::{bytes, duration};

/// Attributes that are the same on every point, or shown by their column.
const OMITTED: [&str; 2] = ["network.transport", "network.type"];

/// A line for each point, span and log record, under its service.
pub fn text(export: &Received) -> String {
    let mut out = String::new();
    let written = match export {
        Received::Metrics(metrics) => write_metrics(&mut out, metrics),
        Received::Traces(traces) => write_traces(&mut out, traces),
        Received::Logs(logs) => write_logs(&mut out, logs),
    };
    written.expect("a text takes every write");
    out
}

fn write_metrics(out: &mut String, export: &ExportMetricsServiceRequest) -> fmt::Result {
    for resource in &export.resource_metrics {
        writeln!(out, "metrics of {}", service(resource.resource.as_ref()))?;
        let scopes = resource.scope_metrics.iter();
        for metric in scopes.flat_map(|scope| &scope.metrics) {
            write_metric(out, metric)?;
        }
    }
    Ok(())
}

fn write_metric(out: &mut String, metric: &Metric) -> fmt::Result {
    let name = one_line(&metric.name);
    match &metric.data {
        Some(Data::Sum(sum)) => write_numbers(out, metric, &sum.data_points),
        Some(Data::Gauge(gauge)) => write_numbers(out, metric, &gauge.data_points),
        Some(Data::ExponentialHistogram(histogram)) => {
            let begun = histogram.data_points.iter();
            let mut begun =
                begun.filter(|of| !is_start(of.start_time_unix_nano, of.time_unix_nano));
            begun.try_for_each(|point| {
                let line = plotted(point.count, &Plot::from(point), &metric.unit);
                writeln!(
                    out,
                    "  {name:<34} {line}  {}",
                    attributes(&point.attributes)
                )
            })
        }
        Some(Data::Histogram(histogram)) => histogram.data_points.iter().try_for_each(|point| {
            if is_start(point.start_time_unix_nano, point.time_unix_nano) {
                return Ok(());
            }
            let line = plotted(point.count, &Plot::from(point), &metric.unit);
            writeln!(
                out,
                "  {name:<34} {line}  {}",
                attributes(&point.attributes)
            )
        }),
        Some(Data::Summary(_)) | None => writeln!(out, "  {name:<34} (not drawn)"),
    }
}

/// Whether a point is the zero with which a sum or a histogram starts.
const fn is_start(start_unix_nano: u64, at_unix_nano: u64) -> bool {
    start_unix_nano > 0 && start_unix_nano == at_unix_nano
}

fn write_numbers(out: &mut String, metric: &Metric, points: &[NumberDataPoint]) -> fmt::Result {
    let (name, unit) = (one_line(&metric.name), &metric.unit);
    let mut begun = points
        .iter()
        .filter(|of| !is_start(of.start_time_unix_nano, of.time_unix_nano));
    begun.try_for_each(|point| {
        let value = number(point.value, unit);
        writeln!(
            out,
            "  {name:<34} {value:>10}  {}",
            attributes(&point.attributes)
        )
    })
}

fn plotted(count: u64, plot: &Plot, unit: &str) -> String {
    let quantile = |q: f64| match plot.quantile(q) {
        Some(value) => quantity(value, unit),
        None => "-".to_owned(),
    };
    let (p50, p90, p99) = (quantile(0.5), quantile(0.9), quantile(0.99));
    let min = plot
        .min()
        .map_or_else(|| "-".to_owned(), |min| quantity(min, unit));
    let drawing = plot.draw();
    format!("{count:>10}  {drawing:<24} min {min:>6} p50 {p50:>6} p90 {p90:>6} p99 {p99:>6}")
}

fn number(value: Option<number_data_point::Value>, unit: &str) -> String {
    match value {
        Some(number_data_point::Value::AsInt(int)) if unit == "By" => {
            u64::try_from(int).map_or_else(|_| int.to_string(), bytes)
        }
        Some(number_data_point::Value::AsInt(int)) => int.to_string(),
        Some(number_data_point::Value::AsDouble(double)) => quantity(double, unit),
        None => "-".to_owned(),
    }
}

fn quantity(value: f64, unit: &str) -> String {
    if unit == "s" {
        duration(value)
    } else {
        format!("{value}")
    }
}

fn write_traces(out: &mut String, export: &ExportTraceServiceRequest) -> fmt::Result {
    for resource in &export.resource_spans {
        writeln!(out, "spans of {}", service(resource.resource.as_ref()))?;
        let scopes = resource.scope_spans.iter();
        for span in scopes.flat_map(|scope| &scope.spans) {
            write_span(out, span)?;
        }
    }
    Ok(())
}

fn write_span(out: &mut String, span: &Span) -> fmt::Result {
    let kind = match span.kind() {
        SpanKind::Client => "client",
        SpanKind::Server => "server",
        _ => "other",
    };
    let took = span
        .end_time_unix_nano
        .saturating_sub(span.start_time_unix_nano);
    let (name, took) = (one_line(&span.name), duration(took as f64 / 1e9));
    let (trace, id) = (hex(&span.trace_id), hex(&span.span_id));
    write!(
        out,
        "  {kind} {name:<12} {took:>7}  trace {trace} span {id}"
    )?;
    if !span.parent_span_id.is_empty() {
        write!(out, " parent {}", hex(&span.parent_span_id))?;
    }
    if let Some(status) = span
        .status
        .as_ref()
        .filter(|s| s.code() == StatusCode::Error)
    {
        match one_line(&status.message).as_str() {
            "" => write!(out, "  error")?,
            message => write!(out, "  error: {message}")?,
        }
    }
    writeln!(out, "  {}", attributes(&span.attributes))
}

fn write_logs(out: &mut String, export: &ExportLogsServiceRequest) -> fmt::Result {
    for resource in &export.resource_logs {
        writeln!(out, "logs of {}", service(resource.resource.as_ref()))?;
        let scopes = resource.scope_logs.iter();
        for record in scopes.flat_map(|scope| &scope.log_records) {
            write_log_record(out, record)?;
        }
    }
    Ok(())
}

fn write_log_record(out: &mut String, record: &LogRecord) -> fmt::Result {
    let severity = one_line(&record.severity_text);
    // An event has a name, and other log records a body.
    let name = match record.event_name.as_str() {
        "" => value(record.body.as_ref()),
        name => one_line(name),
    };
    write!(out, "  {severity:<5} {name}")?;
    if !record.trace_id.is_empty() {
        let (trace, span) = (hex(&record.trace_id), hex(&record.span_id));
        write!(out, "  trace {trace} span {span}")?;
    }
    writeln!(out, "  {}", attributes(&record.attributes))
}

fn service(resource: Option<&Resource>) -> String {
    let attributes = resource.map(|resource| &resource.attributes);
    let named = |name: &str| {
        let attribute = attributes?.iter().find(|attribute| attribute.key == name)?;
        Some(value(attribute.value.as_ref()))
    };
    let service = named("service.name").unwrap_or_else(|| "(no service.name)".to_owned());
    match named("k8s.pod.name") {
        Some(pod) => format!("{service} ({pod})"),
        None => service,
    }
}

fn attributes(all: &[KeyValue]) -> String {
    let printed: BTreeMap<_, _> = all
        .iter()
        .filter(|attribute| !OMITTED.contains(&attribute.key.as_str()))
        .map(|attribute| (one_line(&attribute.key), value(attribute.value.as_ref())))
        .collect();
    let pairs: Vec<_> = printed
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    pairs.join(" ")
}

fn value(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => one_line(text),
        Some(Value::BoolValue(truth)) => truth.to_string(),
        Some(Value::IntValue(int)) => int.to_string(),
        Some(Value::DoubleValue(double)) => double.to_string(),
        Some(other) => one_line(&format!("{other:?}")),
        None => String::new(),
    }
}

/// Foreign text that cannot move a terminal's cursor.
fn one_line(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}
