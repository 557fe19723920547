//! `flowcar run`'s table: one row for each flow, within 108 columns, and what it sums up to.

use std::io::IsTerminal;

use flowcar_screen::terminal::has_colours;

use super::{
    cut,
    json::role_name,
    quantity::{bytes, duration},
};
use crate::{
    flow::{Flow, Role},
    histogram::Histogram,
    view::{
        Row, Sums,
        times::{ConnectionTimes, Quantiles},
    },
};

/// Colours, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// ANSI colours: the output is a terminal that has them.
    Coloured,
    /// Plain text.
    Plain,
}

/// The width of the table.
const COLUMNS: usize = 108;

/// The width of the peer's column.
const PEER: usize = 21;

const RED: &str = "\x1b[31m";
const YELLOW: &str = "\x1b[33m";
const DIM: &str = "\x1b[2m";
const BOLD: &str = "\x1b[1m";
const RESET: &str = "\x1b[0m";

impl Style {
    /// The style of what is written there.
    pub fn of(output: &impl IsTerminal) -> Self {
        if has_colours(output) {
            Self::Coloured
        } else {
            Self::Plain
        }
    }

    fn paint(self, colour: &str, text: &str) -> String {
        match self {
            Self::Coloured if !text.trim().is_empty() => format!("{colour}{text}{RESET}"),
            _ => text.to_owned(),
        }
    }

    /// As the head of a table.
    pub(super) fn head(self, text: &str) -> String {
        self.paint(BOLD, text)
    }

    /// As a row that somebody has to look at, or may want to.
    pub(super) fn by_state(self, text: &str, is_failure: bool, has_retransmits: bool) -> String {
        if is_failure {
            self.paint(RED, text)
        } else if has_retransmits {
            self.paint(YELLOW, text)
        } else {
            text.to_owned()
        }
    }

    /// As a remark.
    pub(crate) fn remark(self, text: &str) -> String {
        self.paint(DIM, text)
    }
}

/// The head of the table.
pub fn head(style: Style) -> String {
    let text = row([
        "role", "peer", "", "sent", "recv", "retrans", "connect", "minrtt", "p50", "p99", "exch99",
        "close",
    ]);
    // The name is wider than its column, and has room in the peer's.
    let name = "duration";
    let text = format!("{:<26}{name}{}", &text[..26], &text[34..]);
    style.head(&text)
}

/// The row of a flow, closed or open. Its process is named unless it is `own`, the command itself.
pub fn flow(flow: &Row, own: Option<u32>, style: Style) -> String {
    let shown = |ns: Option<u64>| ns.map_or_else(|| "-".to_owned(), |ns| duration(ns as f64 / 1e9));
    let role = match flow.role() {
        Role::Unknown => "-",
        role => role_name(role),
    };
    let rtt = flow.rtt();
    let cells = [
        role.to_owned(),
        cut::peer(&flow.peer().to_string(), PEER),
        shown(flow.duration_ns),
        bytes(flow.bytes_sent),
        bytes(flow.bytes_received),
        flow.retransmits.to_string(),
        shown(flow.connect_ns),
        shown(rtt.min_ns),
        shown(rtt.p50_ns),
        shown(rtt.p99_ns),
        shown(flow.exchanges().p99_ns),
        flow.close_reason
            .clone()
            .unwrap_or_else(|| "open".to_owned()),
    ];
    let mut text = row(cells.each_ref().map(String::as_str));
    // Each may be too long for the column.
    let asked = flow.asked().map(|asked| asked.to_string());
    let asked = flow.server_name().into_iter().chain(asked);
    let asked = asked.map(|asked| format!("asked for {asked}"));
    let process = flow.process_text().filter(|_| flow.pid != own);
    let process = process.map(|process| format!("by {process}"));
    for more in asked.chain(process) {
        let line = format!("{:<6} {more}", "");
        text.push('\n');
        text.push_str(line.get(..COLUMNS).unwrap_or(&line));
    }
    style.by_state(&text, flow.is_failure, flow.retransmits > 0)
}

/// How long the connections took, where there are two or more. A time that not all of them have names the number that do.
pub fn times(times: &ConnectionTimes, style: Style) -> Option<String> {
    let ConnectionTimes {
        connections,
        connect,
        rtt,
        exchange,
    } = times;
    if *connections < 2 {
        return None;
    }
    let part = |name: &str, of: &Quantiles| {
        let (p50, p99) = (duration(of.at_s(0.5)?), duration(of.at_s(0.99)?));
        let part = format!("{name} p50 {p50} p99 {p99}");
        Some(match of.count() {
            count if count == *connections => part,
            count => format!("{part} (of {count})"),
        })
    };
    let known = [
        part("connect", connect),
        part("RTT", rtt),
        part("exchange", exchange),
    ];
    let mut parts: Vec<_> = known.into_iter().flatten().collect();
    if parts.is_empty() {
        return None;
    }
    parts.push(format!("over {connections} connections"));
    Some(style.paint(DIM, &wrapped(&parts)))
}

