//! A stream of kernel records of any bytes, through all that a record goes through.
//!
//! Besides not panicking: the table stays within its bound, every record is applied or refused, and
//! the series' snapshot and the table have the same count of closed connections.

#![no_main]

mod cut;

use flowcar::{
    flow::{Asked, Exchanges, Table, decode},
    series::{PeerLabel, SeriesLabels, SeriesSet, account},
};
use libfuzzer_sys::fuzz_target;

use cut::records;

const FLOWS: usize = 4;
const SERIES: usize = 3;

fuzz_target!(|stream: &[u8]| {
    let mut table = Table::new(FLOWS);
    let mut series = SeriesSet::new(SeriesLabels {
        peer: PeerLabel::Address,
        ports: true,
        limit: SERIES,
    });
    let mut closed = 0;
    for bytes in records(stream) {
        if Exchanges::are_in(bytes) {
            if let Ok(exchanges) = Exchanges::decode(bytes) {
                table.exchanges(exchanges);
            }
            continue;
        }
        if Asked::is_in(bytes) {
            if let Ok(asked) = Asked::decode(bytes) {
                table.asked(asked);
            }
            continue;
        }
        let Ok(record) = decode(bytes, 1) else {
            continue;
        };
        let change = account(&mut table, &mut series, record.into()).expect("a change");
        closed += u64::from(matches!(
            change.now.outcome,
            Some(flowcar::flow::Outcome::Closed(_))
        ));
    }
    assert!(table.listing().len() <= FLOWS);
    // One more for what overflows.
    assert!(series.all().len() <= SERIES + 1);
    let counted: u64 = series
        .all()
        .flat_map(|(_, series)| series.closed.values())
        .sum();
    assert_eq!(counted, closed);
});
