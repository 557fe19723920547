//! The flow table and the series against a model of the kernel: sockets that live, and a ring buffer and memory that
//! give out now and then.

mod common;

use std::collections::{BTreeMap, HashMap};

use common::{blank, bytes, sample};
use flowcar::{
    flow::{
        Adopt, Books, Flow, Looking, Lost, Monotonic, Role, Sight, State, Table, TcpInfo, decode,
    },
    series::{Naming, PeerNaming, Remainder, SeriesSet, unheard},
    snapshot::{Series, SeriesKey},
};
use flowcar_shared::{
    counter::{COUNTERS, Counter},
    record::{FlowRecord, Kind, flag},
};
use proptest::prelude::*;

/// What happens next to one of the sockets.
#[derive(Clone, Debug)]
enum Event {
    /// An attempt begins; the peer's last octet.
    Connect(u8),
    /// It is established; or its storage, its callbacks, or the ring refuse.
    Establish(Fault),
    /// It fails.
    Fail { delivered: bool },
    /// It sends and receives, and a sample is due.
    Work {
        sent: u16,
        received: u16,
        rtt_us: u16,
        delivered: bool,
    },
    /// A dump shows every socket there is. If flowcar was held up, it takes in what waits.
    Look,
    /// It closes; the record arrives, does not, or does not decode. A dump may still show the socket.
    Close { arrival: Arrival, lingers: bool },
    /// flowcar is held up between two steps: records wait in the ring from here on.
    HeldUp,
    /// It goes on.
    CatchUp,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    RingFull,
    Storage,
    Callbacks,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Arrival {
    Whole,
    Dropped,
    Malformed,
}

fn event() -> impl Strategy<Value = Event> {
    let fault = prop_oneof![
        8 => Just(Fault::None),
        2 => Just(Fault::RingFull),
        1 => Just(Fault::Storage),
        1 => Just(Fault::Callbacks),
    ];
    let arrival = prop_oneof![
        8 => Just(Arrival::Whole),
        1 => Just(Arrival::Dropped),
        1 => Just(Arrival::Malformed),
    ];
    let delivered = proptest::bool::weighted(0.8);
    prop_oneof![
        4 => any::<u8>().prop_map(Event::Connect),
        4 => fault.prop_map(Event::Establish),
        2 => Just(Event::Look),
        1 => delivered.prop_map(|delivered| Event::Fail { delivered }),
        8 => (any::<u16>(), any::<u16>(), 10_u16.., delivered).prop_map(|(sent, received, rtt_us, delivered)| {
            Event::Work { sent, received, rtt_us, delivered }
        }),
        3 => (arrival, any::<bool>()).prop_map(|(arrival, lingers)| Event::Close { arrival, lingers }),
        1 => Just(Event::HeldUp),
        1 => Just(Event::CatchUp),
    ]
}

/// The kernel's side, and what of it userspace must come to know.
struct Kernel {
    table: Table,
    series: SeriesSet,
    remainder: Remainder,
    counters: [u64; COUNTERS],
    sockets: Vec<FlowRecord>,
    clock: u64,
    /// Since when flowcar is held up, and the records that wait in the ring.
    held_up: Option<u64>,
    ring: Vec<(FlowRecord, Arrival)>,
    /// Sockets in the middle of their last callback: the kernel has not taken them away yet.
    going: Vec<FlowRecord>,
    dumps: u64,
    /// The sockets are of another network namespace than the one that is looked at.
    elsewhere: bool,
    /// Payload of each flow at the last look, if no record came since.
    looked: HashMap<u64, (u64, u64)>,
    truth: Truth,
}

#[derive(Debug, Default)]
struct Truth {
    established: u64,
    closed: u64,
    failed: u64,
    lost: BTreeMap<Lost, u64>,
    /// The last delivered (payload sent, received, RTT samples) of each flow, the closed ones included.
    told: HashMap<u64, (u64, u64, u64)>,
    opened_told: std::collections::HashSet<u64>,
    /// The cookies of all that were lost.
    lost_cookies: Vec<u64>,
    /// The most connections opened that any report told of.
    opened_most: u64,
}

impl Kernel {
    fn new(bound: usize, naming: Naming) -> Self {
        Self {
            table: Table::new(bound),
            series: SeriesSet::new(naming),
            remainder: Remainder::default(),
            counters: [0; COUNTERS],
            sockets: Vec::new(),
            clock: 1_000_000,
            held_up: None,
            ring: Vec::new(),
            going: Vec::new(),
            dumps: 0,
            elsewhere: false,
            looked: HashMap::new(),
            truth: Truth::default(),
        }
    }

