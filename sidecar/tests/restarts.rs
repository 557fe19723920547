//! flowcars that follow one another: whatever ends one and whatever happens before the next, no connection and no byte is
//! told of twice, and what is missing is named.

mod common;

use std::collections::{HashMap, HashSet};

use common::{blank, bytes, sample};
use flowcar::{
    flow::{
        Adopt, Afterlife, Change, Looking, Lost, Monotonic, Sight, State, Table, TcpInfo, Told,
        Volume, decode,
        handover::{self, Leaving, Place},
    },
    series::{Naming, PeerNaming, Remainder, SeriesSet},
    snapshot::Series,
};
use flowcar_shared::{
    counter::Counter,
    record::{FlowRecord, Kind, Role},
};
use proptest::prelude::*;

const BOUND: usize = 64;

/// What happens.
#[derive(Clone, Debug)]
enum Event {
    Connect {
        client: bool,
    },
    Work {
        sent: u16,
        received: u16,
        resent: bool,
    },
    End,
    /// Its own end resets it, which wipes it.
    Wipe,
    /// Beside programs, its end finds the ring full.
    EndUnheard,
    /// Beside programs, all of a connection finds the ring full.
    PassUnheard,
    Dump,
    /// A report is made, and a receiver takes it or not.
    Report {
        taken: bool,
    },
    /// The flowcar is ended at once, and the next one starts after so many events.
    Kill {
        gap: u8,
    },
}

#[derive(Clone, Debug)]
struct Socket {
    cookie: u64,
    client: bool,
    sent: u64,
    received: u64,
    resent: u32,
    /// It was made under the eyes of the programs of this flowcar.
    recorded: bool,
}

/// One flowcar.
struct Process {
    table: Table,
    series: SeriesSet,
    remainder: Remainder,
    /// Beside programs.
    records: bool,
    established: u64,
    unheard: u64,
    dumps: u64,
    settled: bool,
    /// Payload that it told of in all of each connection's life, by the latest news.
    told: HashMap<u64, (u64, u64, u64)>,
    /// Payload at the last look at each, if no record came since.
    looked: HashMap<u64, (u64, u64)>,
    /// By the flowcar before it.
    left: HashMap<u64, Volume>,
}

/// What a receiver has of one flowcar.
#[derive(Clone, Debug, Default)]
struct Taken {
    opened: u64,
    sums: (u64, u64, u64),
    told: HashMap<u64, (u64, u64, u64)>,
    left: Leaving,
    closed: u64,
    live: u64,
    lost: u64,
    inherited: u64,
}

struct World {
    process: Option<Process>,
    records: bool,
    sockets: Vec<Socket>,
    clock: u64,
    gap: u8,
    /// Connections of which nothing was ever heard.
    passed_unheard: u64,
    /// Of the present flowcar.
    taken: Taken,
    /// Of those before it.
    before: Vec<Taken>,
}

// === impl Socket ===

impl Socket {
    fn told(&self) -> (u64, u64, u64) {
        (self.sent, self.received, self.resent.into())
    }

    fn sight(&self, state: State) -> Sight {
        let info = TcpInfo {
            state: state as u8,
            bytes_acked: self.sent + u64::from(self.client),
            bytes_received: self.received,
            bytes_sent: self.sent,
            total_retrans: self.resent,
            segs_out: 1,
            segs_in: 1,
            delivered: 1,
            ..TcpInfo::default()
        };
        Sight {
            cookie: self.cookie,
            local: ([10, 0, 0, 1], 40_000).into(),
            peer: ([10, 0, 0, 2], 80).into(),
            interface: 0,
            state,
            unread: 0,
            unacknowledged: 0,
            cgroup: Some(1),
            drops: None,
            info: Some(info),
        }
    }

    fn record(&self, kind: Kind, clock: u64) -> FlowRecord {
        let role = if self.client {
            Role::Client
        } else {
            Role::Server
        };
        let mut record = FlowRecord {
            kind: kind as u8,
            role: role as u8,
            bytes_acked: self.sent + u64::from(self.client),
            bytes_received: self.received,
            total_retrans: self.resent,
            retrans_fast: self.resent,
            emitted_ns: clock,
            last_state: 1,
            ..blank(self.cookie)
        };
        sample(&mut record, 100);
        record
    }
}

