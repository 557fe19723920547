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

/// Sends all to a receiver that takes requests of so many bytes: items taken, items given up, and requests.
fn send(mut outbox: Outbox, limit: usize) -> (usize, usize, usize) {
    let (mut taken, mut given_up, mut requests) = (0, 0, 0);
    while let Some(next) = outbox.next() {
        match next {
            Next::GiveUp(part) => given_up += part.items,
            Next::Send(part) => {
                requests += 1;
                if part.len() <= limit {
                    taken += part.items;
                    outbox.taken(&part);
                } else if let Some(alone) = outbox.too_large(part) {
                    given_up += alone.items;
                }
            }
        }
    }
    (taken, given_up, requests)
}

#[test]
fn what_fits_goes_at_once() {
    assert_eq!(
        send(outbox(&[100; 100], MOST_BYTES), MOST_BYTES),
        (100, 0, 1)
    );
}

#[test]
fn halves_are_sent_until_they_fit() {
    let (taken, given_up, requests) = send(outbox(&[100; 1_000], MOST_BYTES), 10_000);
    assert_eq!((taken, given_up), (1_000, 0));
    assert!(requests < 60, "{requests}");
}

#[test]
fn a_large_item_costs_itself_only_wherever_it_stands() {
    for at in [0, 7, 99] {
        let mut lengths = [100; 100];
        lengths[at] = 5_000;
        let (taken, given_up, requests) = send(outbox(&lengths, MOST_BYTES), 3_000);
        assert_eq!((taken, given_up), (99, 1), "{at}");
        assert!(requests < 60, "{at}: {requests}");
    }
}

#[test]
fn where_all_is_refused_few_requests_are_made() {
    let lengths: Vec<_> = (0..5_000).map(|at| 100 + at * 7919 % 300).collect();
    let (taken, given_up, requests) = send(outbox(&lengths, MOST_BYTES), 0);
    assert_eq!((taken, given_up), (0, 5_000));
    assert!(requests < 60, "{requests}");
}

#[test]
fn an_item_above_the_limit_is_tried_before_it_is_given_up() {
    let (taken, given_up, _) = send(outbox(&[50, 5_000, 50], 1_000), MOST_BYTES);
    assert_eq!((taken, given_up), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn a_limit_is_believed_for_an_hour_and_never_made_tiny() {
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
    limit.learn(&refused);
    assert_eq!(limit.most(), LEAST_LEARNT);
}
