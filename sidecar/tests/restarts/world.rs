//! Sockets that come and go, and restarts of flowcar.

use std::collections::{HashMap, HashSet};

use flowcar::flow::checkpoint::CheckpointFlows;
use flowcar_shared::record::Kind;
use proptest::prelude::*;

use crate::process::{BOUND, Process, Socket, Taken};

/// An event.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Connect {
        client: bool,
    },
    Work {
        sent: u16,
        received: u16,
        resent: bool,
    },
    Close,
    /// Its own end resets it, which clears its counts.
    Disconnect,
    /// With programs, its close finds the ring full.
    CloseUnseen,
    /// With programs, all records of a connection find the ring full.
    PassUnseen,
    Dump,
    /// A report is made, and a receiver takes it or not.
    Report {
        taken: bool,
    },
    /// The flowcar is killed, and the next one starts after so many events.
    Kill {
        gap: u8,
    },
}

pub(crate) struct World {
    process: Option<Process>,
    records: bool,
    sockets: Vec<Socket>,
    clock: u64,
    gap: u8,
    /// Connections without any received record.
    passed_unseen: u64,
    /// Of the current flowcar.
    taken: Taken,
    /// Of the flowcars before it.
    before: Vec<Taken>,
}

// === impl World ===

impl World {
    pub(crate) fn new(records: bool) -> Self {
        Self {
            process: Some(Process::new(records, &CheckpointFlows::default())),
            records,
            sockets: Vec::new(),
            clock: 1_000_000,
            gap: 0,
            passed_unseen: 0,
            taken: Taken::default(),
            before: Vec::new(),
        }
    }

    pub(crate) fn happen(&mut self, which: usize, event: &Event) -> Result<(), TestCaseError> {
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
            Event::Close | Event::Disconnect if !self.sockets.is_empty() => {
                let socket = self.sockets.swap_remove(which % self.sockets.len());
                if let Some(process) = &mut self.process {
                    process.close(&socket, matches!(event, Event::Disconnect), clock);
                }
            }
            Event::CloseUnseen if !self.sockets.is_empty() => {
                let socket = self.sockets.swap_remove(which % self.sockets.len());
                match &mut self.process {
                    Some(process) if socket.recorded => process.lost_closes += 1,
                    Some(process) => process.close(&socket, false, clock),
                    None => {}
                }
            }
            Event::PassUnseen => {
                if let Some(process) = self.process.as_mut().filter(|of| of.records) {
                    process.established += 1;
                    process.lost_closes += 1;
                    self.passed_unseen += 1;
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

    /// The checkpoint: after a flowcar without an acknowledged report it is the older one.
    fn left(&self, taken: &Taken) -> CheckpointFlows {
        let all = std::iter::once(taken).chain(self.before.iter().rev());
        let mut reported =
            all.filter(|taken| taken.opened + taken.restored > 0 || !taken.left.flows.is_empty());
        reported
            .next()
            .map_or_else(CheckpointFlows::default, |taken| taken.left.clone())
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

    /// Checks all flowcars, after the last one has polled and reported.
    pub(crate) fn holds(&mut self) -> Result<(), TestCaseError> {
        self.gap = 0;
        // The first poll may be the one that adopts; two more miss sockets with lost closes.
        let polls = [Event::Dump, Event::Dump, Event::Dump];
        for event in polls.iter().chain([&Event::Report { taken: true }]) {
            self.happen(0, event)?;
        }
        let last = self.taken.clone();
        let all = || self.before.iter().chain([&last]);
        let mut reported: HashMap<u64, (u64, u64, u64)> = HashMap::new();
        for taken in all() {
            reported.extend(
                taken
                    .reported
                    .iter()
                    .map(|(cookie, payload)| (*cookie, *payload)),
            );
        }
        let total =
            |of: fn((u64, u64, u64)) -> u64| reported.values().copied().map(of).sum::<u64>();
        let sum = |of: fn(&Taken) -> u64| all().map(of).sum::<u64>();
        prop_assert_eq!(
            (
                sum(|of| of.sums.0),
                sum(|of| of.sums.1),
                sum(|of| of.sums.2)
            ),
            (total(|of| of.0), total(|of| of.1), total(|of| of.2))
        );
        // All payload of live connections is reported.
        for socket in &self.sockets {
            prop_assert_eq!(reported.get(&socket.cookie), Some(&socket.reported()));
        }
        // Each connection is opened once, and closed, lost or live once. A connection without any received record may have been
        // lost in the last report of a flowcar, and would have been opened in the next.
        let opened = sum(|of| of.opened);
        let ended = sum(|of| of.closed) + sum(|of| of.lost) + last.live;
        prop_assert!(
            opened <= ended && ended - opened <= self.passed_unseen,
            "{} {}",
            opened,
            ended
        );
        prop_assert_eq!(last.live, self.sockets.len() as u64);
        let disconnected = sum(|of| of.opened) - reported.len() as u64;
        prop_assert!(
            disconnected <= self.passed_unseen || !self.records,
            "{} more opened than reported",
            disconnected
        );
        let left: HashSet<u64> = last.left.flows.iter().map(|left| left.cookie).collect();
        let living: HashSet<u64> = self.sockets.iter().map(|socket| socket.cookie).collect();
        // Until polls have shown a socket they cannot miss it.
        prop_assert!(left.is_superset(&living));
        prop_assert!((left.len() - living.len()) as u64 <= last.left.lost_closes);
        Ok(())
    }
}

pub(crate) fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => any::<bool>().prop_map(|client| Event::Connect { client }),
        6 => (any::<u16>(), any::<u16>(), any::<bool>())
            .prop_map(|(sent, received, resent)| Event::Work { sent, received, resent }),
        3 => Just(Event::Close),
        1 => Just(Event::Disconnect),
        1 => Just(Event::CloseUnseen),
        1 => prop_oneof![4 => Just(Event::Dump), 1 => Just(Event::PassUnseen)],
        3 => Just(Event::Dump),
        3 => any::<bool>().prop_map(|taken| Event::Report { taken }),
        1 => (0_u8..10).prop_map(|gap| Event::Kill { gap }),
    ]
}
