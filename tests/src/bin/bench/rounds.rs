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
