//! The books and the sums of series under polls: any order of connections, dumps and closes, reported or dropped.

use std::collections::{HashMap, HashSet};

use flowcar::{
    flow::{
        self, Adopt, CloseEvent, Lost, Monotonic, OtherEnd, PollContext, PostCloseState,
        SocketSnapshot, State, Table, TcpInfo,
    },
    series::{PeerLabel, SeriesLabels, SeriesSet, account},
    snapshot::Series,
};
use proptest::prelude::*;

/// An event of one of the namespace's sockets.
#[derive(Clone, Debug)]
enum Event {
    Connect {
        client: bool,
    },
    Establish,
    Work {
        sent: u16,
        received: u16,
        in_flight: u8,
    },
    Dump,
    /// Closed in order, or reset.
    Close {
        orderly: bool,
        reported: bool,
    },
    /// Reset by its own end, which clears its counts.
    Disconnect {
        reported: bool,
    },
}

#[derive(Clone, Debug)]
struct Socket {
    cookie: u64,
    client: bool,
    established: bool,
    sent: u64,
    acked: u64,
    received: u64,
}

struct World {
    table: Table,
    series: SeriesSet,
    sockets: Vec<Socket>,
    next: u64,
    dumps: u64,
    overruns: u64,
    /// Payload sent and acknowledged, and received, as last reported of each flow.
    reported: HashMap<u64, (u64, u64)>,
    /// The same at the last poll of each: one new byte may be a FIN that the state does not show yet.
    polled: HashMap<u64, (u64, u64)>,
    listed: HashSet<u64>,
    opened: u64,
    closed: u64,
    failed: u64,
    disconnected: u64,
}

impl Socket {
    fn observed(&self, state: State) -> SocketSnapshot {
        let syn = u64::from(self.client && self.established);
        let info = TcpInfo {
            state: state as u8,
            bytes_acked: self.acked + syn,
            bytes_received: self.received,
            data_segs_in: self.received as u32,
            bytes_sent: self.sent,
            segs_out: 1,
            segs_in: 1,
            rtt_us: 100,
            delivered: self.established.into(),
            ..TcpInfo::default()
        };
        SocketSnapshot {
            cookie: self.cookie,
            local: ([10, 0, 0, 1], 40_000 + (self.cookie % 10_000) as u16).into(),
            peer: ([10, 0, 0, 2], 80).into(),
            interface: 0,
            state,
            unread: 0,
            unacknowledged: (self.sent - self.acked) as u32,
            cgroup: Some(1),
            drops: None,
            info: Some(info),
        }
    }
}

impl World {
    fn new(bound: usize) -> Self {
        let naming = SeriesLabels {
            peer: PeerLabel::None,
            ports: true,
            limit: 10,
        };
        Self {
            table: Table::new(bound),
            series: SeriesSet::new(naming),
            sockets: Vec::new(),
            next: 1,
            dumps: 0,
            overruns: 0,
            reported: HashMap::new(),
            polled: HashMap::new(),
            listed: HashSet::new(),
            opened: 0,
            closed: 0,
            failed: 0,
            disconnected: 0,
        }
    }

    fn poll(&self) -> PollContext {
        PollContext {
            at: Monotonic(self.next * 1_000),
            dump: self.dumps,
            adopt: Adopt::All,
            overruns: self.overruns,
            lost_closes: 0,
            seed: 1,
        }
    }

    fn happen(&mut self, which: usize, event: &Event) {
        self.next += 1;
        if let Event::Connect { client } = *event {
            self.sockets.push(Socket {
                cookie: self.next,
                client,
                established: !client,
                sent: 0,
                acked: 0,
                received: 0,
            });
            return;
        }
        if matches!(event, Event::Dump) {
            return self.dump();
        }
        if self.sockets.is_empty() {
            return;
        }
        let at = which % self.sockets.len();
        let socket = &mut self.sockets[at];
        match *event {
            Event::Establish => socket.established = true,
            Event::Work {
                sent,
                received,
                in_flight,
            } if socket.established => {
                socket.sent += u64::from(sent);
                socket.received += u64::from(received);
                socket.acked = socket
                    .acked
                    .max(socket.sent.saturating_sub(in_flight.into()));
            }
            Event::Close { orderly, reported } => self.close(at, orderly, reported),
            Event::Disconnect { reported } => self.disconnect(at, reported),
            _ => {}
        }
    }

