//! Brief records against the longer ones that mean the same.

use flowcar::flow::{Malformed, Role, decode, evidence, kind_of};
use flowcar_shared::record::{
    BRIEF_CLOSE_LEN, BRIEF_OPEN_LEN, BRIEF_SAMPLES, BriefClose, BriefEnds, BriefOpen, FlowRecord,
    INLINE_SAMPLES, Kind, SHORT_LEN, brief, flag,
};
use proptest::prelude::*;

use super::{blank, bytes, closed, survives};

/// The bytes of a brief record, which has no padding.
fn brief_bytes<T: Copy>(record: &T) -> &[u8] {
    // SAFETY: both kinds are repr(C) of integers without padding, as their lengths show.
    unsafe { std::slice::from_raw_parts((&raw const *record).cast(), size_of::<T>()) }
}

fn ends(record: &FlowRecord) -> BriefEnds {
    BriefEnds {
        local_addr: record.local_addr[3],
        peer_addr: record.peer_addr[3],
        local_port: record.local_port,
        peer_port: record.peer_port,
        client_isn: record.client_isn,
        server_isn: record.server_isn,
    }
}

fn brief_open(record: &FlowRecord, cgroup_id: u64, tgid: u32) -> BriefOpen {
    BriefOpen {
        socket: brief::pack(record.cookie, record.role),
        started_ns: record.started_ns,
        established_ns: record.established_ns,
        cgroup_id,
        ends: ends(record),
        tgid,
    }
}

fn brief_close(record: &FlowRecord) -> BriefClose {
    let samples = u64::from(record.inline_samples_used) * brief::ONE_SAMPLE;
    BriefClose {
        socket: brief::pack(record.cookie, record.role) + samples,
        started_ns: record.started_ns,
        established_ns: record.established_ns,
        emitted_ns: record.emitted_ns,
        ends: ends(record),
        bytes_acked: record.bytes_acked as u32,
        bytes_received: record.bytes_received as u32,
        samples: std::array::from_fn(|at| record.inline_samples[at]),
        kind: record.kind,
        last_state: record.last_state,
        flags: record.flags,
        segs_out: record.segs_out as u16,
        segs_in: record.segs_in as u16,
        released_in: record.released_in,
        reserved: 0,
    }
}

#[test]
fn brief_records_decode_as_whole() {
    let inline_samples = [300, 500, 700, 900, 0, 0];
    for role in [Role::Client, Role::Server] {
        let whole = FlowRecord {
            role: role as u8,
            bytes_acked: u32::MAX.into(),
            bytes_received: 4001,
            segs_out: u16::MAX.into(),
            segs_in: 9,
            released_in: 1,
            rtt_min_us: 0,
            inline_samples_used: BRIEF_SAMPLES as u32,
            inline_samples,
            ..closed(4, flag::ORDERLY | flag::FIN_ACKED | flag::FIN_RECEIVED)
        };
        let expected = decode(bytes(&whole), 0).expect("a record");
        let brief = brief_close(&whole);
        assert_eq!(brief_bytes(&brief).len(), BRIEF_CLOSE_LEN);
        let record = decode(brief_bytes(&brief), 0).expect("a record");
        assert_eq!(format!("{record:?}"), format!("{expected:?}"));
        assert_eq!(
            format!("{:?}", evidence(brief_bytes(&brief))),
            format!("{:?}", evidence(bytes(&whole)))
        );
        assert_eq!(kind_of(brief_bytes(&brief)), Some(Kind::Close));

        let opened = FlowRecord {
            role: role as u8,
            bytes_acked: 0,
            rtt_min_us: 0,
            inline_samples: [7, 5, 0, 0, 0, 42],
            ..blank(3)
        };
        let expected = decode(bytes(&opened), 0).expect("a record");
        let brief = brief_open(&opened, 5 << 32 | 7, 42);
        assert_eq!(brief_bytes(&brief).len(), BRIEF_OPEN_LEN);
        let record = decode(brief_bytes(&brief), 0).expect("a record");
        assert_eq!(format!("{record:?}"), format!("{expected:?}"));
        assert_eq!(kind_of(brief_bytes(&brief)), Some(Kind::Open));
    }
}

#[test]
fn brief_records_are_checked() {
    let whole = FlowRecord {
        inline_samples_used: BRIEF_SAMPLES as u32 + 1,
        ..closed(4, 0)
    };
    assert_eq!(
        decode(brief_bytes(&brief_close(&whole)), 0).map(drop),
        Err(Malformed::InlineSamples(BRIEF_SAMPLES as u32 + 1))
    );
    let roleless = FlowRecord {
        role: 3,
        ..closed(4, 0)
    };
    let records = (brief_close(&roleless), brief_open(&roleless, 0, 0));
    for bytes in [brief_bytes(&records.0), brief_bytes(&records.1)] {
        assert_eq!(decode(bytes, 0).map(drop), Err(Malformed::Role(3)));
    }
}

prop_compose! {
    /// A close record that has room in a brief one, and what the unused places for samples hold.
    fn closes()(
        cookie in 0..1_u64 << brief::COOKIE_BITS,
        role in 0_u8..=3,
        [started_ns, established_ns, emitted_ns] in any::<[u64; 3]>(),
        [local, peer, client_isn, server_isn, sent, received] in any::<[u32; 6]>(),
        [local_port, peer_port, segs_out, segs_in, released_in, flags] in any::<[u16; 6]>(),
        last_state: u8,
        used in 0..=BRIEF_SAMPLES as u32,
        samples in proptest::array::uniform4(prop_oneof![Just(0), any::<u32>()]),
    ) -> FlowRecord {
        let mut inline_samples = [0; INLINE_SAMPLES];
        inline_samples[..BRIEF_SAMPLES].copy_from_slice(&samples);
        let with_last = |address: [u32; 4], last| [address[0], address[1], address[2], last];
        let any = closed(last_state, flags);
        FlowRecord {
            cookie,
            role,
            started_ns,
            established_ns,
            emitted_ns,
            local_addr: with_last(any.local_addr, local),
            peer_addr: with_last(any.peer_addr, peer),
            local_port,
            peer_port,
            client_isn,
            server_isn,
            bytes_acked: sent.into(),
            bytes_received: received.into(),
            segs_out: segs_out.into(),
            segs_in: segs_in.into(),
            released_in,
            inline_samples_used: used,
            inline_samples,
            ..any
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever a close has, flags, samples of no time and segments that never came among it.
    #[test]
    fn brief_close_means_what_its_longer_form_means(whole in closes()) {
        let brief = brief_close(&whole);
        let (brief, longer) = (brief_bytes(&brief), &bytes(&whole)[..SHORT_LEN]);
        prop_assert_eq!(format!("{:?}", decode(brief, 9)), format!("{:?}", decode(longer, 9)));
        prop_assert_eq!(format!("{:?}", evidence(brief)), format!("{:?}", evidence(longer)));
        survives(brief)?;
    }
}
