//! The names as a registry in OpenTelemetry's model format, as weaver reads it.

use std::fmt::Write as _;

use super::{ATTRIBUTES, Event, FLOW_CLOSED, Kind, METRICS, Metric, ValueKind, attribute};
use crate::otlp::values;

/// Attributes of every point of a connection, besides those of its metric.
const OF_SERIES: [&str; 6] = [
    attribute::ROLE,
    attribute::PEER_ADDRESS,
    attribute::PEER_PREFIX,
    attribute::SERVER_ADDRESS,
    attribute::SERVER_PORT,
    attribute::OVERFLOW,
];

/// The registry: docs/schema/flowcar.yaml.
pub fn yaml() -> String {
    let mut text = "# Generated from the code: FLOWCAR_UPDATE_README=1 cargo test -p flowcar --test readme\ngroups:\n  - id: registry.flowcar\n    type: attribute_group\n    brief: Attributes of what flowcar sends.\n    attributes:\n".to_owned();
    for (name, kind, brief) in ATTRIBUTES {
        if is_defined_here(name) {
            define(&mut text, name, *kind, brief);
        }
    }
    for metric in METRICS {
        group(&mut text, metric);
    }
    event(&mut text, &FLOW_CLOSED);
    text
}

/// Names of other namespaces are referred to, and not defined again.
fn is_ours(name: &str) -> bool {
    name.starts_with("flowcar.")
}

/// OpenTelemetry's eBPF instrumentation sends the role, and no registry defines it.
fn is_defined_here(name: &str) -> bool {
    is_ours(name) || name == attribute::ROLE
}

fn define(text: &mut String, name: &str, kind: ValueKind, brief: &str) {
    let mut line = |line: String| writeln!(text, "      {line}").expect("a text takes every write");
    line(format!("- id: {name}"));
    let listed: Vec<_> = values::all()
        .into_iter()
        .filter(|of| of.name == name)
        .collect();
    match (kind, listed.as_slice()) {
        (ValueKind::Text, [list]) => {
            line("  type:".to_owned());
            line("    members:".to_owned());
            for value in &list.values {
                line(format!("      - id: {}", value.name.to_ascii_lowercase()));
                line(format!("        value: {}", quoted(value.name)));
                line(format!("        brief: {}", quoted(value.meaning)));
                line("        stability: development".to_owned());
            }
        }
        (ValueKind::Text, _) => line("  type: string".to_owned()),
        (ValueKind::Int, _) => line("  type: int".to_owned()),
        (ValueKind::Double, _) => line("  type: double".to_owned()),
        (ValueKind::Boolean, _) => line("  type: boolean".to_owned()),
    }
    line(format!("  brief: {}", quoted(brief)));
    line("  stability: development".to_owned());
}

fn group(text: &mut String, metric: &Metric) {
    let Metric {
        name,
        unit,
        description,
        ..
    } = metric;
    let instrument = match metric.kind {
        Kind::Histogram => "histogram",
        Kind::Counter => "counter",
        Kind::UpDownCounter => "updowncounter",
        Kind::Gauge => "gauge",
    };
    let (brief, unit) = (quoted(description), quoted(unit));
    write!(
        text,
        "  - id: metric.{name}\n    type: metric\n    metric_name: {name}\n    instrument: {instrument}\n    unit: {unit}\n    brief: {brief}\n    stability: development\n"
    )
    .expect("a text takes every write");
    let all: Vec<_> = of_series(metric).iter().chain(metric.attributes).collect();
    if all.is_empty() {
        return;
    }
    text.push_str("    attributes:\n");
    for name in all {
        writeln!(
            text,
            "      - ref: {name}\n        requirement_level: recommended"
        )
        .expect("a text takes every write");
    }
}

fn event(text: &mut String, event: &Event) {
    let Event { name, description } = event;
    let brief = quoted(description);
    write!(
        text,
        "  - id: event.{name}\n    type: event\n    name: {name}\n    brief: {brief}\n    stability: development\n"
    )
    .expect("a text takes every write");
}

/// The attributes that every point of the metric has besides its own.
fn of_series(metric: &Metric) -> &'static [&'static str] {
    const SERVER_PORT: [&str; 1] = [attribute::SERVER_PORT];
    if metric.name.starts_with("flowcar.tcp.listener.") {
        &SERVER_PORT
    } else if metric.name.starts_with("flowcar.tcp.") && metric.name != super::LOST.name {
        &OF_SERIES
    } else {
        &[]
    }
}

