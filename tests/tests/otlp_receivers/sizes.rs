//! Reports of thousands of peers, which no receiver takes in one request.

use std::collections::{BTreeMap, BTreeSet};

use flowcar::{
    flow::{CloseReason, Role, RttKind, Volume},
    snapshot::{Peer, Series, SeriesKey, Snapshot},
};
use flowcar_tests::peers::{Collector, CollectorOptions};
use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    metrics::v1::{metric::Data, number_data_point::Value},
};
use prost::Message as _;
use serde_json::json;
use tonic::Code;

use crate::{
    answering::{Answering, grpc_refusal, http, taken},
    sample::{LIMIT, export, flow, snapshot},
};

const HTTP: (&str, &str) = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
const DELTA: (&str, &str) = ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta");
const NO_SPANS: (&str, &str) = ("OTEL_TRACES_EXPORTER", "none");
/// A receiver that is slow to read megabytes is no failure.
const PATIENT: (&str, &str) = ("OTEL_EXPORTER_OTLP_TIMEOUT", "60000");

/// A client's connections to so many peers, after so many rounds.
fn report(peers: usize, rounds: u64) -> Snapshot {
    let mut report = snapshot();
    report.lost.clear();
    report.series = (0..peers)
        .map(|peer| {
            let key = SeriesKey::Flows {
                container: None,
                role: Role::Client,
                peer: Peer::Address(
                    format!("10.7.{}.{}", peer / 250, peer % 250)
                        .parse()
                        .unwrap(),
                ),
                server_port: Some(8080),
            };
            let mut series = Series {
                opened: rounds,
                closed: BTreeMap::from([(CloseReason::LocalFin.into(), rounds)]),
                volume: Volume {
                    bytes_sent: rounds * (peer as u64 + 1),
                    bytes_received: rounds,
                    segments_sent: 7 * rounds,
                    segments_received: 9 * rounds,
                    ..Volume::default()
                },
                ..Series::default()
            };
            for round in 0..rounds {
                let rtt = series.rtt.entry(RttKind::Measured).or_default();
                rtt.record((1 + round) * 1_000_000);
                rtt.record(3_000 + (peer as u64) * 50_000);
                series.exchange.record(7_000_000);
                let duration = series
                    .duration
                    .entry(CloseReason::LocalFin.into())
                    .or_default();
                duration.record(1_000_000_000);
            }
            (key, series)
        })
        .collect();
    report
}

/// Of each metric its points, and the sum of their values and counts.
fn sums(requests: &[ExportMetricsServiceRequest]) -> BTreeMap<String, (usize, i64)> {
    let mut all: BTreeMap<String, (usize, i64)> = BTreeMap::new();
    let resources = requests
        .iter()
        .flat_map(|request| &request.resource_metrics);
    let scopes = resources.flat_map(|resource| &resource.scope_metrics);
    for metric in scopes.flat_map(|scope| &scope.metrics) {
        let values: Vec<i64> = match metric.data.as_ref().expect("data") {
            Data::Sum(sum) if sum.is_monotonic => {
                let ints = sum.data_points.iter().map(|point| match point.value {
                    Some(Value::AsInt(int)) => int,
                    _ => 0,
                });
                ints.collect()
            }
            Data::ExponentialHistogram(of) => {
                let counts = of.data_points.iter().map(|point| {
                    let positive = point.positive.as_ref();
                    let counts = positive.map_or(0, |of| of.bucket_counts.iter().sum::<u64>());
                    assert_eq!(counts + point.zero_count, point.count);
                    point.count as i64
                });
                counts.collect()
            }
            _ => continue,
        };
        if metric.name.starts_with("flowcar.tcp.") {
            let of = all.entry(metric.name.clone()).or_default();
            of.0 += values.len();
            of.1 += values.iter().sum::<i64>();
        }
    }
    all
}