    fn count(&mut self, counter: Counter) {
        self.counters[counter.index() as usize] += 1;
    }

    fn lose(&mut self, lost: Lost, cookie: u64) {
        self.truth.lost_cookies.push(cookie);
        *self.truth.lost.entry(lost).or_default() += 1;
    }

    fn deliver(&mut self, record: &FlowRecord) {
        self.send(record, Arrival::Whole);
    }

    fn send(&mut self, record: &FlowRecord, arrival: Arrival) {
        if self.held_up.is_some() && arrival != Arrival::Dropped {
            self.ring.push((*record, arrival));
        } else {
            self.arrive(record, arrival);
        }
    }

    fn arrive(&mut self, record: &FlowRecord, arrival: Arrival) {
        match arrival {
            Arrival::Whole => self.hear(record),
            Arrival::Dropped => {
                self.count(Counter::CloseDropped);
                self.lose(Lost::RingFull, record.cookie);
            }
            Arrival::Malformed => {
                assert!(decode(&bytes(record)[1..], 1).is_err());
                self.table.malformed(None);
                self.lose(Lost::Malformed, record.cookie);
            }
        }
    }

    fn catch_up(&mut self) {
        self.held_up = None;
        for (record, arrival) in std::mem::take(&mut self.ring) {
            self.arrive(&record, arrival);
        }
    }

    /// Records that wait of flows that go on.
    fn waiting(&self) -> u64 {
        let open = |(record, _): &&(FlowRecord, Arrival)| record.kind != Kind::Close as u8;
        self.ring.iter().filter(open).count() as u64
    }

    fn hear(&mut self, record: &FlowRecord) {
        if record.kind == Kind::Close as u8 {
            match record.established_ns {
                0 => self.truth.failed += 1,
                _ => self.truth.closed += 1,
            }
        }
        let decoded = decode(bytes(record), 1).expect("a whole record");
        let change = self.table.apply(decoded);
        self.series.apply(&change);
        let payload = (
            record.bytes_acked - u64::from(record.established_ns != 0),
            record.bytes_received,
        );
        let samples = record.rtt_slots.iter().map(|count| u64::from(*count)).sum();
        self.looked.remove(&record.cookie);
        if change.listed || change.now.outcome.is_some() {
            // A look may have told of more than a record that waited.
            let told = self.truth.told.entry(record.cookie).or_default();
            *told = (told.0.max(payload.0), told.1.max(payload.1), samples);
            if record.established_ns != 0 {
                self.truth.opened_told.insert(record.cookie);
            }
        }
    }

    /// `which` picks the socket that it happens to.
    fn happen(&mut self, which: usize, event: &Event) {
        self.clock += 1_000_000;
        if let Event::Connect(peer) = event {
            let cookie = self.truth.established + self.truth.failed + self.clock;
            let mut record = blank(cookie);
            record.started_ns = self.clock;
            record.established_ns = 0;
            record.bytes_acked = 0;
            record.peer_addr[3] = u32::from_be_bytes([10, 0, 0, *peer]).to_be();
            self.sockets.push(record);
            return;
        }
        match event {
            Event::Look => return self.look(),
            Event::HeldUp => {
                self.held_up.get_or_insert(self.clock);
                return;
            }
            Event::CatchUp => return self.catch_up(),
            _ => {}
        }
        if self.sockets.is_empty() {
            return;
        }
        let at = which % self.sockets.len();
        let mut record = self.sockets[at];
        record.emitted_ns = self.clock;
        let established = record.established_ns != 0;
        match *event {
            Event::Establish(fault) if !established => self.establish(at, record, fault),
            Event::Fail { delivered } if !established => {
                self.sockets.swap_remove(at);
                record.kind = Kind::Close as u8;
                record.last_state = 2;
                if delivered {
                    self.deliver(&record);
                } else {
                    self.count(Counter::FailedDropped);
                }
            }
            Event::Work {
                sent,
                received,
                rtt_us,
                delivered,
            } if established => {
                record.bytes_acked += u64::from(sent);
                record.bytes_received += u64::from(received);
                sample(&mut record, rtt_us.into());
                record.kind = Kind::Sample as u8;
                self.sockets[at] = record;
                if delivered {
                    self.deliver(&record);
                } else {
                    self.count(Counter::SampleDropped);
                }
            }
            Event::Close { arrival, lingers } if established => {
                if lingers {
                    self.going.push(record);
                }
                self.close(at, record, arrival);
            }
            _ => {}
        }
    }

