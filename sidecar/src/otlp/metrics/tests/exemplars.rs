//! Exemplars name the spans of the slowest durations.

use super::*;

#[test]
fn histogram_exemplar_is_the_slowest_span_of_its_interval() {
    let mut flow = flow();
    let anchor = Anchor::new(Monotonic(0), START);
    let exemplars = |flow: &Flow| {
        let mut exemplars = Exemplars::default();
        let naming = Config::from_vars([]).expect("defaults").naming;
        exemplars.offer(Candidates::of(flow, &naming, &anchor));
        exemplars.placed(&full().series)
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

    // A series beyond the bound goes to the overflow series, which this snapshot does not have.
    flow.peer = "10.9.9.9:8080".parse().expect("an address");
    assert!(reported(&exemplars(&flow)).is_empty());
}

#[test]
fn slower_duration_is_the_exemplar_also_on_overflow() {
    let naming = Config::from_vars([]).expect("defaults").naming;
    let anchor = Anchor::new(Monotonic(0), START);
    let mut exemplars = Exemplars::default();
    for (isn, peer, rtt_ns) in [(1, 1, 5_000_000), (2, 2, 7_000_000), (3, 2, 6_000_000)] {
        let mut flow = flow();
        flow.trace = TraceIdentity::of_handshake(isn, 7, Role::Client);
        flow.peer = format!("10.9.9.{peer}:8080").parse().expect("an address");
        flow.rtt = recorded(&[rtt_ns]);
        exemplars.offer(Candidates::of(&flow, &naming, &anchor));
    }
    let placed = exemplars.placed(&BTreeMap::new());
    let slowest = placed.get(&SeriesKey::Overflow, Measure::Rtt(RttKind::Measured));
    let slowest = slowest.expect("an exemplar");
    let expected = TraceIdentity::of_handshake(2, 7, Role::Client);
    assert_eq!(
        (slowest.value_ns, slowest.span_id),
        (7_000_000, expected.span_id)
    );
}
