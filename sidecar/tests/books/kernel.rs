//! A model of the kernel: live sockets, and a ring buffer and memory that are exhausted now and then; beside it a flow table and
//! series that receive their records.

use std::collections::{BTreeMap, HashMap, HashSet};

use flowcar::{
    flow::{
        self, Adopt, Books, Lost, Monotonic, PollContext, SocketSnapshot, State, Table, TcpInfo,
        decode,
    },
    series::{SeriesLabels, SeriesSet, Unattributed, account, lost_closes, take_off_live},
    snapshot::Series,
};
use flowcar_shared::{
    counter::{COUNTERS, Counter},
    record::{FlowRecord, Kind, flag},
};
use proptest::prelude::*;

use crate::{
    common::{blank, bytes, sample},
    event::{Arrival, Event, Fault},
};

/// The kernel's side, and what userspace must learn of it.
pub(crate) struct Kernel {
    pub(crate) table: Table,
    pub(crate) series: SeriesSet,
    unattributed: Unattributed,
    counters: [u64; COUNTERS],
    pub(crate) sockets: Vec<FlowRecord>,
    pub(crate) clock: u64,
    /// Since when flowcar is stalled, and the records that wait in the ring.
    stalled_since: Option<u64>,
    ring: Vec<(FlowRecord, Arrival)>,
    /// Records of open flows that were received.
    received: u64,
    /// Sockets in the middle of their last callback: the kernel has not removed them yet.
    pub(crate) going: Vec<FlowRecord>,
    dumps: u64,
    /// Whether the sockets are in another network namespace than the one that is dumped.
    pub(crate) elsewhere: bool,
    /// Payload of each flow at the last poll, if no record came since.
    polled: HashMap<u64, (u64, u64)>,
    pub(crate) truth: Truth,
}

#[derive(Debug, Default)]
pub(crate) struct Truth {
    established: u64,
    closed: u64,
    failed: u64,
    lost: BTreeMap<Lost, u64>,
    /// The last delivered (payload sent, received, RTT samples) of each flow, the closed ones included.
    reported: HashMap<u64, (u64, u64, u64)>,
    pub(crate) opened_reported: HashSet<u64>,
    /// The cookies of all that were lost.
    pub(crate) lost_cookies: Vec<u64>,
    /// The most connections opened in any report.
    opened_most: u64,
    lost_most: BTreeMap<Lost, u64>,
}

