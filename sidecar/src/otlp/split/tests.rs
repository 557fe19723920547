use std::collections::BTreeSet;

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    metrics::v1::{
        AggregationTemporality, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge,
        Histogram, HistogramDataPoint, NumberDataPoint, Sum, metric::Data, number_data_point,
    },
    resource::v1::Resource,
    trace::v1::Span,
};
use proptest::{collection::vec, prelude::*};

use super::*;

fn attribute(value: String) -> KeyValue {
    KeyValue {
        key: "network.peer.address".to_owned(),
        value: Some(AnyValue {
            value: Some(Value::StringValue(value)),
        }),
        ..Default::default()
    }
}

/// A metric of some kind with points of these lengths.
fn metric(name: String, kind: u8, lengths: &[usize]) -> Metric {
    let attributes = |at: usize| vec![attribute(format!("{at}:{}", "x".repeat(lengths[at])))];
    let numbers = || {
        let points = (0..lengths.len()).map(|at| NumberDataPoint {
            attributes: attributes(at),
            time_unix_nano: 7,
            value: Some(number_data_point::Value::AsInt(at as i64)),
            ..Default::default()
        });
        points.collect()
    };
    let delta = AggregationTemporality::Delta.into();
    let data = match kind {
        0 => Data::Gauge(Gauge {
            data_points: numbers(),
        }),
        1 => Data::Sum(Sum {
            data_points: numbers(),
            aggregation_temporality: delta,
            is_monotonic: true,
        }),
        2 => Data::Histogram(Histogram {
            data_points: (0..lengths.len())
                .map(|at| HistogramDataPoint {
                    attributes: attributes(at),
                    bucket_counts: vec![at as u64, 2],
                    explicit_bounds: vec![0.5],
                    ..Default::default()
                })
                .collect(),
            aggregation_temporality: delta,
        }),
        _ => Data::ExponentialHistogram(ExponentialHistogram {
            data_points: (0..lengths.len())
                .map(|at| ExponentialHistogramDataPoint {
                    attributes: attributes(at),
                    count: at as u64,
                    scale: 3,
                    ..Default::default()
                })
                .collect(),
            aggregation_temporality: delta,
        }),
    };
    Metric {
        name,
        unit: "By".to_owned(),
        description: "what it is".to_owned(),
        data: Some(data),
        ..Default::default()
    }
}

fn request(metrics: Vec<Metric>) -> ExportMetricsServiceRequest {
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(Resource {
                attributes: vec![attribute("web".to_owned())],
                ..Default::default()
            }),
            scope_metrics: vec![ScopeMetrics {
                scope: Some(InstrumentationScope {
                    name: "flowcar".to_owned(),
                    ..Default::default()
                }),
                metrics,
                schema_url: "https://schema.example".to_owned(),
            }],
            schema_url: "https://schema.example".to_owned(),
        }],
    }
}

/// Puts the parts together again: metrics that follow each other under one name are one.
fn joined(parts: &[Chunk]) -> ExportMetricsServiceRequest {
    let mut whole: Option<ExportMetricsServiceRequest> = None;
    for part in parts {
        let part = ExportMetricsServiceRequest::decode(part.body.clone()).expect("a request");
        let Some(whole) = &mut whole else {
            whole = Some(part);
            continue;
        };
        let to = &mut whole.resource_metrics[0];
        let from = part
            .resource_metrics
            .into_iter()
            .next()
            .expect("a resource");
        assert_eq!(
            (&to.resource, &to.schema_url),
            (&from.resource, &from.schema_url)
        );
        let (to, from) = (&mut to.scope_metrics[0], &from.scope_metrics[0]);
        assert_eq!((&to.scope, &to.schema_url), (&from.scope, &from.schema_url));
        for metric in &from.metrics {
            match to
                .metrics
                .last_mut()
                .filter(|last| last.name == metric.name)
            {
                Some(last) => join(last, metric.clone()),
                None => to.metrics.push(metric.clone()),
            }
        }
    }
    whole.expect("a part")
}

