//! Since when points count: since the start, or since the last report.

use super::*;

#[test]
fn cumulative_points_count_since_the_start() {
    let (before, after) = (full(), later());
    let metrics = metrics(&after, PLAIN, Some(&before));
    let io = sum(&metrics, "flowcar.tcp.io");
    assert_eq!(
        io.aggregation_temporality(),
        AggregationTemporality::Cumulative
    );
    assert_eq!(by_attribute(io, "network.io.direction")["transmit"], 150);
    assert_eq!(io.data_points[0].start_time_unix_nano, START);
    assert_eq!(io.data_points[0].time_unix_nano, AT + 10_000_000_000);
}

/// [`full`], ten seconds on.
fn later() -> Snapshot {
    let mut snapshot = full();
    snapshot.at_unix_ns += 10_000_000_000;
    let series = snapshot.series.get_mut(&key()).expect("the series");
    series.volume.bytes_sent += 50;
    series
        .rtt
        .get_mut(&RttKind::Measured)
        .expect("RTTs")
        .record(5_000_000);
    snapshot
}

#[test]
fn deltas_are_since_the_acknowledged_report_and_omit_zeros() {
    let (before, after) = (full(), later());
    let metrics = metrics(&after, DELTA, Some(&before));
    let io = sum(&metrics, "flowcar.tcp.io");
    assert_eq!(io.aggregation_temporality(), AggregationTemporality::Delta);
    assert_eq!(
        by_attribute(io, "network.io.direction"),
        BTreeMap::from([("transmit".to_owned(), 50)])
    );
    assert_eq!(io.data_points[0].start_time_unix_nano, AT);
    let live = sum(&metrics, "flowcar.tcp.connection.live");
    assert_eq!(
        live.aggregation_temporality(),
        AggregationTemporality::Cumulative
    );
    assert_eq!(live.data_points[0].start_time_unix_nano, START);
    let Some(Data::ExponentialHistogram(rtt)) = &named(&metrics, "flowcar.tcp.rtt").data else {
        panic!("no exponential histogram")
    };
    let point = &rtt.data_points[0];
    assert_eq!((point.count, point.sum), (1, Some(0.005)));
    assert!(
        metrics
            .iter()
            .all(|metric| metric.name != "flowcar.tcp.segments")
    );
}

#[test]
fn lowmemory_makes_deltas_of_histograms_only() {
    let options = Options {
        temporality: Temporality::LowMemory,
        ..PLAIN
    };
    let metrics = metrics(&later(), options, Some(&full()));
    let io = sum(&metrics, "flowcar.tcp.io");
    assert_eq!(
        io.aggregation_temporality(),
        AggregationTemporality::Cumulative
    );
    let Some(Data::ExponentialHistogram(rtt)) = &named(&metrics, "flowcar.tcp.rtt").data else {
        panic!("no exponential histogram")
    };
    assert_eq!(rtt.aggregation_temporality(), AggregationTemporality::Delta);
    assert_eq!(rtt.data_points[0].count, 1);
}

/// A series that was dropped and recreated counts from zero, whatever the receiver acknowledged of the one before.
#[test]
fn delta_of_a_recreated_series_counts_from_zero() {
    let (before, mut after) = (full(), later());
    after
        .series
        .get_mut(&key())
        .expect("the series")
        .since_unix_ns += 1;
    let metrics = metrics(&after, DELTA, Some(&before));
    let io = by_attribute(sum(&metrics, "flowcar.tcp.io"), "network.io.direction");
    assert_eq!(
        io,
        BTreeMap::from([("transmit".to_owned(), 150), ("receive".to_owned(), 4096)])
    );
}

/// Over a series' life the extremes stop to change, so only points of an interval have them.
#[test]
fn cumulative_histograms_have_no_extremes() {
    let extremes = |temporality, histograms| {
        let options = Options {
            temporality,
            histograms,
            ..PLAIN
        };
        match &named(&metrics(&full(), options, None), "flowcar.tcp.rtt").data {
            Some(Data::ExponentialHistogram(of)) => (of.data_points[0].min, of.data_points[0].max),
            Some(Data::Histogram(of)) => (of.data_points[0].min, of.data_points[0].max),
            other => panic!("{other:?}"),
        }
    };
    for histograms in [Histograms::Exponential, Histograms::Explicit] {
        let of = |temporality| extremes(temporality, histograms);
        assert_eq!(of(Temporality::Cumulative), (None, None));
        assert_eq!(of(Temporality::Delta), (Some(0.02), Some(0.02)));
        assert_eq!(of(Temporality::LowMemory), (Some(0.02), Some(0.02)));
    }
}