impl Kernel {
    pub(crate) fn new(bound: usize, naming: SeriesLabels) -> Self {
        Self {
            table: Table::new(bound),
            series: SeriesSet::new(naming),
            unattributed: Unattributed::default(),
            counters: [0; COUNTERS],
            sockets: Vec::new(),
            clock: 1_000_000,
            stalled_since: None,
            ring: Vec::new(),
            received: 0,
            going: Vec::new(),
            dumps: 0,
            elsewhere: false,
            polled: HashMap::new(),
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
        if self.stalled_since.is_some() && arrival != Arrival::Dropped {
            self.ring.push((*record, arrival));
        } else {
            self.arrive(record, arrival);
        }
    }

    fn arrive(&mut self, record: &FlowRecord, arrival: Arrival) {
        match arrival {
            Arrival::Whole => self.receive(record),
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

    pub(crate) fn catch_up(&mut self) {
        self.stalled_since = None;
        for (record, arrival) in std::mem::take(&mut self.ring) {
            self.arrive(&record, arrival);
        }
    }

    /// Waiting records of open flows.
    fn waiting(&self) -> u64 {
        let open = |(record, _): &&(FlowRecord, Arrival)| record.kind != Kind::Close as u8;
        let waiting = self.ring.iter().filter(open).count() as u64;
        let counters = &self.counters;
        let reported = flow::waiting(|counter| counters[counter.index() as usize], self.received);
        assert_eq!(reported, waiting);
        waiting
    }

    fn receive(&mut self, record: &FlowRecord) {
        self.received += u64::from(record.kind != Kind::Close as u8);
        if record.kind == Kind::Close as u8 {
            match record.established_ns {
                0 => self.truth.failed += 1,
                _ => self.truth.closed += 1,
            }
        }
        let decoded = decode(bytes(record), 1).expect("a whole record");
        let change = account(&mut self.table, &mut self.series, decoded.into());
        let change = change.expect("a change");
        let payload = (
            record.bytes_acked - u64::from(record.established_ns != 0),
            record.bytes_received,
        );
        let samples = record.rtt_slots.iter().map(|count| u64::from(*count)).sum();
        self.polled.remove(&record.cookie);
        if change.listed || change.now.outcome.is_some() {
            // A poll may have reported more than a record that waited.
            let reported = self.truth.reported.entry(record.cookie).or_default();
            *reported = (
                reported.0.max(payload.0),
                reported.1.max(payload.1),
                samples,
            );
            if record.established_ns != 0 {
                self.truth.opened_reported.insert(record.cookie);
            }
        }
    }

    /// `which` selects the socket.
    pub(crate) fn happen(&mut self, which: usize, event: &Event) {
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
            Event::Poll => return self.poll_sockets(),
            Event::Stall => {
                self.stalled_since.get_or_insert(self.clock);
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
                self.count(Counter::Sampled);
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

    /// The socket's own counts go into flows that records reported, and into no others.
    pub(crate) fn poll_sockets(&mut self) {
        let lost_before = lost_closes(&self.books());
        self.dumps += 1;
        let poll = PollContext {
            at: Monotonic(self.stalled_since.unwrap_or(self.clock)),
            dump: self.dumps,
            adopt: Adopt::Nothing,
            overruns: 0,
            lost_closes: lost_before,
            seed: 1,
        };
        let Self {
            table,
            series,
            sockets,
            going,
            truth,
            elsewhere,
            polled,
            ..
        } = self;
        let shown = |record: &&FlowRecord| record.established_ns != 0 && !*elsewhere;
        for record in sockets.iter().chain(&*going).filter(shown) {
            let observed = observed(record);
            if account(table, series, flow::Event::Polled(&observed, &poll)).is_some() {
                let reported = truth.reported.entry(record.cookie).or_default();
                let now = (record.bytes_acked - 1, record.bytes_received);
                let before = polled.insert(record.cookie, now).unwrap_or((0, 0));
                // One new byte may be a FIN that the state does not show yet.
                let settled = |now: u64, before: u64| now - u64::from(now > before);
                reported.0 = reported.0.max(settled(now.0, before.0));
                reported.1 = reported.1.max(settled(now.1, before.1));
            }
        }
        going.clear();
        self.catch_up();
        let Self { table, series, .. } = self;
        let absent = table.finish_poll(&poll, |_| false);
        assert!(absent.held.is_empty(), "records report them");
        for cookie in absent.evicted {
            account(table, series, flow::Event::Evicted(cookie, &poll));
        }
        let unsettled = self.table.listing().absent() + self.waiting();
        self.unattributed.finish_poll(lost_before, unsettled);
    }

    pub(crate) fn connect_one(&mut self) {
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

    /// A receiver that sums all points finds balanced books, and opened and lost counts that only grow. Returns how many were opened,
    /// and how many lost connections are not identified.
    pub(crate) fn points_balance(&mut self) -> Result<(u64, u64), TestCaseError> {
        let books = self.books();
        let unattributed = self.unattributed.of(&books, self.waiting(), &self.series);
        let sum = |of: fn(&Series) -> u64| self.series.all().map(|(_, one)| of(one)).sum::<u64>();
        let opened = sum(|series| series.opened) + unattributed.opened;
        let closed = sum(|series| series.closed.values().sum());
        let mut series: BTreeMap<_, _> = self
            .series
            .all()
            .map(|(key, one)| (key.clone(), one.clone()))
            .collect();
        take_off_live(&mut series, unattributed.dead);
        let lost = self.unattributed.lost().clone();
        for (cause, count) in &lost {
            let before = self.truth.lost_most.get(cause).copied().unwrap_or(0);
            prop_assert!(*count >= before, "{:?}: {} after {}", cause, count, before);
            prop_assert!(*count <= books.lost[cause], "{:?}: {}", cause, count);
        }
        let lost_total: u64 = lost.values().sum();
        self.truth.lost_most = lost;
        let live: u64 = series.values().map(|one| one.live).sum();
        prop_assert_eq!(opened, closed + lost_total + live);
        prop_assert!(opened >= self.truth.opened_most, "{} opened", opened);
        prop_assert!(opened <= books.opened, "{} of {:?}", opened, books);
        self.truth.opened_most = opened;
        Ok((opened, unattributed.pending))
    }

    pub(crate) fn books_balance(&self) -> Result<(), TestCaseError> {
        let books = self.books();
        prop_assert!(books.balance(), "{:?}", books);
        if self.stalled_since.is_some() {
            return Ok(());
        }
        prop_assert_eq!(books.opened, self.truth.established);
        prop_assert_eq!(books.closed, self.truth.closed);
        prop_assert_eq!(books.failed, self.truth.failed);
        prop_assert_eq!(books.live, self.live());
        prop_assert_eq!(&books.lost, &self.truth.lost);
        Ok(())
    }

    /// Nothing that a record reported is missing or counted twice, whatever the bound of series.
    pub(crate) fn sums_are_exact(&self) -> Result<(), TestCaseError> {
        let sum = |of: fn(&Series) -> u64| self.series.all().map(|(_, one)| of(one)).sum::<u64>();
        let reported = self.truth.reported.values();
        let expected = reported.fold((0, 0, 0), |(a, b, c), (sent, received, samples)| {
            (a + sent, b + received, c + samples)
        });
        let samples = |series: &Series| series.rtt.values().map(|rtt| rtt.count()).sum();
        prop_assert_eq!(
            (
                sum(|series| series.volume.bytes_sent),
                sum(|series| series.volume.bytes_received),
                sum(samples)
            ),
            expected
        );
        prop_assert_eq!(
            sum(|series| series.opened),
            self.truth.opened_reported.len() as u64
        );
        prop_assert_eq!(
            sum(|series| series.closed.values().sum()),
            self.truth.closed
        );
        prop_assert_eq!(
            sum(|series| series.failed.values().sum()),
            self.truth.failed
        );
        prop_assert_eq!(sum(|series| series.live), self.table.listing().len() as u64);
        Ok(())
    }
}

pub(crate) fn observed(record: &FlowRecord) -> SocketSnapshot {
    SocketSnapshot {
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
