//! The decoder against records of known meaning, and against arbitrary bytes.

#[path = "decode/brief.rs"]
mod brief;
mod common;

use std::mem::offset_of;

use common::{blank, bytes, sample};
use flowcar::{
    clock::Anchor,
    flow::{CloseReason, Failure, LastSeen, Malformed, Monotonic, Outcome, Role, RttKind, decode},
    view::{
        Row, json,
        table::{self, Style},
    },
};
use flowcar_shared::{
    histogram::SLOTS,
    record::{
        BRIEF_CLOSE_LEN, BRIEF_OPEN_LEN, FlowRecord, HEADER_LEN, INLINE_SAMPLES, Kind, OPEN_LEN,
        RECORD_LEN, SHORT_LEN, flag,
    },
};
use proptest::prelude::*;

fn closed(last_state: u8, flags: u16) -> FlowRecord {
    FlowRecord {
        kind: Kind::Close as u8,
        last_state,
        flags,
        ..blank(7)
    }
}

#[test]
fn byte_counts_are_payload() {
    let record = FlowRecord {
        // A SYN, 100 bytes and a FIN; 4,000 bytes and a FIN.
        bytes_acked: 102,
        bytes_received: 4001,
        ..closed(4, flag::ORDERLY | flag::FIN_ACKED | flag::FIN_RECEIVED)
    };
    let volume = decode(bytes(&record), 0).unwrap().flow.volume;
    assert_eq!((volume.bytes_sent, volume.bytes_received), (100, 4000));

    let server = FlowRecord {
        role: Role::Server as u8,
        ..record
    };
    let volume = decode(bytes(&server), 0).unwrap().flow.volume;
    assert_eq!(volume.bytes_sent, 101, "only the active side's SYN counts");
}

#[test]
fn client_without_seen_syn_has_no_connect_duration() {
    let record = FlowRecord {
        started_ns: 1_000,
        established_ns: 5_000,
        ..closed(4, 0)
    };
    assert_eq!(
        decode(bytes(&record), 0).unwrap().flow.connect_ns(),
        Some(4_000)
    );
    let unattributed = FlowRecord {
        flags: flag::START_UNSEEN,
        ..record
    };
    assert_eq!(
        decode(bytes(&unattributed), 0).unwrap().flow.connect_ns(),
        None
    );
}

#[test]
fn close_reasons_follow_from_flags_and_last_state() {
    let end = |last_state, flags| {
        decode(bytes(&closed(last_state, flags)), 0)
            .unwrap()
            .flow
            .outcome
    };
    let is = |end| Some(Outcome::Closed(end));
    assert_eq!(
        end(5, flag::ORDERLY | flag::FIN_ACKED),
        is(CloseReason::LocalFin)
    );
    assert_eq!(
        end(9, flag::ORDERLY | flag::PEER_FIN_FIRST),
        is(CloseReason::PeerFin)
    );
    assert_eq!(end(1, 0), is(CloseReason::Reset), "too short for a timer");
    assert_eq!(end(11, flag::FIN_RECEIVED), is(CloseReason::LocalFin));
    assert_eq!(end(1, flag::TIMED_OUT), is(CloseReason::Timeout));
    assert_eq!(end(1, flag::SEGMENTS_SEEN), is(CloseReason::ResetSent));
    assert_eq!(
        end(1, flag::SEGMENTS_SEEN | flag::RESET_RECEIVED),
        is(CloseReason::ResetReceived)
    );
}

