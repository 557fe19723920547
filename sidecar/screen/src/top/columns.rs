//! The columns of the tables: which there are in a width, and the text of each. Pure.

use std::collections::VecDeque;

use super::{
    merged::{Row, SPARKS},
    source::Connection,
    state::Column,
};
use crate::{
    answer::Role,
    cut,
    histogram::Histogram,
    quantity::{bytes, duration},
};

/// The head of the column with a connection's ends.
const FROM_AND_TO: &str = "from and to";

/// The width from which there is room for more columns.
pub(super) const WIDE: usize = 130;

/// The width of the column with the RTT of the last answers.
const SPARK: usize = 20;

/// Its head.
const SPARK_HEAD: &str = "rtt50 until now";

/// A column of a table: head, width, and where its text stands.
pub(super) struct Cell {
    pub(super) head: &'static str,
    pub(super) width: usize,
    left: bool,
    pub(super) sorted: Option<Column>,
}

const fn cell(head: &'static str, width: usize, sorted: Option<Column>) -> Cell {
    Cell {
        head,
        width,
        left: false,
        sorted,
    }
}

// === impl Cell ===

impl Cell {
    /// The most characters of a text: a blank is behind it.
    fn room(&self) -> usize {
        self.width.saturating_sub(1).max(1)
    }
}

/// Columns for the width: the peer has what the others leave.
pub(super) fn peer_cells(width: usize, has_pods: bool) -> Vec<Cell> {
    let wide = width >= WIDE;
    let mut others = vec![
        cell("live", 6, Some(Column::Live)),
        cell("open/s", 7, Some(Column::Opened)),
        cell("fail/s", 7, Some(Column::Failed)),
        cell("in/s", 8, Some(Column::Received)),
        cell("out/s", 8, Some(Column::Sent)),
        cell("rtt50", 7, Some(Column::RttP50)),
        cell("rtt99", 7, Some(Column::RttP99)),
        cell("exch99", 7, Some(Column::ExchangeP99)),
    ];
    if wide {
        others.push(cell("conn99", 7, None));
        others.push(cell("retr/s", 7, Some(Column::Retransmits)));
    }
    if has_pods {
        others.insert(0, cell("pods", 5, None));
    }
    let mut last = Cell {
        left: true,
        ..cell(" held back", 12, None)
    };
    if width < 80 + 12 {
        // The peer's name is worth more than what it does not lack.
        others.retain(|of| !["open/s", "rtt50"].contains(&of.head));
    }
    if wide {
        last.width = 13;
        others.push(last);
        others.push(Cell {
            left: true,
            ..cell(SPARK_HEAD, SPARK, None)
        });
    } else {
        others.push(last);
    }
    let taken: usize = others.iter().map(|of| of.width).sum();
    let peer = Cell {
        left: true,
        ..cell(
            "peer",
            width.saturating_sub(taken).max(12),
            Some(Column::Peer),
        )
    };
    std::iter::once(peer).chain(others).collect()
}

/// The text of each column, by the column's head.
pub(super) fn peer_texts(row: &Row) -> Vec<(&'static str, String)> {
    let (recent, rates) = (&row.recent, &row.rates);
    let quantile = |of: &Histogram, q| of.quantile_s(q).map_or_else(|| "-".to_owned(), duration);
    vec![
        ("peer", row.key.name.clone()),
        ("pods", row.sources.len().to_string()),
        ("live", row.live.to_string()),
        ("open/s", rate(rates.opened)),
        ("fail/s", rate(rates.failures)),
        ("in/s", rate_bytes(rates.bytes_received)),
        ("out/s", rate_bytes(rates.bytes_sent)),
        ("rtt50", quantile(&recent.rtt, 0.5)),
        ("rtt99", quantile(&recent.rtt, 0.99)),
        ("exch99", quantile(&recent.exchange, 0.99)),
        ("conn99", quantile(&recent.connect, 0.99)),
        ("retr/s", rate(rates.retransmits)),
        (" held back", format!(" {}", row.held_back.word())),
        (SPARK_HEAD, sparkline(&row.rtt_p50_s, SPARK)),
    ]
}

