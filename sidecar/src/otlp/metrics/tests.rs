mod closes;
mod containers;
mod exemplars;
mod histograms;
mod self_metrics;
mod sizes;
mod temporality;

use std::collections::{BTreeMap, BTreeSet};

use opentelemetry_proto::tonic::{
    common::v1::any_value::Value,
    metrics::v1::{
        ExponentialHistogramDataPoint, HistogramDataPoint, Metric as ProtoMetric, exemplar,
    },
};
use proptest::prelude::*;

use super::*;
use crate::{
    clock::Anchor,
    config::Config,
    flow::{
        Books, CloseReason, CountedClose, Failure, Flow, Lost, Monotonic, Retransmits, Role,
        RttKind, SeriesId, TraceIdentity, Volume, example,
    },
    host::Host,
    otlp::{
        exemplars::{Candidates, Measure},
        names::METRICS,
        points,
    },
    snapshot::{
        ContainerCounter, ContainerFigures, ContainerLevel, DroppedSeries, ItemQueue, Listener,
        Peer, SelfMetrics, Series, SeriesKey, UnattributedCounts,
    },
};

const START: u64 = 1_000_000_000_000;
const AT: u64 = START + 60_000_000_000;
const SERIES: SeriesId = SeriesId(1);

const PLAIN: Options = Options {
    temporality: Temporality::Cumulative,
    histograms: Histograms::Exponential,
    self_metrics: SelfMetricsLevel::Detailed,
    source: "ebpf",
    components: Components {
        metrics: "otlp_grpc_metric_exporter",
        spans: "otlp_http_span_exporter",
        logs: "otlp_grpc_log_exporter",
    },
};

const DELTA: Options = Options {
    temporality: Temporality::Delta,
    ..PLAIN
};

fn web() -> Host {
    Host {
        service_name: Some("web".to_owned()),
        ..Host::default()
    }
}

fn recorded(durations_ns: &[u64]) -> Histogram {
    let mut histogram = Histogram::default();
    for duration in durations_ns {
        histogram.record(*duration);
    }
    histogram
}

/// Every figure of a container, each so much.
fn figures(each: u64) -> ContainerFigures {
    ContainerFigures {
        since_unix_ns: START,
        counters: ContainerCounter::all().map(|of| (of, each)).collect(),
        levels: ContainerLevel::ALL.map(|of| (of, each)).into(),
    }
}

fn key() -> SeriesKey {
    SeriesKey::Flows {
        container: None,
        role: Role::Client,
        peer: Peer::Address([10, 1, 2, 3].into()),
        server_port: Some(8080),
    }
}

/// A snapshot in which every metric has a point.
fn full() -> Snapshot {
    let series = Series {
        id: SERIES,
        since_unix_ns: AT,
        opened: 3,
        adopted_at_startup: 1,
        adopted_at_restart: 1,
        closed: BTreeMap::from([
            (CloseReason::LocalFin.into(), 2),
            (CloseReason::Reset.into(), 1),
        ]),
        failed: BTreeMap::from([(Failure::Refused, 4)]),
        live: 1,
        volume: Volume {
            bytes_sent: 100,
            bytes_received: 4096,
            segments_sent: 7,
            segments_received: 9,
            retransmits: Retransmits {
                syn: 1,
                fast: 2,
                ..Default::default()
            },
        },
        connect: BTreeMap::from([
            (None, recorded(&[5_000_000; 5])),
            (Some(Failure::Refused), recorded(&[1_000_000; 4])),
        ]),
        rtt: BTreeMap::from([(RttKind::Measured, recorded(&[20_000_000]))]),
        receive_window_limited_us: 1_500_000,
        send_buffer_limited_us: 0,
        exchange: recorded(&[30_000_000]),
        duration: BTreeMap::from([(CloseReason::LocalFin.into(), recorded(&[1_000_000_000; 2]))]),
    };
    Snapshot {
        start_unix_ns: START,
        at_unix_ns: AT,
        series: BTreeMap::from([(key(), series)]),
        lost: BTreeMap::from([(Lost::RingFull, 1)]),
        unattributed: Default::default(),
        dropped: Default::default(),
        containers: BTreeMap::new(),
        listeners: BTreeMap::from([(
            Some(8080),
            Listener {
                drops: 4,
                waiting: 2,
                limit: 128,
            },
        )]),
        books: Books {
            opened: 5,
            closed: 3,
            live: 1,
            failed: 4,
            lost: BTreeMap::from([(Lost::RingFull, 1)]),
        },
        self_metrics: SelfMetrics {
            records: BTreeMap::from([("open", 5)]),
            records_dropped: BTreeMap::from([("close", 1)]),
            records_malformed: 1,
            table_flows: 1,
            table_over_capacity: 1,
            sockets: BTreeMap::from([("followed", 1), ("other", 2)]),
            sockets_unscoped: 3,
            sockets_unadopted: 4,
            flows_inexact: 1,
            dump_duration: recorded(&[100_000]),
            unfollowed_ns: 1_500_000_000,
            malformed_statistics: 1,
            dns_dropped: [("unasked", 2)].into(),
            unnamed: [("expired", 3)].into(),
            unresolved_containers: [("no_cgroup", 2)].into(),
            log_lines_dropped: 2,
            series: 1,
            exports: BTreeMap::from([(("metrics", "success"), 3)]),
            exported: BTreeMap::from([("traces", 9), ("logs", 8), ("metrics", 30)]),
            rejected: BTreeMap::from([("traces", 2)]),
            too_large: BTreeMap::from([("traces", 1)]),
            spans_dropped: BTreeMap::from([("queue_full", 6)]),
            logs_dropped: BTreeMap::from([("rate_limit", 4)]),
            span_queue: ItemQueue {
                items: 8,
                capacity: 2048,
                bytes: 16_000,
            },
            log_queue: ItemQueue {
                items: 7,
                capacity: 2048,
                bytes: 15_000,
            },
            export_duration: BTreeMap::from([(("traces", "partial"), recorded(&[2_000_000]))]),
            taken_unix_ns: 0,
            cpu_s: 0.25,
            rss_bytes: 9_000_000,
        },
    }
}

