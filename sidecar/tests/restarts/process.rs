//! One flowcar, the sockets that it may know of, and what a receiver has of it.

use std::collections::HashMap;

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

use crate::common::{blank, bytes, sample};

/// Flows that a table lists, at most.
pub(crate) const BOUND: usize = 64;

#[derive(Clone, Debug)]
pub(crate) struct Socket {
    pub(crate) cookie: u64,
    pub(crate) client: bool,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) resent: u32,
    /// It was made under the eyes of the programs of this flowcar.
    pub(crate) recorded: bool,
}

/// One flowcar.
pub(crate) struct Process {
    pub(crate) table: Table,
    pub(crate) series: SeriesSet,
    pub(crate) remainder: Remainder,
    /// Beside programs.
    pub(crate) records: bool,
    pub(crate) established: u64,
    pub(crate) unheard: u64,
    pub(crate) dumps: u64,
    pub(crate) settled: bool,
    /// Payload that it told of in all of each connection's life, by the latest news.
    pub(crate) told: HashMap<u64, (u64, u64, u64)>,
    /// Payload at the last look at each, if no record came since.
    pub(crate) looked: HashMap<u64, (u64, u64)>,
    /// By the flowcar before it.
    pub(crate) left: HashMap<u64, Volume>,
}

/// What a receiver has of one flowcar.
#[derive(Clone, Debug, Default)]
pub(crate) struct Taken {
    pub(crate) opened: u64,
    pub(crate) sums: (u64, u64, u64),
    pub(crate) told: HashMap<u64, (u64, u64, u64)>,
    pub(crate) left: Leaving,
    pub(crate) closed: u64,
    pub(crate) live: u64,
    pub(crate) lost: u64,
    pub(crate) inherited: u64,
}

// === impl Socket ===

impl Socket {
    pub(crate) fn told(&self) -> (u64, u64, u64) {
        (self.sent, self.received, self.resent.into())
    }

    pub(crate) fn sight(&self, state: State) -> Sight {
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

    pub(crate) fn record(&self, kind: Kind, clock: u64) -> FlowRecord {
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
    pub(crate) fn new(records: bool, left: &Leaving) -> Self {
        let place = Place {
            boot: "this".to_owned(),
            netns: 1,
        };
        let written = handover::encode(&place, 7, left);
        let read = handover::decode(&written, handover::Most { flows: BOUND }).expect("our own");
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

    pub(crate) fn looking(&self, clock: u64) -> Looking {
        Looking {
            at: Monotonic(clock),
            dump: self.dumps,
            adopt: match (self.records, self.dumps) {
                (false, _) => Adopt::All,
                (true, 1) => Adopt::Connected,
                (true, _) => Adopt::Nothing,
            },
            overruns: 0,
            unheard: self.unheard,
            seed: 1,
        }
    }

    /// As the follower does it.
    pub(crate) fn dump(&mut self, sockets: &[Socket], clock: u64) {
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
            self.table
                .looked(&looking, |_| false, |change| series.apply(&change));
            let absent = self.table.absent();
            self.remainder.looked(unheard, absent);
        }
        if !self.settled && (self.records || self.dumps == 2) {
            self.settled = true;
            self.table.settle_inherited();
        }
    }

    pub(crate) fn record(&mut self, socket: &Socket, kind: Kind, clock: u64) {
        let record = decode(bytes(&socket.record(kind, clock)), 1).expect("a whole record");
        let change = self.table.apply(record);
        self.series.apply(&change);
        self.told.insert(socket.cookie, socket.told());
        self.looked.remove(&socket.cookie);
    }

    pub(crate) fn end(&mut self, socket: &Socket, wiped: bool, clock: u64) {
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
    pub(crate) fn report(&mut self) -> Result<Taken, TestCaseError> {
        let (established, unheard) = (self.established, self.unheard);
        let books = self.table.books(|counter| match counter {
            Counter::Established => established,
            Counter::CloseDropped => unheard,
            _ => 0,
        });
        prop_assert!(books.balance(), "{:?}", books);
        let unseen = self.remainder.of(&books, 0, &self.series);
        let sum = |of: fn(&Series) -> u64| self.series.all().map(|(_, one)| of(one)).sum::<u64>();
        let taken = Taken {
            opened: sum(|of| of.opened + of.adopted_at_startup) + unseen.opened,
            inherited: sum(|of| of.adopted_at_restart) + unseen.adopted_at_restart,
            sums: (
                sum(|of| of.bytes_sent),
                sum(|of| of.bytes_received),
                sum(|of| of.retransmits.total()),
            ),
            told: self.told.clone(),
            left: self.table.leave(unseen.pending),
            closed: sum(|of| of.closed.values().sum()),
            live: sum(|of| of.live) - unseen.pending,
            lost: books.lost_total(),
        };
        prop_assert!(unseen.pending <= unheard);
        prop_assert_eq!(
            taken.opened + taken.inherited,
            taken.closed + taken.live + taken.lost
        );
        // Of ends that were not heard of it takes two looks to tell whether series have their connections.
        let opened = taken.opened + taken.inherited;
        prop_assert!(opened <= books.opened && books.opened - opened <= unseen.pending);
        prop_assert_eq!(
            books.lost.get(&Lost::Restart).copied().unwrap_or(0),
            unseen.adopted_at_restart
        );
        Ok(taken)
    }
}
