//! Restarts of flowcar: however one ends and whatever happens before the next, no connection and no byte is reported twice, and
//! losses have a reason.

mod common;
#[path = "restarts/process.rs"]
mod process;
#[path = "restarts/world.rs"]
mod world;

use flowcar::{
    flow::{Event, State, checkpoint::CheckpointFlows},
    series::account,
};
use process::{Process, Socket};
use proptest::prelude::*;
use world::{World, event};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn restarts_count_nothing_twice(
        events in proptest::collection::vec((any::<usize>(), event()), 0..200),
        records: bool,
    ) {
        let mut world = World::new(records);
        for (which, event) in &events {
            world.happen(*which, event)?;
        }
        world.holds()?;
    }
}

fn socket(cookie: u64) -> Socket {
    Socket {
        cookie,
        client: true,
        sent: 100,
        received: 10,
        resent: 1,
        recorded: false,
    }
}

/// A connection closes while no flowcar follows, one stays open, and the socket of a third belongs to another connection by then.
#[test]
fn unseen_close_is_lost_to_the_restart() {
    let mut first = Process::new(false, &CheckpointFlows::default());
    for clock in [1_000, 1_500] {
        first.dump(&[socket(1), socket(2), socket(3)], clock);
    }
    let left = first.report().expect("books that hold").left;

    let mut second = Process::new(false, &left);
    let grown = Socket {
        sent: 150,
        resent: 3,
        ..socket(2)
    };
    let poll = |process: &Process| process.poll(2_000);
    for dump in 1..=2 {
        second.dumps = dump;
        let (now, mut other) = (poll(&second), socket(3).observed(State::Established));
        other.peer.set_port(81);
        let series = &mut second.series;
        for observed in [grown.observed(State::Established), other] {
            account(&mut second.table, series, Event::Polled(&observed, &now));
        }
    }
    second.table.adoption_mut().settle_restored();
    let taken = second.report().expect("books that hold");
    assert_eq!((taken.opened, taken.restored), (1, 3));
    assert_eq!((taken.live, taken.lost, taken.closed), (2, 2, 0));
    assert_eq!(taken.sums, (50 + 100, 10, 2 + 1));
}

/// The kernel reports closes late, and a dump may miss a socket: a connection that counted as lost is not counted again.
#[test]
fn late_close_event_changes_nothing() {
    for records in [false, true] {
        let mut first = Process::new(false, &CheckpointFlows::default());
        first.dump(&[socket(1), socket(2)], 1_000);
        let left = first.report().expect("books that hold").left;
        let mut second = Process::new(records, &left);
        second.dump(&[socket(2)], 2_000);
        second.dump(&[socket(2)], 3_000);
        let settled = second.report().expect("books that hold");
        assert_eq!((settled.lost, settled.live, settled.restored), (1, 1, 2));
        second.dump(&[socket(1), socket(2)], 4_000);
        for disconnected in [false, true] {
            second.close(&socket(1), disconnected, 5_000);
        }
        let later = second.report().expect("books that hold");
        assert_eq!((later.lost, later.live, later.restored), (1, 1, 2));
        assert_eq!(
            (later.opened, later.closed, later.sums),
            (0, 0, settled.sums)
        );
    }
}
