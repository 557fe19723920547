//! The tables of docs/benchmarks.md and of README.md, made from the figures of a run.

use crate::{
    figures::{AtEnd, Counted, Figures, Growth, Step},
    table,
    worker::{End, Workload},
};

const MIB: f64 = 1024.0 * 1024.0;

/// The tables of the page, one behind the other.
pub(crate) fn markdown(figures: &Figures) -> String {
    let mut tables = vec![costs(figures), table::markdown(figures), bulk(figures)];
    tables.extend(figures.growth.as_ref().map(growth));
    tables.push(closes(figures));
    tables.push(programs(figures));
    tables.join("\n")
}

/// The rows of README.
pub(crate) fn readme(figures: &Figures) -> String {
    let ns = |workload| spread(figures, workload, |at| &at.default);
    let mut rows = row(&[
        "flowcar",
        &ns(Workload::RequestResponse),
        &ns(Workload::ConnectPerRequest),
        &mib(figures.process.rss_bytes as f64),
    ]);
    for peer in figures.peers.iter().filter(|of| !of.workloads.is_empty()) {
        let ns = |workload| {
            let mut work = peer.workloads.iter();
            let work = work.find(|of| of.workload == workload && of.sees_each());
            work.map_or("-".to_owned(), |work| thousands(work.ns.median) + " ns")
        };
        let rss = peer
            .workloads
            .iter()
            .map(|work| work.process.rss_bytes.median);
        rows += &row(&[
            &peer.title(),
            &ns(Workload::RequestResponse),
            &ns(Workload::ConnectPerRequest),
            &mib(rss.fold(0.0, f64::max)),
        ]);
    }
    rows
}

fn costs(figures: &Figures) -> String {
    let goal = |workload: Workload| match workload.goal_ns() {
        Some(goal) => format!("{goal:.0} ns"),
        None => String::new(),
    };
    let (exchange, connection) = (Workload::RequestResponse, Workload::ConnectPerRequest);
    let default = |workload| spread(figures, workload, |at| &at.default);
    let with_exchanges = |workload| spread(figures, workload, |at| &at.exchanges);
    row(&["what", "cost", "goal"])
        + "|---|---|---|\n"
        + &row(&[
            "programs, an exchange on a connection that lives, at each end",
            &default(exchange),
            &goal(exchange),
        ])
        + &row(&[
            "programs, a connection that carries one exchange, at each end",
            &default(connection),
            &goal(connection),
        ])
        + &row(&[
            "the same with `FLOWCAR_EXCHANGE=on`",
            &format!(
                "{}; {}",
                with_exchanges(exchange),
                with_exchanges(connection)
            ),
            "",
        ])
        + &row(&[
            "CPU time of an exchange and of a connection, both ends and the process, with flowcar as a multiple of without",
            &format!(
                "{}; {}",
                ratios(figures, exchange),
                ratios(figures, connection)
            ),
            "",
        ])
}

/// Both ends' figures.
fn spread(figures: &Figures, workload: Workload, counted: fn(&AtEnd) -> &Counted) -> String {
    let ends = figures
        .workloads
        .iter()
        .filter(|at| at.workload == workload);
    let ns: Vec<f64> = ends.map(|at| counted(at).ns.median.round()).collect();
    between(&ns, thousands) + " ns"
}

/// CPU time with flowcar by that without, with the confidence interval of both ends.
fn ratios(figures: &Figures, workload: Workload) -> String {
    let ends = figures
        .workloads
        .iter()
        .filter(|at| at.workload == workload);
    let all = ends.filter_map(|at| at.cpu_ratio.interval);
    let all: Vec<f64> = all.flat_map(<[f64; 2]>::from).collect();
    between(&all, |ratio| format!("{ratio:.2}"))
}

fn between(all: &[f64], shown: impl Fn(f64) -> String) -> String {
    let least = shown(all.iter().copied().fold(f64::INFINITY, f64::min));
    let most = shown(all.iter().copied().fold(f64::NEG_INFINITY, f64::max));
    if least == most {
        least
    } else {
        format!("{least} to {most}")
    }
}

fn bulk(figures: &Figures) -> String {
    let mut text = row(&[
        "",
        "a MB",
        "a segment",
        "share of a bare MB",
        "a MB, `FLOWCAR_EXCHANGE=on`",
    ]) + "|---|---|---|---|---|\n";
    for at in &figures.workloads {
        let name = match at.workload {
            Workload::Upload => "upload",
            Workload::Download => "download",
            Workload::RequestResponse | Workload::ConnectPerRequest => continue,
        };
        let end = match at.end {
            End::Client => "client",
            End::Server => "server",
        };
        let ns = at.default.ns.median;
        let segments = at.without.segments;
        let of_segment = segments.map_or("-".to_owned(), |of| format!("{:.0} ns", ns / of));
        text += &row(&[
            &format!("{name}, {end}'s end"),
            &format!("{} ns", thousands(ns)),
            &of_segment,
            &format!(
                "{:.2} % of {:.0} us",
                100.0 * ns / at.default.bare_ns,
                at.default.bare_ns / 1e3
            ),
            &format!("{} ns", thousands(at.exchanges.ns.median)),
        ]);
    }
    text
}

