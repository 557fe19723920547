//! The figures in words.

use crate::{
    figures::{
        AtEnd, CloseDelay, Counted, Export, Growth, Machine, Method, Peer, Process, Program, Step,
        Storm, Usage, Work,
    },
    statistics::{Confident, Spread},
    worker::{End, Workload},
};

/// What flowcar may hold when idle, bytes.
const GOAL_RSS: f64 = 8.0 * MIB;

const MIB: f64 = 1024.0 * 1024.0;

/// What is measured, and on what.
pub(crate) fn head(machine: &Machine, method: &Method) {
    println!(
        "flowcar bench: {} rounds of {} ms each without flowcar, with it, and with it while the kernel counts",
        method.rounds, method.run_ms,
    );
    println!(
        "Linux {}, {} CPUs ({}), {} build, load average before the run {:.2}{}",
        machine.kernel,
        machine.cpus,
        machine.processor,
        machine.build,
        machine.load_before,
        machine
            .note
            .as_ref()
            .map_or(String::new(), |note| format!("; {note}")),
    );
    println!(
        "An exchange: {} bytes there, {} back, over loopback. One end is in the followed cgroup.",
        method.request_bytes, method.response_bytes
    );
    println!("Median (5 % to 95 %) of the runs; [95 % confidence] of the median.");
}

/// One workload.
pub(crate) fn workload(figures: &AtEnd) {
    title(figures.workload, figures.end);
    let unit = figures.workload.unit();
    println!("{:26} {:>27} {:>27}", "", "without", "with flowcar");
    let row = |name: &str, figure: fn(&Work) -> Spread, by: f64, digits| {
        println!(
            "{name:26} {:>27} {:>27}",
            show(figure(&figures.without), by, digits),
            show(figure(&figures.with), by, digits)
        );
    };
    row(&format!("{unit}s a second"), |work| work.throughput, 1.0, 0);
    row(&format!("CPU us, {unit}"), |work| work.cpu_ns, 1e3, 2);
    ratio("with / without, throughput", figures.throughput_ratio);
    ratio("with / without, CPU time", figures.cpu_ratio);
    println!("{:26} {}", "the flowcar process", usage(&figures.process));
    counted("by the kernel's count", figures, &figures.default);
    counted("FLOWCAR_EXCHANGE=on", figures, &figures.exchanges);
}

fn title(workload: Workload, end: End) {
    println!();
    let what = match workload {
        Workload::RequestResponse => "one connection, one exchange after the other",
        Workload::ConnectPerRequest => "one connection after the other, one exchange on each",
        Workload::Upload => "one connection, payload from the client to the server",
        Workload::Download => "one connection, payload from the server to the client",
    };
    println!(
        "{}, the {}'s end: {what}",
        workload.name().to_uppercase(),
        end.name()
    );
}

fn ratio(name: &str, Confident { median, interval }: Confident) {
    match interval {
        Some((low, high)) => println!("{name:26} {median:>14.3} [{low:.3}, {high:.3}]"),
        None => println!("{name:26} {median:>14.3} [too few rounds]"),
    }
}

/// The kernel's count, and what it comes to against this machine's bare work.
fn counted(title: &str, figures: &AtEnd, counted: &Counted) {
    let unit = figures.workload.unit();
    println!();
    println!(
        "{title:26} {:>14} {:>12} {:>14} {:>12}",
        format!("calls/{unit}"),
        "ns/call",
        "empty ns/call",
        format!("ns/{unit}"),
    );
    for hook in &counted.hooks {
        println!(
            "{:26} {:>14.2} {:>12.0} {:>14.0} {:>12.0}",
            hook.hook.name(),
            hook.calls,
            hook.call_ns,
            hook.empty_call_ns,
            hook.ns,
        );
    }
    let goal = counted
        .goal_ns
        .map_or(String::new(), |goal| format!("; the goal is {goal:.0} ns"));
    println!(
        "{:26} {} ns of each {unit} beyond empty programs, {:.1} calls{goal}",
        "programs",
        interval(counted.ns, 1.0, 0),
        counted.calls,
    );
    println!(
        "{:26} {} % of this machine's bare {unit} of {:.1} us",
        "share",
        interval(counted.share, 0.01, 2),
        counted.bare_ns / 1e3,
    );
    if let Some(segments) = figures.without.segments {
        println!(
            "{:26} {segments:.1} in each {unit}: {:.0} ns of each of {:.1} us",
            "segments",
            counted.ns.median / segments,
            counted.bare_ns / segments / 1e3,
        );
    }
}

/// What the verifier accepted.
pub(crate) fn programs(programs: &[Program]) {
    println!();
    println!("THE PROGRAMS, as the kernel holds them");
    println!(
        "{:26} {:>14} {:>12} {:>14} {:>12}",
        "", "exchanges", "verified", "translated B", "jited B"
    );
    for program in programs {
        println!(
            "{:26} {:>14} {:>12} {:>14} {:>12}",
            program.hook.name(),
            if program.exchanges { "on" } else { "off" },
            program
                .verified_insns
                .map_or("-".to_owned(), |instructions| instructions.to_string()),
            program.translated_bytes,
            program.jited_bytes,
        );
    }
}