    /// The socket's own counts go into flows that records told of, and into no others.
    fn look(&mut self) {
        let lost_before = unheard(&self.books());
        self.dumps += 1;
        let looking = Looking {
            at: Monotonic(self.held_up.unwrap_or(self.clock)),
            dump: self.dumps,
            adopt: Adopt::Nothing,
            overruns: 0,
            seed: 1,
        };
        let Self {
            table,
            series,
            sockets,
            going,
            truth,
            elsewhere,
            looked,
            ..
        } = self;
        let shown = |record: &&FlowRecord| record.established_ns != 0 && !*elsewhere;
        for record in sockets.iter().chain(&*going).filter(shown) {
            table.look(&sight(record), &looking, |change| {
                series.apply(&change);
                let told = truth.told.entry(record.cookie).or_default();
                let now = (record.bytes_acked - 1, record.bytes_received);
                let before = looked.insert(record.cookie, now).unwrap_or((0, 0));
                // One byte of what is new may be a FIN that the state does not tell of yet.
                let settled = |now: u64, before: u64| now - u64::from(now > before);
                told.0 = told.0.max(settled(now.0, before.0));
                told.1 = told.1.max(settled(now.1, before.1));
            });
        }
        going.clear();
        self.catch_up();
        let Self { table, series, .. } = self;
        table.looked(&looking, |change| series.apply(&change));
        if self.table.is_shown() {
            let missing = self.table.missing();
            self.remainder.looked(lost_before, missing);
        }
    }

    fn connect_one(&mut self) {
        self.happen(0, &Event::Connect(1));
        let last = self.sockets.len() - 1;
        self.happen(last, &Event::Establish(Fault::None));
    }

    fn establish(&mut self, at: usize, mut record: FlowRecord, fault: Fault) {
        self.truth.established += 1;
        self.count(Counter::Established);
        match fault {
            Fault::Storage | Fault::Callbacks => {
                self.sockets.swap_remove(at);
                if fault == Fault::Storage {
                    self.count(Counter::StorageRefused);
                    self.lose(Lost::Storage, record.cookie);
                } else {
                    self.count(Counter::ArmRefused);
                    self.lose(Lost::Callbacks, record.cookie);
                }
            }
            Fault::None | Fault::RingFull => {
                record.established_ns = self.clock;
                record.bytes_acked = 1;
                record.kind = Kind::Open as u8;
                self.sockets[at] = record;
                if fault == Fault::None {
                    self.deliver(&record);
                } else {
                    self.count(Counter::OpenDropped);
                }
            }
        }
    }

    fn close(&mut self, at: usize, mut record: FlowRecord, arrival: Arrival) {
        self.sockets.swap_remove(at);
        record.kind = Kind::Close as u8;
        record.last_state = 9;
        record.flags = flag::ORDERLY | flag::PEER_FIN_FIRST;
        self.send(&record, arrival);
    }

    fn live(&self) -> u64 {
        let established = self
            .sockets
            .iter()
            .filter(|record| record.established_ns != 0);
        established.count() as u64
    }

    fn books(&self) -> Books {
        let counters = &self.counters;
        self.table
            .books(|counter| counters[counter.index() as usize])
    }

