//! The figures in words.

use std::{collections::BTreeSet, time::Duration};

use crate::{
    hooks::{Counts, Hook},
    measure::{Counted, Idle, Measure, Pair},
    statistics::{Confident, Spread, confident, spread},
    worker::{End, REQUEST, RESPONSE, Run, Workload},
};

/// What an exchange may cost more by flowcar's hooks.
const GOAL_SHARE: f64 = 0.01;
/// The same where exchanges are measured.
const GOAL_SHARE_EXCHANGES: f64 = 0.03;
/// What flowcar may hold when idle, bytes.
const GOAL_RSS: f64 = 10.0 * 1024.0 * 1024.0;

const MIB: f64 = 1024.0 * 1024.0;

/// What is measured, and on what.
pub(crate) fn head(measure: &Measure<'_>) {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    println!(
        "flowcar bench: {} pairs of {} ms, with flowcar and without in turn; Linux {}, {cpus} CPUs, {} build",
        measure.pairs,
        measure.run.as_millis(),
        kernel.trim(),
        if cfg!(debug_assertions) {
            "DEBUG"
        } else {
            "release"
        },
    );
    println!(
        "An exchange: {REQUEST} bytes there, {RESPONSE} back, over loopback. One end is in the followed cgroup."
    );
    println!("Median (5 % to 95 %) of the runs; [95 % confidence] of the median.");
}

/// One workload.
pub(crate) fn workload(
    workload: Workload,
    end: End,
    pairs: &[Pair],
    flows: &[Counted],
    exchanges: &[Counted],
) {
    title(workload, end);
    println!("{:26} {:>27} {:>27}", "", "without", "with flowcar");
    row("exchanges a second", pairs, Run::throughput, 0);
    row("CPU us of an exchange", pairs, |run| run.cpu_ns() / 1e3, 2);
    ratio("with / without, throughput", pairs, Run::throughput);
    ratio("with / without, CPU time", pairs, Run::cpu_ns);
    let cpu =
        spread(pairs.iter().map(|pair| {
            100.0 * pair.flowcar_cpu.as_secs_f64() / pair.followed.elapsed.as_secs_f64()
        }));
    let rss = spread(pairs.iter().map(|pair| pair.flowcar_rss as f64 / MIB));
    println!(
        "{:26} {} % of one CPU, {} MiB resident",
        "the flowcar process",
        show(cpu, 2),
        show(rss, 1)
    );
    println!();
    let exchange_ns = spread(pairs.iter().map(|pair| pair.bare.exchange_ns())).median;
    both(flows, exchanges, |_| exchange_ns);
}

/// One workload, by the kernel's count alone.
pub(crate) fn counted(workload: Workload, end: End, flows: &[Counted], exchanges: &[Counted]) {
    title(workload, end);
    // With flowcar at work, so the share is a little too small.
    both(flows, exchanges, |counted| {
        median(counted, |run| run.exchange_ns)
    });
}

fn both(flows: &[Counted], exchanges: &[Counted], exchange_ns: impl Fn(&[Counted]) -> f64) {
    hooks(
        "by the kernel's count",
        flows,
        exchange_ns(flows),
        GOAL_SHARE,
    );
    hooks(
        "FLOWCAR_EXCHANGE=on",
        exchanges,
        exchange_ns(exchanges),
        GOAL_SHARE_EXCHANGES,
    );
}

fn title(workload: Workload, end: End) {
    let end = match end {
        End::Client => "the client's end",
        End::Server => "the server's end",
    };
    println!();
    match workload {
        Workload::RequestResponse => {
            println!("REQUEST-RESPONSE, {end}: one connection, one exchange after the other");
        }
        Workload::ConnectPerRequest => println!(
            "CONNECT-PER-REQUEST, {end}: one connection after the other, one exchange on each"
        ),
    }
}

fn row(name: &str, pairs: &[Pair], figure: impl Fn(&Run) -> f64, digits: usize) {
    let bare = spread(pairs.iter().map(|pair| figure(&pair.bare)));
    let followed = spread(pairs.iter().map(|pair| figure(&pair.followed)));
    println!(
        "{name:26} {:>27} {:>27}",
        show(bare, digits),
        show(followed, digits)
    );
}

fn ratio(name: &str, pairs: &[Pair], figure: impl Fn(&Run) -> f64) {
    let Confident { median, interval } = confident(
        pairs
            .iter()
            .map(|pair| figure(&pair.followed) / figure(&pair.bare)),
    );
    match interval {
        Some((low, high)) => println!("{name:26} {median:>14.3} [{low:.3}, {high:.3}]"),
        None => println!("{name:26} {median:>14.3} [too few pairs to say]"),
    }
}

/// The kernel's count, and what it comes to against `exchange_ns`, the bare time of an exchange.
fn hooks(title: &str, counted: &[Counted], exchange_ns: f64, goal: f64) {
    println!(
        "{title:26} {:>14} {:>12} {:>14} {:>12}",
        "calls/exchange", "ns/call", "less an empty", "ns/exchange"
    );
    let of_runs: BTreeSet<Hook> = counted
        .iter()
        .flat_map(|run| run.hooks.keys().copied())
        .collect();
    let mut total = 0.0;
    for hook in of_runs {
        let count = |run: &Counted| run.hooks.get(&hook).copied().unwrap_or_default();
        let calls = median(counted, |run| {
            count(run).calls as f64 / run.exchanges as f64
        });
        // Without a call in every run there is nothing to divide by.
        if counted.iter().any(|run| count(run).calls == 0) {
            continue;
        }
        let ns = median(counted, |run| count(run).ns_per_call());
        let net = median(counted, |run| beyond_empty(&run.hooks, &run.empty, hook));
        total += calls * net;
        println!(
            "{:26} {calls:>14.2} {ns:>12.0} {net:>14.0} {:>12.0}",
            hook.name(),
            calls * net
        );
    }
    let share = total / exchange_ns;
    println!(
        "{:26} {:.2} % of a bare exchange ({total:.0} ns of {:.1} us): {} the goal of {:.0} %",
        "share",
        100.0 * share,
        exchange_ns / 1e3,
        if share <= goal { "within" } else { "PAST" },
        100.0 * goal,
    );
}

/// Nanoseconds of a call of flowcar's program, less those of the empty one beside it.
fn beyond_empty(counts: &Counts, empty: &Counts, hook: Hook) -> f64 {
    counts[&hook].ns_per_call() - empty[&hook].ns_per_call()
}

fn median(counted: &[Counted], figure: impl Fn(&Counted) -> f64) -> f64 {
    spread(counted.iter().map(figure)).median
}

/// flowcar itself.
pub(crate) fn process(idle: &Idle, starts: &[Duration]) {
    let rss = idle.rss as f64;
    let starts = spread(starts.iter().map(|start| start.as_secs_f64() * 1e3));
    println!();
    println!("THE PROCESS");
    println!("{:26} {:.1} MiB", "binary", idle.binary as f64 / MIB);
    println!(
        "{:26} {:.1} MiB resident: {} the goal of {:.0} MiB; {:.1} MiB of it heap and stacks; {:.2} % of one CPU",
        "idle",
        rss / MIB,
        if rss <= GOAL_RSS { "within" } else { "PAST" },
        GOAL_RSS / MIB,
        idle.anonymous as f64 / MIB,
        100.0 * idle.cpu_share,
    );
    println!("{:26} {} ms", "from exec to attached", show(starts, 0));
}

fn show(spread: Spread, digits: usize) -> String {
    let Spread { low, median, high } = spread;
    format!("{median:.digits$} ({low:.digits$} to {high:.digits$})")
}