fn metrics(snapshot: &Snapshot, options: Options, before: Option<&Snapshot>) -> Vec<ProtoMetric> {
    let config = Config::from_vars([]).expect("defaults");
    let resource = Resource::new(&config, &web());
    let exemplars = Exemplars::default();
    let export = encode(snapshot, &resource, options, before, &exemplars, true);
    let scopes = export
        .resource_metrics
        .into_iter()
        .flat_map(|of| of.scope_metrics);
    scopes.flat_map(|of| of.metrics).collect()
}

fn named<'a>(metrics: &'a [ProtoMetric], name: &str) -> &'a ProtoMetric {
    let mut found = metrics.iter().filter(|metric| metric.name == name);
    let first = found.next().unwrap_or_else(|| panic!("no {name}"));
    assert!(found.next().is_none(), "{name} comes twice");
    first
}

fn sum<'a>(metrics: &'a [ProtoMetric], name: &str) -> &'a Sum {
    match named(metrics, name).data.as_ref() {
        Some(Data::Sum(sum)) => sum,
        other => panic!("{name} is {other:?}"),
    }
}

/// Values of attributes as text, by name.
fn attributes(point: &[KeyValue]) -> BTreeMap<&str, String> {
    point
        .iter()
        .map(|KeyValue { key, value, .. }| {
            let value = match value.as_ref().and_then(|value| value.value.as_ref()) {
                Some(Value::StringValue(text)) => text.clone(),
                Some(Value::IntValue(int)) => int.to_string(),
                Some(Value::BoolValue(truth)) => truth.to_string(),
                other => panic!("{key} is {other:?}"),
            };
            (key.as_str(), value)
        })
        .collect()
}

fn by_attribute(sum: &Sum, name: &str) -> BTreeMap<String, i64> {
    sum.data_points
        .iter()
        .map(|point| {
            let value = attributes(&point.attributes)[name].clone();
            match point.value {
                Some(number_data_point::Value::AsInt(int)) => (value, int),
                other => panic!("{other:?}"),
            }
        })
        .collect()
}

#[test]
fn exactly_the_metrics_of_the_table_are_sent() {
    let snapshot = Snapshot {
        containers: BTreeMap::from([(None, figures(1))]),
        ..full()
    };
    let metrics = metrics(&snapshot, PLAIN, None);
    let sent: BTreeSet<_> = metrics.iter().map(|metric| metric.name.as_str()).collect();
    let table: BTreeSet<_> = METRICS.iter().map(|metric| metric.name).collect();
    assert_eq!(sent, table);
    assert_eq!(table.len(), METRICS.len(), "a name comes twice");
    for metric in METRICS {
        let sent = named(&metrics, metric.name);
        assert_eq!(
            (sent.unit.as_str(), sent.description.as_str()),
            (metric.unit, metric.description)
        );
        let kind = match sent.data.as_ref() {
            Some(Data::ExponentialHistogram(_)) => Kind::Histogram,
            Some(Data::Sum(sum)) if sum.is_monotonic => Kind::Counter,
            Some(Data::Sum(_)) => Kind::UpDownCounter,
            Some(Data::Gauge(_)) => Kind::Gauge,
            other => panic!("{other:?}"),
        };
        assert_eq!(kind, metric.kind, "{}", metric.name);
    }
}

