//! The screen of `flowcar top` and of `kubectl flowcar top`.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Clear, Paragraph, Wrap},
};

use super::{
    by_type,
    columns::{
        Cell, connection_cells, connection_texts, fit, line_text, peer_cells, peer_texts, rate,
        rate_bytes,
    },
    follow_page,
    merged::{Merged, Row},
    palette::Palette,
    state::{Column, Level, State},
};
use crate::{
    answer::Role,
    histogram::{Histogram, SCALE},
    quantity::duration,
};

/// The zero bucket ends at 2 to the power of this, seconds ([`crate::histogram::ZERO_THRESHOLD_S`]).
const ZERO_OCTAVE: i32 = -17;

/// Lines of the pane of the selected peer, its border included.
const PANE: u16 = 14;

/// Its lines with retransmits.
const RETRANSMITS: u16 = 3;

const KEYS_OF_PEERS: &str =
    "q quit  enter open  s sort  r reverse  / filter  space pause  h more  ? help";

const KEYS_OF_CONNECTIONS: &str =
    "q quit  f follow  esc back  s sort  r reverse  space pause  h more  ? help";

const KEYS_OF_FOLLOWED: &str = "q quit  esc back  space pause  ? help";

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
f               follow the selected connection, until esc leads back
s r             sort by the next column, reverse the order
/               only peers whose name has this text
space           pause: the screen stands still
h               the selected peer's latencies, and its retransmits by type
n               all notes: what is not shown, and why";

/// Everything that is shown.
pub(super) struct Screen<'a> {
    pub(super) merged: &'a Merged,
    /// The flowcars are those of pods, which have names.
    pub(super) has_pods: bool,
    /// Sentences about what is not shown, and why.
    pub(super) notes: &'a [String],
    pub(super) palette: Palette,
}

