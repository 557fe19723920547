//! The figures in words.

use std::{collections::BTreeSet, time::Duration};

use crate::{
    hooks::Hook,
    measure::{Counted, Idle, Measure, Round},
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
        "flowcar bench: {} rounds of {} ms each without flowcar, with it, and with it while the kernel counts; Linux {}, {cpus} CPUs, {} build",
        measure.rounds,
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
pub(crate) fn workload(workload: Workload, end: End, rounds: &[Round]) {
    title(workload, end);
    println!("{:26} {:>27} {:>27}", "", "without", "with flowcar");
    row("exchanges a second", rounds, Run::throughput, 0);
    row("CPU us of an exchange", rounds, |run| run.cpu_ns() / 1e3, 2);
    ratio("with / without, throughput", rounds, Run::throughput);
    ratio("with / without, CPU time", rounds, Run::cpu_ns);
    let cpu = spread(rounds.iter().map(|round| {
        100.0 * round.pair.flowcar_cpu.as_secs_f64() / round.pair.followed.elapsed.as_secs_f64()
    }));
    let rss = spread(
        rounds
            .iter()
            .map(|round| round.pair.flowcar_rss as f64 / MIB),
    );
    println!(
        "{:26} {} % of one CPU, {} MiB resident",
        "the flowcar process",
        show(cpu, 2),
        show(rss, 1)
    );
    println!();
    hooks(
        "by the kernel's count",
        rounds,
        |round| &round.flows,
        GOAL_SHARE,
    );
    hooks(
        "FLOWCAR_EXCHANGE=on",
        rounds,
        |round| &round.exchanges,
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

fn row(name: &str, rounds: &[Round], figure: impl Fn(&Run) -> f64, digits: usize) {
    let bare = spread(rounds.iter().map(|round| figure(&round.pair.bare)));
    let followed = spread(rounds.iter().map(|round| figure(&round.pair.followed)));
    println!(
        "{name:26} {:>27} {:>27}",
        show(bare, digits),
        show(followed, digits)
    );
}

fn ratio(name: &str, rounds: &[Round], figure: impl Fn(&Run) -> f64) {
    let Confident { median, interval } = confident(
        rounds
            .iter()
            .map(|round| figure(&round.pair.followed) / figure(&round.pair.bare)),
    );
    match interval {
        Some((low, high)) => println!("{name:26} {median:>14.3} [{low:.3}, {high:.3}]"),
        None => println!("{name:26} {median:>14.3} [too few rounds]"),
    }
}

/// The kernel's count, and what it comes to against the bare exchange of each round.
fn hooks(title: &str, rounds: &[Round], counted: impl Fn(&Round) -> &Counted, goal: f64) {
    println!(
        "{title:26} {:>14} {:>12} {:>14} {:>12}",
        "calls/exchange", "ns/call", "less an empty", "ns/exchange"
    );
    let middle = |figure: &dyn Fn(&Round) -> f64| spread(rounds.iter().map(figure)).median;
    let hooks: BTreeSet<Hook> = rounds
        .iter()
        .flat_map(|round| counted(round).hooks.keys().copied())
        .collect();
    for hook in hooks {
        // Without a call in every round there is nothing to divide by.
        if rounds.iter().any(|round| counted(round).calls(hook) == 0) {
            continue;
        }
        println!(
            "{:26} {:>14.2} {:>12.0} {:>14.0} {:>12.0}",
            hook.name(),
            middle(&|round| counted(round).calls_an_exchange(hook)),
            middle(&|round| counted(round).hooks[&hook].ns_per_call()),
            middle(&|round| counted(round).beyond_empty(hook)),
            middle(&|round| counted(round).ns_an_exchange(hook)),
        );
    }
    let bare = |round: &Round| round.pair.bare.exchange_ns();
    let share = confident(rounds.iter().map(|round| counted(round).ns() / bare(round)));
    let interval = match share.interval {
        Some((low, high)) => format!("[{:.2}, {:.2}]", 100.0 * low, 100.0 * high),
        None => "[too few rounds]".to_owned(),
    };
    println!(
        "{:26} {:.2} % {interval} of a bare exchange ({:.0} ns of {:.1} us): {} the goal of {:.0} %",
        "share",
        100.0 * share.median,
        middle(&|round| counted(round).ns()),
        middle(&|round| bare(round)) / 1e3,
        if share.median <= goal {
            "within"
        } else {
            "PAST"
        },
        100.0 * goal,
    );
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
