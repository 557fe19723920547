//! The decoder against records whose meaning is known, and against bytes that mean nothing.

mod common;

use std::mem::offset_of;

use common::{blank, bytes, sample};
use flowcar::{
    clock::Anchor,
    flow::{End, Failure, LastSeen, Malformed, Monotonic, Outcome, Role, RttKind, decode},
    view::{
        json,
        table::{self, Style},
    },
};
use flowcar_shared::{
    histogram::SLOTS,
    record::{FEW_SAMPLES, FlowRecord, HEADER_LEN, Kind, OPEN_LEN, RECORD_LEN, SHORT_LEN, flag},
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
fn the_byte_counts_are_payload() {
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
fn a_client_whose_syn_was_not_seen_has_no_time_to_connect() {
    let record = FlowRecord {
        started_ns: 1_000,
        established_ns: 5_000,
        ..closed(4, 0)
    };
    assert_eq!(
        decode(bytes(&record), 0).unwrap().flow.connect_ns(),
        Some(4_000)
    );
    let unseen = FlowRecord {
        flags: flag::START_UNSEEN,
        ..record
    };
    assert_eq!(decode(bytes(&unseen), 0).unwrap().flow.connect_ns(), None);
}

#[test]
fn ends_follow_from_flags_and_the_last_state() {
    let end = |last_state, flags| {
        decode(bytes(&closed(last_state, flags)), 0)
            .unwrap()
            .flow
            .outcome
    };
    let is = |end| Some(Outcome::Closed(end));
    assert_eq!(end(5, flag::ORDERLY | flag::FIN_ACKED), is(End::LocalFin));
    assert_eq!(
        end(9, flag::ORDERLY | flag::PEER_FIN_FIRST),
        is(End::PeerFin)
    );
    assert_eq!(end(1, 0), is(End::Reset), "too short for a timer");
    assert_eq!(end(11, flag::FIN_RECEIVED), is(End::LocalFin));
    assert_eq!(end(1, flag::TIMED_OUT), is(End::Timeout));
    assert_eq!(end(1, flag::SEGMENTS_SEEN), is(End::ResetSent));
    assert_eq!(
        end(1, flag::SEGMENTS_SEEN | flag::RESET_RECEIVED),
        is(End::ResetReceived)
    );
}

/// Whoever sends to a peer that has closed is answered by a RST, and that is no failure.
#[test]
fn a_reset_after_the_peers_fin_is_no_error() {
    let told = |last_state, flags| decode(bytes(&closed(last_state, flags)), 0).unwrap().flow;
    let seen = flag::SEGMENTS_SEEN | flag::RESET_RECEIVED;
    let received = flag::FIN_RECEIVED;
    for (last_state, fins, expected) in [
        // CLOSE_WAIT, LAST_ACK, CLOSING
        (8, flag::PEER_FIN_FIRST | received, End::PeerFin),
        (9, flag::PEER_FIN_FIRST | received, End::PeerFin),
        (11, received, End::LocalFin),
    ] {
        for flags in [fins, fins | flag::SEGMENTS_SEEN, fins | seen] {
            let flow = told(last_state, flags);
            assert_eq!(flow.outcome, Some(Outcome::Closed(expected)));
            assert!(flow.reset_after_fin && !flow.is_failure());
        }
        assert!(!told(last_state, fins | flag::ORDERLY).reset_after_fin);
        let timeout = told(last_state, fins | flag::TIMED_OUT);
        assert_eq!(timeout.outcome, Some(Outcome::Closed(End::Timeout)));
        assert!(!timeout.reset_after_fin && timeout.is_failure());
    }
    for last_state in [1, 4] {
        let flow = told(last_state, seen);
        assert_eq!(flow.outcome, Some(Outcome::Closed(End::ResetReceived)));
        assert!(!flow.reset_after_fin && flow.is_failure());
    }
}

#[test]
fn failures_follow_from_what_came_back() {
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
        let told = failure(attempt(last_state, flags, segs_in));
        assert_eq!(told, is(expected), "{last_state} {flags:x} {segs_in}");
    }
    assert_eq!(failure(closed(2, 0)), is(Failure::Local));
}

/// What the record alone does not tell is said to be open.
#[test]
fn attempts_without_an_answer_are_left_open() {
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

/// What a flow without socket storage sends is as good as the whole record with zeros behind it.
#[test]
fn a_short_record_is_whole() {
    let mut record = blank(1);
    record.few_used = 2;
    record.few[..2].copy_from_slice(&[300, 500]);
    record.total_retrans = 3;
    record.rtt_min_us = 0;
    let whole = decode(bytes(&record), 0).expect("a record");
    let short = decode(&bytes(&record)[..SHORT_LEN], 0).expect("a record");
    assert_eq!(short.kind, whole.kind);
    let line = |flow| json::line(flow, &Anchor::new(Monotonic(0), 0));
    assert_eq!(line(&short.flow), line(&whole.flow));
    assert_eq!(short.flow.rtt.count(), 2);
    let longer = &bytes(&record)[..SHORT_LEN + 4];
    assert!(decode(longer, 0).is_err());
}

/// So is what it sends when it opens, which no other record may be as short as.
#[test]
fn an_open_record_may_end_before_the_counts() {
    let record = FlowRecord {
        bytes_acked: 0,
        rtt_min_us: 0,
        ..blank(1)
    };
    let whole = decode(bytes(&record), 0).expect("a record");
    let short = decode(&bytes(&record)[..OPEN_LEN], 0).expect("a record");
    assert_eq!(short.kind, Kind::Open);
    let line = |flow| json::line(flow, &Anchor::new(Monotonic(0), 0));
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

/// Its application may have chosen both numbers (TCP_REPAIR), to have another connection's trace.
#[test]
fn a_connection_on_which_nothing_was_received_shares_no_trace() {
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

/// A least sample above the greatest has no quantiles: shown, it would end the process.
#[test]
fn a_record_that_contradicts_itself_is_malformed() {
    let mut record = blank(1);
    sample(&mut record, 500);
    record.rtt_min_us = record.rtt_max_us + 1;
    assert!(decode(bytes(&record), 0).is_err());
    let record = FlowRecord {
        few_used: FEW_SAMPLES as u32 + 1,
        ..blank(1)
    };
    assert_eq!(
        decode(bytes(&record), 0).map(drop),
        Err(Malformed::Few(FEW_SAMPLES as u32 + 1))
    );
}

/// Whatever decodes must also be fit to be shown.
fn survives(bytes: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(record) = decode(bytes, 1) {
        let slots = bytes
            .get(offset_of!(FlowRecord, slots_used)..)
            .map_or(0, |rest| u16::from_ne_bytes([rest[0], rest[1]]).into());
        let is_short = match bytes.len() {
            OPEN_LEN => record.kind == Kind::Open,
            SHORT_LEN => slots == 0,
            _ => false,
        };
        prop_assert!(is_short || bytes.len() == HEADER_LEN + 4 * slots);
        prop_assert!(slots <= SLOTS);
        prop_assert_eq!(record.flow.outcome.is_some(), record.kind == Kind::Close);
        let anchor = Anchor::new(Monotonic(0), 0);
        let line: serde_json::Value =
            serde_json::from_str(&json::line(&record.flow, &anchor)).expect("a line is JSON");
        prop_assert!(line.is_object());
        table::flow(&record.flow, Style::Plain);
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
        few in 0..=FEW_SAMPLES as u32,
        short in any::<bool>(),
    ) -> Vec<u8> {
        header[offset_of!(FlowRecord, kind)] = kind;
        header[offset_of!(FlowRecord, role)] = role;
        let used = (slots.len() as u16).to_ne_bytes();
        header[offset_of!(FlowRecord, slots_used)..][..2].copy_from_slice(&used);
        let (least, greatest) = (extremes.0.min(extremes.1), extremes.0.max(extremes.1));
        header[offset_of!(FlowRecord, rtt_min_us)..][..4].copy_from_slice(&least.to_ne_bytes());
        header[offset_of!(FlowRecord, rtt_max_us)..][..4].copy_from_slice(&greatest.to_ne_bytes());
        header[offset_of!(FlowRecord, few_used)..][..4].copy_from_slice(&few.to_ne_bytes());
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
    fn no_bytes_break_it(bytes in proptest::collection::vec(any::<u8>(), 0..RECORD_LEN + 16)) {
        survives(&bytes)?;
    }

    #[test]
    fn no_plausible_bytes_break_it(bytes in plausible()) {
        prop_assert!(decode(&bytes, 1).is_ok());
        survives(&bytes)?;
    }

    /// What was counted comes out again.
    #[test]
    fn samples_survive(samples in proptest::collection::vec(8_u32..16_000_000, 1..200)) {
        let mut record = blank(3);
        // The kernel keeps the first few one by one.
        let (few, more) = samples.split_at(samples.len().min(FEW_SAMPLES));
        record.few[..few.len()].copy_from_slice(few);
        record.few_used = few.len() as u32;
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