impl Screen<'_> {
    /// Draws it. Gives how many rows there is room for.
    pub(super) fn draw(&self, frame: &mut Frame<'_>, state: &mut State) -> usize {
        let shows_pane = state.shows_histogram && state.followed.is_none();
        let pane = if shows_pane { PANE } else { 0 };
        let [head, table, pane, foot] = Layout::vertical([
            Constraint::Length(2 + u16::from(self.has_note_line())),
            Constraint::Min(3),
            Constraint::Length(pane),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        frame.render_widget(Paragraph::new(self.head(state, head.width)), head);
        let room = usize::from(table.height.saturating_sub(1)).max(1);
        let rows = state.peers(self.merged);
        match state.level {
            _ if let Some(followed) = &state.followed => {
                let page = follow_page::Page {
                    followed,
                    has_pods: self.has_pods,
                    palette: self.palette,
                    width: table.width.into(),
                };
                let lines = page.lines();
                frame.render_widget(Paragraph::new(lines), table);
            }
            Level::Peers => {
                let numbers: Vec<u64> = rows.iter().map(|(number, _)| *number).collect();
                state.keep_selection(&numbers, room);
                let lines = self.peer_lines(&rows, state, table);
                frame.render_widget(Paragraph::new(lines), table);
            }
            Level::Connections(_) => {
                let lines = self.connection_lines(state, table, room);
                frame.render_widget(Paragraph::new(lines), table);
            }
        }
        if shows_pane {
            let selected = match state.level {
                Level::Peers => rows.get(state.selected).map(|(_, row)| *row),
                Level::Connections(number) => self.merged.rows().get(&number),
            };
            draw_pane(frame, pane, selected);
        }
        frame.render_widget(Paragraph::new(self.foot(state)), foot);
        if state.shows_help {
            draw_over(frame, " help: any key goes back ", HELP);
        }
        if state.shows_notes {
            let notes = match self.notes {
                [] => "There is nothing to note.".to_owned(),
                notes => notes.join("\n\n"),
            };
            draw_over(frame, " notes: any key goes back ", &notes);
        }
        room
    }

    /// The notes of several pods stand below what the filter and the opened peer need.
    const fn has_note_line(&self) -> bool {
        self.has_pods && !self.notes.is_empty()
    }

    /// The first line: the sums of all peers.
    pub(super) fn sums(&self) -> String {
        let head = self.merged.head();
        let pods = match (self.has_pods, self.merged.count()) {
            (false, _) => String::new(),
            (true, 1) => "1 pod  ".to_owned(),
            (true, count) => format!("{count} pods  "),
        };
        let left_out = match head.left_out {
            0 => String::new(),
            count => format!("  {count} peers left out"),
        };
        format!(
            "{pods}{}  {} live  {} lost  {:.1} opened/s  {:.1} failed/s  in {}/s  out {}/s{left_out}",
            head.source(),
            head.live,
            head.lost,
            head.rates.opened,
            head.rates.failures,
            rate_bytes(head.rates.bytes_received),
            rate_bytes(head.rates.bytes_sent),
        )
    }

    fn head(&self, state: &State, width: u16) -> Vec<Line<'static>> {
        let paused = if state.is_paused { "  PAUSED" } else { "" };
        let first = format!("{}{paused}", self.sums());
        let mut lines = vec![Line::styled(first, Modifier::BOLD)];
        let red = self.palette.coloured(Color::Red);
        match self.notes {
            [trouble] if !self.has_pods => {
                lines.push(Line::styled(trouble.clone(), red));
            }
            _ => lines.push(Line::from(self.shown(state, width))),
        }
        if self.has_note_line() {
            let note = note_line(self.notes, usize::from(width));
            lines.push(Line::styled(note, self.palette.coloured(Color::Yellow)));
        }
        lines
    }

    /// Which rows are shown.
    fn shown(&self, state: &State, width: u16) -> String {
        if let Some(followed) = &state.followed {
            return follow_page::title(followed, width.into());
        }
        match &state.level {
            Level::Connections(number) => match self.merged.rows().get(number) {
                Some(row) if self.has_pods => {
                    let pods = row.sources.iter();
                    let pods = pods.map(|(pod, live)| format!("{pod} {live}"));
                    let pods = pods.collect::<Vec<_>>().join(", ");
                    format!("connections of {}: {pods}", row.key.name)
                }
                Some(row) => format!("connections of {}", row.key.name),
                None => "this peer has no connections any more: esc leads back".to_owned(),
            },
            Level::Peers if state.is_typing => format!("filter: {}_", state.filter),
            Level::Peers if !state.filter.is_empty() => {
                format!("only peers with {:?}: esc shows all", state.filter)
            }
            Level::Peers => String::new(),
        }
    }

    fn foot(&self, state: &State) -> Line<'static> {
        let text = match state.level {
            _ if state.is_typing => "enter keep the filter  esc show all",
            _ if state.followed.is_some() => KEYS_OF_FOLLOWED,
            Level::Peers => KEYS_OF_PEERS,
            Level::Connections(_) => KEYS_OF_CONNECTIONS,
        };
        Line::styled(text, Modifier::DIM)
    }

    fn peer_lines(&self, rows: &[(u64, &Row)], state: &State, area: Rect) -> Vec<Line<'static>> {
        let cells = peer_cells(usize::from(area.width), self.has_pods);
        let mut lines = vec![head_line(&cells, Some(state.sort))];
        let shown = rows.iter().enumerate().skip(state.first);
        for (at, (_, row)) in shown.take(usize::from(area.height)) {
            let text = line_text(&cells, &peer_texts(row));
            let style = self.palette.of(row.held_back);
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

    fn connection_lines(&self, state: &mut State, area: Rect, room: usize) -> Vec<Line<'static>> {
        let (rows, left_out) = state.connections(self.merged);
        state.keep_connection(&rows, room);
        let role = match state.level {
            Level::Connections(number) => self.merged.rows().get(&number),
            Level::Peers => None,
        };
        let role = role.map_or_else(Role::default, |row| row.key.role);
        let cells = connection_cells(usize::from(area.width), self.has_pods);
        let mut lines = vec![head_line(&cells, None)];
        let shown = rows.iter().enumerate().skip(state.first);
        for (at, (pod, connection)) in shown.take(usize::from(area.height)) {
            let text = line_text(&cells, &connection_texts(pod, role, connection));
            let style = self.palette.of(connection.held_back);
            lines.push(selectable(text, style, at == state.selected));
        }
        if rows.is_empty() {
            lines.push(Line::from("no connection to this peer is open"));
        } else if left_out > 0 {
            lines.push(Line::from(format!("and {left_out} more")));
        }
        lines
    }
}