/// A text in double quotes (YAML 1.2, section 7.3.1).
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::otlp::names::SCHEMA_URL;

    /// A namespace cannot be a name as well.
    fn no_name_is_a_namespace<'a>(names: impl Iterator<Item = &'a str>) {
        let names: BTreeSet<_> = names.collect();
        for name in &names {
            let inside = format!("{name}.");
            let found = names.iter().find(|other| other.starts_with(&inside));
            assert_eq!(found, None, "{name} is a name, too");
        }
    }

    #[test]
    fn no_metric_and_no_attribute_is_a_namespace() {
        let metrics = METRICS.iter().map(|metric| metric.name);
        no_name_is_a_namespace(metrics.chain([FLOW_CLOSED.name]));
        no_name_is_a_namespace(ATTRIBUTES.iter().map(|(name, ..)| *name));
    }

    #[test]
    fn namespaces_are_singular() {
        // The closed books of an accountant, one series, bytes and segments, which are what is counted, and the Domain Name System.
        const PLURAL: [&str; 5] = ["books", "series", "bytes", "segments", "dns"];
        let names = METRICS.iter().map(|metric| metric.name);
        for name in names.chain(ATTRIBUTES.iter().map(|(name, ..)| *name)) {
            let (namespace, _) = name.rsplit_once('.').expect("a namespace");
            for part in namespace.split('.').filter(|part| !PLURAL.contains(part)) {
                assert!(!part.ends_with('s') || part == "process", "{name}");
            }
        }
    }

    #[test]
    fn time_names_follow_the_instrument() {
        for metric in METRICS {
            // Semantic conventions, "Metrics": a round trip time is a duration by its name.
            let is_duration = metric.name.ends_with(".duration") || metric.name.ends_with(".rtt");
            let is_time = metric.name.ends_with(".time");
            let seconds = metric.unit == "s";
            assert_eq!(
                is_duration,
                metric.kind == Kind::Histogram,
                "{}",
                metric.name
            );
            assert_eq!(
                is_time,
                seconds && metric.kind == Kind::Counter,
                "{}",
                metric.name
            );
        }
    }

    /// UCUM: seconds, bytes, and annotations of one.
    #[test]
    fn units_are_ucum() {
        for metric in METRICS {
            let unit = metric.unit;
            let inner = unit
                .strip_prefix('{')
                .and_then(|unit| unit.strip_suffix('}'));
            let is_word = |word: &str| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            assert!(
                ["s", "By"].contains(&unit) || inner.is_some_and(is_word),
                "{unit}"
            );
        }
    }

    /// Names of OpenTelemetry's registry, in the version of the manifest.
    const REGISTERED: [&str; 41] = [
        "client.address",
        "client.port",
        "container.cpu.time",
        "container.disk.io",
        "container.memory.available",
        "container.memory.paging.faults",
        "container.memory.rss",
        "container.memory.usage",
        "container.memory.working_set",
        "cpu.mode",
        "disk.io.direction",
        "error.type",
        "network.io.direction",
        "network.local.address",
        "network.local.port",
        "network.peer.address",
        "network.peer.port",
        "network.transport",
        "network.type",
        "otel.component.name",
        "otel.component.type",
        "otel.metric.overflow",
        "otel.sdk.exporter.log.exported",
        "otel.sdk.exporter.metric_data_point.exported",
        "otel.sdk.exporter.operation.duration",
        "otel.sdk.exporter.span.exported",
        "otel.sdk.processor.log.queue.capacity",
        "otel.sdk.processor.log.queue.size",
        "otel.sdk.processor.span.queue.capacity",
        "otel.sdk.processor.span.queue.size",
        "process.cpu.time",
        "process.executable.name",
        "process.memory.usage",
        "process.pid",
        "server.address",
        "server.port",
        "service.name",
        "service.namespace",
        "service.instance.id",
        "service.version",
        "system.paging.fault.type",
    ];

    #[test]
    fn names_in_foreign_namespaces_are_registered() {
        let names = METRICS.iter().map(|metric| metric.name);
        for name in names.chain(ATTRIBUTES.iter().map(|(name, ..)| *name)) {
            let is_there = is_defined_here(name) || REGISTERED.contains(&name);
            assert!(is_there, "{name}");
        }
    }

    /// By this file, or by the registry that the manifest names.
    #[test]
    fn every_reference_resolves() {
        let text = yaml();
        let each = |key: &str| -> BTreeSet<String> {
            let of = text
                .lines()
                .filter_map(|line| line.trim().strip_prefix(key));
            of.map(str::to_owned).collect()
        };
        let defined = each("- id: ");
        for name in each("- ref: ") {
            let is_there = defined.contains(&name) || REGISTERED.contains(&&*name);
            assert!(is_there, "{name}");
        }
    }

    #[test]
    fn manifest_names_the_version_of_the_conventions() {
        let manifest = include_str!("../../../../docs/schema/manifest.yaml");
        let (_, version) = SCHEMA_URL.rsplit_once('/').expect("a version");
        assert!(manifest.contains(&format!("schema_url: {SCHEMA_URL}\n")));
        assert!(manifest.contains(&format!("/tags/v{version}.zip[model]")));
    }
}
