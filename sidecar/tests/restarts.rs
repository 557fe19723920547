//! flowcars that follow one another: whatever ends one and whatever happens before the next, no connection and no byte is
//! told of twice, and what is missing is named.

mod common;
#[path = "restarts/process.rs"]
mod process;
#[path = "restarts/world.rs"]
mod world;

use flowcar::flow::{State, handover::Leaving};
use proptest::prelude::*;

use process::{Process, Socket};
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

/// A connection ends while nobody follows, one lives on, and the socket of a third is another connection's by then.
#[test]
fn what_ended_unseen_is_lost_to_the_restart() {
    let mut first = Process::new(false, &Leaving::default());
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
    let looking = |process: &Process| process.looking(2_000);
    for dump in 1..=2 {
        second.dumps = dump;
        let (now, mut other) = (looking(&second), socket(3).sight(State::Established));
        other.peer.set_port(81);
        let series = &mut second.series;
        for sight in [grown.sight(State::Established), other] {
            second
                .table
                .look(&sight, &now, |change| series.apply(&change));
        }
    }
    second.table.settle_inherited();
    let taken = second.report().expect("books that hold");
    assert_eq!((taken.opened, taken.inherited), (1, 3));
    assert_eq!((taken.live, taken.lost, taken.closed), (2, 2, 0));
    assert_eq!(taken.sums, (50 + 100, 10, 2 + 1));
}

/// The kernel tells of ends late, and a dump may miss a socket: what was counted as lost is not counted again.
#[test]
fn news_that_comes_too_late_changes_nothing() {
    for records in [false, true] {
        let mut first = Process::new(false, &Leaving::default());
        first.dump(&[socket(1), socket(2)], 1_000);
        let left = first.report().expect("books that hold").left;
        let mut second = Process::new(records, &left);
        second.dump(&[socket(2)], 2_000);
        second.dump(&[socket(2)], 3_000);
        let settled = second.report().expect("books that hold");
        assert_eq!((settled.lost, settled.live, settled.inherited), (1, 1, 2));
        second.dump(&[socket(1), socket(2)], 4_000);
        for wiped in [false, true] {
            second.end(&socket(1), wiped, 5_000);
        }
        let later = second.report().expect("books that hold");
        assert_eq!((later.lost, later.live, later.inherited), (1, 1, 2));
        assert_eq!(
            (later.opened, later.closed, later.sums),
            (0, 0, settled.sums)
        );
    }
}
