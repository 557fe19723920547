//! A stream of DNS packets of any bytes, sent and received, and connections to the addresses in them.
//!
//! Besides not panicking: a name is text of letters, digits and punctuation, and an answer that nobody asked for names nothing.

#![no_main]

mod cut;

use std::net::{IpAddr, Ipv4Addr};

use flowcar::{
    flow::Monotonic,
    peer::{Packet, Resolved, Segment, Transport},
};
use libfuzzer_sys::fuzz_target;

use cut::records;

const PAIRS: usize = 16;

fuzz_target!(|stream: &[u8]| {
    let (mut all, mut unasked) = (Resolved::new(PAIRS), Resolved::new(PAIRS));
    let mut at = Monotonic(1);
    for record in records(stream) {
        let Some((&[flags, seconds, sequence], payload)) = record.split_first_chunk() else {
            continue;
        };
        at.0 += u64::from(seconds) * 1_000_000_000;
        let segment = Segment {
            sequence: sequence.into(),
            acknowledged: 0,
        };
        let packet = Packet {
            at,
            is_sent: flags & 1 != 0,
            transport: if flags & 2 != 0 {
                Transport::Tcp(segment)
            } else {
                Transport::Udp
            },
            local_port: u16::from(flags >> 4),
            resolver: ([10, 96, 0, 10], 53).into(),
            payload,
            is_cut: flags & 4 != 0,
        };
        all.packet(&packet);
        if !packet.is_sent {
            unasked.packet(&packet);
        }
        for bytes in payload.windows(4) {
            let address = Ipv4Addr::from(<[u8; 4]>::try_from(bytes).expect("four"));
            if let Ok(name) = all.name_of(IpAddr::from(address), at) {
                assert!(!name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic()));
            }
            assert!(unasked.name_of(IpAddr::from(address), at).is_err());
        }
        // The record itself, as it comes from the kernel.
        let _ = Packet::decode(payload);
    }
});
