//! One flowcar, the sockets that it may know, and what a receiver has of it.

use std::collections::HashMap;

use flowcar::{
    flow::{
        Adopt, Answers, CloseEvent, Event, Lost, Monotonic, OtherEnd, PollContext, PostCloseState,
        SocketSnapshot, State, Table, TcpInfo, Volume,
        checkpoint::{self, CheckpointFlows, KernelInstance},
        decode,
    },
    series::{PeerLabel, SeriesLabels, SeriesSet, Unattributed, account},
    snapshot::Series,
};
use flowcar_shared::{
    counter::Counter,
    record::{FlowRecord, Kind, Role},
};
use proptest::prelude::*;

use crate::common::{blank, bytes, sample};

/// The most flows in a table.
pub(crate) const BOUND: usize = 64;

#[derive(Clone, Debug)]
pub(crate) struct Socket {
    pub(crate) cookie: u64,
    pub(crate) client: bool,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) resent: u32,
    /// Whether the programs of this flowcar saw its establishment.
    pub(crate) recorded: bool,
}

/// One flowcar.
pub(crate) struct Process {
    pub(crate) table: Table,
    pub(crate) series: SeriesSet,
    pub(crate) unattributed: Unattributed,
    /// Whether programs are attached.
    pub(crate) records: bool,
    pub(crate) established: u64,
    pub(crate) lost_closes: u64,
    pub(crate) dumps: u64,
    pub(crate) settled: bool,
    /// The total payload of each connection, by the latest report.
    pub(crate) reported: HashMap<u64, (u64, u64, u64)>,
    /// Payload of each at the last poll, if no record came since.
    pub(crate) polled: HashMap<u64, (u64, u64)>,
    /// Payload in the checkpoint of the flowcar before it.
    pub(crate) left: HashMap<u64, Volume>,
}

/// What a receiver has of one flowcar.
#[derive(Clone, Debug, Default)]
pub(crate) struct Taken {
    pub(crate) opened: u64,
    pub(crate) sums: (u64, u64, u64),
    pub(crate) reported: HashMap<u64, (u64, u64, u64)>,
    pub(crate) left: CheckpointFlows,
    pub(crate) closed: u64,
    pub(crate) live: u64,
    pub(crate) lost: u64,
    pub(crate) restored: u64,
}

// === impl Socket ===

impl Socket {
    pub(crate) fn reported(&self) -> (u64, u64, u64) {
        (self.sent, self.received, self.resent.into())
    }