/// Another tool.
pub(crate) fn peer(peer: &Peer) {
    println!();
    let version = peer.version.as_deref().unwrap_or("of unknown version");
    match &peer.left_out {
        Some(reason) => return println!("{}: left out: {reason}", peer.name.to_uppercase()),
        None => println!("{} {version}, either end", peer.name.to_uppercase()),
    }
    if let Some(note) = &peer.note {
        println!("{note}");
    }
    for work in &peer.workloads {
        let unit = work.workload.unit();
        println!(
            "{:26} {} ns of each {unit} at one end beyond empty programs; {:.1} calls for both ends; {:.2} % of a bare {unit} of {:.1} us",
            work.workload.name(),
            interval(work.ns, 1.0, 0),
            work.calls,
            100.0 * work.ns.median / work.bare_ns,
            work.bare_ns / 1e3,
        );
        println!("{:26} {}", "its process", usage(&work.process));
    }
}

/// flowcar itself.
pub(crate) fn process(process: &Process) {
    println!();
    println!("THE PROCESS");
    println!(
        "{:26} {:.1} MiB",
        "binary",
        process.binary_bytes as f64 / MIB
    );
    println!(
        "{:26} {:.1} MiB resident (the goal is {:.0} MiB), {:.1} MiB of it heap and stacks; {:.2} % of one CPU with five reports a second",
        "idle",
        process.rss_bytes as f64 / MIB,
        GOAL_RSS / MIB,
        process.anonymous_bytes as f64 / MIB,
        process.cpu_percent,
    );
    println!(
        "{:26} {} ms",
        "from exec to attached",
        show(process.attach_ms, 1.0, 0)
    );
}

/// Connections that stay open.
pub(crate) fn growth(growth: &Growth) {
    println!();
    println!("FLOWS THAT STAY OPEN: both ends followed, one exchange on each, reports every 10 s");
    println!(
        "{:26} {:>14} {:>14} {:>14} {:>14}",
        "flows", "resident MiB", "heap MiB", "kernel MiB", "idle CPU %"
    );
    let row = |name: &str, step: &Step| {
        let kernel = step.kernel_bytes.map(|bytes| bytes as f64 / MIB);
        println!(
            "{name:26} {:>14.1} {:>14.1} {:>14} {:>14}",
            step.rss_bytes as f64 / MIB,
            step.anonymous_bytes as f64 / MIB,
            kernel.map_or("-".to_owned(), |mib| format!("{mib:.1}")),
            step.idle_cpu_percent
                .map_or(String::new(), |cpu| format!("{cpu:.2}")),
        );
    };
    for step in &growth.steps {
        row(&step.flows.to_string(), step);
    }
    row("all closed", &growth.closed);
    println!("{:26} {}", "lost", growth.lost);
}

/// How soon a closed connection is reported.
pub(crate) fn close_delay(delay: &CloseDelay) {
    println!();
    println!(
        "FROM close() TO THE RECEIVER: {} ms, {} connections, default settings",
        show(delay.ms, 1.0, 0),
        delay.connections
    );
}

/// What is sent.
pub(crate) fn export(export: &Export) {
    println!();
    println!(
        "EXPORTS, before compression: {:.0} bytes for each span ({} of {} flows), {} bytes for a report with one peer",
        export.bytes_per_span, export.spans, export.flows, export.report_bytes
    );
}

/// As many connections as the machine makes.
pub(crate) fn storm(storm: &Storm) {
    println!();
    println!(
        "STORM: {} connections in {:.1} s, both ends followed: {} flows opened, {} of them lost",
        storm.connections, storm.seconds, storm.opened, storm.lost
    );
    println!(
        "{:26} {:.1} % of one CPU, {:.1} % for each 10,000 flows a second; {:.1} MiB resident",
        "the flowcar process",
        storm.cpu_percent,
        storm.cpu_percent_per_10000_flows,
        storm.rss_bytes as f64 / MIB,
    );
}

fn usage(usage: &Usage) -> String {
    format!(
        "{} % of one CPU, {} MiB resident",
        show(usage.cpu_percent, 1.0, 2),
        show(usage.rss_bytes, MIB, 1)
    )
}

fn interval(Confident { median, interval }: Confident, by: f64, digits: usize) -> String {
    let median = median / by;
    match interval {
        Some((low, high)) => {
            let (low, high) = (low / by, high / by);
            format!("{median:.digits$} [{low:.digits$}, {high:.digits$}]")
        }
        None => format!("{median:.digits$} [too few rounds]"),
    }
}

fn show(spread: Spread, by: f64, digits: usize) -> String {
    let [low, median, high] = [spread.low, spread.median, spread.high].map(|value| value / by);
    format!("{median:.digits$} ({low:.digits$} to {high:.digits$})")
}