fn join(to: &mut Metric, from: Metric) {
    let (name, unit, description) = (&from.name, &from.unit, &from.description);
    assert_eq!(
        (&to.name, &to.unit, &to.description),
        (name, unit, description)
    );
    match (to.data.as_mut(), from.data) {
        (Some(Data::Gauge(to)), Some(Data::Gauge(from))) => to.data_points.extend(from.data_points),
        (Some(Data::Sum(to)), Some(Data::Sum(from))) => {
            assert_eq!(to.is_monotonic, from.is_monotonic);
            assert_eq!(to.aggregation_temporality, from.aggregation_temporality);
            to.data_points.extend(from.data_points);
        }
        (Some(Data::Histogram(to)), Some(Data::Histogram(from))) => {
            assert_eq!(to.aggregation_temporality, from.aggregation_temporality);
            to.data_points.extend(from.data_points);
        }
        (Some(Data::ExponentialHistogram(to)), Some(Data::ExponentialHistogram(from))) => {
            assert_eq!(to.aggregation_temporality, from.aggregation_temporality);
            to.data_points.extend(from.data_points);
        }
        other => panic!("{other:?}"),
    }
}

proptest! {
    /// No item is lost, duplicated or changed, and only a part of one item is larger than the limit.
    #[test]
    fn split_parts_join_to_the_request(
        metrics_of in vec((0u8..4, vec(0usize..400, 0..20)), 1..12),
        most in 100usize..4_000,
        halve in 2usize..5,
    ) {
        let points: usize = metrics_of.iter().map(|(_, lengths)| lengths.len()).sum();
        let all = metrics_of.iter().enumerate();
        let all = all.map(|(at, (kind, lengths))| metric(format!("metric.{at}"), *kind, lengths));
        let whole = request(all.collect());
        let parts = metrics(whole.clone(), most);
        prop_assert_eq!(parts.iter().map(|part| part.items).sum::<usize>(), points);
        for part in &parts {
            prop_assert!(part.items == 1 || part.len() <= most, "{} of {most}", part.len());
        }
        if points == 0 {
            return Ok(());
        }
        let mut expected = whole;
        let metrics = &mut expected.resource_metrics[0].scope_metrics[0].metrics;
        metrics.retain(|metric| points::count(metric) > 0);
        prop_assert_eq!(&joined(&parts), &expected);

        // Each part can be split again until it is one item.
        let mut smaller = Vec::new();
        for part in parts {
            if part.items > 1 {
                let cut = part.cut(Signal::Metrics, part.len() / halve);
                prop_assert!(cut.len() > 1);
                smaller.extend(cut);
            } else {
                smaller.push(part);
            }
        }
        prop_assert_eq!(&joined(&smaller), &expected);
    }

    #[test]
    fn spans_keep_their_order(lengths in vec(0usize..400, 1..40), most in 100usize..4_000) {
        let spans = lengths.iter().enumerate().map(|(at, length)| Span {
            span_id: at.to_be_bytes().to_vec(),
            name: "x".repeat(*length),
            ..Default::default()
        });
        let request = ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(Resource::default()),
                scope_spans: vec![ScopeSpans { spans: spans.collect(), ..Default::default() }],
                ..Default::default()
            }],
        };
        let parts = traces(request, most);
        let mut ids = Vec::new();
        for part in &parts {
            prop_assert!(part.items == 1 || part.len() <= most);
            let part = ExportTraceServiceRequest::decode(part.body.clone()).expect("a request");
            let spans = &part.resource_spans[0].scope_spans[0].spans;
            ids.extend(spans.iter().map(|span| span.span_id.clone()));
        }
        let expected: Vec<_> = (0..lengths.len()).map(|at| at.to_be_bytes().to_vec()).collect();
        prop_assert_eq!(ids, expected);
    }
}

#[test]
fn points_are_distinguished_by_metric_and_attributes() {
    let metrics = [
        metric("a".to_owned(), 1, &[1, 2]),
        metric("b".to_owned(), 1, &[1, 2]),
    ];
    let of = points::ResourceId::of(&ResourceMetrics::default());
    let ids: BTreeSet<_> = metrics
        .iter()
        .flat_map(|one| points::ids(of, one))
        .collect();
    assert_eq!(ids.len(), 4);
    let mut one = metrics[0].clone();
    let first = points::ids(of, &one)[0].clone();
    assert!(points::retain(of, &mut one, |id| *id == first));
    assert_eq!(points::ids(of, &one), [first]);
    assert!(!points::retain(of, &mut one, |_| false));
}
