//! The flow table and the series against a model of the kernel.

mod common;
#[path = "books/event.rs"]
mod event;
#[path = "books/kernel.rs"]
mod kernel;

use std::collections::BTreeMap;

use common::{blank, bytes};
use event::{Event, Fault, events};
use flowcar::{
    flow::{self, Adopt, Books, Flow, Lost, Monotonic, PollContext, Role, Table, decode},
    series::{PeerLabel, SeriesLabels},
    snapshot::SeriesKey,
};
use flowcar_shared::{
    counter::Counter,
    record::{FlowRecord, Kind},
};
use kernel::Kernel;
use proptest::prelude::*;

fn naming(peer: PeerLabel, limit: usize) -> SeriesLabels {
    SeriesLabels {
        peer,
        ports: true,
        limit,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn books_balance_after_every_event(events in events(), bound in 0_usize..8) {
        let mut kernel = Kernel::new(bound, naming(PeerLabel::None, 10));
        for (which, event) in &events {
            kernel.happen(*which, event);
            prop_assert!(kernel.table.listing().len() <= bound);
            kernel.books_balance()?;
            kernel.points_balance()?;
        }
    }

    #[test]
    fn series_sum_to_the_reported_totals(events in events(), bound in 0_usize..8, limit in 0_usize..6) {
        let mut kernel = Kernel::new(bound, naming(PeerLabel::Address, limit));
        for (which, event) in &events {
            kernel.happen(*which, event);
            kernel.points_balance()?;
        }
        kernel.catch_up();
        kernel.going.clear();
        kernel.sums_are_exact()?;
        // Two socket dumps evict flows that closed silently, and nothing else, once dumps have shown any.
        kernel.connect_one();
        let listed = kernel.table.listing().len();
        let living: Vec<u64> = kernel.sockets.iter().map(|record| record.cookie).collect();
        let lives = |flow: &Flow| living.contains(&flow.cookie);
        let living = kernel.table.listing().iter().filter(|flow| lives(flow)).count();
        for _ in 0..2 {
            kernel.clock += 1_000_000;
            kernel.poll_sockets();
        }
        prop_assert_eq!(kernel.table.listing().len(), living, "of {} listed", listed);
        kernel.books_balance()?;
        kernel.sums_are_exact()?;
        let truth = &kernel.truth;
        let unreported = |cookie: &&u64| !truth.opened_reported.contains(*cookie);
        let lost_unreported = truth.lost_cookies.iter().filter(unreported).count();
        let known = (truth.opened_reported.len() + lost_unreported) as u64;
        prop_assert_eq!(kernel.points_balance()?, (known, 0));
        let named = kernel.series.all().filter(|(key, _)| **key != SeriesKey::Overflow).count();
        prop_assert!(named <= limit);
    }

    /// Flows of another network namespace, where dumps show none of them, stay for as long as they live, and are counted once.
    #[test]
    fn undumpable_flow_is_not_evicted(events in events(), bound in 0_usize..8) {
        let mut kernel = Kernel::new(bound, naming(PeerLabel::None, 10));
        kernel.elsewhere = true;
        for (which, event) in &events {
            kernel.happen(*which, event);
            kernel.sums_are_exact()?;
            kernel.points_balance()?;
        }
        kernel.catch_up();
        kernel.books_balance()?;
    }

    /// Records in any order, of any flow, known or not, as after an arbitrary loss.
    #[test]
    fn table_accepts_records_in_any_order(
        records in proptest::collection::vec((0_u64..6, 1_u8..=3, 0_u64..3, any::<bool>()), 0..200),
        bound in 0_usize..4,
    ) {
        let mut table = Table::new(bound);
        let (mut closed, mut failed) = (0, 0);
        for (cookie, kind, started_ns, established) in records {
            let record = FlowRecord {
                kind,
                started_ns,
                established_ns: if established { started_ns + 1 } else { 0 },
                ..blank(cookie)
            };
            let record = decode(bytes(&record), 1).expect("a whole record");
            let change = table.apply(record.into()).expect("a change");
            let is_close = kind == Kind::Close as u8;
            closed += u64::from(is_close && established);
            failed += u64::from(is_close && !established);
            prop_assert!(table.listing().len() <= bound);
            prop_assert_eq!(change.listed, table.listing().iter().any(|flow| flow.cookie == cookie));
            prop_assert!(change.before.is_none_or(|before| before.started == change.now.started));
        }
        let books = table.books(|counter| match counter {
            Counter::Established => closed + 5,
            _ => 0,
        });
        prop_assert_eq!((books.closed, books.failed, books.live), (closed, failed, 5));
        prop_assert!(books.balance());
    }
}

#[test]
fn overflow_series_keeps_the_total() {
    let mut kernel = Kernel::new(100, naming(PeerLabel::Address, 3));
    for peer in 0..10 {
        kernel.happen(0, &Event::Connect(peer));
        let last = kernel.sockets.len() - 1;
        kernel.happen(last, &Event::Establish(Fault::None));
        let work = Event::Work {
            sent: 100,
            received: 1000,
            rtt_us: 500,
            delivered: true,
        };
        kernel.happen(last, &work);
    }
    let all: BTreeMap<_, _> = kernel.series.all().collect();
    assert_eq!(all.len(), 4);
    let overflow = &all[&SeriesKey::Overflow];
    assert_eq!(
        (
            overflow.opened,
            overflow.volume.bytes_sent,
            overflow.volume.bytes_received
        ),
        (7, 700, 7000)
    );
}

#[test]
fn peers_are_named_by_setting() {
    let peers = |peer| {
        let mut kernel = Kernel::new(100, naming(peer, 100));
        for octet in [1, 2, 130] {
            kernel.happen(0, &Event::Connect(octet));
            kernel.happen(kernel.sockets.len() - 1, &Event::Establish(Fault::None));
        }
        let names = kernel.series.all().map(|(key, _)| match key {
            SeriesKey::Flows {
                container: None,
                role: Role::Client,
                peer,
                server_port: Some(80),
                ..
            } => format!("{peer:?}"),
            key => panic!("{key:?}"),
        });
        let mut names: Vec<_> = names.collect();
        names.sort_unstable();
        names
    };
    assert_eq!(peers(PeerLabel::None), ["Unnamed"]);
    let named = |names: &[&str]| {
        let shown = names.iter().map(|name| match name.contains('/') {
            true => format!("Prefix({name:?})"),
            false => format!("Address({name})"),
        });
        shown.collect::<Vec<_>>()
    };
    assert_eq!(
        peers(PeerLabel::Address),
        named(&["10.0.0.1", "10.0.0.130", "10.0.0.2"])
    );
    assert_eq!(
        peers(PeerLabel::Prefix { v4: 25, v6: 64 }),
        named(&["10.0.0.0/25", "10.0.0.128/25"])
    );
    assert_eq!(
        peers(PeerLabel::Prefix { v4: 0, v6: 0 }),
        named(&["0.0.0.0/0"])
    );
}

/// The next record repeats what an open or a sample reports; only an undecodable close is a loss.
#[test]
fn only_an_undecodable_close_is_lost() {
    let mut table = Table::new(1);
    let lost = |table: &Table| {
        table
            .books(|counter| u64::from(counter == Counter::Established))
            .lost_total()
    };
    table.malformed(Some(Kind::Open));
    table.malformed(Some(Kind::Sample));
    assert_eq!(lost(&table), 0);
    table.malformed(Some(Kind::Close));
    assert_eq!(lost(&table), 1);
    // The kind is unreadable: the worst case is assumed.
    table.malformed(None);
    assert_eq!(lost(&table), 2);
}

/// A table with a server's flow and its client's, both at the same address, and the context of a poll.
fn two_ends() -> (Table, [FlowRecord; 2]) {
    let mut table = Table::new(2);
    let mut server = blank(1);
    server.role = Role::Server as u8;
    let records = [server, blank(2)];
    for record in records {
        table.apply(decode(bytes(&record), 1).expect("a whole record").into());
    }
    (table, records)
}

fn poll(dump: u64, lost_closes: u64) -> PollContext {
    PollContext {
        at: Monotonic(1_000_000),
        dump,
        adopt: Adopt::Nothing,
        overruns: 0,
        lost_closes,
        seed: 1,
    }
}

/// The flows that three empty dumps leave on the list.
fn listed(table: &mut Table, lost_closes: u64, is_here: impl Fn(&Flow) -> bool) -> Vec<usize> {
    let after = |dump| {
        let poll = poll(dump, lost_closes);
        for cookie in table.finish_poll(&poll, &is_here).evicted {
            table.apply(flow::Event::Evicted(cookie, &poll));
        }
        table.listing().len()
    };
    (2..=4).map(after).collect()
}

fn books(table: &Table, lost: u64) -> Books {
    table.books(|counter| match counter {
        Counter::Established => 2,
        Counter::CloseDropped => lost,
        _ => 0,
    })
}

/// Both ends on loopback: the listener proves that dumps cover the server, and nothing proves it for the client.
#[test]
fn dump_of_one_end_covers_only_its_address() {
    let (mut table, _) = two_ends();
    let listed = listed(&mut table, 2, |flow| flow.role == Role::Server);
    assert_eq!(
        (listed[0], listed[2]),
        (2, 0),
        "one dump may miss a socket: {listed:?}"
    );
    let books = books(&table, 2);
    assert_eq!((books.live, books.lost_total()), (0, 2));
}

/// As in a container with a network namespace of its own, which has the same addresses.
#[test]
fn unseen_flow_is_evicted_only_after_a_lost_close() {
    for lost_closes in 0..=2 {
        let (mut table, _) = two_ends();
        let listed = listed(&mut table, lost_closes, |_| true);
        assert_eq!(listed[2] as u64, 2 - lost_closes);
        let books = books(&table, lost_closes);
        assert_eq!(
            (books.live, books.lost_total()),
            (2 - lost_closes, lost_closes)
        );
    }
}

/// Another program cleared the callbacks of one of two sockets that dumps showed, and no close was lost.
#[test]
fn vanished_socket_is_lost_without_a_lost_close() {
    let (mut table, records) = two_ends();
    for record in &records {
        table.apply(flow::Event::Polled(&kernel::observed(record), &poll(1, 0)));
        // A later record does not turn it into a flow that no dump has shown.
        table.apply(decode(bytes(record), 1).expect("a whole record").into());
    }
    table.apply(flow::Event::Polled(
        &kernel::observed(&records[0]),
        &poll(2, 0),
    ));
    assert_eq!(listed(&mut table, 0, |_| false), [2, 1, 0]);
    let books = books(&table, 0);
    assert_eq!(books.lost, [(Lost::Callbacks, 2)].into());
}