#[test]
fn points_have_series_and_metric_attributes() {
    let metrics = metrics(&full(), PLAIN, None);
    let io = sum(&metrics, "flowcar.tcp.io");
    assert_eq!(
        attributes(&io.data_points[0].attributes),
        BTreeMap::from([
            ("network.tcp.handshake.role", "client".to_owned()),
            ("server.port", "8080".to_owned()),
            ("network.peer.address", "10.1.2.3".to_owned()),
            ("network.io.direction", "transmit".to_owned()),
        ])
    );
    let expected = |pairs: &[(&str, i64)]| -> BTreeMap<String, i64> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), *value))
            .collect()
    };
    assert_eq!(
        by_attribute(io, "network.io.direction"),
        expected(&[("transmit", 100), ("receive", 4096)])
    );
    assert_eq!(
        by_attribute(
            sum(&metrics, "flowcar.tcp.retransmits"),
            "flowcar.tcp.retransmit.type"
        ),
        expected(&[("syn", 1), ("fast", 2)])
    );
    assert_eq!(
        by_attribute(
            sum(&metrics, "flowcar.tcp.connection.closed"),
            "flowcar.tcp.close.reason"
        ),
        expected(&[("local_fin", 2), ("reset", 1)])
    );
    let lost = sum(&metrics, "flowcar.tcp.connection.lost");
    assert_eq!(
        attributes(&lost.data_points[0].attributes),
        BTreeMap::from([("flowcar.tcp.lost.reason", "ring_full".to_owned())])
    );
}

#[test]
fn overflow_series_has_only_the_overflow_attribute() {
    let mut snapshot = full();
    let series = snapshot.series.remove(&key()).expect("the series");
    snapshot.series.insert(SeriesKey::Overflow, series);
    let metrics = metrics(&snapshot, PLAIN, None);
    let live = &sum(&metrics, "flowcar.tcp.connection.live").data_points[0];
    assert_eq!(
        attributes(&live.attributes),
        BTreeMap::from([("otel.metric.overflow", "true".to_owned())])
    );
}

/// The pod's resource has what is of no container, and the connections of none.
#[test]
fn each_container_is_a_resource_with_its_own_series() {
    let mut snapshot = full();
    let bytes = |container: Option<&str>, bytes_sent| {
        let SeriesKey::Flows {
            role,
            peer,
            server_port,
            ..
        } = key()
        else {
            panic!("a key of flows");
        };
        let container = container.map(Into::into);
        let key = SeriesKey::Flows {
            container,
            role,
            peer,
            server_port,
        };
        let series = Series {
            volume: Volume {
                bytes_sent,
                ..Volume::default()
            },
            ..Series::default()
        };
        (key, series)
    };
    snapshot
        .series
        .extend([bytes(Some("bbbb"), 7), bytes(Some("aaaa"), 5)]);
    let config = Config::from_vars([]).expect("defaults");
    let host = Host {
        instance: Some("host".to_owned()),
        ..web()
    };
    let resource = Resource::new(&config, &host);
    let exemplars = Exemplars::default();
    let request = encode(&snapshot, &resource, PLAIN, None, &exemplars, true);
    let found = request.resource_metrics.iter().map(|of| {
        let resource = attributes(&of.resource.as_ref().expect("one").attributes);
        let text = |name: &str| resource.get(name).cloned().unwrap_or_default();
        let metrics = &of.scope_metrics[0].metrics;
        let names: BTreeSet<_> = metrics.iter().map(|metric| metric.name.as_str()).collect();
        let io = names.contains("flowcar.tcp.io").then(|| {
            let of = by_attribute(sum(metrics, "flowcar.tcp.io"), "network.io.direction");
            of["transmit"]
        });
        let lost = names.contains("flowcar.tcp.connection.lost");
        (
            text("service.name"),
            text("service.instance.id"),
            text("container.id"),
            io,
            lost,
        )
    });
    let of = |service: &str, instance: &str, container: &str, io, lost| {
        (
            service.to_owned(),
            instance.to_owned(),
            container.to_owned(),
            io,
            lost,
        )
    };
    let expected = [
        of("web", "host", "", Some(100), true),
        of("web", "host.aaaa", "aaaa", Some(5), false),
        of("web", "host.bbbb", "bbbb", Some(7), false),
        of("flowcar", "host", "", None, false),
    ];
    assert_eq!(found.collect::<Vec<_>>(), expected);
}

/// A connection of the series that [`key`] names.
fn flow() -> Flow {
    Flow {
        peer: "10.1.2.3:8080".parse().expect("an address"),
        established: Some(Monotonic(5)),
        seen: Monotonic(9),
        rtt: recorded(&[3_000_000, 20_000_000]),
        series: Some(SERIES),
        ..example::closed(1)
    }
}