// === impl Process ===

impl Process {
    fn new(records: bool, left: &Leaving) -> Self {
        let place = Place {
            boot: "this".to_owned(),
            netns: 1,
        };
        let written = handover::encode(&place, 7, left);
        let read = handover::decode(&written).expect("our own");
        let mut table = Table::new(BOUND);
        table.inherit(&read.leaving);
        let naming = Naming {
            peer: PeerNaming::None,
            ports: true,
            limit: 10,
        };
        Self {
            table,
            series: SeriesSet::new(naming),
            remainder: Remainder::default(),
            records,
            established: 0,
            unheard: 0,
            dumps: 0,
            settled: false,
            told: HashMap::new(),
            looked: HashMap::new(),
            left: left
                .flows
                .iter()
                .map(|left| (left.cookie, left.volume))
                .collect(),
        }
    }

    fn looking(&self, clock: u64) -> Looking {
        Looking {
            at: Monotonic(clock),
            dump: self.dumps,
            adopt: match (self.records, self.dumps) {
                (false, _) => Adopt::All,
                (true, 1) => Adopt::Connected,
                (true, _) => Adopt::Nothing,
            },
            overruns: 0,
            seed: 1,
        }
    }

    /// As the follower does it.
    fn dump(&mut self, sockets: &[Socket], clock: u64) {
        self.dumps += 1;
        let (looking, unheard) = (self.looking(clock), self.unheard);
        // Looks leave retransmits to records, which know their causes.
        for socket in sockets.iter().filter(|socket| socket.recorded) {
            self.record(socket, Kind::Sample, clock);
        }
        for socket in sockets {
            let sight = socket.sight(State::Established);
            let Self {
                table,
                series,
                told,
                looked,
                left,
                ..
            } = self;
            table.look(&sight, &looking, |change| {
                series.apply(&change);
                let now = (socket.sent, socket.received);
                let before = looked.insert(socket.cookie, now).unwrap_or((0, 0));
                let left = left.get(&socket.cookie);
                let left = left.map_or((0, 0, 0), |of| (of.bytes_sent, of.bytes_received, 0));
                let known = told.get(&socket.cookie).copied().unwrap_or(left);
                // One byte of what is new may be a FIN that the state does not tell of yet.
                let settled = |now: u64, before: u64| now - u64::from(now > before);
                let payload = (
                    known.0.max(settled(now.0, before.0)),
                    known.1.max(settled(now.1, before.1)),
                    socket.resent.into(),
                );
                told.insert(socket.cookie, payload);
            });
        }
        let series = &mut self.series;
        if !self.records || self.dumps > 1 {
            self.table.looked(&looking, |change| series.apply(&change));
            if self.table.is_shown() {
                self.remainder.looked(unheard);
            }
        }
        if !self.settled && (self.records || self.dumps == 2) {
            self.settled = true;
            self.table.settle_inherited();
        }
    }

    fn record(&mut self, socket: &Socket, kind: Kind, clock: u64) {
        let record = decode(bytes(&socket.record(kind, clock)), 1).expect("a whole record");
        let change = self.table.apply(record);
        self.series.apply(&change);
        self.told.insert(socket.cookie, socket.told());
        self.looked.remove(&socket.cookie);
    }

    fn end(&mut self, socket: &Socket, wiped: bool, clock: u64) {
        if socket.recorded {
            return self.record(socket, Kind::Close, clock);
        }
        let mut sight = socket.sight(State::Closed);
        if wiped {
            (sight.local, sight.peer) = (([0; 4], 0).into(), ([0; 4], 0).into());
            sight.unacknowledged = 65_000;
            sight.info = Some(TcpInfo::default());
        }
        // Beside the programs only news of sockets that are waited for are listened to.
        let known = self.table.knows(socket.cookie) || self.table.inherits(socket.cookie);
        if self.records && !known {
            return;
        }
        let news = Told {
            sight,
            found: Afterlife::Nothing,
            peers_payload: None,
        };
        let looking = self.looking(clock);
        let Self {
            table,
            series,
            told,
            ..
        } = self;
        table.destroyed(&news, &looking, |change: Change| {
            series.apply(&change);
            if !wiped {
                told.insert(socket.cookie, socket.told());
            }
        });
    }

