//! Other tools that follow TCP flows, in the same run: what the kernel counts of the programs that each has loaded, and what its
//! process uses.
//!
//! A tool that is not installed, or does not start here, is named with the reason.

mod running;

use std::{io, path::PathBuf, thread, time::Instant};

use running::Running;

use crate::{
    figures::{self, PeerWork},
    hooks::{self, Count, Counting, EmptyProgram, Hook},
    measure::Measure,
    rounds,
    statistics::{confident, spread},
    worker::{End, Workload},
};

/// A tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// libbpf-tools' tcplife: a line for each connection.
    Tcplife,
    /// libbpf-tools' tcprtt: a histogram of smoothed round-trip times.
    Tcprtt,
    /// NetObserv's agent with its default settings: flows of packets, without round-trip times.
    Netobserv {
        /// Its binary; if absent, the one on the PATH.
        at: Option<PathBuf>,
    },
}

/// What the kernel counted beside a tool in one run.
struct Round {
    units: u64,
    all: Count,
    empty: Count,
    rss: u64,
}

// === impl Peer ===

impl Peer {
    /// All, with the binary of NetObserv's agent if one was named.
    pub(crate) fn all(netobserv: Option<PathBuf>) -> [Self; 3] {
        [
            Self::Tcplife,
            Self::Tcprtt,
            Self::Netobserv { at: netobserv },
        ]
    }

    /// In words.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Tcplife => "libbpf-tools tcplife",
            Self::Tcprtt => "libbpf-tools tcprtt",
            Self::Netobserv { .. } => "netobserv-ebpf-agent",
        }
    }

    /// What it costs here. Whatever fails beside it is the reason for which it is left out; the only error is an interrupt.
    pub(crate) fn figures(&self, measure: &Measure<'_>) -> io::Result<figures::Peer> {
        let mut peer = figures::Peer {
            name: self.name().to_owned(),
            version: None,
            left_out: None,
            note: None,
            workloads: Vec::new(),
        };
        for workload in Workload::EXCHANGES {
            measure.interrupt.check()?;
            match self.beside(measure, workload, &mut peer) {
                Ok(work) => peer.workloads.push(work),
                Err(error) => {
                    // A tool that was killed with its place by a signal has no reason of its own.
                    measure.interrupt.check()?;
                    peer.left_out = Some(error.to_string());
                    break;
                }
            }
        }
        Ok(peer)
    }

    fn beside(
        &self,
        measure: &Measure<'_>,
        workload: Workload,
        peer: &mut figures::Peer,
    ) -> io::Result<PeerWork> {
        thread::sleep(measure.settle);
        let mut ground = measure.ground(End::Client)?;
        if let Self::Netobserv { .. } = self {
            // It takes devices that have an address.
            ground.netns.set_loopback_address([2, 0, 0, 0, 0, 1])?;
        }
        let bare = (0..=measure.rounds / 2).map(|_| ground.worker.run(workload, measure.run));
        let bare = bare.collect::<io::Result<Vec<_>>>()?;
        // On every packet, so that its count is of a warm program as the tool's are.
        let empty = [EmptyProgram::attach(ground.followed.path(), Hook::Egress)?];
        let tool = Running::start(self, &ground.netns, peer)?;
        // Once uncounted, for cold caches.
        ground.worker.run(workload, measure.run)?;
        let (started, used) = (Instant::now(), tool.cpu()?);
        let mut round = || -> io::Result<Round> {
            measure.interrupt.check()?;
            let counts = || -> io::Result<_> {
                let empty = EmptyProgram::counts(&empty)?[&Hook::Egress];
                Ok((hooks::count_of_all(tool.id())?, empty))
            };
            let _enabled = Counting::start()?;
            let before = counts()?;
            let run = ground.worker.run(workload, measure.run)?;
            let after = counts()?;
            if after.0 == before.0 {
                return Err(io::Error::other(
                    "its programs were never called: it does not see these connections",
                ));
            }
            Ok(Round {
                units: run.units,
                all: after.0.since(before.0),
                empty: after.1.since(before.1),
                rss: tool.rss()?,
            })
        };
        let counted = (0..measure.rounds).map(|_| round());
        let counted = counted.collect::<io::Result<Vec<_>>>()?;
        // Over all rounds: a tool that reads its maps every few seconds does nothing in most of them.
        let cpu = (tool.cpu()? - used).as_secs_f64() / started.elapsed().as_secs_f64();
        tool.stop()?;
        let middle = |figure: fn(&Round) -> f64| spread(counted.iter().map(figure)).median;
        Ok(PeerWork {
            workload,
            calls: middle(|round| round.all.calls as f64 / round.units as f64),
            ns: confident(counted.iter().map(Round::ns_an_end)),
            empty_call_ns: middle(|round| round.empty.ns_per_call()),
            bare_ns: spread(bare.iter().map(|run| run.unit_ns())).median,
            process: rounds::usage(counted.iter().map(|round| (cpu, round.rss))),
        })
    }
}

// === impl Round ===

impl Round {
    /// Nanoseconds of a unit in the tool's programs, less those in as many calls of the empty one. Both ends are on this machine, and the
    /// tool sees both: half of it is what one end costs.
    fn ns_an_end(&self) -> f64 {
        let empty = self.all.calls as f64 * self.empty.ns_per_call();
        (self.all.ns as f64 - empty) / self.units as f64 / 2.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_costs_half_of_what_is_beyond_empty_programs() {
        let round = Round {
            units: 10,
            all: Count {
                calls: 40,
                ns: 8_000,
            },
            empty: Count { calls: 10, ns: 500 },
            rss: 0,
        };
        assert_eq!(round.ns_an_end(), 300.0);
    }
}
