//! Exemplars of exported histograms.

use super::*;

#[tokio::test]
async fn exemplar_names_a_delivered_span() {
    let (sink, mut received) = sink().await;
    let mut exporter = start(
        &format!("http://{}", sink.grpc()),
        &[("FLOWCAR_SPANS_PER_SECOND", "1")],
    );
    // More than ten in the first second: not all are sent.
    for isn in 0..100 {
        let mut flow = flow(isn);
        flow.rtt.record(1_000_000 + u64::from(isn));
        flow.series = Some(SeriesId::default());
        exporter.flow(&flow, &anchor());
    }
    let delivered = spans(next(&mut received).await);
    assert_eq!(delivered.len(), 10);
    let waiting = async {
        while exporter.self_metrics().span_queue.items > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LIMIT, waiting).await.expect("a settled export");
    let mut report = snapshot(1_800_000_000_000_000_000, 1);
    for series in report.series.values_mut() {
        series
            .rtt
            .entry(RttKind::Measured)
            .or_default()
            .record(1_000_000);
    }
    exporter.metrics(report);
    let Received::Metrics(metrics) = next(&mut received).await else {
        panic!("no metrics");
    };
    let metrics = &metrics.resource_metrics[0].scope_metrics[0].metrics;
    let rtt = metrics
        .iter()
        .find(|metric| metric.name == "flowcar.tcp.rtt");
    let Some(Data::ExponentialHistogram(rtt)) = rtt.and_then(|rtt| rtt.data.as_ref()) else {
        panic!("no RTTs");
    };
    let [exemplar] = &rtt.data_points.last().expect("a point").exemplars[..] else {
        panic!("{rtt:?}");
    };
    let named = delivered
        .iter()
        .find(|span| span.span_id == exemplar.span_id);
    assert_eq!(
        named.expect("among the delivered").trace_id,
        exemplar.trace_id
    );
}

/// Deltas over an interval shorter than a span's delivery: the exemplar comes with the next point of its series.
#[tokio::test]
async fn deltas_have_exemplars() {
    let (sink, mut received) = sink().await;
    let delta = ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta");
    let mut exporter = start(&format!("http://{}", sink.grpc()), &[delta]);
    let start = 1_700_000_000_000_000_000;
    let mut rtt = Histogram::default();
    let mut reported = Vec::new();
    for number in 1..=4u32 {
        let mut flow = flow(number);
        flow.rtt.record(u64::from(number) * 1_000_000);
        flow.series = Some(SeriesId::default());
        rtt.merge(&flow.rtt);
        let mut report = snapshot(start + u64::from(number) * 1_000_000_000, 1);
        report.start_unix_ns = start;
        for series in report.series.values_mut() {
            series.rtt.insert(RttKind::Measured, rtt.clone());
        }
        exporter.metrics(report);
        let Received::Metrics(metrics) = next(&mut received).await else {
            panic!("no metrics");
        };
        let metrics = &metrics.resource_metrics[0].scope_metrics[0].metrics;
        let rtt = metrics.iter().find(|of| of.name == "flowcar.tcp.rtt");
        let Some(Data::ExponentialHistogram(rtt)) = rtt.and_then(|rtt| rtt.data.as_ref()) else {
            panic!("no RTTs");
        };
        let point = &rtt.data_points[0];
        assert_eq!(point.count, 1);
        for exemplar in &point.exemplars {
            let times = point.start_time_unix_nano..=point.time_unix_nano;
            assert!(times.contains(&exemplar.time_unix_nano), "{point:?}");
            reported.push(exemplar.span_id.clone());
        }
        // It closed in the interval of this report; its span arrives after the report.
        exporter.flow(&flow, &anchor());
        assert_eq!(spans(next(&mut received).await).len(), 1);
        while exporter.self_metrics().span_queue.items > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let expected = (1..=3).map(|isn| {
        let trace = TraceIdentity::of_handshake(isn, 7, Role::Client);
        trace.span_id.to_be_bytes().to_vec()
    });
    assert_eq!(reported, expected.collect::<Vec<_>>());
}