/// What all rounds of all peers come to.
fn expected(peers: usize, rounds: u64) -> BTreeMap<String, i64> {
    let (peers, rounds) = (peers as i64, rounds as i64);
    BTreeMap::from(
        [
            ("flowcar.tcp.rtt", 2 * peers * rounds),
            ("flowcar.tcp.exchange.duration", peers * rounds),
            ("flowcar.tcp.connection.duration", peers * rounds),
            ("flowcar.tcp.connection.opened", peers * rounds),
            ("flowcar.tcp.connection.closed", peers * rounds),
            ("flowcar.tcp.io", rounds * (peers * (peers + 1) / 2 + peers)),
            ("flowcar.tcp.segments", 16 * peers * rounds),
        ]
        .map(|(name, sum)| (name.to_owned(), sum)),
    )
}

/// Sends the reports after one, two and three rounds; gives how many requests were taken and how many were not.
fn send(endpoint: &str, settings: &[(&str, &str)], peers: usize) -> (u64, u64) {
    let all: Vec<_> = [NO_SPANS, PATIENT]
        .iter()
        .chain(settings)
        .copied()
        .collect();
    export("web", &all, async |start| {
        let exporter = start(endpoint);
        let first = snapshot().start_unix_ns;
        for rounds in 1..=3 {
            let mut report = report(peers, rounds);
            report.start_unix_ns = first;
            exporter.metrics(report);
            assert!(
                exporter.flush(9 * LIMIT).await,
                "{:?}",
                exporter.self_metrics().exports
            );
        }
        let self_metrics = exporter.self_metrics();
        assert!(
            self_metrics.too_large.is_empty(),
            "{:?}",
            self_metrics.too_large
        );
        let (mut taken, mut refused) = (0, 0);
        for ((_, outcome), count) in &self_metrics.exports {
            // A code that is retried otherwise counts as a failure, whatever its message.
            match *outcome {
                "success" => taken += count,
                _ => refused += count,
            }
        }
        (taken, refused)
    })
}

/// Whether the receiver has every point, exactly: of cumulative figures the last ones, of deltas the sum.
fn assert_whole(requests: &[ExportMetricsServiceRequest], peers: usize, delta: bool) {
    let newest = requests
        .iter()
        .flat_map(points_times)
        .max()
        .expect("a point");
    let requests: Vec<_> = requests
        .iter()
        .filter(|request| delta || points_times(request).contains(&newest))
        .cloned()
        .collect();
    let found: BTreeMap<_, _> = sums(&requests)
        .into_iter()
        .filter(|(_, (_, sum))| *sum > 0)
        .map(|(name, (_, sum))| (name, sum))
        .collect();
    assert_eq!(found, expected(peers, 3));
}

fn points_times(request: &ExportMetricsServiceRequest) -> BTreeSet<u64> {
    let scopes = request
        .resource_metrics
        .iter()
        .flat_map(|of| &of.scope_metrics);
    let metrics = scopes.flat_map(|scope| &scope.metrics);
    let times = metrics.flat_map(|metric| match &metric.data {
        Some(Data::Sum(sum)) => sum.data_points.iter().map(|p| p.time_unix_nano).collect(),
        Some(Data::ExponentialHistogram(of)) => {
            of.data_points.iter().map(|p| p.time_unix_nano).collect()
        }
        _ => Vec::new(),
    });
    times.collect()
}

