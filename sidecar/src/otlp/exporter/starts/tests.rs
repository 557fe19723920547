use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value},
    metrics::v1::{ExponentialHistogram, ResourceMetrics, ScopeMetrics, Sum},
};

use super::*;

const START: u64 = 1_700_000_000_000_000_000;
const S: u64 = 1_000_000_000;

/// A report of counters and levels, by name, an attribute's value and the count; those after `self_metrics` are self metrics.
fn report(
    at: u64,
    pods: &[(&str, &str, i64)],
    self_metrics: &[(&str, &str, i64)],
) -> ExportMetricsServiceRequest {
    let resource = |of: &[(&str, &str, i64)]| ResourceMetrics {
        scope_metrics: vec![ScopeMetrics {
            metrics: of
                .iter()
                .map(|(name, value, count)| sum(at, name, value, *count))
                .collect(),
            ..Default::default()
        }],
        ..Default::default()
    };
    ExportMetricsServiceRequest {
        resource_metrics: vec![resource(pods), resource(self_metrics)],
    }
}

fn sum(at: u64, name: &str, value: &str, count: i64) -> Metric {
    let text = any_value::Value::StringValue(value.to_owned());
    let point = NumberDataPoint {
        attributes: vec![KeyValue {
            key: "which".to_owned(),
            value: Some(AnyValue { value: Some(text) }),
            ..Default::default()
        }],
        start_time_unix_nano: START,
        time_unix_nano: at,
        value: Some(Value::AsInt(count)),
        ..Default::default()
    };
    Metric {
        name: name.to_owned(),
        data: Some(Data::Sum(Sum {
            data_points: vec![point],
            aggregation_temporality: AggregationTemporality::Cumulative.into(),
            is_monotonic: name != names::LIVE.name,
        })),
        ..Default::default()
    }
}

/// Start, time and count of every point, in order.
fn points(request: &ExportMetricsServiceRequest) -> Vec<(u64, u64, i64)> {
    let scopes = request
        .resource_metrics
        .iter()
        .flat_map(|of| &of.scope_metrics);
    let sums = scopes
        .flat_map(|of| &of.metrics)
        .filter_map(|metric| match &metric.data {
            Some(Data::Sum(sum)) => Some(&sum.data_points),
            _ => None,
        });
    let seconds = |at: u64| (at - START) / S;
    sums.flatten()
        .map(|point| match point.value {
            Some(Value::AsInt(count)) => (
                seconds(point.start_time_unix_nano),
                seconds(point.time_unix_nano),
                count,
            ),
            other => panic!("{other:?}"),
        })
        .collect()
}

struct Sent(Starts);

impl Sent {
    fn new() -> Self {
        Self(Starts::default())
    }

    /// The points that are sent of a report made so many seconds after the start.
    fn send(
        &mut self,
        at_s: u64,
        pods: &[(&str, &str, i64)],
        self_metrics: &[(&str, &str, i64)],
    ) -> Vec<(u64, u64, i64)> {
        let at = START + at_s * S;
        let mut request = report(at, pods, self_metrics);
        self.0.apply(&mut request, START, at);
        points(&request)
    }

    fn settled(&mut self, at_s: u64) {
        self.0.settled(START + at_s * S);
    }
}

#[test]
fn counter_starts_with_a_zero_at_the_previous_report() {
    let mut sent = Sent::new();
    assert_eq!(
        sent.send(10, &[("c", "a", 5)], &[]),
        [(0, 0, 0), (0, 10, 5)]
    );
    sent.settled(10);
    let two = [("c", "a", 6), ("c", "b", 1)];
    assert_eq!(
        sent.send(20, &two, &[]),
        [(0, 20, 6), (10, 10, 0), (10, 20, 1)]
    );
    sent.settled(20);
    assert_eq!(sent.send(30, &two, &[]), [(0, 30, 6), (10, 30, 1)]);
}

/// Zeros go with every report until one is settled, and never again: a receiver that refuses them would refuse every report.
#[test]
fn zeros_are_sent_until_a_report_is_settled() {
    let mut sent = Sent::new();
    sent.send(10, &[], &[]);
    sent.settled(10);
    for at in [20, 30, 40] {
        assert_eq!(
            sent.send(at, &[("c", "a", 5)], &[]),
            [(10, 10, 0), (10, at, 5)]
        );
    }
    sent.settled(40);
    assert_eq!(sent.send(50, &[("c", "a", 5)], &[]), [(10, 50, 5)]);
}

#[test]
fn dropped_series_restarts_from_zero() {
    let mut sent = Sent::new();
    for at in [10, 20] {
        sent.send(at, &[("c", "a", 5)], &[]);
        sent.settled(at);
    }
    assert_eq!(sent.send(30, &[], &[]), []);
    sent.settled(30);
    assert_eq!(
        sent.send(40, &[("c", "a", 1)], &[]),
        [(30, 30, 0), (30, 40, 1)]
    );
}