    /// A receiver that adds up all points finds the equation, and opened connections that only grow. Gives how many, and
    /// how many of those that live are no series'.
    fn points_balance(&mut self) -> Result<(u64, i64), TestCaseError> {
        let books = self.books();
        let unseen = self.remainder.of(&books, self.waiting(), &self.series);
        let sum = |of: fn(&Series) -> u64| self.series.all().values().map(of).sum::<u64>();
        let opened = sum(|series| series.opened) + unseen.opened;
        let closed = sum(|series| series.closed.values().sum());
        let (listed, others) = (sum(|series| series.live), unseen.live.unwrap_or(0));
        let gone = (closed + books.lost_total()) as i64;
        prop_assert_eq!(opened as i64, gone + listed as i64 + others);
        prop_assert!(opened >= self.truth.opened_most, "{} opened", opened);
        prop_assert!(opened <= books.opened, "{} of {:?}", opened, books);
        self.truth.opened_most = opened;
        Ok((opened, others))
    }

    fn books_balance(&self) -> Result<(), TestCaseError> {
        let books = self.books();
        prop_assert!(books.balance(), "{:?}", books);
        if self.held_up.is_some() {
            return Ok(());
        }
        prop_assert_eq!(books.opened, self.truth.established);
        prop_assert_eq!(books.closed, self.truth.closed);
        prop_assert_eq!(books.failed, self.truth.failed);
        prop_assert_eq!(books.live, self.live());
        prop_assert_eq!(&books.lost, &self.truth.lost);
        Ok(())
    }