/// Data to a peer that has closed is answered with a RST, which is no failure.
#[test]
fn reset_after_peer_fin_is_no_error() {
    let reported = |last_state, flags| decode(bytes(&closed(last_state, flags)), 0).unwrap().flow;
    let seen = flag::SEGMENTS_SEEN | flag::RESET_RECEIVED;
    let received = flag::FIN_RECEIVED;
    for (last_state, fins, expected) in [
        // CLOSE_WAIT, LAST_ACK, CLOSING
        (8, flag::PEER_FIN_FIRST | received, CloseReason::PeerFin),
        (9, flag::PEER_FIN_FIRST | received, CloseReason::PeerFin),
        (11, received, CloseReason::LocalFin),
    ] {
        for flags in [fins, fins | flag::SEGMENTS_SEEN, fins | seen] {
            let flow = reported(last_state, flags);
            assert_eq!(flow.outcome, Some(Outcome::Closed(expected)));
            assert!(flow.reset_after_fin && !flow.is_failure());
        }
        assert!(!reported(last_state, fins | flag::ORDERLY).reset_after_fin);
        let timeout = reported(last_state, fins | flag::TIMED_OUT);
        assert_eq!(timeout.outcome, Some(Outcome::Closed(CloseReason::Timeout)));
        assert!(!timeout.reset_after_fin && timeout.is_failure());
    }
    for last_state in [1, 4] {
        let flow = reported(last_state, seen);
        assert_eq!(
            flow.outcome,
            Some(Outcome::Closed(CloseReason::ResetReceived))
        );
        assert!(!flow.reset_after_fin && flow.is_failure());
    }
}

#[test]
fn failures_follow_from_the_answer() {
    let failure = |record: FlowRecord| {
        let record = FlowRecord {
            established_ns: 0,
            ..record
        };
        decode(bytes(&record), 0).unwrap().flow.outcome
    };
    let is = |failure| Some(Outcome::Failed(failure));
    let attempt = |last_state, flags, segs_in| FlowRecord {
        segs_out: 1,
        segs_in,
        ..closed(last_state, flags)
    };
    let discarded = flag::SYN_DISCARDED;
    for (last_state, flags, segs_in, expected) in [
        (2, discarded, 1, Failure::Refused),
        (2, flag::TIMED_OUT | discarded, 0, Failure::Timeout),
        (2, flag::TIMED_OUT | discarded, 1, Failure::Timeout),
        // SYNs crossed.
        (3, discarded, 2, Failure::Reset),
        (4, 0, 1, Failure::Abandoned),
    ] {
        let reported = failure(attempt(last_state, flags, segs_in));
        assert_eq!(reported, is(expected), "{last_state} {flags:x} {segs_in}");
    }
    assert_eq!(failure(closed(2, 0)), is(Failure::Local));
    // A deferred SYN that never went.
    assert_eq!(failure(closed(2, flag::ABANDONED)), is(Failure::Abandoned));
}

/// It failed within the call of connect(), and its record comes when the socket is closed.
#[test]
fn attempt_without_a_syn_is_local_and_has_no_length() {
    let record = FlowRecord {
        started_ns: 1_000,
        established_ns: 0,
        emitted_ns: 9_000,
        local_addr: [0; 4],
        local_port: 0,
        ..closed(7, flag::START_UNSEEN)
    };
    let flow = decode(bytes(&record), 0).unwrap().flow;
    assert_eq!(flow.outcome, Some(Outcome::Failed(Failure::Local)));
    assert_eq!(
        (flow.started, flow.seen),
        (Monotonic(1_000), Monotonic(1_000))
    );
    assert_eq!(flow.connect_ns(), None);
    assert_eq!(flow.local.port(), 0);
    assert_eq!(flow.server(), Some(flow.peer));
}

/// A failure that the record alone does not determine is left open.
#[test]
fn unanswered_attempts_have_an_undetermined_failure() {
    for (last_state, flags, segs_in, last_seen) in [
        (2, 0, 0, LastSeen::Queued),
        (2, flag::SYN_DISCARDED, 0, LastSeen::Discarded),
        // A RST would have discarded the SYN.
        (2, 0, 1, LastSeen::Queued),
        (3, 0, 1, LastSeen::Queued),
        (3, flag::SYN_DISCARDED, 1, LastSeen::Discarded),
        (2, flag::ABANDONED, 0, LastSeen::Closed),
        // A segment that was no answer came before.
        (2, flag::ABANDONED, 1, LastSeen::Closed),
        (3, flag::ABANDONED, 1, LastSeen::Closed),
    ] {
        let record = FlowRecord {
            established_ns: 0,
            segs_out: 1,
            segs_in,
            ..closed(last_state, flags)
        };
        let record = decode(bytes(&record), 0).unwrap();
        let failed = record.failed.unwrap();
        assert_eq!(failed.unanswered.unwrap().last_seen, last_seen);
        assert_eq!(failed.is_here, None);
        assert_eq!(record.flow.outcome, Some(Outcome::Failed(Failure::Other)));
    }
}

