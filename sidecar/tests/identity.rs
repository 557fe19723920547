//! Ids that two ends derive without communication.

use std::collections::HashSet;

use flowcar::flow::{Role, TraceIdentity};
use proptest::prelude::*;

proptest! {
    #[test]
    fn both_ends_derive_the_same_ids(client_isn in any::<u32>(), server_isn in any::<u32>()) {
        let client = TraceIdentity::of_handshake(client_isn, server_isn, Role::Client);
        let server = TraceIdentity::of_handshake(client_isn, server_isn, Role::Server);
        prop_assert_eq!(client.trace_id, server.trace_id);
        prop_assert_ne!(client.span_id, server.span_id);
        prop_assert_eq!(server.parent_span_id, Some(client.span_id));
        prop_assert_eq!(client.parent_span_id, None);
        prop_assert!(client.shared && server.shared);
        prop_assert!(client.trace_id != 0 && client.span_id != 0 && server.span_id != 0);
    }

    #[test]
    fn different_numbers_give_a_different_trace(a in any::<(u32, u32)>(), b in any::<(u32, u32)>()) {
        prop_assume!(a != b);
        let trace = |(client, server)| TraceIdentity::of_handshake(client, server, Role::Client);
        prop_assert_ne!(trace(a).trace_id, trace(b).trace_id);
        prop_assert_ne!(trace(a).span_id, trace(b).span_id);
    }

    #[test]
    fn flows_without_handshake_share_no_trace(a in any::<u128>(), b in any::<u128>()) {
        prop_assume!(a != b);
        let (a, b) = (TraceIdentity::unshared(a), TraceIdentity::unshared(b));
        prop_assert!(!a.shared && a.parent_span_id.is_none());
        prop_assert!(a.trace_id != 0 && a.span_id != 0);
        prop_assert_ne!(a.trace_id, b.trace_id);
    }
}

/// Neighbouring numbers, as one host draws them for one peer, spread over all bits.
#[test]
fn neighbouring_numbers_share_no_ids() {
    let mut ids = HashSet::new();
    for isn in 0..10_000 {
        let client = TraceIdentity::of_handshake(isn, 1, Role::Client);
        let server = TraceIdentity::of_handshake(isn, 1, Role::Server);
        for id in [
            client.trace_id as u64,
            (client.trace_id >> 64) as u64,
            client.span_id,
            server.span_id,
        ] {
            assert!(ids.insert(id), "{id:x} came twice");
        }
        for part in 0..3 {
            assert!(ids.insert(client.part(part)), "a part's span is its own");
        }
    }
    // 70,000 draws of 64 bits: every 16-bit prefix class is about as full as another.
    let high = ids.iter().filter(|id| **id >> 63 == 1).count();
    assert!((30_000..40_000).contains(&high), "{high} of 70,000");
}
