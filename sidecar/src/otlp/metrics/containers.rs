//! `container.*` and `flowcar.container.*`: the statistics of a container.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::common::v1::KeyValue;

use super::{CountPoint, Encoder, signed, text};
use crate::{
    flow::ContainerId,
    otlp::names::{self, Metric, attribute as name},
    snapshot::{ContainerCounter as Counter, ContainerFigures, ContainerLevel as Level, Snapshot},
};

/// The metrics of counters.
const COUNTERS: [Metric; 9] = [
    names::CONTAINER_CPU,
    names::CONTAINER_PERIODS,
    names::CONTAINER_THROTTLED,
    names::CONTAINER_THROTTLED_TIME,
    names::CONTAINER_FAULTS,
    names::CONTAINER_OOM_KILLS,
    names::CONTAINER_DISK_IO,
    names::CONTAINER_DISK_OPERATIONS,
    names::CONTAINER_PRESSURE,
];

/// Adds the statistics of a container, or of the followed cgroup where that is one.
pub(super) fn encode(encoder: &mut Encoder<'_>, container: Option<&ContainerId>) {
    let key = container.cloned();
    let find = |snapshot: &Snapshot| snapshot.containers.get(&key).cloned();
    let Some(now) = find(encoder.now) else {
        return;
    };
    let before = encoder
        .before
        .and_then(find)
        // One that was absent from a report in the meantime counts from zero.
        .filter(|before| before.since_unix_ns == now.since_unix_ns)
        .unwrap_or_default();
    for metric in COUNTERS {
        counter(encoder, metric, &now, &before);
    }
    for level in Level::ALL {
        if let Some(value) = now.levels.get(&level) {
            encoder.up_down(level_metric(level), vec![(Vec::new(), signed(*value))]);
        }
    }
}

fn counter(
    encoder: &mut Encoder<'_>,
    metric: Metric,
    now: &ContainerFigures,
    before: &ContainerFigures,
) {
    let value = |of: &BTreeMap<Counter, u64>, counter| of.get(&counter).copied().unwrap_or(0);
    let points = now.counters.iter().filter_map(|(counter, count)| {
        let (of, attributes) = described(*counter);
        (of.name == metric.name).then(|| CountPoint {
            attributes,
            now: *count,
            before: value(&before.counters, *counter),
        })
    });
    let points: Vec<_> = points.collect();
    if metric.unit == "s" {
        let seconds = |us: u64| us as f64 / 1e6;
        let points = points
            .into_iter()
            .map(|of| (of.attributes, seconds(of.now), seconds(of.before)));
        encoder.seconds(metric, points.collect());
    } else {
        encoder.counter(metric, points);
    }
}

/// The metric of a counter, and the attributes of its point.
fn described(counter: Counter) -> (Metric, Vec<KeyValue>) {
    let (metric, attributes): (_, &[_]) = match counter {
        Counter::CpuUser => (names::CONTAINER_CPU, &[(name::CPU_MODE, "user")]),
        Counter::CpuSystem => (names::CONTAINER_CPU, &[(name::CPU_MODE, "system")]),
        Counter::Periods => (names::CONTAINER_PERIODS, &[]),
        Counter::ThrottledPeriods => (names::CONTAINER_THROTTLED, &[]),
        Counter::ThrottledTime => (names::CONTAINER_THROTTLED_TIME, &[]),
        Counter::MinorFaults => (names::CONTAINER_FAULTS, &[(name::FAULT_TYPE, "minor")]),
        Counter::MajorFaults => (names::CONTAINER_FAULTS, &[(name::FAULT_TYPE, "major")]),
        Counter::OomKills => (names::CONTAINER_OOM_KILLS, &[]),
        Counter::BytesRead => (
            names::CONTAINER_DISK_IO,
            &[(name::DISK_IO_DIRECTION, "read")],
        ),
        Counter::BytesWritten => (
            names::CONTAINER_DISK_IO,
            &[(name::DISK_IO_DIRECTION, "write")],
        ),
        Counter::Reads => (
            names::CONTAINER_DISK_OPERATIONS,
            &[(name::DISK_IO_DIRECTION, "read")],
        ),
        Counter::Writes => (
            names::CONTAINER_DISK_OPERATIONS,
            &[(name::DISK_IO_DIRECTION, "write")],
        ),
        Counter::Pressure(resource, stall) => (
            names::CONTAINER_PRESSURE,
            &[
                (name::PRESSURE_RESOURCE, resource.name()),
                (name::PRESSURE_STALL, stall.name()),
            ],
        ),
    };
    let attributes = attributes.iter().map(|(name, value)| text(name, value));
    (metric, attributes.collect())
}

/// The registry has `container.memory.usage` as a counter, though it shrinks: it is sent as its siblings are.
const fn level_metric(level: Level) -> Metric {
    match level {
        Level::MemoryUsage => names::CONTAINER_MEMORY,
        Level::WorkingSet => names::CONTAINER_WORKING_SET,
        Level::Rss => names::CONTAINER_RSS,
        Level::MemoryAvailable => names::CONTAINER_AVAILABLE,
        Level::MemoryLimit => names::CONTAINER_MEMORY_LIMIT,
        Level::Threads => names::CONTAINER_THREADS,
    }
}
