//! The runs, and what is kept of each.

use std::{fs, io, time::Duration};

use flowcar_lab::{
    flowcar,
    interrupt::Interrupt,
    place::{Cgroup, Netns},
    receiver::Receiver,
    sidecar::Sidecar,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    figures::Program,
    hooks::{self, Count, Counts, EmptyProgram, Hook},
    worker::{End, Run, Worker, Workload},
};

/// Milliseconds between flowcar's reports, fifty times as often as by default, so that short runs have some.
const REPORT_INTERVAL: &str = "200";

/// Spans a second. After its start flowcar may send ten seconds' worth at once, which in a run this short would be
/// nearly all that it does; so much of it that a run has as many spans as one of the same length has later on.
const SPANS_PER_SECOND: &str = "8";

/// What flowcar does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Follows {
    /// What it does by default.
    Flows,
    /// Exchange latency besides.
    Exchanges,
}

impl Follows {
    const fn exchange(self) -> &'static str {
        match self {
            Self::Flows => "off",
            Self::Exchanges => "on",
        }
    }
}

/// How much to measure.
#[derive(Debug)]
pub(crate) struct Measure<'a> {
    /// Rounds of four runs.
    pub(crate) rounds: usize,
    /// How long each run is.
    pub(crate) run: Duration,
    /// How long to wait before what is measured next: the kernel takes away the connections of a removed namespace beside whoever
    /// works then, hundreds of thousands in TIME_WAIT.
    pub(crate) settle: Duration,
    /// How long flowcar is watched with nothing to do: past several reports.
    pub(crate) idle: Duration,
    /// What flowcar sends to.
    pub(crate) receiver: &'a Receiver,
    /// Ends it before its time.
    pub(crate) interrupt: &'a Interrupt,
}

/// What was measured in a row.
#[derive(Clone, Debug)]
pub(crate) struct Round {
    /// Without the kernel counting.
    pub(crate) pair: Pair,
    /// flowcar as it is by default.
    pub(crate) flows: Counted,
    /// With exchange latency.
    pub(crate) exchanges: Counted,
}

/// The same work without flowcar and with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    /// Without.
    pub(crate) bare: Run,
    /// With.
    pub(crate) followed: Run,
    /// CPU time of the flowcar process meanwhile.
    pub(crate) flowcar_cpu: Duration,
    /// Its resident memory at the end, bytes.
    pub(crate) flowcar_rss: u64,
}

/// A run in which the kernel counted.
#[derive(Clone, Debug)]
pub(crate) struct Counted {
    /// Exchanges, connections or megabytes.
    pub(crate) units: u64,
    /// CPU time of the flowcar process as a part of the wall time.
    pub(crate) flowcar_cpu: f64,
    /// Its resident memory at the end, bytes.
    pub(crate) flowcar_rss: u64,
    /// flowcar's programs.
    pub(crate) hooks: Counts,
    /// The empty ones.
    pub(crate) empty: Counts,
}

/// What was measured of one workload at one end.
#[derive(Debug)]
pub(crate) struct Measured {
    /// In rows.
    pub(crate) rounds: Vec<Round>,
    /// flowcar's programs, by default and with exchange latency.
    pub(crate) programs: Vec<Program>,
}

/// flowcar with nothing to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Idle {
    /// Size of its binary, bytes.
    pub(crate) binary: u64,
    /// Resident memory, bytes.
    pub(crate) rss: u64,
    /// Of it, heap and stacks.
    pub(crate) anonymous: u64,
    /// CPU time over the time it was watched.
    pub(crate) cpu_share: f64,
}

/// A flowcar whose programs the kernel counts, from the first round to the last, for in steady work its maps are in the caches. It is
/// stopped (SIGSTOP) while others run.
struct Counting {
    follows: Follows,
    sidecar: Sidecar,
    empty: Vec<EmptyProgram>,
    /// Called first, they bring what the kernel counts with into the caches, which is no work of flowcar's.
    _before: Vec<EmptyProgram>,
    ground: Ground,
}