#[test]
fn lengths_kinds_and_roles_are_checked() {
    let mut record = blank(1);
    sample(&mut record, 500);
    let whole = bytes(&record);
    assert!(decode(whole, 0).is_ok());
    let wrong = |result| matches!(result, Err(Malformed::Length { .. }));
    for length in [
        0,
        1,
        BRIEF_OPEN_LEN - 1,
        BRIEF_OPEN_LEN + 1,
        // Not the record of a close.
        BRIEF_CLOSE_LEN,
        OPEN_LEN - 1,
        OPEN_LEN + 1,
        SHORT_LEN - 1,
        SHORT_LEN,
        HEADER_LEN - 1,
        HEADER_LEN,
        whole.len() - 1,
        whole.len() - 4,
    ] {
        assert!(wrong(decode(&whole[..length], 0).map(drop)), "{length}");
    }
    let longer = [whole, &[0; 4]].concat();
    assert!(wrong(decode(&longer, 0).map(drop)));
    assert!(wrong(decode(&[0; RECORD_LEN + 4], 0).map(drop)));
    for kind in [0, 4, 255] {
        let result = decode(bytes(&FlowRecord { kind, ..record }), 0);
        assert_eq!(result.map(drop), Err(Malformed::Kind(kind)));
    }
    for role in [3, 255] {
        let result = decode(bytes(&FlowRecord { role, ..record }), 0);
        assert_eq!(result.map(drop), Err(Malformed::Role(role)));
    }
}

/// The short record of a flow without socket storage equals the whole record with zeros after it.
#[test]
fn short_record_decodes_as_whole() {
    let mut record = blank(1);
    record.inline_samples_used = 2;
    record.inline_samples[..2].copy_from_slice(&[300, 500]);
    record.total_retrans = 3;
    record.rtt_min_us = 0;
    let whole = decode(bytes(&record), 0).expect("a record");
    let short = decode(&bytes(&record)[..SHORT_LEN], 0).expect("a record");
    assert_eq!(short.kind, whole.kind);
    let line = |flow| json::line(&Row::of(flow, &Anchor::new(Monotonic(0), 0)));
    assert_eq!(line(&short.flow), line(&whole.flow));
    assert_eq!(short.flow.rtt.count(), 2);
    let longer = &bytes(&record)[..SHORT_LEN + 4];
    assert!(decode(longer, 0).is_err());
}

/// A client's origin is at the end of its open record, and in the place of its samples until there is one.
#[test]
fn origin_is_a_clients_until_its_first_sample() {
    let ids = |record: &FlowRecord, len: usize| {
        let origin = decode(&bytes(record)[..len], 0)
            .expect("a record")
            .flow
            .origin;
        let pid = origin.process.map(|process| process.pid.get());
        (origin.cgroup.map(std::num::NonZeroU64::get), pid)
    };
    let known = (Some(5 << 32 | 7), Some(42));
    let client = FlowRecord {
        rtt_min_us: 0,
        inline_samples: [7, 5, 0, 0, 0, 42],
        ..blank(3)
    };
    assert_eq!(ids(&client, SHORT_LEN), known);
    let sampled = FlowRecord {
        inline_samples_used: 1,
        ..client
    };
    assert_eq!(ids(&sampled, SHORT_LEN), (None, None));
    let server = FlowRecord {
        role: Role::Server as u8,
        ..client
    };
    assert_eq!(ids(&server, SHORT_LEN), (None, None));
    let open = FlowRecord {
        bytes_acked: 5 << 32 | 7,
        bytes_received: 42,
        ..blank(1)
    };
    assert_eq!(ids(&open, OPEN_LEN), known, "the counts' place");
    let volume = decode(&bytes(&open)[..OPEN_LEN], 0)
        .expect("a record")
        .flow
        .volume;
    assert_eq!((volume.bytes_sent, volume.bytes_received), (0, 0));
}