    /// Nothing that a record told of is missing or counted twice, whatever the bound of series.
    fn sums_are_exact(&self) -> Result<(), TestCaseError> {
        let all = self.series.all();
        let sum = |of: fn(&Series) -> u64| all.values().map(of).sum::<u64>();
        let told = self.truth.told.values();
        let expected = told.fold((0, 0, 0), |(a, b, c), (sent, received, samples)| {
            (a + sent, b + received, c + samples)
        });
        let samples = |series: &Series| series.rtt.values().map(|rtt| rtt.count()).sum();
        prop_assert_eq!(
            (
                sum(|series| series.bytes_sent),
                sum(|series| series.bytes_received),
                sum(samples)
            ),
            expected
        );
        prop_assert_eq!(
            sum(|series| series.opened),
            self.truth.opened_told.len() as u64
        );
        prop_assert_eq!(
            sum(|series| series.closed.values().sum()),
            self.truth.closed
        );
        prop_assert_eq!(
            sum(|series| series.failed.values().sum()),
            self.truth.failed
        );
        prop_assert_eq!(sum(|series| series.live), self.table.len() as u64);
        Ok(())
    }
}

fn sight(record: &FlowRecord) -> Sight {
    Sight {
        cookie: record.cookie,
        local: ([10, 0, 0, 1], record.local_port).into(),
        peer: (
            u32::from_be(record.peer_addr[3]).to_be_bytes(),
            record.peer_port,
        )
            .into(),
        interface: 0,
        state: State::Established,
        unread: 0,
        unacknowledged: 0,
        cgroup: Some(1),
        drops: None,
        info: Some(TcpInfo {
            state: State::Established as u8,
            bytes_acked: record.bytes_acked,
            bytes_received: record.bytes_received,
            bytes_sent: record.bytes_acked - 1,
            total_retrans: 7,
            ..TcpInfo::default()
        }),
    }
}

fn naming(peer: PeerNaming, limit: usize) -> Naming {
    Naming {
        peer,
        ports: true,
        limit,
    }
}

fn events() -> impl Strategy<Value = Vec<(usize, Event)>> {
    proptest::collection::vec((any::<usize>(), event()), 0..400)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn books_balance_after_every_event(events in events(), bound in 0_usize..8) {
        let mut kernel = Kernel::new(bound, naming(PeerNaming::None, 10));
        for (which, event) in &events {
            kernel.happen(*which, event);
            prop_assert!(kernel.table.len() <= bound);
            kernel.books_balance()?;
            kernel.points_balance()?;
        }
    }

    #[test]
    fn series_sum_to_what_was_told(events in events(), bound in 0_usize..8, limit in 0_usize..6) {
        let mut kernel = Kernel::new(bound, naming(PeerNaming::Address, limit));
        for (which, event) in &events {
            kernel.happen(*which, event);
            kernel.points_balance()?;
        }
        kernel.catch_up();
        kernel.going.clear();
        kernel.sums_are_exact()?;
        // Two looks take off the list what closed without a word, and nothing else, once they have shown any.
        kernel.connect_one();
        let listed = kernel.table.len();
        let living: Vec<u64> = kernel.sockets.iter().map(|record| record.cookie).collect();
        let lives = |flow: &Flow| living.contains(&flow.cookie);
        let living = kernel.table.iter().filter(|flow| lives(flow)).count();
        for _ in 0..2 {
            kernel.clock += 1_000_000;
            kernel.look();
        }
        prop_assert_eq!(kernel.table.len(), living, "of {} listed", listed);
        kernel.books_balance()?;
        kernel.sums_are_exact()?;
        let truth = &kernel.truth;
        let untold = |cookie: &&u64| !truth.opened_told.contains(*cookie);
        let lost_untold = truth.lost_cookies.iter().filter(untold).count();
        let known = (truth.opened_told.len() + lost_untold) as u64;
        prop_assert_eq!(kernel.points_balance()?, (known, 0));
        let named = kernel.series.all().keys().filter(|key| **key != SeriesKey::Overflow).count();
        prop_assert!(named <= limit);
    }

    /// Followed from another network namespace, where dumps show none of it, flows stay for as long as they live, and are
    /// counted once.
    #[test]
    fn what_no_dump_can_show_is_not_given_up(events in events(), bound in 0_usize..8) {
        let mut kernel = Kernel::new(bound, naming(PeerNaming::None, 10));
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
    fn the_table_takes_records_in_any_order(
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
            let change = table.apply(decode(bytes(&record), 1).expect("a whole record"));
            let is_close = kind == Kind::Close as u8;
            closed += u64::from(is_close && established);
            failed += u64::from(is_close && !established);
            prop_assert!(table.len() <= bound);
            prop_assert_eq!(change.listed, table.iter().any(|flow| flow.cookie == cookie));
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
fn past_the_limit_there_is_one_more_series_and_no_less_in_the_sum() {
    let mut kernel = Kernel::new(100, naming(PeerNaming::Address, 3));
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
    let all = kernel.series.all();
    assert_eq!(all.len(), 4);
    let overflow = &all[&SeriesKey::Overflow];
    assert_eq!(
        (
            overflow.opened,
            overflow.bytes_sent,
            overflow.bytes_received
        ),
        (7, 700, 7000)
    );
}

#[test]
fn peers_are_named_as_asked() {
    let peers = |peer| {
        let mut kernel = Kernel::new(100, naming(peer, 100));
        for octet in [1, 2, 130] {
            kernel.happen(0, &Event::Connect(octet));
            kernel.happen(kernel.sockets.len() - 1, &Event::Establish(Fault::None));
        }
        let names = kernel.series.all().keys().map(|key| match key {
            SeriesKey::Flows {
                role: Role::Client,
                peer,
                server_port: Some(80),
                ..
            } => format!("{peer:?}"),
            key => panic!("{key:?}"),
        });
        names.collect::<Vec<_>>()
    };
    assert_eq!(peers(PeerNaming::None), ["Unnamed"]);
    let named = |names: &[&str]| {
        names
            .iter()
            .map(|name| format!("Named({name:?})"))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        peers(PeerNaming::Address),
        named(&["10.0.0.1", "10.0.0.130", "10.0.0.2"])
    );
    assert_eq!(
        peers(PeerNaming::Prefix { v4: 25, v6: 64 }),
        named(&["10.0.0.0/25", "10.0.0.128/25"])
    );
    assert_eq!(
        peers(PeerNaming::Prefix { v4: 0, v6: 0 }),
        named(&["0.0.0.0/0"])
    );
}

/// What an open or a sample said, the next record says again; only a close that cannot be read is a loss.
#[test]
fn only_a_close_that_cannot_be_read_is_lost() {
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
    // Named nothing: the worst is assumed.
    table.malformed(None);
    assert_eq!(lost(&table), 2);
}