/// A worker, and the cgroup that one end of its connections is in.
pub(crate) struct Ground {
    /// Who works.
    pub(crate) worker: Worker,
    /// One end's.
    pub(crate) followed: Cgroup,
    _beside: Cgroup,
    /// Both ends'.
    pub(crate) netns: Netns,
}

// === impl Measure ===

impl Measure<'_> {
    /// The rounds. How long flowcar took to attach in each is added to `starts`.
    pub(crate) fn rounds(
        &self,
        workload: Workload,
        end: End,
        starts: &mut Vec<Duration>,
    ) -> io::Result<Measured> {
        std::thread::sleep(self.settle);
        let mut flows = Counting::start(self, workload, end, Follows::Flows)?;
        let mut exchanges = Counting::start(self, workload, end, Follows::Exchanges)?;
        let mut ground = self.ground(end)?;
        // Once unmeasured, for cold caches.
        ground.worker.run(workload, self.run)?;
        let round = |number| {
            self.interrupt.check()?;
            Ok(Round {
                pair: ground.pair(self, workload, number % 2 == 1, starts)?,
                flows: flows.run(self, workload)?,
                exchanges: exchanges.run(self, workload)?,
            })
        };
        let rounds = (0..self.rounds).map(round).collect::<io::Result<_>>()?;
        let mut programs = flows.programs()?;
        programs.extend(exchanges.programs()?);
        Ok(Measured { rounds, programs })
    }

    /// flowcar beside a cgroup in which nothing happens.
    pub(crate) fn idle(&self) -> io::Result<Idle> {
        std::thread::sleep(self.settle);
        let cgroup = Cgroup::new("bench-idle")?;
        self.interrupt.check()?;
        let sidecar = self.follow(&cgroup, Follows::Flows)?;
        let used = sidecar.cpu()?;
        std::thread::sleep(self.idle);
        Ok(Idle {
            binary: fs::metadata(flowcar::program()?)?.len(),
            rss: sidecar.rss()?,
            anonymous: sidecar.anonymous()?,
            cpu_share: (sidecar.cpu()? - used).as_secs_f64() / self.idle.as_secs_f64(),
        })
    }

    fn follow(&self, cgroup: &Cgroup, follows: Follows) -> io::Result<Sidecar> {
        let settings = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", self.receiver.endpoint()),
            ("OTEL_METRIC_EXPORT_INTERVAL", REPORT_INTERVAL.to_owned()),
            ("FLOWCAR_SPANS_PER_SECOND", SPANS_PER_SECOND.to_owned()),
            ("FLOWCAR_EXCHANGE", follows.exchange().to_owned()),
        ];
        Sidecar::follow(cgroup.path(), settings)
    }

    /// Two cgroups in a network namespace, and who works there.
    pub(crate) fn ground(&self, end: End) -> io::Result<Ground> {
        let (followed, beside) = (Cgroup::new("bench")?, Cgroup::new("bench-beside")?);
        self.interrupt.kills(&followed)?;
        self.interrupt.kills(&beside)?;
        let netns = Netns::new("bench")?;
        // Each connection leaves a port in TIME_WAIT for a while. Tools listen on ports below these.
        netns.sysctl("net.ipv4.ip_local_port_range", "10000 65535")?;
        Ok(Ground {
            worker: Worker::start(&netns, end, &followed, &beside)?,
            followed,
            _beside: beside,
            netns,
        })
    }
}

fn grown(before: &Counts, after: &Counts) -> Counts {
    let since = |hook, count: &Count| count.since(before.get(hook).copied().unwrap_or_default());
    after
        .iter()
        .map(|(hook, count)| (*hook, since(hook, count)))
        .collect()
}

// === impl Ground ===

