//! The final table: flowcar and other tools beside each other. It is Markdown, which people can read as it is.

use std::fmt::Write as _;

use crate::{
    figures::{AtEnd, Counted, Figures, Peer, PeerWork},
    worker::{End, Workload},
};

const MIB: f64 = 1024.0 * 1024.0;

/// The row of what is subtracted everywhere.
const EMPTY: &str = "an empty program, for each call";

/// A line for each tool.
pub(crate) fn markdown(figures: &Figures) -> String {
    let mut rows = vec![head()];
    rows.push(empty(figures));
    rows.push(flowcar("flowcar", figures, |at| &at.default));
    rows.push(flowcar("flowcar, `FLOWCAR_EXCHANGE=on`", figures, |at| {
        &at.exchanges
    }));
    rows.extend(figures.peers.iter().filter_map(peer));
    let mut table = aligned(&rows);
    let _ = writeln!(table);
    let bare = Workload::EXCHANGES
        .into_iter()
        .filter_map(|workload| Some((workload, bare_ns(figures, workload)?)))
        .map(|(workload, ns)| format!("a bare {} takes {:.1} us", workload.unit(), ns / 1e3));
    let bare: Vec<_> = bare.collect();
    let _ = writeln!(
        table,
        "Beside flowcar {}; its shares are of that.",
        bare.join(", ")
    );
    for peer in &figures.peers {
        let bare = peer.workloads.iter().map(|work| {
            let unit = work.workload.unit();
            format!("a bare {unit} took {:.1} us", work.bare_ns / 1e3)
        });
        let bare: Vec<_> = bare.collect();
        if !bare.is_empty() {
            let _ = writeln!(table, "Beside {} {}.", peer.name, bare.join(", "));
        }
        if let Some(reason) = &peer.left_out {
            let _ = writeln!(table, "{} is left out: {reason}.", peer.name);
        }
        if let Some(note) = &peer.note {
            let _ = writeln!(table, "{} is {note}.", peer.name);
        }
    }
    table
}

fn head() -> Vec<String> {
    let columns = [
        "",
        "exchange, client's end",
        "server's end",
        "connection with one exchange, client's end",
        "server's end",
        "process, CPU",
        "resident",
    ];
    columns.map(str::to_owned).into()
}

/// What a call of it takes, by the kernel's own counting.
fn empty(figures: &Figures) -> Vec<String> {
    let mut row = vec![EMPTY.to_owned()];
    for workload in Workload::EXCHANGES {
        for end in End::ALL {
            let hooks = figures.at(workload, end).map(|at| &at.default.hooks);
            let calls: f64 = hooks.into_iter().flatten().map(|hook| hook.calls).sum();
            let ns: f64 = hooks
                .into_iter()
                .flatten()
                .map(|hook| hook.calls * hook.empty_call_ns)
                .sum();
            row.push(format!("{:.0} ns", ns / calls));
        }
    }
    row.extend(["-", "-"].map(str::to_owned));
    row
}

fn flowcar(name: &str, figures: &Figures, counted: fn(&AtEnd) -> &Counted) -> Vec<String> {
    let mut row = vec![name.to_owned()];
    for workload in Workload::EXCHANGES {
        for end in End::ALL {
            row.push(figures.at(workload, end).map_or("-".to_owned(), |at| {
                cell(counted(at).ns.median, bare_ns(figures, workload))
            }));
        }
    }
    let used = Workload::EXCHANGES
        .into_iter()
        .filter_map(|workload| figures.at(workload, End::Client))
        .map(|at| counted(at).process);
    row.extend(process(used));
    row
}

fn peer(peer: &Peer) -> Option<Vec<String>> {
    if peer.workloads.is_empty() {
        return None;
    }
    let mut row = vec![peer.title()];
    for workload in Workload::EXCHANGES {
        let mut work = peer.workloads.iter();
        let work = work.find(|work| work.workload == workload && work.sees_each());
        let cell = work.map_or("-".to_owned(), |work: &PeerWork| {
            cell(work.ns.median, Some(work.bare_ns))
        });
        // It sees both ends at once.
        row.extend([cell.clone(), cell]);
    }
    row.extend(process(peer.workloads.iter().map(|work| work.process)));
    Some(row)
}

/// CPU time and memory of a process in both workloads.
fn process(used: impl Iterator<Item = crate::figures::Usage>) -> [String; 2] {
    let used: Vec<_> = used.collect();
    let cpu = used
        .iter()
        .map(|usage| format!("{:.1}", usage.cpu_percent.median));
    let rss = used.iter().map(|usage| usage.rss_bytes.median / MIB);
    [
        format!("{} %", cpu.collect::<Vec<_>>().join(" / ")),
        format!("{:.1} MiB", rss.fold(0.0, f64::max)),
    ]
}

/// Nanoseconds, and their share of the bare time beside them.
fn cell(ns: f64, bare_ns: Option<f64>) -> String {
    match bare_ns {
        Some(bare) => format!("{ns:.0} ns, {:.2} %", 100.0 * ns / bare),
        None => format!("{ns:.0} ns"),
    }
}

fn bare_ns(figures: &Figures, workload: Workload) -> Option<f64> {
    figures
        .at(workload, End::Client)
        .map(|at| at.default.bare_ns)
}

fn aligned(rows: &[Vec<String>]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        for (column, cell) in row.iter().enumerate() {
            let _ = write!(text, "| {cell:width$} ", width = width(column));
        }
        text.push_str("|\n");
        if number == 0 {
            text.push_str(&"|---".repeat(row.len()));
            text.push_str("|\n");
        }
    }
    text
}
