//! From rounds to figures.

use std::collections::BTreeSet;

use crate::{
    figures::{AtEnd, AtHook, Counted, Usage, Work},
    hooks::Hook,
    measure::{self, Round},
    statistics::{confident, spread},
    worker::{End, Run, Workload},
};

/// What the rounds of a workload come to.
pub(crate) fn figures(workload: Workload, end: End, rounds: &[Round]) -> AtEnd {
    let ratio = |figure: fn(&Run) -> f64| {
        let pairs = rounds.iter().map(|round| round.pair);
        confident(pairs.map(|pair| figure(&pair.followed) / figure(&pair.bare)))
    };
    AtEnd {
        workload,
        end,
        without: work(rounds.iter().map(|round| round.pair.bare)),
        with: work(rounds.iter().map(|round| round.pair.followed)),
        throughput_ratio: ratio(Run::throughput),
        cpu_ratio: ratio(Run::cpu_ns),
        process: usage(rounds.iter().map(|round| {
            let wall = round.pair.followed.elapsed.as_secs_f64();
            let cpu = round.pair.flowcar_cpu.as_secs_f64() / wall;
            (cpu, round.pair.flowcar_rss)
        })),
        default: counted(rounds, |round| &round.flows, workload.goal_ns()),
        exchanges: counted(rounds, |round| &round.exchanges, None),
    }
}

/// What a process used, from its parts of a CPU and its resident memory.
pub(crate) fn usage(used: impl Iterator<Item = (f64, u64)>) -> Usage {
    let (cpu, rss): (Vec<_>, Vec<_>) = used.map(|(cpu, rss)| (100.0 * cpu, rss as f64)).unzip();
    Usage {
        cpu_percent: spread(cpu),
        rss_bytes: spread(rss),
    }
}

fn work(runs: impl Iterator<Item = Run>) -> Work {
    let runs: Vec<Run> = runs.collect();
    let of = |figure: fn(&Run) -> f64| spread(runs.iter().map(figure));
    let segments = of(|run| run.segments as f64 / run.units as f64).median;
    Work {
        throughput: of(Run::throughput),
        cpu_ns: of(Run::cpu_ns),
        unit_ns: of(Run::unit_ns),
        segments: (segments > 0.0).then_some(segments),
    }
}

fn counted(
    rounds: &[Round],
    counted: fn(&Round) -> &measure::Counted,
    goal_ns: Option<f64>,
) -> Counted {
    let bare = |round: &Round| round.pair.bare.unit_ns();
    let middle = |figure: &dyn Fn(&Round) -> f64| spread(rounds.iter().map(figure)).median;
    let hooks: BTreeSet<Hook> = rounds
        .iter()
        .flat_map(|round| counted(round).hooks.keys().copied())
        .collect();
    // Without a call in every round there is nothing to divide by.
    let called = |hook: &Hook| rounds.iter().all(|round| counted(round).calls(*hook) > 0);
    let hooks = hooks.into_iter().filter(called).map(|hook| AtHook {
        hook,
        calls: middle(&|round| counted(round).calls_a_unit(hook)),
        call_ns: middle(&|round| counted(round).hooks[&hook].ns_per_call()),
        empty_call_ns: middle(&|round| counted(round).empty[&hook].ns_per_call()),
        ns: middle(&|round| counted(round).ns_a_unit(hook)),
    });
    let hooks: Vec<AtHook> = hooks.collect();
    Counted {
        calls: hooks.iter().map(|hook| hook.calls).sum(),
        hooks,
        ns: confident(rounds.iter().map(|round| counted(round).ns())),
        goal_ns,
        bare_ns: middle(&bare),
        share: confident(rounds.iter().map(|round| counted(round).ns() / bare(round))),
        process: usage(rounds.iter().map(|round| {
            let counted = counted(round);
            (counted.flowcar_cpu, counted.flowcar_rss)
        })),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use super::*;
    use crate::{hooks::Count, measure::Pair};

    fn run(units: u64) -> Run {
        Run {
            units,
            segments: 0,
            elapsed: Duration::from_millis(1),
            cpu: Duration::from_millis(1),
        }
    }

    /// Two calls a unit: those of flowcar's program of 130 ns, and those of the empty one of 50 ns.
    fn counted(units: u64) -> measure::Counted {
        let calls = 2 * units;
        let of = |ns| {
            BTreeMap::from([(
                Hook::SockOps,
                Count {
                    calls,
                    ns: calls * ns,
                },
            )])
        };
        measure::Counted {
            units,
            flowcar_cpu: 0.01,
            flowcar_rss: 1,
            hooks: of(130),
            empty: of(50),
        }
    }

    #[test]
    fn nanoseconds_are_beyond_empty_programs_and_the_share_is_of_the_bare_unit() {
        let round = |number| Round {
            pair: Pair {
                bare: run(100),
                followed: run(80),
                flowcar_cpu: Duration::from_micros(20),
                flowcar_rss: 1,
            },
            flows: counted(10 * number),
            exchanges: counted(number),
        };
        let rounds: Vec<Round> = (1..=6).map(round).collect();
        let figures = figures(Workload::ConnectPerRequest, End::Client, &rounds);
        assert_eq!(figures.default.ns.median, 160.0);
        assert_eq!(figures.default.ns.interval, Some((160.0, 160.0)));
        assert_eq!(figures.default.bare_ns, 10_000.0);
        assert!((figures.default.share.median - 0.016).abs() < 1e-12);
        assert_eq!(figures.default.goal_ns, Some(800.0));
        assert_eq!(figures.default.hooks[0].empty_call_ns, 50.0);
        assert_eq!(figures.exchanges.goal_ns, None);
        assert_eq!(figures.default.process.cpu_percent.median, 1.0);
        assert!((figures.process.cpu_percent.median - 2.0).abs() < 1e-12);
        assert!((figures.throughput_ratio.median - 0.8).abs() < 1e-12);
        assert_eq!(figures.without.segments, None);
    }
}