    /// The equation, over what a receiver would get.
    fn report(&mut self) -> Result<Taken, TestCaseError> {
        let (established, unheard) = (self.established, self.unheard);
        let books = self.table.books(|counter| match counter {
            Counter::Established => established,
            Counter::CloseDropped => unheard,
            _ => 0,
        });
        prop_assert!(books.balance(), "{:?}", books);
        let unseen = self.remainder.of(&books, &self.series);
        let sum = |of: fn(&Series) -> u64| self.series.all().values().map(of).sum::<u64>();
        let taken = Taken {
            opened: sum(|of| of.opened) + unseen.opened,
            inherited: sum(|of| of.inherited) + unseen.inherited,
            sums: (
                sum(|of| of.bytes_sent),
                sum(|of| of.bytes_received),
                sum(|of| of.retransmits.total()),
            ),
            told: self.told.clone(),
            left: self.table.leave(unseen.unheard()),
            closed: sum(|of| of.closed.values().sum()),
            live: sum(|of| of.live)
                .checked_add_signed(unseen.live.unwrap_or(0))
                .expect("no less than none"),
            lost: books.lost_total(),
        };
        prop_assert!(unseen.live.is_some() == (unheard > 0));
        prop_assert_eq!(
            taken.opened + taken.inherited,
            taken.closed + taken.live + taken.lost
        );
        // Of ends that were not heard of it takes two looks to tell whether series have their connections.
        let opened = taken.opened + taken.inherited;
        prop_assert!(opened <= books.opened && books.opened - opened <= unseen.unheard());
        prop_assert_eq!(
            books.lost.get(&Lost::Restart).copied().unwrap_or(0),
            unseen.inherited
        );
        Ok(taken)
    }
}

// === impl World ===

impl World {
    fn new(records: bool) -> Self {
        Self {
            process: Some(Process::new(records, &Leaving::default())),
            records,
            sockets: Vec::new(),
            clock: 1_000_000,
            gap: 0,
            passed_unheard: 0,
            taken: Taken::default(),
            before: Vec::new(),
        }
    }

    fn happen(&mut self, which: usize, event: &Event) -> Result<(), TestCaseError> {
        self.clock += 1_000_000;
        self.wait_for_the_next();
        let clock = self.clock;
        match *event {
            Event::Connect { client } => self.connect(client),
            Event::Work {
                sent,
                received,
                resent,
            } => {
                let count = self.sockets.len().max(1);
                if let Some(socket) = self.sockets.get_mut(which % count) {
                    socket.sent += u64::from(sent);
                    socket.received += u64::from(received);
                    socket.resent += u32::from(resent);
                }
            }
            Event::End | Event::Wipe if !self.sockets.is_empty() => {
                let socket = self.sockets.swap_remove(which % self.sockets.len());
                if let Some(process) = &mut self.process {
                    process.end(&socket, matches!(event, Event::Wipe), clock);
                }
            }
            Event::EndUnheard if !self.sockets.is_empty() => {
                let socket = self.sockets.swap_remove(which % self.sockets.len());
                match &mut self.process {
                    Some(process) if socket.recorded => process.unheard += 1,
                    Some(process) => process.end(&socket, false, clock),
                    None => {}
                }
            }
            Event::PassUnheard => {
                if let Some(process) = self.process.as_mut().filter(|of| of.records) {
                    process.established += 1;
                    process.unheard += 1;
                    self.passed_unheard += 1;
                }
            }
            Event::Dump => {
                if let Some(process) = &mut self.process {
                    process.dump(&self.sockets, clock);
                }
            }
            Event::Report { taken } => {
                if let Some(process) = &mut self.process {
                    let report = process.report()?;
                    if taken {
                        self.taken = report;
                    }
                }
            }
            Event::Kill { gap } if self.process.is_some() => {
                self.process = None;
                self.gap = gap;
            }
            _ => {}
        }
        Ok(())
    }

    fn wait_for_the_next(&mut self) {
        if self.process.is_some() {
            return;
        }
        if self.gap > 0 {
            self.gap -= 1;
            return;
        }
        for socket in &mut self.sockets {
            socket.recorded = false;
        }
        let taken = std::mem::take(&mut self.taken);
        let left = self.left(&taken);
        self.process = Some(Process::new(self.records, &left));
        self.before.push(taken);
    }

