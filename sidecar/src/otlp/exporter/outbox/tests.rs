use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};

use super::*;
use crate::otlp::split;

/// A batch of spans whose names have these lengths.
fn outbox(lengths: &[usize], most: usize) -> Outbox {
    let spans = lengths.iter().map(|length| Span {
        name: "x".repeat(*length),
        ..Default::default()
    });
    let request = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            scope_spans: vec![ScopeSpans {
                spans: spans.collect(),
                ..Default::default()
            }],
            ..Default::default()
        }],
    };
    Outbox::new(Signal::Traces, split::traces(request, most), most)
}

/// Sends all to a receiver that takes requests of so many bytes. Returns items taken, items dropped, and requests.
fn send(mut outbox: Outbox, limit: usize) -> (usize, usize, usize) {
    let (mut taken, mut evicted, mut requests) = (0, 0, 0);
    while let Some(next) = outbox.next() {
        match next {
            Next::GiveUp(part) => evicted += part.items,
            Next::Send(part) => {
                requests += 1;
                if part.len() <= limit {
                    taken += part.items;
                    outbox.taken(&part);
                } else if let Some(alone) = outbox.too_large(part) {
                    evicted += alone.items;
                }
            }
        }
    }
    (taken, evicted, requests)
}

#[test]
fn fitting_batch_is_sent_in_one_request() {
    assert_eq!(
        send(outbox(&[100; 100], MOST_BYTES), MOST_BYTES),
        (100, 0, 1)
    );
}

#[test]
fn refused_part_is_halved_until_it_fits() {
    let (taken, evicted, requests) = send(outbox(&[100; 1_000], MOST_BYTES), 10_000);
    assert_eq!((taken, evicted), (1_000, 0));
    assert!(requests < 60, "{requests}");
}

#[test]
fn too_large_item_is_dropped_alone_at_any_position() {
    for at in [0, 7, 99] {
        let mut lengths = [100; 100];
        lengths[at] = 5_000;
        let (taken, evicted, requests) = send(outbox(&lengths, MOST_BYTES), 3_000);
        assert_eq!((taken, evicted), (99, 1), "{at}");
        assert!(requests < 60, "{at}: {requests}");
    }
}

#[test]
fn few_requests_are_sent_when_all_are_refused() {
    let lengths: Vec<_> = (0..5_000).map(|at| 100 + at * 7919 % 300).collect();
    let (taken, evicted, requests) = send(outbox(&lengths, MOST_BYTES), 0);
    assert_eq!((taken, evicted), (0, 5_000));
    assert!(requests < 60, "{requests}");
}

#[test]
fn item_above_the_limit_is_tried_before_it_is_dropped() {
    let (taken, evicted, _) = send(outbox(&[50, 5_000, 50], 1_000), MOST_BYTES);
    assert_eq!((taken, evicted), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn learnt_limit_expires_after_an_hour_and_has_a_minimum() {
    let lines = super::super::tests::Lines::default();
    let _logging = lines.logging();
    let mut limit = SizeLimit::default();
    let mut refused = outbox(&[100; 1_000], MOST_BYTES);
    assert!(refused.is_untouched());
    let Some(Next::Send(part)) = refused.next() else {
        panic!("nothing to send");
    };
    assert_eq!(refused.too_large(part), None);
    assert!(!refused.is_untouched());
    limit.learn(&refused);
    assert_eq!(limit.most(), MOST_BYTES, "nothing was taken");
    let Some(Next::Send(part)) = refused.next() else {
        panic!("nothing to send");
    };
    refused.taken(&part);
    limit.learn(&refused);
    assert_eq!(limit.most(), part.len());
    tokio::time::advance(BELIEVED_FOR).await;
    assert_eq!(limit.most(), MOST_BYTES);
    refused.taken = Some(10);
    for _ in 0..9 {
        limit.learn(&refused);
        assert_eq!(limit.most(), LEAST_LEARNT);
    }
    let text = lines.text();
    let logged = text.matches("the receiver refuses larger requests");
    assert_eq!(logged.count(), 2, "once for each size: {text}");
}