    pub(crate) fn observed(&self, state: State) -> SocketSnapshot {
        let info = TcpInfo {
            state: state as u8,
            bytes_acked: self.sent + u64::from(self.client),
            bytes_received: self.received,
            data_segs_in: self.received as u32,
            bytes_sent: self.sent,
            total_retrans: self.resent,
            segs_out: 1,
            segs_in: 1,
            delivered: 1,
            ..TcpInfo::default()
        };
        SocketSnapshot {
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
    pub(crate) fn new(records: bool, left: &CheckpointFlows) -> Self {
        let place = KernelInstance {
            boot: "this".to_owned(),
            netns: 1,
        };
        let written = checkpoint::encode(&place, 7, left);
        let read =
            checkpoint::decode(&written, checkpoint::Most { flows: BOUND }).expect("our own");
        let mut table = Table::new(BOUND);
        table.adoption_mut().restore(&read.reported);
        let naming = SeriesLabels {
            peer: PeerLabel::None,
            ports: true,
            limit: 10,
        };
        Self {
            table,
            series: SeriesSet::new(naming),
            unattributed: Unattributed::default(),
            records,
            established: 0,
            lost_closes: 0,
            dumps: 0,
            settled: false,
            reported: HashMap::new(),
            polled: HashMap::new(),
            left: left
                .flows
                .iter()
                .map(|left| (left.cookie, left.volume))
                .collect(),
        }
    }

    pub(crate) fn poll(&self, clock: u64) -> PollContext {
        PollContext {
            at: Monotonic(clock),
            dump: self.dumps,
            adopt: match (self.records, self.dumps) {
                (false, _) => Adopt::All,
                (true, 1) => Adopt::Connected,
                (true, _) => Adopt::Nothing,
            },
            overruns: 0,
            lost_closes: self.lost_closes,
            seed: 1,
        }
    }

    /// The same steps as the follower.
    pub(crate) fn dump(&mut self, sockets: &[Socket], clock: u64) {
        self.dumps += 1;
        let (poll, lost_closes) = (self.poll(clock), self.lost_closes);
        // Polls leave retransmits to records, which have their types.
        for socket in sockets.iter().filter(|socket| socket.recorded) {
            self.record(socket, Kind::Sample, clock);
        }
        for socket in sockets {
            let observed = socket.observed(State::Established);
            let Self {
                table,
                series,
                reported,
                polled,
                left,
                ..
            } = self;
            if account(table, series, Event::Polled(&observed, &poll)).is_some() {
                let now = (socket.sent, socket.received);
                let before = polled.insert(socket.cookie, now).unwrap_or((0, 0));
                let left = left.get(&socket.cookie);
                let left = left.map_or((0, 0, 0), |of| (of.bytes_sent, of.bytes_received, 0));
                let known = reported.get(&socket.cookie).copied().unwrap_or(left);
                // One new byte may be a FIN that the state does not show yet.
                let settled = |now: u64, before: u64| now - u64::from(now > before);
                let payload = (
                    known.0.max(settled(now.0, before.0)),
                    known.1.max(settled(now.1, before.1)),
                    socket.resent.into(),
                );
                reported.insert(socket.cookie, payload);
            }
        }
        let series = &mut self.series;
        if !self.records || self.dumps > 1 {
            let absent = self.table.finish_poll(&poll, |_| false);
            for cookie in absent.evicted {
                account(&mut self.table, series, Event::Evicted(cookie, &poll));
            }
            for cookie in absent.held {
                account(&mut self.table, series, Event::Held(cookie));
            }
            let absent = self.table.listing().absent();
            self.unattributed.finish_poll(lost_closes, absent);
        }
        if !self.settled && (self.records || self.dumps == 2) {
            self.settled = true;
            self.table.adoption_mut().settle_restored();
        }
    }

    pub(crate) fn record(&mut self, socket: &Socket, kind: Kind, clock: u64) {
        let record = decode(bytes(&socket.record(kind, clock)), 1).expect("a whole record");
        account(&mut self.table, &mut self.series, record.into());
        self.reported.insert(socket.cookie, socket.reported());
        self.polled.remove(&socket.cookie);
    }

    pub(crate) fn close(&mut self, socket: &Socket, disconnected: bool, clock: u64) {
        if socket.recorded {
            return self.record(socket, Kind::Close, clock);
        }
        let mut observed = socket.observed(State::Closed);
        if disconnected {
            (observed.local, observed.peer) = (([0; 4], 0).into(), ([0; 4], 0).into());
            observed.unacknowledged = 65_000;
            observed.info = Some(TcpInfo::default());
        }
        // Beside the programs only destroy events of known sockets are used.
        let known = self.table.listing().knows(socket.cookie)
            || self.table.adoption().restores(socket.cookie);
        if self.records && !known {
            return;
        }
        let destroy_event = CloseEvent {
            observed,
            found: PostCloseState::Nothing,
            answers: Answers::default(),
            other_end: OtherEnd::Unknown,
        };
        let poll = self.poll(clock);
        let Self {
            table,
            series,
            reported,
            ..
        } = self;
        let change = account(table, series, Event::Destroyed(&destroy_event, &poll));
        if change.is_some() && !disconnected {
            reported.insert(socket.cookie, socket.reported());
        }
    }

    /// Checks the books of a report as a receiver gets it.
    pub(crate) fn report(&mut self) -> Result<Taken, TestCaseError> {
        let (established, lost_closes) = (self.established, self.lost_closes);
        let books = self.table.books(|counter| match counter {
            Counter::Established => established,
            Counter::CloseDropped => lost_closes,
            _ => 0,
        });
        prop_assert!(books.balance(), "{:?}", books);
        let unattributed = self.unattributed.of(&books, 0, &self.series);
        let sum = |of: fn(&Series) -> u64| self.series.all().map(|(_, one)| of(one)).sum::<u64>();
        let taken = Taken {
            opened: sum(|of| of.opened + of.adopted_at_startup) + unattributed.opened,
            restored: sum(|of| of.adopted_at_restart) + unattributed.adopted_at_restart,
            sums: (
                sum(|of| of.volume.bytes_sent),
                sum(|of| of.volume.bytes_received),
                sum(|of| of.volume.retransmits.total()),
            ),
            reported: self.reported.clone(),
            left: self.table.checkpoint(unattributed.pending),
            closed: sum(|of| of.closed.values().sum()),
            live: sum(|of| of.live) - unattributed.pending,
            lost: books.lost_total(),
        };
        prop_assert!(unattributed.pending <= lost_closes);
        prop_assert_eq!(
            taken.opened + taken.restored,
            taken.closed + taken.live + taken.lost
        );
        // After lost closes two polls are needed to know whether series have their connections.
        let opened = taken.opened + taken.restored;
        prop_assert!(opened <= books.opened && books.opened - opened <= unattributed.pending);
        prop_assert_eq!(
            books.lost.get(&Lost::Restart).copied().unwrap_or(0),
            unattributed.adopted_at_restart
        );
        Ok(taken)
    }
}