#[test]
fn collector_takes_thousands_of_peers_with_its_default_limit() {
    for (settings, delta) in [
        (&[][..], false),
        (&[DELTA][..], true),
        (&[HTTP][..], false),
        (
            &[HTTP, DELTA, ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")][..],
            true,
        ),
        (
            &[DELTA, ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd")][..],
            true,
        ),
    ] {
        let collector = Collector::start();
        let endpoint = if settings.contains(&HTTP) {
            collector.http_endpoint()
        } else {
            collector.grpc_endpoint()
        };
        let peers = 4_000;
        let (taken, refused) = send(&endpoint, settings, peers);
        assert!(taken > 12 && refused == 0, "{taken} {refused}");
        let received = collector.received_metrics().into_iter();
        let received: Vec<_> = received
            .map(|request| serde_json::from_value(request).expect("OTLP"))
            .collect();
        assert_whole(&received, peers, delta);
    }
}

#[test]
fn reports_are_split_to_the_collectors_limit() {
    let overlay = json!({"receivers": {"otlp": {"protocols": {
        "http": {"max_request_body_size": 200_000},
    }}}});
    let collector = Collector::start_with(CollectorOptions {
        overlay,
        ..Default::default()
    });
    let (taken, refused) = send(&collector.http_endpoint(), &[HTTP, DELTA], 1_000);
    assert!(
        taken > 10 && (1..10).contains(&refused),
        "{taken} {refused}"
    );
    let received = collector.received_metrics().into_iter();
    let received: Vec<_> = received
        .map(|request| serde_json::from_value(request).expect("OTLP"))
        .collect();
    assert_whole(&received, 1_000, true);
}

/// Each receiver's answer to a request that is too large: nginx and most others, Go's `http.MaxBytesReader`, gRPC in Go,
/// Java, C++ and tonic.
#[test]
fn receivers_with_smaller_limits_have_every_point_once() {
    const MOST: usize = 50_000;
    for way in ["413", "400", "exhausted", "out of range"] {
        for delta in [false, true] {
            let answered = export("web", &[], async |_| {
                let receiver = Answering::start(move |asked| {
                    let size = asked.body.len();
                    if size <= MOST {
                        return taken(asked);
                    }
                    match way {
                        "413" => http(413, &[], b"<html>Request Entity Too Large</html>"),
                        "400" => http(400, &[], b"http: request body too large"),
                        "exhausted" => {
                            let why = format!("received message larger than max ({size} vs. {MOST})");
                            grpc_refusal(Code::ResourceExhausted, &why, Vec::new())
                        }
                        _ => {
                            let why = format!(
                                "Error, decoded message length too large: found {size} bytes, the limit is: {MOST} bytes"
                            );
                            grpc_refusal(Code::OutOfRange, &why, Vec::new())
                        }
                    }
                })
                .await;
                let by_http = matches!(way, "413" | "400");
                let endpoint = receiver.endpoint();
                let settings = [
                    if by_http {
                        HTTP
                    } else {
                        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
                    },
                    if delta {
                        DELTA
                    } else {
                        ("OTEL_SERVICE_NAMESPACE", "")
                    },
                ];
                let sent = tokio::task::spawn_blocking(move || send(&endpoint, &settings, 600));
                let (_, refused) = sent.await.expect("sent");
                assert!((1..20).contains(&refused), "{way}: {refused}");
                receiver.asked()
            });
            let requests: Vec<_> = answered
                .iter()
                .filter(|asked| asked.body.len() <= MOST)
                .map(|asked| ExportMetricsServiceRequest::decode(asked.body.clone()).expect("OTLP"))
                .collect();
            assert_whole(&requests, 600, delta);
        }
    }
}

#[test]
fn spans_are_split_to_the_receivers_limit() {
    const MOST: usize = 20_000;
    for protocol in ["grpc", "http/protobuf"] {
        let settings = [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_METRICS_EXPORTER", "none"),
        ];
        export("web", &settings, async |start| {
            let receiver = Answering::start(move |asked| {
                if asked.body.len() <= MOST {
                    taken(asked)
                } else if asked.grpc {
                    grpc_refusal(Code::ResourceExhausted, "too large", Vec::new())
                } else {
                    http(413, &[], b"")
                }
            })
            .await;
            let mut exporter = start(&receiver.endpoint());
            for isn in 0..300 {
                let (flow, anchor) = flow(Role::Client, isn, 2);
                exporter.flow(&flow, &anchor);
            }
            assert!(exporter.flush(LIMIT).await);
            let self_metrics = exporter.self_metrics();
            assert!(
                self_metrics.spans_dropped.is_empty(),
                "{:?}",
                self_metrics.spans_dropped
            );
            assert_eq!(self_metrics.exported["traces"], 300);
            assert!(
                self_metrics.exports[&("traces", "success")] > 10,
                "{:?}",
                self_metrics.exports
            );
        });
    }
}
