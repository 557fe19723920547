//! The screen of `flowcar top`.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Clear, Paragraph},
};

use super::{
    held_back::HeldBack,
    model::{Connection, Connections, Peer, Peers, SPARKS},
    state::{Column, Level, State},
};
use crate::{
    histogram::{Histogram, SCALE},
    view::quantity::{bytes, duration},
};

/// The screen's width from which there is room for more columns.
const WIDE: u16 = 130;

/// The width of the column with the RTT of the last answers.
const SPARK: usize = 20;

/// Its head.
const SPARK_HEAD: &str = "rtt50 until now";

/// The zero bucket ends at 2 to the power of this, seconds ([`crate::histogram::ZERO_THRESHOLD_S`]).
const ZERO_OCTAVE: i32 = -17;

/// Lines of the histogram's pane, its border included.
const HISTOGRAM: u16 = 12;

const KEYS: &str = "q quit  up/down select  enter open  esc back  s sort  r reverse  / filter  space pause  h histogram  ? help";

const HELP: &str = "\
Each row is a peer with its port: what this end connects to, or the clients of
a port that it serves. Rates and latencies are those of the last ten seconds.

open/s          connections opened a second
fail/s          attempts that failed, and connections cut off, a second
in/s out/s      payload received and sent, a second
rtt             round trip time: half of them, and 99 of 100, took no longer
exch99          exchanges: from a request's last byte to its answer's first
retr/s          segments sent again a second
held back by    handshake    attempts fail, or SYNs are sent again
                cut off      connections are reset, or time out
                loss         1 of 100 segments is sent again, or more
                peer window  the peer's application does not read
                send buffer  this end's send buffer is full
                peer thinks  the peer answers late, the network does not
                own time     this end answers late: it is the server

enter           the connections of a peer: esc leads back
s r             sort by the next column, reverse the order
/               only peers whose name has this text
space           pause: the screen stands still
h               the distribution of the selected peer's latencies";

/// Whether there are colours (<https://no-color.org>).
#[derive(Clone, Copy, Debug)]
pub(super) struct Palette(pub(super) bool);

impl Palette {
    fn coloured(self, color: Color) -> Style {
        if self.0 {
            Style::new().fg(color)
        } else {
            Style::new()
        }
    }

    fn of(self, held_back: HeldBack) -> Style {
        match held_back {
            HeldBack::Nothing => Style::new(),
            HeldBack::Handshake | HeldBack::CutOff | HeldBack::Loss => self.coloured(Color::Red),
            _ => self.coloured(Color::Yellow),
        }
    }
}

/// Everything that is shown.
pub(super) struct Screen<'a> {
    pub(super) peers: &'a Peers,
    pub(super) connections: &'a Connections,
    /// Why there is no newer answer.
    pub(super) trouble: Option<&'a str>,
    pub(super) palette: Palette,
}

/// A column of a table: head, width, and where its text stands.
struct Cell {
    head: &'static str,
    width: usize,
    left: bool,
    sorted: Option<Column>,
}

const fn cell(head: &'static str, width: usize, sorted: Option<Column>) -> Cell {
    Cell {
        head,
        width,
        left: false,
        sorted,
    }
}