/// In the place of a client's cgroup is a server's network namespace.
#[test]
fn network_namespace_is_a_servers_until_its_first_sample() {
    let netns = |record: &FlowRecord, len: usize| {
        let netns = decode(&bytes(record)[..len], 0).expect("a record").netns;
        netns.map(std::num::NonZeroU64::get)
    };
    let server = FlowRecord {
        role: Role::Server as u8,
        bytes_acked: 6 << 32 | 7,
        inline_samples: [7, 5, 0, 0, 0, 42],
        rtt_min_us: 0,
        ..blank(1)
    };
    assert_eq!(netns(&server, OPEN_LEN), Some(6 << 32 | 7));
    assert_eq!(netns(&server, SHORT_LEN), Some(5 << 32 | 7));
    assert_eq!(netns(&server, HEADER_LEN), Some(5 << 32 | 7));
    let sampled = FlowRecord {
        inline_samples_used: 1,
        ..server
    };
    assert_eq!(netns(&sampled, SHORT_LEN), None);
    let unread = FlowRecord {
        inline_samples: [0; INLINE_SAMPLES],
        ..server
    };
    assert_eq!(netns(&unread, SHORT_LEN), None);
    let client = FlowRecord {
        role: Role::Client as u8,
        ..server
    };
    for len in [OPEN_LEN, SHORT_LEN, HEADER_LEN] {
        assert_eq!(netns(&client, len), None);
    }
}

/// So does its open record, which is shorter than any other record may be.
#[test]
fn open_record_may_omit_the_counts() {
    let record = FlowRecord {
        bytes_acked: 0,
        rtt_min_us: 0,
        ..blank(1)
    };
    let whole = decode(bytes(&record), 0).expect("a record");
    let short = decode(&bytes(&record)[..OPEN_LEN], 0).expect("a record");
    assert_eq!(short.kind, Kind::Open);
    let line = |flow| json::line(&Row::of(flow, &Anchor::new(Monotonic(0), 0)));
    assert_eq!(line(&short.flow), line(&whole.flow));
    for kind in [Kind::Sample, Kind::Close] {
        let kind = kind as u8;
        let other = FlowRecord { kind, ..record };
        let result = decode(&bytes(&other)[..OPEN_LEN], 0);
        assert!(
            matches!(result, Err(Malformed::Length { .. })),
            "{result:?}"
        );
    }
}

/// Its application may have chosen both numbers (TCP_REPAIR), to join another connection's trace.
#[test]
fn connection_without_received_data_shares_no_trace() {
    for (segs_in, shared) in [(0, false), (1, true)] {
        let record = FlowRecord {
            kind: Kind::Close as u8,
            segs_in,
            ..blank(1)
        };
        let flow = decode(bytes(&record), 0).expect("a record").flow;
        assert!(flow.established.is_some());
        assert_eq!(flow.trace.shared, shared, "{segs_in} segments");
    }
}

/// A minimum above the maximum has no quantiles: showing them would panic.
#[test]
fn inconsistent_record_is_malformed() {
    let mut record = blank(1);
    sample(&mut record, 500);
    record.rtt_min_us = record.rtt_max_us + 1;
    assert!(decode(bytes(&record), 0).is_err());
    let record = FlowRecord {
        inline_samples_used: INLINE_SAMPLES as u32 + 1,
        ..blank(1)
    };
    assert_eq!(
        decode(bytes(&record), 0).map(drop),
        Err(Malformed::InlineSamples(INLINE_SAMPLES as u32 + 1))
    );
}