    fn dump(&mut self) {
        self.dumps += 1;
        let poll = self.poll();
        for socket in self.sockets.clone() {
            let state = if socket.established {
                State::Established
            } else {
                State::SynSent
            };
            let observed = socket.observed(state);
            let event = flow::Event::Polled(&observed, &poll);
            if account(&mut self.table, &mut self.series, event).is_some() {
                let now = (socket.acked, socket.received);
                let before = self.polled.insert(socket.cookie, now).unwrap_or((0, 0));
                let settled = |now: u64, before: u64| now - u64::from(now > before);
                self.mark_reported(&Socket {
                    acked: settled(now.0, before.0),
                    received: settled(now.1, before.1),
                    ..socket
                });
            }
        }
        let (table, series) = (&mut self.table, &mut self.series);
        let absent = table.finish_poll(&poll, |_| false);
        for cookie in absent.evicted {
            account(table, series, flow::Event::Evicted(cookie, &poll));
        }
        for cookie in absent.held {
            account(table, series, flow::Event::Held(cookie));
        }
    }

    fn mark_reported(&mut self, socket: &Socket) {
        if socket.established && self.listed.insert(socket.cookie) {
            self.opened += 1;
        }
        if socket.established {
            self.reported
                .insert(socket.cookie, (socket.acked, socket.received));
        }
    }

    fn close(&mut self, at: usize, orderly: bool, reported: bool) {
        let mut socket = self.sockets.swap_remove(at);
        if !reported {
            self.overruns += 1;
            return;
        }
        let mut observed = socket.observed(State::Closed);
        let mut found = PostCloseState::Nothing;
        if orderly && socket.established {
            // All is acknowledged, both FINs are counted, and TIME_WAIT shows that this end's was first.
            socket.acked = socket.sent;
            observed = socket.observed(State::Closed);
            let info = observed.info.as_mut().expect("counts");
            info.bytes_acked += 1;
            info.bytes_received += 1;
            observed.unread = 1;
            found = PostCloseState::TimeWait;
        }
        let poll = self.poll();
        let event = CloseEvent {
            observed,
            found,
            answers: flow::Answers::default(),
            other_end: OtherEnd::Unknown,
        };
        let event = flow::Event::Destroyed(&event, &poll);
        account(&mut self.table, &mut self.series, event);
        if socket.established {
            self.mark_reported(&socket);
            self.closed += 1;
        } else {
            self.failed += 1;
        }
    }

    fn disconnect(&mut self, at: usize, reported: bool) {
        let socket = self.sockets.swap_remove(at);
        if !reported {
            self.overruns += 1;
            return;
        }
        let known = self.table.listing().knows(socket.cookie);
        let mut observed = socket.observed(State::Closed);
        (observed.local, observed.peer) = (([0; 4], 0).into(), ([0; 4], 0).into());
        observed.unacknowledged = if socket.established { 65_000 } else { 3 };
        observed.info = Some(TcpInfo::default());
        let poll = self.poll();
        let event = CloseEvent {
            observed,
            found: PostCloseState::NotPolled,
            answers: flow::Answers::default(),
            other_end: OtherEnd::Unknown,
        };
        let event = flow::Event::Destroyed(&event, &poll);
        account(&mut self.table, &mut self.series, event);
        match (socket.established, known) {
            (true, true) => {
                if self.listed.insert(socket.cookie) {
                    self.opened += 1;
                }
                self.closed += 1;
            }
            (true, false) => {
                self.opened += 1;
                self.disconnected += 1;
            }
            (false, _) => self.failed += 1,
        }
    }