/// The parts on one line or, where they do not fit, on two.
fn wrapped(parts: &[String]) -> String {
    let line = parts.join("; ");
    if line.len() <= COLUMNS {
        return line;
    }
    match line[..COLUMNS].rfind("; ") {
        Some(at) => format!("{};\n  {}", &line[..at], &line[at + 2..]),
        None => line,
    }
}

/// The last line, and more where nothing is above, or flows may be missing there.
pub fn summary(sums: &Sums, style: Style) -> String {
    let lost = sums.lost.iter();
    let lost: String = lost
        .map(|(reason, count)| format!(" ({reason} {count})"))
        .collect();
    let text = format!(
        "{} opened = {} closed + {} live + {} lost{lost}; {} failed to connect",
        sums.opened,
        sums.closed,
        sums.live,
        sums.lost_total(),
        sums.failed
    );
    let mut text = style.paint(DIM, &text);
    if let Some(hint) = &sums.hint {
        text = format!("{text}\n{}", style.paint(YELLOW, hint));
    }
    match sums.unscoped {
        None | Some(0) => text,
        Some(unscoped) => {
            let missing = format!(
                "{unscoped} more sockets of this network namespace opened and closed between two polls. inet_diag does not\n\
                 report their cgroup: short connections of the command may be missing above."
            );
            format!("{text}\n{}", style.paint(YELLOW, &missing))
        }
    }
}

/// The open connections, on one line.
pub fn status<'a>(live: impl Iterator<Item = &'a Flow>, closed: u64, failed: u64) -> String {
    let (mut flows, mut sent, mut received, mut retransmits) = (0_u64, 0, 0, 0);
    let mut rtt = Histogram::default();
    for flow in live {
        flows += 1;
        sent += flow.volume.bytes_sent;
        received += flow.volume.bytes_received;
        retransmits += flow.volume.retransmits.total();
        rtt.merge(&flow.rtt);
    }
    let rtt = rtt
        .quantile_s(0.5)
        .map_or_else(String::new, |p50| format!(", rtt p50 {}", duration(p50)));
    format!(
        "{flows} live ({} sent, {} received, {retransmits} retransmitted{rtt}), {closed} closed, {failed} failed",
        bytes(sent),
        bytes(received)
    )
}

/// 108 columns with the longest close reason, `reset_received`.
fn row(cells: [&str; 12]) -> String {
    let [
        role,
        peer,
        duration,
        sent,
        received,
        retransmits,
        connect,
        min,
        p50,
        p99,
        exchange,
        close,
    ] = cells;
    format!(
        "{role:<6} {peer:<PEER$} {duration:>6} {sent:>6} {received:>6} {retransmits:>7} {connect:>7} {min:>6} {p50:>6} {p99:>6} {exchange:>6} {close}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::Anchor,
        flow::{Monotonic, example},
    };

    /// A connection whose handshake took so long, and whose round trips took as long.
    fn connected_in(ns: u64) -> Flow {
        let mut rtt = Histogram::default();
        rtt.record(ns);
        Flow {
            established: Some(Monotonic(ns)),
            rtt,
            ..example::closed(1)
        }
    }

    #[test]
    fn times_of_two_connections_or_more_are_summed_up() {
        let mut sum = ConnectionTimes::default();
        assert_eq!(times(&sum, Style::Plain), None);
        sum.add(&connected_in(1_000_000));
        assert_eq!(times(&sum, Style::Plain), None, "the row has it all");
        sum.add(&Flow {
            rtt: Histogram::default(),
            ..connected_in(20_000_000)
        });
        let line = times(&sum, Style::Plain).expect("two connections");
        assert!(
            line.starts_with("connect p50 1.00ms p99 20.0ms; RTT p50 "),
            "{line}"
        );
        assert!(line.ends_with(" (of 1); over 2 connections"), "{line}");
        assert!(!line.contains("exchange"), "{line}");
    }

    #[test]
    fn times_stay_within_the_columns() {
        let mut sum = ConnectionTimes {
            connections: 1_000_000,
            ..ConnectionTimes::default()
        };
        let exchanges = connected_in(725_000_000_000).rtt;
        sum.add(&Flow {
            exchanges,
            ..connected_in(725_000_000_000)
        });
        let lines = times(&sum, Style::Plain).expect("connections");
        assert_eq!(lines.lines().count(), 2, "{lines}");
        for line in lines.lines() {
            assert!(line.len() <= COLUMNS, "{line}");
        }
    }

    #[test]
    fn a_connection_that_is_open_is_a_row_and_the_minimum_stands_beside_the_percentiles() {
        let mut rtt = Histogram::default();
        for _ in 0..10 {
            rtt.record(40_000_000);
        }
        rtt.record(25_000);
        let open = Flow {
            outcome: None,
            rtt,
            ..example::closed(1)
        };
        let open = Row::of(&open, &Anchor::new(Monotonic(0), 0));
        let (head, row) = (head(Style::Plain), flow(&open, None, Style::Plain));
        let under = |name: &str| {
            let end = head.find(name).expect("a column") + name.len();
            row[..end].rsplit(' ').next().expect("a cell")
        };
        assert_eq!(under("minrtt"), "25us");
        assert!(
            under("p50").ends_with("ms") && under("p99").ends_with("ms"),
            "{row}"
        );
        assert!(row.ends_with(" open"), "{row}");
    }
}