/// Every record that decodes can also be shown.
fn survives(bytes: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(record) = decode(bytes, 1) {
        let slots = bytes
            .get(offset_of!(FlowRecord, slots_used)..)
            .map_or(0, |rest| u16::from_ne_bytes([rest[0], rest[1]]).into());
        let is_short = match bytes.len() {
            OPEN_LEN => record.kind == Kind::Open,
            SHORT_LEN => slots == 0,
            BRIEF_OPEN_LEN => record.kind == Kind::Open,
            BRIEF_CLOSE_LEN => record.kind == Kind::Close,
            _ => false,
        };
        prop_assert!(is_short || bytes.len() == HEADER_LEN + 4 * slots);
        prop_assert!(slots <= SLOTS);
        prop_assert_eq!(record.flow.outcome.is_some(), record.kind == Kind::Close);
        let anchor = Anchor::new(Monotonic(0), 0);
        let row = Row::of(&record.flow, &anchor);
        let line: serde_json::Value =
            serde_json::from_str(&json::line(&row)).expect("a line is JSON");
        prop_assert!(line.is_object());
        table::flow(&row, None, Style::Plain);
    }
    Ok(())
}

prop_compose! {
    /// A header of any bytes that passes the checks of length, kind, role and single samples, as many slots as it names,
    /// and a least sample that is no more than the greatest.
    fn plausible()(
        mut header in proptest::collection::vec(any::<u8>(), HEADER_LEN),
        slots in prop_oneof![Just(Vec::new()), proptest::collection::vec(any::<u32>(), 0..=SLOTS)],
        kind in 1_u8..=3,
        role in 0_u8..=2,
        extremes in any::<(u32, u32)>(),
        inline_samples in 0..=INLINE_SAMPLES as u32,
        short in any::<bool>(),
    ) -> Vec<u8> {
        header[offset_of!(FlowRecord, kind)] = kind;
        header[offset_of!(FlowRecord, role)] = role;
        let used = (slots.len() as u16).to_ne_bytes();
        header[offset_of!(FlowRecord, slots_used)..][..2].copy_from_slice(&used);
        let (least, greatest) = (extremes.0.min(extremes.1), extremes.0.max(extremes.1));
        header[offset_of!(FlowRecord, rtt_min_us)..][..4].copy_from_slice(&least.to_ne_bytes());
        header[offset_of!(FlowRecord, rtt_max_us)..][..4].copy_from_slice(&greatest.to_ne_bytes());
        header[offset_of!(FlowRecord, inline_samples_used)..][..4].copy_from_slice(&inline_samples.to_ne_bytes());
        if short && slots.is_empty() {
            header.truncate(if kind == Kind::Open as u8 { OPEN_LEN } else { SHORT_LEN });
        }
        header.extend(slots.iter().flat_map(|slot| slot.to_ne_bytes()));
        header
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..RECORD_LEN + 16)) {
        survives(&bytes)?;
    }

    #[test]
    fn plausible_bytes_never_panic(bytes in plausible()) {
        prop_assert!(decode(&bytes, 1).is_ok());
        survives(&bytes)?;
    }

    /// The counts come out again.
    #[test]
    fn samples_survive(samples in proptest::collection::vec(8_u32..16_000_000, 1..200)) {
        let mut record = blank(3);
        // The kernel keeps the first samples inline.
        let (inline_samples, more) = samples.split_at(samples.len().min(INLINE_SAMPLES));
        record.inline_samples[..inline_samples.len()].copy_from_slice(inline_samples);
        record.inline_samples_used = inline_samples.len() as u32;
        for rtt_us in more {
            sample(&mut record, *rtt_us);
        }
        let flow = decode(bytes(&record), 0).expect("a whole record").flow;
        prop_assert_eq!(flow.rtt_kind, RttKind::Measured);
        prop_assert_eq!(flow.rtt.count(), samples.len() as u64);
        let sum: u128 = samples.iter().map(|us| u128::from(*us) * 1000).sum();
        prop_assert_eq!(flow.rtt.sum_ns(), sum);
        let least = samples.iter().min().map(|us| u64::from(*us) * 1000);
        let greatest = samples.iter().max().map(|us| u64::from(*us) * 1000);
        prop_assert_eq!((flow.rtt.min_ns(), flow.rtt.max_ns()), (least, greatest));
    }
}