impl Screen<'_> {
    /// Draws it. Gives how many rows there is room for.
    pub(super) fn draw(&self, frame: &mut Frame<'_>, state: &mut State) -> usize {
        let histogram = if state.shows_histogram { HISTOGRAM } else { 0 };
        let [head, table, pane, foot] = Layout::vertical([
            Constraint::Length(2),
            Constraint::Min(3),
            Constraint::Length(histogram),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        frame.render_widget(Paragraph::new(self.head(state)), head);
        let room = usize::from(table.height.saturating_sub(1)).max(1);
        let rows = state.peers(self.peers);
        match state.level {
            Level::Peers => {
                let series: Vec<u64> = rows.iter().map(|(series, _)| *series).collect();
                state.keep_selection(&series, room);
                let lines = self.peer_lines(&rows, state, table);
                frame.render_widget(Paragraph::new(lines), table);
            }
            Level::Connections(_) => {
                let rows = state.connections(self.connections);
                state.scroll(rows.len(), room);
                let lines = self.connection_lines(&rows, state, table);
                frame.render_widget(Paragraph::new(lines), table);
            }
        }
        if state.shows_histogram {
            let selected = match state.level {
                Level::Peers => rows.get(state.selected).map(|(_, peer)| *peer),
                Level::Connections(series) => self.peers.all.get(&series),
            };
            draw_histograms(frame, pane, selected);
        }
        frame.render_widget(Paragraph::new(self.foot(state)), foot);
        if state.shows_help {
            draw_help(frame);
        }
        room
    }

    fn head(&self, state: &State) -> Vec<Line<'static>> {
        let recent = self.peers.recent();
        let sums = &self.peers.sums;
        let lost: u64 = sums.lost.values().sum();
        let first = format!(
            "{}  {} live  {:.1} opened/s  {:.1} failed/s  in {}/s  out {}/s  {lost} lost{}",
            self.peers.source,
            sums.live,
            recent.rate(recent.opened),
            recent.rate(recent.failures()),
            rate_bytes(recent.rate(recent.bytes_received)),
            rate_bytes(recent.rate(recent.bytes_sent)),
            if state.is_paused { "  PAUSED" } else { "" },
        );
        let second = match (self.trouble, &state.level) {
            (Some(trouble), _) => {
                let style = self.palette.coloured(Color::Red);
                return vec![
                    Line::styled(first, Modifier::BOLD),
                    Line::styled(trouble.to_owned(), style),
                ];
            }
            (None, Level::Connections(series)) => match self.peers.all.get(series) {
                Some(peer) => format!("connections of {}", peer.name),
                None => "this peer has no connections any more: esc leads back".to_owned(),
            },
            (None, Level::Peers) if state.is_typing => format!("filter: {}_", state.filter),
            (None, Level::Peers) if !state.filter.is_empty() => {
                format!("only peers with {:?}: esc shows all", state.filter)
            }
            (None, Level::Peers) => String::new(),
        };
        vec![Line::styled(first, Modifier::BOLD), Line::from(second)]
    }

    fn foot(&self, state: &State) -> Line<'static> {
        let text = if state.is_typing {
            "enter keep the filter  esc show all"
        } else {
            KEYS
        };
        Line::styled(text, Modifier::DIM)
    }

    fn peer_lines(&self, rows: &[(u64, &Peer)], state: &State, area: Rect) -> Vec<Line<'static>> {
        let wide = area.width >= WIDE;
        let cells = peer_cells(usize::from(area.width), wide);
        let mut lines = vec![head_line(&cells, Some(state.sort))];
        let shown = rows.iter().enumerate().skip(state.first);
        for (at, (_, peer)) in shown.take(usize::from(area.height)) {
            let held_back = peer.held_back();
            let text = line_text(&cells, &peer_texts(peer, wide));
            let style = self.palette.of(held_back);
            lines.push(selectable(text, style, at == state.selected));
        }
        if rows.is_empty() {
            lines.push(Line::from(if state.filter.is_empty() {
                "no connections yet"
            } else {
                "no peer has this text in its name"
            }));
        }
        lines
    }

    fn connection_lines(
        &self,
        rows: &[&Connection],
        state: &State,
        area: Rect,
    ) -> Vec<Line<'static>> {
        let cells = connection_cells(usize::from(area.width));
        let mut lines = vec![head_line(&cells, None)];
        let shown = rows.iter().enumerate().skip(state.first);
        for (at, connection) in shown.take(usize::from(area.height)) {
            let text = line_text(&cells, &connection_texts(connection));
            let style = self.palette.of(connection.held_back);
            lines.push(selectable(text, style, at == state.selected));
        }
        if rows.is_empty() {
            lines.push(Line::from("no connection to this peer is open"));
        }
        lines
    }
}