/// Not every report has all self metrics: they continue nevertheless.
#[test]
fn self_metrics_continue_after_reports_without_them() {
    let mut sent = Sent::new();
    let self_metrics = [("c", "a", 5)];
    assert_eq!(sent.send(10, &[], &self_metrics), [(0, 0, 0), (0, 10, 5)]);
    for at in [10, 20, 30] {
        sent.send(at, &[], &[]);
        sent.settled(at);
    }
    sent.send(40, &[], &self_metrics);
    sent.settled(40);
    assert_eq!(sent.send(50, &[], &self_metrics), [(0, 50, 5)]);
}

#[test]
fn zero_live_connections_are_reported_once() {
    let mut sent = Sent::new();
    let live = |count| [(names::LIVE.name, "a", count)];
    assert_eq!(
        sent.send(10, &live(0), &[]),
        [],
        "it never was anything else"
    );
    sent.settled(10);
    assert_eq!(sent.send(20, &live(2), &[]), [(10, 20, 2)]);
    sent.settled(20);
    // Until the receiver has it.
    for at in [30, 40] {
        assert_eq!(sent.send(at, &live(0), &[]), [(10, at, 0)]);
    }
    sent.settled(40);
    assert_eq!(sent.send(50, &live(0), &[]), []);
    sent.settled(50);
    assert_eq!(sent.send(60, &live(1), &[]), [(50, 60, 1)]);
}

#[test]
fn zero_point_is_not_older_than_receivers_accept() {
    let mut sent = Sent::new();
    let hours = 5 * 3_600;
    let half_an_hour_before = hours - 1_800;
    assert_eq!(
        sent.send(hours, &[("c", "a", 5)], &[]),
        [
            (half_an_hour_before, half_an_hour_before, 0),
            (half_an_hour_before, hours, 5)
        ]
    );
}

#[test]
fn histogram_zeros_have_buckets() {
    let point = ExponentialHistogramDataPoint {
        count: 3,
        sum: Some(0.5),
        scale: 3,
        zero_threshold: 0.1,
        time_unix_nano: START + S,
        min: Some(0.1),
        ..Default::default()
    };
    let explicit = HistogramDataPoint {
        count: 3,
        bucket_counts: vec![1, 2],
        explicit_bounds: vec![0.5],
        time_unix_nano: START + S,
        ..Default::default()
    };
    let cumulative = AggregationTemporality::Cumulative as i32;
    let mut request = report(START, &[("c", "a", 1), ("c", "b", 1)], &[]);
    let metrics = &mut request.resource_metrics[0].scope_metrics[0].metrics;
    metrics[0].data = Some(Data::ExponentialHistogram(ExponentialHistogram {
        data_points: vec![point.clone()],
        aggregation_temporality: cumulative,
    }));
    metrics[1].data = Some(Data::Histogram(
        opentelemetry_proto::tonic::metrics::v1::Histogram {
            data_points: vec![explicit.clone()],
            aggregation_temporality: cumulative,
        },
    ));
    Starts::default().apply(&mut request, START, START + S);
    let metrics = &request.resource_metrics[0].scope_metrics[0].metrics;
    let (Some(Data::ExponentialHistogram(exponential)), Some(Data::Histogram(bounded))) =
        (&metrics[0].data, &metrics[1].data)
    else {
        panic!("{metrics:?}");
    };
    let zero = &exponential.data_points[0];
    assert_eq!((zero.count, zero.scale, zero.zero_threshold), (0, 3, 0.1));
    assert_eq!(
        (zero.start_time_unix_nano, zero.time_unix_nano),
        (START, START)
    );
    assert_eq!((zero.sum, zero.min), (Some(0.0), None));
    let zero = &bounded.data_points[0];
    assert_eq!(
        (zero.count, zero.bucket_counts.as_slice()),
        (0, [0, 0].as_slice())
    );
    assert_eq!(zero.explicit_bounds, explicit.explicit_bounds);
    assert_eq!(exponential.data_points[1].count, point.count);
}

/// Whichever reports are settled, a back end that sums increases has the count.
#[test]
fn increases_sum_to_the_count() {
    let mut sent = Sent::new();
    let (mut count, mut last, mut sum) = (0, None, 0);
    for report in 1..200_u64 {
        count += i64::from(report % 3 == 0);
        let pods = [("c", "a", count)];
        let pods: &[_] = if count > 0 { &pods } else { &[] };
        let points = sent.send(report * 10, pods, &[]);
        // A receiver that is absent for a while.
        if report % 7 < 3 {
            continue;
        }
        sent.settled(report * 10);
        for (_, at, value) in points {
            if let Some((last_at, last_value)) = last {
                assert!(at > last_at, "{at} after {last_at}");
                sum += value - last_value;
            }
            last = Some((at, value));
        }
    }
    assert_eq!(sum, last.expect("points").1);
}