impl Ground {
    fn pair(
        &mut self,
        measure: &Measure<'_>,
        workload: Workload,
        bare_first: bool,
        starts: &mut Vec<Duration>,
    ) -> io::Result<Pair> {
        // In turn, so that a machine that gets slower all the time favours neither.
        let before = bare_first
            .then(|| self.worker.run(workload, measure.run))
            .transpose()?;
        let sidecar = measure.follow(&self.followed, Follows::Flows)?;
        starts.push(sidecar.attached_after());
        let used = sidecar.cpu()?;
        let followed = self.worker.run(workload, measure.run)?;
        let (flowcar_cpu, flowcar_rss) = (sidecar.cpu()? - used, sidecar.rss()?);
        sidecar.stop()?;
        Ok(Pair {
            bare: match before {
                Some(run) => run,
                None => self.worker.run(workload, measure.run)?,
            },
            followed,
            flowcar_cpu,
            flowcar_rss,
        })
    }
}

// === impl Counting ===

impl Counting {
    fn start(
        measure: &Measure<'_>,
        workload: Workload,
        end: End,
        follows: Follows,
    ) -> io::Result<Self> {
        let mut ground = measure.ground(end)?;
        let empty_programs = || -> io::Result<Vec<_>> {
            let attach = |hook: &Hook| EmptyProgram::attach(ground.followed.path(), *hook);
            Hook::ALL.iter().map(attach).collect()
        };
        let before = empty_programs()?;
        let sidecar = measure.follow(&ground.followed, follows)?;
        let empty = empty_programs()?;
        // Once uncounted, for cold caches.
        ground.worker.run(workload, measure.run)?;
        let counting = Self {
            follows,
            sidecar,
            empty,
            _before: before,
            ground,
        };
        counting.signal(Signal::SIGSTOP)?;
        Ok(counting)
    }

    /// A run in which the kernel counts.
    fn run(&mut self, measure: &Measure<'_>, workload: Workload) -> io::Result<Counted> {
        self.signal(Signal::SIGCONT)?;
        let counted = {
            let _enabled = hooks::Counting::start()?;
            let (before, used) = (self.counts()?, self.sidecar.cpu()?);
            let run = self.ground.worker.run(workload, measure.run)?;
            let (after, used) = (self.counts()?, self.sidecar.cpu()? - used);
            Counted {
                units: run.units,
                flowcar_cpu: used.as_secs_f64() / run.elapsed.as_secs_f64(),
                flowcar_rss: self.sidecar.rss()?,
                hooks: grown(&before.0, &after.0),
                empty: grown(&before.1, &after.1),
            }
        };
        self.signal(Signal::SIGSTOP)?;
        Ok(counted)
    }

    fn counts(&self) -> io::Result<(Counts, Counts)> {
        Ok((
            hooks::counts(self.sidecar.id())?,
            EmptyProgram::counts(&self.empty)?,
        ))
    }

    fn programs(&self) -> io::Result<Vec<Program>> {
        let attached = hooks::attached(self.sidecar.id())?.into_iter();
        let program = attached.map(|(hook, info)| Program {
            exchanges: self.follows == Follows::Exchanges,
            hook,
            verified_insns: info.verified_insns,
            translated_bytes: info.translated_bytes,
            jited_bytes: info.jited_bytes,
        });
        Ok(program.collect())
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill(
            Pid::from_raw(self.sidecar.id().cast_signed()),
            signal,
        )?)
    }
}

// === impl Counted ===

impl Counted {
    /// Nanoseconds of a unit in flowcar's programs, less those in empty ones.
    pub(crate) fn ns(&self) -> f64 {
        self.hooks.keys().map(|hook| self.ns_a_unit(*hook)).sum()
    }

    /// The same of one hook.
    pub(crate) fn ns_a_unit(&self, hook: Hook) -> f64 {
        match self.calls(hook) {
            0 => 0.0,
            _ => {
                let beyond_empty =
                    self.hooks[&hook].ns_per_call() - self.empty[&hook].ns_per_call();
                self.calls_a_unit(hook) * beyond_empty
            }
        }
    }

    /// How often the hook was called.
    pub(crate) fn calls(&self, hook: Hook) -> u64 {
        self.hooks.get(&hook).map_or(0, |count| count.calls)
    }

    /// The same for each unit.
    pub(crate) fn calls_a_unit(&self, hook: Hook) -> f64 {
        self.calls(hook) as f64 / self.units as f64
    }
}
