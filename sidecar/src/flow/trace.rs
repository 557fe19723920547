//! Trace and span ids that both ends of a connection derive without communicating.
//!
//! After the handshake each end knows both initial sequence numbers, and address translation leaves them
//! alone. Linux draws them from SipHash over the addresses and a clock (RFC 6528; net/core/secure_seq.c),
//! so the pair is 64 bits that no other connection nearby shares; the mixing below only spreads them over
//! the 128 bits of a trace id, it adds no secret.

use super::Role;

/// A span's place in its trace, in the W3C's sizes (Trace Context level 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceIdentity {
    /// The trace: the same at both ends.
    pub trace_id: u128,
    /// This end's span.
    pub span_id: u64,
    /// The span of the other end that is this one's parent: the client's for a server, none for a client.
    pub parent_span_id: Option<u64>,
    /// Whether the ids come from the handshake, so that the other end has the same trace.
    pub shared: bool,
}

impl TraceIdentity {
    /// The ids of the end with this `role` in the connection with these initial sequence numbers.
    pub fn of_handshake(client_isn: u32, server_isn: u32, role: Role) -> Self {
        let pair = u64::from(client_isn) << 32 | u64::from(server_isn);
        let client = non_zero(mix(pair ^ 0x636c_6965_6e74));
        let server = non_zero(mix(pair ^ 0x7365_7276_6572));
        let high = mix(pair ^ 0x7472_6163_655f_6869);
        let low = non_zero(mix(pair ^ 0x7472_6163_655f_6c6f));
        Self {
            trace_id: u128::from(high) << 64 | u128::from(low),
            span_id: if role == Role::Server { server } else { client },
            parent_span_id: (role == Role::Server).then_some(client),
            shared: true,
        }
    }

    /// Ids for a flow whose handshake was not seen, or that never had one, out of `seed`, which must differ from flow to flow
    /// across the fleet (a random number of the process and the socket's cookie, say).
    pub fn unshared(seed: u128) -> Self {
        let (high, low) = ((seed >> 64) as u64, seed as u64);
        let first = mix(high ^ mix(low));
        let second = non_zero(mix(first ^ low));
        Self {
            trace_id: u128::from(first) << 64 | u128::from(second),
            span_id: non_zero(mix(second)),
            parent_span_id: None,
            shared: false,
        }
    }

    /// The id of the `n`-th interim span of this flow.
    pub fn part(&self, n: u64) -> u64 {
        non_zero(mix(self.span_id ^ mix(n.wrapping_add(1))))
    }
}

/// SplitMix64's finaliser (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014): a
/// bijection on 64 bits, so distinct pairs stay distinct.
const fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// All-zero ids are invalid (W3C Trace Context).
const fn non_zero(id: u64) -> u64 {
    if id == 0 { 1 } else { id }
}