    fn holds(&self) -> Result<(), TestCaseError> {
        let books = self.table.books(|_| 0);
        prop_assert!(books.balance(), "{:?}", books);
        prop_assert_eq!(
            (books.opened, books.closed, books.failed),
            (self.opened, self.closed, self.failed)
        );
        prop_assert_eq!(
            books.lost.get(&Lost::Disconnected).copied().unwrap_or(0),
            self.disconnected
        );
        let sum = |of: fn(&Series) -> u64| self.series.all().map(|(_, one)| of(one)).sum::<u64>();
        let live = self
            .table
            .listing()
            .iter()
            .filter(|flow| flow.established.is_some())
            .count();
        prop_assert_eq!(sum(|series| series.live), live as u64);
        prop_assert_eq!(sum(Series::began), self.opened - self.disconnected);
        prop_assert_eq!(sum(|series| series.closed.values().sum()), self.closed);
        let reported = self
            .reported
            .values()
            .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        prop_assert_eq!(
            (
                sum(|series| series.volume.bytes_sent),
                sum(|series| series.volume.bytes_received)
            ),
            reported
        );
        Ok(())
    }
}

/// The kernel reads the state first: a FIN that comes before it reads the counts is among them, under the old state.
#[test]
fn fin_before_the_state_change_is_no_payload() {
    let mut world = World::new(10);
    let happen = |world: &mut World, event: Event| world.happen(0, &event);
    happen(&mut world, Event::Connect { client: true });
    happen(&mut world, Event::Establish);
    let received = |world: &World| {
        let all = world.series.all();
        all.map(|(_, series)| series.volume.bytes_received)
            .sum::<u64>()
    };
    let work = |received: u16| Event::Work {
        sent: 0,
        received,
        in_flight: 0,
    };
    happen(&mut world, work(1_000));
    happen(&mut world, Event::Dump);
    happen(&mut world, Event::Dump);
    assert_eq!(received(&world), 1_000, "a count that stays has no FIN");
    // The FIN's one.
    happen(&mut world, work(1));
    happen(&mut world, Event::Dump);
    assert_eq!(received(&world), 1_000);
    // At its own time, with its own state.
    world.sockets[0].received -= 1;
    happen(
        &mut world,
        Event::Close {
            orderly: true,
            reported: true,
        },
    );
    assert_eq!(received(&world), 1_000);
}

fn event() -> impl Strategy<Value = Event> {
    let reported = || proptest::bool::weighted(0.8);
    prop_oneof![
        4 => any::<bool>().prop_map(|client| Event::Connect { client }),
        3 => Just(Event::Establish),
        6 => (any::<u16>(), any::<u16>(), any::<u8>()).prop_map(|(sent, received, in_flight)| {
            Event::Work { sent, received, in_flight }
        }),
        3 => Just(Event::Dump),
        3 => (any::<bool>(), reported()).prop_map(|(orderly, reported)| Event::Close { orderly, reported }),
        1 => reported().prop_map(|reported| Event::Disconnect { reported }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn books_and_sums_hold_after_every_event(
        events in proptest::collection::vec((any::<usize>(), event()), 0..200),
        bound in 0_usize..8,
    ) {
        let mut world = World::new(bound);
        for (which, event) in &events {
            world.happen(*which, event);
            prop_assert!(world.table.listing().len() <= bound);
            world.holds()?;
        }
        // Flows that vanished silently are evicted after two more dumps, and all others stay.
        world.next += 1;
        world.dump();
        world.next += 1;
        world.dump();
        world.holds()?;
        let living: HashSet<u64> = world.sockets.iter().map(|socket| socket.cookie).collect();
        for flow in world.table.listing().iter() {
            prop_assert!(living.contains(&flow.cookie), "{:?}", flow);
        }
    }
}