/// The first note in so many columns, and the key that shows all, where that is not all.
fn note_line(notes: &[String], width: usize) -> String {
    let first = notes.first().map_or("", String::as_str);
    if notes.len() < 2 && first.chars().count() <= width {
        return first.to_owned();
    }
    let rest = match notes.len() {
        0 | 1 => "~ (n: all of it)".to_owned(),
        count => format!("~ (n: all {count})"),
    };
    let room = width.saturating_sub(rest.len());
    let cut: String = first.chars().take(room).collect();
    format!("{cut}{rest}")
}

fn selectable(text: String, style: Style, is_selected: bool) -> Line<'static> {
    let style = if is_selected {
        style.add_modifier(Modifier::REVERSED)
    } else {
        style
    };
    Line::from(Span::styled(text, style))
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

/// The distributions of a peer's latencies, and its retransmits by type.
fn draw_pane(frame: &mut Frame<'_>, area: Rect, selected: Option<&Row>) {
    let Some(row) = selected else {
        return;
    };
    let title = format!(" {} since flowcar began ", row.key.name);
    let block = Block::bordered().title(title);
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let [histograms, retransmits] =
        Layout::vertical([Constraint::Min(0), Constraint::Length(RETRANSMITS)]).areas(inner);
    let thirds = Layout::horizontal([Constraint::Ratio(1, 3); 3]).areas::<3>(histograms);
    let total = &row.total;
    let all = [
        ("connect", &total.connect),
        ("round trip", &total.rtt),
        ("exchange", &total.exchange),
    ];
    for (area, (name, histogram)) in thirds.into_iter().zip(all) {
        let lines = bars(name, histogram, area);
        frame.render_widget(Paragraph::new(lines), area);
    }
    let table = by_type::table([
        by_type::Row {
            label: "in all",
            of: row.retransmits,
            text: by_type::count,
        },
        by_type::Row {
            label: "a second",
            of: row.rates.by_type,
            text: rate,
        },
    ]);
    let lines: Vec<Line<'_>> = table.into_iter().map(Line::from).collect();
    frame.render_widget(Paragraph::new(lines), retransmits);
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

/// A text over the screen, in lines of at most 80 columns.
fn draw_over(frame: &mut Frame<'_>, title: &'static str, text: &str) {
    let all = frame.area();
    let width = all.width.min(80);
    let inner = usize::from(width.saturating_sub(2)).max(1);
    let lines = text.lines();
    let lines: usize = lines
        .map(|line| line.chars().count().div_ceil(inner).max(1) + usize::from(line.len() > inner))
        .sum();
    let height = u16::try_from(lines + 2).unwrap_or(u16::MAX);
    let height = all.height.min(height);
    let area = Rect {
        x: (all.width - width) / 2,
        y: (all.height - height) / 2,
        width,
        height,
    };
    frame.render_widget(Clear, area);
    let block = Block::bordered().title(title);
    let text = Paragraph::new(text).wrap(Wrap { trim: false }).block(block);
    frame.render_widget(text, area);
}

#[cfg(test)]
mod follow_tests;
#[cfg(test)]
mod tests;