fn growth(growth: &Growth) -> String {
    let mut text = row(&[
        "flows",
        "resident, MiB",
        "heap and stacks, MiB",
        "kernel, MiB",
        "CPU while nothing is sent",
    ]) + "|---|---|---|---|---|\n";
    let steps = growth
        .steps
        .iter()
        .map(|step| (thousands(step.flows as f64), step));
    let closed = ("all closed".to_owned(), &growth.closed);
    for (name, step) in steps.chain([closed]) {
        text += &of_flows(&name, step);
    }
    text
}

fn of_flows(name: &str, step: &Step) -> String {
    let mib = |bytes: u64| format!("{:.1}", bytes as f64 / MIB);
    let cpu = step.idle_cpu_percent;
    row(&[
        name,
        &mib(step.rss_bytes),
        &mib(step.anonymous_bytes),
        &step.kernel_bytes.map_or("-".to_owned(), mib),
        &cpu.map_or(String::new(), |percent| format!("{percent:.2} %")),
    ])
}

fn closes(figures: &Figures) -> String {
    let mut text = row(&["what", "figure"]) + "|---|---|\n";
    if let Some(delay) = &figures.close_delay {
        let ms = &delay.ms;
        text += &row(&[
            "from `close()` to the span at the receiver",
            &format!(
                "{} ms ({} to {} ms), {} connections, default settings",
                thousands(ms.median),
                thousands(ms.low),
                thousands(ms.high),
                delay.connections
            ),
        ]);
    }
    if let Some(export) = &figures.export {
        text += &row(&[
            "bytes of a span, before compression",
            &thousands(export.bytes_per_span),
        ]);
        text += &row(&[
            "bytes of a report with one peer, before compression",
            &thousands(export.report_bytes as f64),
        ]);
    }
    if let Some(storm) = &figures.storm {
        text += &row(&[
            &format!(
                "storm: {} connections a second for {:.0} s, both ends followed",
                thousands(storm.connections as f64 / storm.seconds),
                storm.seconds
            ),
            &format!(
                "{} of {} flows lost, {:.1} % of one CPU: {:.1} % for each 10,000 flows a second; {:.1} MiB",
                storm.lost,
                thousands(storm.opened as f64),
                storm.cpu_percent,
                storm.cpu_percent_per_10000_flows,
                storm.rss_bytes as f64 / MIB
            ),
        ]);
    }
    text
}

fn programs(figures: &Figures) -> String {
    let mut text = row(&[
        "program",
        "when",
        "instructions that the verifier went through",
        "translated, bytes",
        "machine code, bytes",
    ]) + "|---|---|---|---|---|\n";
    for program in &figures.programs {
        let when = if program.exchanges {
            "`FLOWCAR_EXCHANGE=on`"
        } else {
            "default"
        };
        let verified = program.verified_insns;
        text += &row(&[
            program.hook.name(),
            when,
            &verified.map_or("-".to_owned(), |count| thousands(count.into())),
            &thousands(program.translated_bytes.into()),
            &thousands(program.jited_bytes.into()),
        ]);
    }
    text
}

fn row(cells: &[&str]) -> String {
    let cells = cells.iter().map(|cell| match *cell {
        "" => " |".to_owned(),
        cell => format!(" {cell} |"),
    });
    format!("|{}\n", cells.collect::<String>())
}

fn mib(bytes: f64) -> String {
    format!("{:.0} MiB", bytes / MIB)
}

/// A whole number with a comma before each three digits.
fn thousands(number: f64) -> String {
    let digits = format!("{:.0}", number.abs());
    let groups = digits.as_bytes().rchunks(3).rev();
    let groups: Vec<_> = groups.map(String::from_utf8_lossy).collect();
    let sign = if number.round() < 0.0 { "-" } else { "" };
    sign.to_owned() + &groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_commas_and_rows_their_bars() {
        for (number, shown) in [
            (0.4, "0"),
            (-0.4, "0"),
            (999.6, "1,000"),
            (-12_345.0, "-12,345"),
            (65_536.0, "65,536"),
        ] {
            assert_eq!(thousands(number), shown);
        }
        assert_eq!(row(&["a", "", "b"]), "| a | | b |\n");
        assert_eq!(between(&[2.0, 1.0], thousands), "1 to 2");
        assert_eq!(between(&[1.6, 2.4], thousands), "2");
    }
}
