//! The totals of a receiver's points and spans.

use std::collections::{BTreeMap, BTreeSet};

use opentelemetry_proto::tonic::{
    collector::{metrics::v1::ExportMetricsServiceRequest, trace::v1::ExportTraceServiceRequest},
    metrics::v1::{metric::Data, number_data_point::Value},
};

/// `flowcar.tcp.io`, transmit, of one request: start, end, bytes.
pub(super) type Io = (u64, u64, i64);

/// The points of `flowcar.tcp.io`, transmit, in the order in which they came.
pub(super) fn io(requests: &[ExportMetricsServiceRequest]) -> Vec<Io> {
    let metrics = requests.iter().flat_map(|request| {
        let scopes = request.resource_metrics.iter();
        let scopes = scopes.flat_map(|resource| &resource.scope_metrics);
        scopes.flat_map(|scope| &scope.metrics)
    });
    let io = metrics.filter(|metric| metric.name == "flowcar.tcp.io");
    io.flat_map(|metric| match &metric.data {
        Some(Data::Sum(sum)) => &sum.data_points,
        other => panic!("{other:?}"),
    })
    .filter(|point| {
        point.attributes.iter().any(|attribute| {
            let value = format!("{:?}", attribute.value);
            attribute.key == "network.io.direction" && value.contains("transmit")
        })
    })
    .map(|point| match point.value {
        Some(Value::AsInt(bytes)) => (point.start_time_unix_nano, point.time_unix_nano, bytes),
        other => panic!("{other:?}"),
    })
    .collect()
}

/// The sum of deltas, each identified by its times.
///
/// # Panics
/// When two of them overlap, or two of the same times differ: a receiver could not make a sum of these.
pub(super) fn sum_of_deltas(points: &[Io]) -> i64 {
    let mut distinct = BTreeMap::new();
    for (start, end, bytes) in points {
        let known = distinct.insert((*start, *end), *bytes);
        assert!(known.is_none_or(|known| known == *bytes), "{points:?}");
    }
    let mut upto = 0;
    for (start, end) in distinct.keys() {
        assert!(*start >= upto, "{distinct:?} overlap");
        upto = *end;
    }
    distinct.values().sum()
}

/// The last of cumulative sums.
///
/// # Panics
/// When they ever shrink or go back in time: a receiver would refuse that, or take it for a restart.
pub(super) fn last_of_sums(points: &[Io]) -> i64 {
    // The zero point of a sum, which is sent again after an export with an unknown result.
    let (zeros, points): (Vec<Io>, Vec<Io>) = points.iter().partition(|point| point.0 == point.1);
    assert!(zeros.iter().all(|zero| zero.2 == 0), "{zeros:?}");
    assert!(!zeros.is_empty(), "{points:?}");
    for pair in points.windows(2) {
        assert!(pair[0].0 == pair[1].0 && pair[0].1 <= pair[1].1, "{pair:?}");
        assert!(pair[0].2 <= pair[1].2, "{pair:?}");
    }
    points.last().expect("a point").2
}

/// The span ids, each once.
pub(super) fn span_ids(requests: &[ExportTraceServiceRequest]) -> BTreeSet<Vec<u8>> {
    let resources = requests.iter().flat_map(|request| &request.resource_spans);
    let scopes = resources.flat_map(|resource| &resource.scope_spans);
    let spans = scopes.flat_map(|scope| &scope.spans);
    spans.map(|span| span.span_id.clone()).collect()
}