fn selectable(text: String, style: Style, is_selected: bool) -> Line<'static> {
    let style = if is_selected {
        style.add_modifier(Modifier::REVERSED)
    } else {
        style
    };
    Line::from(Span::styled(text, style))
}

/// Columns for the width: the peer has what the others leave.
fn peer_cells(width: usize, wide: bool) -> Vec<Cell> {
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
fn peer_texts(peer: &Peer, wide: bool) -> Vec<(&'static str, String)> {
    let recent = &peer.recent;
    let rate = |count| match recent.rate(count) {
        0.0 => "-".to_owned(),
        rate if rate < 10.0 => format!("{rate:.1}"),
        rate => format!("{rate:.0}"),
    };
    let quantile = |of: &Histogram, q| of.quantile_s(q).map_or_else(|| "-".to_owned(), duration);
    let mut texts = vec![
        ("peer", peer.name.clone()),
        ("live", peer.total.live.to_string()),
        ("open/s", rate(recent.opened)),
        ("fail/s", rate(recent.failures())),
        ("in/s", rate_bytes(recent.rate(recent.bytes_received))),
        ("out/s", rate_bytes(recent.rate(recent.bytes_sent))),
        ("rtt50", quantile(&recent.rtt, 0.5)),
        ("rtt99", quantile(&recent.rtt, 0.99)),
        ("exch99", quantile(&recent.exchange, 0.99)),
        (" held back", format!(" {}", peer.held_back().word())),
    ];
    if wide {
        texts.push(("conn99", quantile(&recent.connect, 0.99)));
        texts.push(("retr/s", rate(recent.retransmits())));
        texts.push((SPARK_HEAD, spark(peer, SPARK)));
    }
    texts
}

fn connection_cells(width: usize) -> Vec<Cell> {
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
    }
    if width >= usize::from(WIDE) {
        others.push(Cell {
            left: true,
            ..cell(" process", 24, None)
        });
    }
    let taken: usize = others.iter().map(|of| of.width).sum();
    let name = Cell {
        left: true,
        ..cell("from and to", width.saturating_sub(taken).max(12), None)
    };
    std::iter::once(name).chain(others).collect()
}

fn connection_texts(connection: &Connection) -> Vec<(&'static str, String)> {
    let row = &connection.row;
    let shown = |ns: Option<u64>| ns.map_or_else(|| "-".to_owned(), |ns| duration(ns as f64 / 1e9));
    vec![
        (
            "from and to",
            format!(":{} {}", row.local().port(), row.peer()),
        ),
        ("open for", shown(row.duration_ns)),
        ("sent", bytes(row.bytes_sent)),
        ("recv", bytes(row.bytes_received)),
        ("in/s", rate_bytes(connection.received)),
        ("out/s", rate_bytes(connection.sent)),
        ("rtt50", shown(row.rtt().p50_ns)),
        ("rtt99", shown(row.rtt().p99_ns)),
        ("exch99", shown(row.exchanges().p99_ns)),
        ("retr", row.retransmits.to_string()),
        (" held back", format!(" {}", connection.held_back.word())),
        (
            " process",
            format!(" {}", row.process_text().unwrap_or_else(|| "-".to_owned())),
        ),
    ]
}

fn head_line(cells: &[Cell], sort: Option<Column>) -> Line<'static> {
    let spans = cells.iter().map(|of| {
        let style = Style::new().add_modifier(Modifier::BOLD);
        let is_sorted = sort.is_some() && of.sorted == sort;
        let style = if is_sorted {
            style.add_modifier(Modifier::UNDERLINED)
        } else {
            style
        };
        Span::styled(fit(of, of.head), style)
    });
    Line::from(spans.collect::<Vec<_>>())
}