/// So many a second.
pub(super) fn rate(rate: f64) -> String {
    match rate {
        0.0 => "-".to_owned(),
        rate if rate < 10.0 => format!("{rate:.1}"),
        rate => format!("{rate:.0}"),
    }
}

pub(super) fn connection_cells(width: usize, has_pods: bool) -> Vec<Cell> {
    let mut others = vec![
        cell("open for", 9, None),
        cell("sent", 8, None),
        cell("recv", 8, None),
        cell("in/s", 8, None),
        cell("out/s", 8, None),
        cell("rtt50", 7, None),
        cell("retr", 6, None),
        Cell {
            left: true,
            ..cell(" held back", 12, None)
        },
    ];
    if width >= 100 {
        others.insert(6, cell("rtt99", 7, None));
        others.insert(7, cell("exch99", 7, None));
        if width >= WIDE {
            others.push(Cell {
                left: true,
                ..cell(" process", 24, None)
            });
        }
    } else {
        // Both ends are worth more, and so is the pod than the sums of which the rates are there.
        let without: &[&str] = if has_pods {
            &["open for", "sent", "recv"]
        } else {
            &["open for"]
        };
        others.retain(|of| !without.contains(&of.head));
    }
    let mut first = Vec::new();
    if has_pods {
        first.push(Cell {
            left: true,
            ..cell("pod", if width >= WIDE { 30 } else { 13 }, None)
        });
    }
    let taken: usize = first.iter().chain(&others).map(|of| of.width).sum();
    let name = Cell {
        left: true,
        ..cell(FROM_AND_TO, width.saturating_sub(taken).max(12), None)
    };
    first.into_iter().chain([name]).chain(others).collect()
}

/// The text of each column, by the column's head. A server's port is that of all connections of the peer, and in the title.
pub(super) fn connection_texts(
    pod: &str,
    role: Role,
    connection: &Connection,
) -> Vec<(&'static str, String)> {
    let counts = &connection.counts;
    let shown = |ns: Option<u64>| ns.map_or_else(|| "-".to_owned(), |ns| duration(ns as f64 / 1e9));
    let ends = match role {
        Role::Server => counts.peer.to_string(),
        Role::Client | Role::Unknown => format!(":{} {}", counts.local.port(), counts.peer),
    };
    vec![
        ("pod", pod.to_owned()),
        (FROM_AND_TO, ends),
        ("open for", shown(counts.duration_ns)),
        ("sent", bytes(counts.bytes_sent)),
        ("recv", bytes(counts.bytes_received)),
        ("in/s", rate_bytes(connection.received)),
        ("out/s", rate_bytes(connection.sent)),
        ("rtt50", shown(counts.rtt_p50_ns)),
        ("rtt99", shown(counts.rtt_p99_ns)),
        ("exch99", shown(counts.exchange_p99_ns)),
        ("retr", counts.retransmits.to_string()),
        (" held back", format!(" {}", connection.held_back.word())),
        (
            " process",
            format!(" {}", counts.process.as_deref().unwrap_or("-")),
        ),
    ]
}