    /// One that no receiver heard of leaves what there was.
    fn left(&self, taken: &Taken) -> Leaving {
        let all = std::iter::once(taken).chain(self.before.iter().rev());
        let mut reported =
            all.filter(|taken| taken.opened + taken.inherited > 0 || !taken.left.flows.is_empty());
        reported
            .next()
            .map_or_else(Leaving::default, |taken| taken.left.clone())
    }

    fn connect(&mut self, client: bool) {
        let mut socket = Socket {
            cookie: self.clock,
            client,
            sent: 0,
            received: 0,
            resent: 0,
            recorded: false,
        };
        if self.sockets.len() >= BOUND / 2 {
            return;
        }
        if let Some(process) = self.process.as_mut().filter(|process| process.records) {
            socket.recorded = true;
            process.established += 1;
            process.record(&socket, Kind::Open, self.clock);
        }
        self.sockets.push(socket);
    }

    /// Over all flowcars, once the last one has looked and reported.
    fn holds(&mut self) -> Result<(), TestCaseError> {
        self.gap = 0;
        // The first may be the one that adopts; two more miss what ended unheard.
        let looks = [Event::Dump, Event::Dump, Event::Dump];
        for event in looks.iter().chain([&Event::Report { taken: true }]) {
            self.happen(0, event)?;
        }
        let last = self.taken.clone();
        let all = || self.before.iter().chain([&last]);
        let mut told: HashMap<u64, (u64, u64, u64)> = HashMap::new();
        for taken in all() {
            told.extend(
                taken
                    .told
                    .iter()
                    .map(|(cookie, payload)| (*cookie, *payload)),
            );
        }
        let total = |of: fn((u64, u64, u64)) -> u64| told.values().copied().map(of).sum::<u64>();
        let sum = |of: fn(&Taken) -> u64| all().map(of).sum::<u64>();
        prop_assert_eq!(
            (
                sum(|of| of.sums.0),
                sum(|of| of.sums.1),
                sum(|of| of.sums.2)
            ),
            (total(|of| of.0), total(|of| of.1), total(|of| of.2))
        );
        // Of what lives all is told.
        for socket in &self.sockets {
            prop_assert_eq!(told.get(&socket.cookie), Some(&socket.told()));
        }
        // Each connection is opened once, and once closed, lost or live. One of which nothing was ever heard may have been
        // lost in the last report of a flowcar, and would have been opened in the next.
        let opened = sum(|of| of.opened);
        let ended = sum(|of| of.closed) + sum(|of| of.lost) + last.live;
        prop_assert!(
            opened <= ended && ended - opened <= self.passed_unheard,
            "{} {}",
            opened,
            ended
        );
        prop_assert_eq!(last.live, self.sockets.len() as u64);
        let wiped = sum(|of| of.opened) - told.len() as u64;
        prop_assert!(
            wiped <= self.passed_unheard || !self.records,
            "{} more opened than told of",
            wiped
        );
        let left: HashSet<u64> = last.left.flows.iter().map(|left| left.cookie).collect();
        let living: HashSet<u64> = self.sockets.iter().map(|socket| socket.cookie).collect();
        // While looks have shown nothing they do not miss anything.
        prop_assert!(left.is_superset(&living));
        prop_assert!((left.len() - living.len()) as u64 <= last.left.unheard);
        Ok(())
    }
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => any::<bool>().prop_map(|client| Event::Connect { client }),
        6 => (any::<u16>(), any::<u16>(), any::<bool>())
            .prop_map(|(sent, received, resent)| Event::Work { sent, received, resent }),
        3 => Just(Event::End),
        1 => Just(Event::Wipe),
        1 => Just(Event::EndUnheard),
        1 => prop_oneof![4 => Just(Event::Dump), 1 => Just(Event::PassUnheard)],
        3 => Just(Event::Dump),
        3 => any::<bool>().prop_map(|taken| Event::Report { taken }),
        1 => (0_u8..10).prop_map(|gap| Event::Kill { gap }),
    ]
}

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