fn line_text(cells: &[Cell], texts: &[(&'static str, String)]) -> String {
    let of = |head| texts.iter().find(|(name, _)| *name == head);
    let text = |of_cell: &Cell| {
        of(of_cell.head)
            .map_or("", |(_, text)| text.as_str())
            .to_owned()
    };
    cells.iter().map(|each| fit(each, &text(each))).collect()
}

/// The text in its column's width; a long one is cut, and shows that it is.
fn fit(cell: &Cell, text: &str) -> String {
    let width = cell.width;
    let length = text.chars().count();
    let room = width.saturating_sub(1).max(1);
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

fn rate_bytes(rate: f64) -> String {
    if rate < 0.5 {
        return "-".to_owned();
    }
    bytes(rate.round() as u64)
}

/// The RTT's median over the last answers, as bars between the least and the greatest.
fn spark(peer: &Peer, width: usize) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let known = peer.rtt_p50_s.iter().flatten().copied();
    let greatest = known.fold(0.0, f64::max);
    let shown = peer.rtt_p50_s.len().min(width.min(SPARKS) - 1);
    let values = peer.rtt_p50_s.iter().skip(peer.rtt_p50_s.len() - shown);
    let bar = |value: &Option<f64>| match value {
        Some(value) if greatest > 0.0 => {
            BARS[((value / greatest) * 7.0).round().clamp(0.0, 7.0) as usize]
        }
        _ => ' ',
    };
    values.map(bar).collect()
}

fn draw_histograms(frame: &mut Frame<'_>, area: Rect, selected: Option<&Peer>) {
    let Some(peer) = selected else {
        return;
    };
    let title = format!(" latencies to {} since flowcar began ", peer.name);
    let block = Block::bordered().title(title);
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let thirds = Layout::horizontal([Constraint::Ratio(1, 3); 3]).areas::<3>(inner);
    let total = &peer.total;
    let all = [
        ("connect", &total.connect),
        ("round trip", &total.rtt),
        ("exchange", &total.exchange),
    ];
    for (area, (name, buckets)) in thirds.into_iter().zip(all) {
        let lines = bars(name, &buckets.histogram(), area);
        frame.render_widget(Paragraph::new(lines), area);
    }
}

/// A line for each doubling: its upper bound, and a bar. The slowest are last; where there are too many lines the fastest are added up.
fn bars(name: &str, histogram: &Histogram, area: Rect) -> Vec<Line<'static>> {
    let count = histogram.count();
    let mut lines = vec![Line::styled(format!("{name}: {count}"), Modifier::BOLD)];
    let mut octaves: Vec<(i32, u64)> = Vec::new();
    if histogram.zero_count() > 0 {
        octaves.push((ZERO_OCTAVE, histogram.zero_count()));
    }
    for (index, count) in histogram.buckets().filter(|(_, count)| *count > 0) {
        let octave = index.div_euclid(1 << SCALE) + 1;
        match octaves.last_mut() {
            Some((last, sum)) if *last == octave => *sum += count,
            _ => octaves.push((octave, count)),
        }
    }
    let room = usize::from(area.height).saturating_sub(1).max(1);
    while octaves.len() > room {
        let (_, fastest) = octaves.remove(0);
        octaves[0].1 += fastest;
    }
    let most = octaves.iter().map(|(_, count)| *count).max().unwrap_or(1);
    let width = usize::from(area.width).saturating_sub(20);
    for (octave, count) in octaves {
        let bound = duration(f64::from(octave).exp2());
        let length = (count as f64 / most as f64 * width as f64).ceil() as usize;
        lines.push(Line::from(format!(
            "<={bound:>7} {:<width$} {count}",
            "█".repeat(length)
        )));
    }
    lines
}

fn draw_help(frame: &mut Frame<'_>) {
    let lines = u16::try_from(HELP.lines().count()).unwrap_or(u16::MAX);
    let all = frame.area();
    let (width, height) = (all.width.min(80), all.height.min(lines + 2));
    let area = Rect {
        x: (all.width - width) / 2,
        y: (all.height - height) / 2,
        width,
        height,
    };
    frame.render_widget(Clear, area);
    let block = Block::bordered().title(" help: any key goes back ");
    frame.render_widget(Paragraph::new(HELP).block(block), area);
}
