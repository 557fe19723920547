//! The table's rows stay within 108 columns, whatever the flow.

mod common;

use common::{blank, bytes, sample};
use flowcar::{
    clock::Anchor,
    flow::{Flow, Monotonic, decode},
    view::{
        Row,
        table::{self, Style},
    },
};
use flowcar_shared::record::{AF_INET6, FlowRecord};
use proptest::prelude::*;

const COLUMNS: usize = 108;

proptest! {
    #[test]
    fn row_fits_and_shows_the_port(
        address in any::<[u32; 4]>(),
        port in any::<u16>(),
        role in 0_u8..=2,
        flags in any::<u16>(),
        last_state in 1_u8..12,
        established in any::<bool>(),
        // Up to an exabyte, a million segments, and 99 days.
        volume in (0_u64..1 << 60, 0_u64..1 << 60, 0_u32..999_999),
        lasted_ns in 0_u64..8_553_600_000_000_000,
        rtt_us in 1_u32..16_000_000,
    ) {
        let mut record = FlowRecord {
            kind: 3,
            role,
            family: AF_INET6,
            peer_addr: address,
            peer_port: port,
            flags,
            last_state,
            established_ns: if established { 2_000 } else { 0 },
            emitted_ns: 2_000 + lasted_ns,
            bytes_acked: volume.0,
            bytes_received: volume.1,
            total_retrans: volume.2,
            ..blank(1)
        };
        sample(&mut record, rtt_us);
        let flow = decode(bytes(&record), 0).expect("a whole record").flow;
        let asked = std::net::SocketAddr::from(([0xff_u8; 16], 65_535));
        let name = Some("n.".repeat(120).as_str().into());
        let other = Flow { asked: Some(Box::new(asked)), name, ..flow.clone() };
        let anchor = Anchor::new(Monotonic(0), 0);
        let both = table::flow(&Row::of(&other, &anchor), None, Style::Plain);
        let flow = Row::of(&flow, &anchor);
        let row = table::flow(&flow, None, Style::Plain);
        prop_assert!(row.chars().count() <= COLUMNS, "{} columns: {}", row.chars().count(), row);
        prop_assert!(row.contains(&format!(":{port} ")), "{}", row);
        prop_assert!(!row.contains('\x1b') && !row.contains('\n'));
        let coloured = table::flow(&flow, None, Style::Coloured);
        prop_assert!(coloured.contains(&row), "colours change nothing else");
        // What was asked for is below.
        let [first, named, second] = both.lines().collect::<Vec<_>>().try_into().expect("three lines");
        prop_assert_eq!(first, row.as_str());
        prop_assert!(named.chars().count() <= COLUMNS && named.contains(" n.n.n."));
        prop_assert!(second.chars().count() <= COLUMNS && second.ends_with(&asked.to_string()));
        // Head and rows are aligned: the last column starts at the same place.
        let head = table::head(Style::Plain);
        let close = head.rfind("close").expect("the head's last column");
        prop_assert_eq!(&row[close - 1..close], " ");
        prop_assert_ne!(&row[close..=close], " ");
    }
}
