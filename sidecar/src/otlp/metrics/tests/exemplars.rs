//! Exemplars name the spans of the slowest durations.

use super::*;

#[test]
fn histogram_exemplar_is_the_slowest_span_of_its_interval() {
    let mut flow = flow();
    let anchor = Anchor::new(Monotonic(0), START);
    let exemplars = |flow: &Flow| {
        let mut exemplars = Exemplars::default();
        exemplars.offer(Candidates::of(flow, &anchor).expect("a series"));
        exemplars.reported_in(&full().series)
    };
    let config = Config::from_vars([]).expect("defaults");
    let resource = Resource::new(&config, &web());
    let reported = |exemplars: &Exemplars| {
        let export = encode(&full(), &resource, PLAIN, None, exemplars, true);
        let metrics = export.resource_metrics[0].scope_metrics[0].metrics.clone();
        let Some(Data::ExponentialHistogram(rtt)) = &named(&metrics, "flowcar.tcp.rtt").data else {
            panic!("no histogram");
        };
        rtt.data_points[0].exemplars.clone()
    };
    let found = reported(&exemplars(&flow));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].trace_id, flow.trace.trace_id.to_be_bytes());
    assert_eq!(found[0].span_id, flow.trace.span_id.to_be_bytes());
    assert_eq!(found[0].time_unix_nano, START + 9);
    let value = found[0].value.expect("a value");
    assert_eq!(value, exemplar::Value::AsDouble(0.02));

    // A flow that closed since the report is not in the histogram yet.
    flow.seen = Monotonic(1 << 60);
    assert!(reported(&exemplars(&flow)).is_empty());
    flow.seen = Monotonic(9);

    // A series that this snapshot does not have: it was dropped meanwhile.
    flow.series = Some(SeriesId(9));
    assert!(reported(&exemplars(&flow)).is_empty());

    flow.series = None;
    assert!(
        Candidates::of(&flow, &anchor).is_none(),
        "no series counts it"
    );
}

#[test]
fn slower_duration_is_the_exemplar() {
    let anchor = Anchor::new(Monotonic(0), START);
    let mut exemplars = Exemplars::default();
    for (isn, rtt_ns) in [(1, 5_000_000), (2, 7_000_000), (3, 6_000_000)] {
        let mut flow = flow();
        flow.trace = TraceIdentity::of_handshake(isn, 7, Role::Client);
        flow.rtt = recorded(&[rtt_ns]);
        exemplars.offer(Candidates::of(&flow, &anchor).expect("a series"));
    }
    let slowest = exemplars.get(SERIES, Measure::Rtt(RttKind::Measured));
    let slowest = slowest.expect("an exemplar");
    let expected = TraceIdentity::of_handshake(2, 7, Role::Client);
    assert_eq!(
        (slowest.value_ns, slowest.span_id),
        (7_000_000, expected.span_id)
    );
}