pub(super) fn line_text(cells: &[Cell], texts: &[(&'static str, String)]) -> String {
    let of = |head| texts.iter().find(|(name, _)| *name == head);
    let text = |of_cell: &Cell| {
        of(of_cell.head)
            .map_or("", |(_, text)| text.as_str())
            .to_owned()
    };
    let fitted = |each: &Cell| match each.head {
        // What distinguishes the pods of a workload is the end of their names.
        "pod" => fit(each, &end_of(&text(each), each.room())),
        "peer" => fit(each, &cut::peer(&text(each), each.room())),
        FROM_AND_TO => fit(each, &cut_ends(&text(each), each.room())),
        _ => fit(each, &text(each)),
    };
    cells.iter().map(fitted).collect()
}

/// The peer is cut, the local port before it is not.
fn cut_ends(text: &str, room: usize) -> String {
    let (local, peer) = match text.rfind(' ') {
        Some(at) => text.split_at(at + 1),
        None => ("", text),
    };
    let peer = cut::peer(peer, room.saturating_sub(local.len()));
    format!("{local}{peer}")
}

/// The end of a text that is too long for so many columns.
fn end_of(text: &str, room: usize) -> String {
    let length = text.chars().count();
    if length <= room {
        return text.to_owned();
    }
    let end = text.chars().skip(length - room + 1);
    std::iter::once('~').chain(end).collect()
}

/// The text in its column's width; a long one is cut, and shows that it is.
pub(super) fn fit(cell: &Cell, text: &str) -> String {
    let (width, room) = (cell.width, cell.room());
    let length = text.chars().count();
    let text: String = if length > room {
        text.chars().take(room - 1).chain(['~']).collect()
    } else {
        text.to_owned()
    };
    if cell.left {
        format!("{text:<width$}")
    } else {
        format!("{text:>width$}")
    }
}

pub(super) fn rate_bytes(rate: f64) -> String {
    if rate < 0.5 {
        return "-".to_owned();
    }
    bytes(rate.round() as u64)
}

/// What each of the last answers had, as bars between 0 and the greatest.
pub(super) fn sparkline(all: &VecDeque<Option<f64>>, width: usize) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let greatest = all.iter().flatten().copied().fold(0.0, f64::max);
    let shown = all.len().min(width.min(SPARKS).saturating_sub(1));
    let values = all.iter().skip(all.len() - shown);
    let bar = |value: &Option<f64>| match value {
        Some(value) if greatest > 0.0 => {
            BARS[((value / greatest) * 7.0).round().clamp(0.0, 7.0) as usize]
        }
        _ => ' ',
    };
    values.map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{answer::ConnectionCounts, top::held_back::HeldBack};

    fn connection(peer: &str) -> Connection {
        Connection {
            counts: ConnectionCounts::unmeasured(
                1,
                ([10, 0, 0, 1], 18_099).into(),
                peer.parse().expect("an address"),
            ),
            sent: 0.0,
            received: 0.0,
            rtt_s: None,
            held_back: HeldBack::default(),
        }
    }

    #[test]
    fn connection_shows_the_end_that_distinguishes_it() {
        for (role, peer, expected) in [
            (
                Role::Server,
                "255.250.244.130:54321",
                "255.250.244.130:54321 ",
            ),
            (
                Role::Server,
                "[2001:db8:1:2:3:4:5678:5679]:54321",
                "[2001:..78:5679]:54321 ",
            ),
            (Role::Client, "10.0.0.2:5432", ":18099 10.0.0.2:5432 "),
            (
                Role::Client,
                "[2001:db8:1:2:3:4:5678:5679]:443",
                ":18099 [200..5679]:443 ",
            ),
        ] {
            let texts = connection_texts("web", role, &connection(peer));
            for has_pods in [false, true] {
                let cells = connection_cells(80, has_pods);
                let line = line_text(&cells, &texts);
                assert_eq!(line.chars().count(), 80, "{line}");
                if !has_pods {
                    assert!(line.starts_with(expected), "{line}");
                }
            }
        }
    }

    #[test]
    fn peers_of_one_network_are_different_rows() {
        let row = |name: &str| {
            let mut row = Row::default();
            row.key.name = name.to_owned();
            line_text(&peer_cells(80, false), &peer_texts(&row))
        };
        let of = |host: &str| row(&format!("[2001:db8:1:2:3:4:5:{host}]:443"));
        assert_ne!(of("17"), of("18"));
        assert!(of("17").contains(":17]:443 "), "{}", of("17"));
    }
}
