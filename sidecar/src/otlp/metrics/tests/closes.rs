//! The points of connections that closed, and of those whose end is unknown.

use super::*;

#[test]
fn unbalanced_books_are_reported() {
    let unbalanced = |snapshot: &Snapshot| {
        let metrics = metrics(snapshot, PLAIN, None);
        match &named(&metrics, "flowcar.self.books.unbalanced").data {
            Some(Data::Gauge(gauge)) => gauge.data_points[0].value,
            other => panic!("{other:?}"),
        }
    };
    let int = |value| Some(number_data_point::Value::AsInt(value));
    assert_eq!(unbalanced(&full()), int(0));
    let mut counted_twice = full();
    counted_twice.books.closed -= 2;
    assert_eq!(unbalanced(&counted_twice), int(2));
    let mut evicted = full();
    evicted.series.get_mut(&key()).unwrap().live -= 1;
    assert_eq!(unbalanced(&evicted), int(1));
    // Not the value of a series that was dropped.
    let mut dropped = full();
    dropped.dropped = DroppedSeries {
        began: 9,
        closed: 9,
    };
    assert_eq!(unbalanced(&dropped), int(0));
}

/// Unattributed losses of a restart and of refusals count as opened or adopted, and are marked, so the points add up to the books.
#[test]
fn unattributed_connections_are_marked() {
    let mut snapshot = full();
    snapshot.unattributed = UnattributedCounts {
        opened: 6,
        adopted_at_restart: 7,
        pending: 1,
        dead: 1,
    };
    let points = |metrics: &[ProtoMetric], name| -> Vec<_> {
        let points = &sum(metrics, name).data_points;
        let figures = points.iter().map(|point| {
            let of = attributes(&point.attributes);
            let get = |name| of.get(name).cloned().unwrap_or_default();
            let has_port = of.contains_key("server.port");
            let (by, mark) = (
                get("flowcar.tcp.adopted.by"),
                get("flowcar.tcp.unattributed"),
            );
            (has_port, by, mark, point.value)
        });
        figures.collect()
    };
    let point = |has_port, by: &str, mark: &str, value| {
        let value = Some(number_data_point::Value::AsInt(value));
        (has_port, by.to_owned(), mark.to_owned(), value)
    };
    let (opened, adopted) = (
        "flowcar.tcp.connection.opened",
        "flowcar.tcp.connection.adopted",
    );
    let cumulative = metrics(&snapshot, PLAIN, None);
    assert_eq!(
        points(&cumulative, opened),
        [point(true, "", "", 3), point(false, "", "true", 6)]
    );
    assert_eq!(
        points(&cumulative, adopted),
        [
            point(true, "startup", "", 1),
            point(true, "restart", "", 1),
            point(false, "restart", "true", 7),
        ]
    );
    assert_eq!(
        points(&cumulative, "flowcar.tcp.connection.live"),
        [point(true, "", "", 1)]
    );
    let (before, mut after) = (snapshot.clone(), snapshot);
    after.unattributed.opened += 1;
    let series = after.series.get_mut(&key()).expect("the series");
    series.adopted_at_restart += 2;
    let deltas = metrics(&after, DELTA, Some(&before));
    assert_eq!(points(&deltas, opened), [point(false, "", "true", 1)]);
    assert_eq!(points(&deltas, adopted), [point(true, "restart", "", 2)]);
    let unfollowed = deltas
        .iter()
        .find(|metric| metric.name == "flowcar.self.unfollowed.time");
    assert_eq!(unfollowed, None, "it was sent");
}

/// `error.type` is on the points of those whose spans have it: not of health checks that a RST ended by design.
#[test]
fn health_checks_are_closed_without_an_error_type() {
    let check = CountedClose {
        reason: CloseReason::ResetReceived,
        is_failure: false,
    };
    let mut snapshot = full();
    let series = snapshot.series.get_mut(&key()).expect("the series");
    series.closed = BTreeMap::from([
        (CloseReason::LocalFin.into(), 2),
        (check, 5),
        (CloseReason::ResetReceived.into(), 1),
    ]);
    series.duration = BTreeMap::from([
        (check, recorded(&[1_000_000; 5])),
        (CloseReason::ResetReceived.into(), recorded(&[1_000_000])),
    ]);
    let metrics = metrics(&snapshot, PLAIN, None);
    let described = |points: &[KeyValue]| {
        let of = attributes(points);
        let get = |name| of.get(name).cloned().unwrap_or_default();
        (get("flowcar.tcp.close.reason"), get("error.type"))
    };
    let named = |reason: &str, error: &str| (reason.to_owned(), error.to_owned());
    let closed = &sum(&metrics, "flowcar.tcp.connection.closed").data_points;
    let closed: BTreeMap<_, _> = closed
        .iter()
        .map(|point| (described(&point.attributes), point.value))
        .collect();
    let value = |value| Some(number_data_point::Value::AsInt(value));
    let expected = [
        (named("local_fin", ""), value(2)),
        (named("reset_received", ""), value(5)),
        (named("reset_received", "reset_received"), value(1)),
    ];
    assert_eq!(closed, BTreeMap::from(expected));
    let durations = metrics
        .iter()
        .find(|metric| metric.name == "flowcar.tcp.connection.duration");
    let Some(Data::ExponentialHistogram(durations)) = durations.and_then(|of| of.data.as_ref())
    else {
        panic!("{durations:?}")
    };
    let durations: BTreeMap<_, _> = durations
        .data_points
        .iter()
        .map(|point| (described(&point.attributes), point.count))
        .collect();
    let expected = [
        (named("reset_received", ""), 5),
        (named("reset_received", "reset_received"), 1),
    ];
    assert_eq!(durations, BTreeMap::from(expected));
}
