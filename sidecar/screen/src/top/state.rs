//! What the person at the screen chose: order, filter, the opened peer. Pure.

use std::cmp::Ordering;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::{
    followed::Followed,
    merged::{Merged, Row},
    source::Connection,
};
use crate::histogram::Histogram;

/// The columns by which peers can be sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    Peer,
    Live,
    Opened,
    Failed,
    Received,
    Sent,
    RttP50,
    RttP99,
    ExchangeP99,
    Retransmits,
}

impl Column {
    const ALL: [Self; 10] = [
        Self::Received,
        Self::Sent,
        Self::Live,
        Self::Opened,
        Self::Failed,
        Self::RttP50,
        Self::RttP99,
        Self::ExchangeP99,
        Self::Retransmits,
        Self::Peer,
    ];

    fn next(self) -> Self {
        let at = Self::ALL.iter().position(|of| *of == self).unwrap_or(0);
        Self::ALL[(at + 1) % Self::ALL.len()]
    }

    /// What a peer is sorted by, greatest first.
    fn value(self, row: &Row) -> f64 {
        let (recent, rates) = (&row.recent, &row.rates);
        let quantile = |of: &Histogram, q| of.quantile_s(q).unwrap_or(-1.0);
        match self {
            Self::Peer => 0.0,
            Self::Live => row.live as f64,
            Self::Opened => rates.opened,
            Self::Failed => rates.failures,
            Self::Received => rates.bytes_received,
            Self::Sent => rates.bytes_sent,
            Self::RttP50 => quantile(&recent.rtt, 0.5),
            Self::RttP99 => quantile(&recent.rtt, 0.99),
            Self::ExchangeP99 => quantile(&recent.exchange, 0.99),
            Self::Retransmits => rates.retransmits,
        }
    }
}

/// What the rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Peers,
    /// The connections of the peer with this number.
    Connections(u64),
}

/// What is chosen.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) level: Level,
    pub(super) sort: Column,
    pub(super) reversed: bool,
    pub(super) filter: String,
    /// The filter is being typed.
    pub(super) is_typing: bool,
    pub(super) is_paused: bool,
    pub(super) shows_histogram: bool,
    pub(super) shows_help: bool,
    pub(super) shows_notes: bool,
    /// The row, and the first row that is on the screen.
    pub(super) selected: usize,
    pub(super) first: usize,
    /// The connection that is followed.
    pub(super) followed: Option<Box<Followed>>,
    /// The number of the selected peer.
    chosen: Option<u64>,
    /// The selected connection of the opened peer, once one was selected: its flowcar and its socket cookie.
    chosen_connection: ChosenConnection,
}

/// Which connection is selected.
#[derive(Clone, Debug, PartialEq, Eq)]
enum ChosenConnection {
    /// The first row, whichever it is.
    First,
    /// The one in the selected row.
    InRow,
    /// That of a flowcar with this cookie, wherever its row is.
    Of(String, u64),
}

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Nothing,
    Quit,
    /// To follow the selected connection.
    Follow,
}

impl Default for State {
    fn default() -> Self {
        Self {
            level: Level::Peers,
            sort: Column::Received,
            reversed: false,
            filter: String::new(),
            is_typing: false,
            is_paused: false,
            shows_histogram: false,
            shows_help: false,
            shows_notes: false,
            selected: 0,
            first: 0,
            followed: None,
            chosen: None,
            chosen_connection: ChosenConnection::First,
        }
    }
}

impl State {
    /// The numbers and peers that the filter lets through, in order.
    pub(super) fn peers<'a>(&self, merged: &'a Merged) -> Vec<(u64, &'a Row)> {
        let filter = self.filter.to_lowercase();
        let all = merged.rows().iter();
        let mut rows: Vec<_> = all
            .filter(|(_, row)| row.key.name.to_lowercase().contains(&filter))
            .map(|(number, row)| (self.sort.value(row), *number, row))
            .collect();
        // Equal ones keep the order of their names, so that rows do not jump.
        rows.sort_by(|(one, _, row), (other, _, others)| {
            let by_value = other.partial_cmp(one).unwrap_or(Ordering::Equal);
            by_value.then_with(|| row.key.name.cmp(&others.key.name))
        });
        if self.reversed {
            rows.reverse();
        }
        rows.into_iter()
            .map(|(_, number, row)| (number, row))
            .collect()
    }

    /// The connections of the opened peer with the names of their flowcars, in order, and how many there was no room for.
    pub(super) fn connections<'a>(
        &self,
        merged: &'a Merged,
    ) -> (Vec<(&'a str, &'a Connection)>, u64) {
        let Level::Connections(number) = self.level else {
            return (Vec::new(), 0);
        };
        let row = merged.rows().get(&number);
        let all = row.map(|row| merged.connections(&row.key));
        let (mut rows, left_out) = all.unwrap_or_default();
        self.sort_connections(&mut rows);
        (rows, left_out)
    }

    /// Sorts the connections of the opened peer, the busiest first.
    fn sort_connections(&self, rows: &mut [(&str, &Connection)]) {
        let value = |of: &Connection| match self.sort {
            Column::Sent => of.sent,
            Column::RttP50 => of.counts.rtt_p50_ns.unwrap_or(0) as f64,
            Column::RttP99 => of.counts.rtt_p99_ns.unwrap_or(0) as f64,
            Column::ExchangeP99 => of.counts.exchange_p99_ns.unwrap_or(0) as f64,
            Column::Retransmits => of.counts.retransmits as f64,
            _ => of.received + of.sent,
        };
        rows.sort_by(|(_, one), (_, other)| {
            value(other)
                .partial_cmp(&value(one))
                .unwrap_or(Ordering::Equal)
        });
        if self.reversed {
            rows.reverse();
        }
    }

    /// Keeps the selection on the chosen peer while rows change their order, and on the screen, which has room for so many rows.
    pub(super) fn keep_selection(&mut self, rows: &[u64], room: usize) {
        if let Some(chosen) = self.chosen
            && let Some(at) = rows.iter().position(|number| *number == chosen)
        {
            self.selected = at;
        }
        self.scroll(rows.len(), room);
    }

    /// Keeps the selection on the chosen connection while others come and go, and on the screen.
    pub(super) fn keep_connection(&mut self, rows: &[(&str, &Connection)], room: usize) {
        let is_chosen = |(source, of): &(&str, &Connection)| match &self.chosen_connection {
            ChosenConnection::Of(flowcar, cookie) => {
                flowcar == source && *cookie == of.counts.cookie
            }
            ChosenConnection::First | ChosenConnection::InRow => false,
        };
        if let Some(at) = rows.iter().position(is_chosen) {
            self.selected = at;
        }
        self.scroll(rows.len(), room);
        if self.chosen_connection != ChosenConnection::First
            && let Some((source, of)) = rows.get(self.selected)
        {
            let source = (*source).to_owned();
            self.chosen_connection = ChosenConnection::Of(source, of.counts.cookie);
        }
    }

    /// Follows the selected connection, if there is one.
    pub(super) fn follow(&mut self, merged: &Merged) {
        let Level::Connections(number) = self.level else {
            return;
        };
        let (rows, _) = self.connections(merged);
        let peer = merged.rows().get(&number);
        let Some((peer, (source, connection))) = peer.zip(rows.get(self.selected)) else {
            return;
        };
        let mut followed = Followed::new(source, peer.key.clone(), connection);
        followed.refresh(merged);
        self.chosen_connection = ChosenConnection::Of(followed.source.clone(), followed.cookie());
        self.followed = Some(Box::new(followed));
    }

    /// Keeps the selection among so many rows, and on the screen.
    pub(super) fn scroll(&mut self, rows: usize, room: usize) {
        self.selected = self.selected.min(rows.saturating_sub(1));
        self.first = self.first.min(self.selected).min(rows.saturating_sub(room));
        if self.selected >= self.first + room {
            self.first = self.selected + 1 - room;
        }
    }

    /// Does what a key stands for. `rows`: the numbers of the peers as they are shown.
    pub(super) fn press(&mut self, pressed: KeyEvent, rows: &[u64], page: usize) -> Asked {
        if pressed.modifiers.contains(KeyModifiers::CONTROL) && pressed.code == KeyCode::Char('c') {
            return Asked::Quit;
        }
        if self.is_typing {
            self.type_filter(pressed.code);
            return Asked::Nothing;
        }
        if std::mem::take(&mut self.shows_help) || std::mem::take(&mut self.shows_notes) {
            return Asked::Nothing;
        }
        match pressed.code {
            KeyCode::Char('q') => return Asked::Quit,
            KeyCode::Char('?') => self.shows_help = true,
            KeyCode::Char('n') => self.shows_notes = true,
            KeyCode::Char(' ') => self.is_paused = !self.is_paused,
            KeyCode::Esc => return self.back(),
            // Nothing is selected or sorted there, and the page needs the room of the pane.
            _ if self.followed.is_some() => {}
            KeyCode::Char('h') => self.shows_histogram = !self.shows_histogram,
            KeyCode::Char('f') if self.level != Level::Peers => return Asked::Follow,
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('r') => self.reversed = !self.reversed,
            KeyCode::Char('/') if self.level == Level::Peers => self.is_typing = true,
            KeyCode::Down | KeyCode::Char('j') => self.select(self.selected + 1, rows),
            KeyCode::Up | KeyCode::Char('k') => self.select(self.selected.saturating_sub(1), rows),
            KeyCode::PageDown => self.select(self.selected + page, rows),
            KeyCode::PageUp => self.select(self.selected.saturating_sub(page), rows),
            KeyCode::Home => self.select(0, rows),
            KeyCode::End => self.select(usize::MAX, rows),
            KeyCode::Enter => self.open(rows),
            _ => {}
        }
        Asked::Nothing
    }

    fn type_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Char(typed) => self.filter.push(typed),
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Esc => {
                self.filter.clear();
                self.is_typing = false;
            }
            KeyCode::Enter => self.is_typing = false,
            _ => {}
        }
    }

    fn select(&mut self, row: usize, rows: &[u64]) {
        if self.level == Level::Peers {
            self.selected = row.min(rows.len().saturating_sub(1));
            self.chosen = rows.get(self.selected).copied();
        } else {
            self.selected = row;
            self.chosen_connection = ChosenConnection::InRow;
        }
    }

    fn open(&mut self, rows: &[u64]) {
        if self.level == Level::Peers
            && let Some(number) = rows.get(self.selected)
        {
            self.chosen = Some(*number);
            self.level = Level::Connections(*number);
            (self.selected, self.first) = (0, 0);
            self.chosen_connection = ChosenConnection::First;
        }
    }

    fn back(&mut self) -> Asked {
        if self.followed.take().is_some() {
            return Asked::Nothing;
        }
        if self.level != Level::Peers {
            self.level = Level::Peers;
        } else if !self.filter.is_empty() {
            self.filter.clear();
        } else {
            return Asked::Quit;
        }
        Asked::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(state: &mut State, code: KeyCode, rows: &[u64]) -> Asked {
        state.press(KeyEvent::new(code, KeyModifiers::NONE), rows, 10)
    }

    #[test]
    fn selection_stays_on_its_peer_when_rows_change_their_order() {
        let mut state = State::default();
        press(&mut state, KeyCode::Down, &[1, 2, 3]);
        assert_eq!(state.selected, 1);
        state.keep_selection(&[2, 3, 1], 10);
        assert_eq!(state.selected, 0);
        // It is gone: the row stays.
        state.keep_selection(&[1, 3], 10);
        assert_eq!(state.selected, 0);
    }

    #[test]
    fn screen_follows_the_selection() {
        let mut state = State {
            selected: 25,
            ..State::default()
        };
        state.scroll(100, 10);
        assert_eq!(state.first, 16);
        state.selected = 3;
        state.scroll(100, 10);
        assert_eq!(state.first, 3);
        state.selected = 99;
        state.scroll(2, 10);
        assert_eq!((state.selected, state.first), (1, 0));
        state.scroll(0, 10);
        assert_eq!((state.selected, state.first), (0, 0));
    }

    #[test]
    fn keys_open_a_peer_and_come_back() {
        let rows = [1, 2];
        let mut state = State::default();
        press(&mut state, KeyCode::End, &rows);
        press(&mut state, KeyCode::Enter, &rows);
        assert_eq!(state.level, Level::Connections(2));
        assert_eq!(press(&mut state, KeyCode::Esc, &rows), Asked::Nothing);
        state.keep_selection(&rows, 10);
        assert_eq!((state.level, state.selected), (Level::Peers, 1));
        assert_eq!(press(&mut state, KeyCode::Esc, &rows), Asked::Quit);
    }

    #[test]
    fn filter_is_typed_and_cleared() {
        let mut state = State::default();
        for code in [
            KeyCode::Char('/'),
            KeyCode::Char('q'),
            KeyCode::Char('x'),
            KeyCode::Backspace,
        ] {
            assert_eq!(press(&mut state, code, &[1]), Asked::Nothing);
        }
        assert_eq!(state.filter, "q");
        press(&mut state, KeyCode::Enter, &[1]);
        assert_eq!(press(&mut state, KeyCode::Esc, &[1]), Asked::Nothing);
        assert_eq!(state.filter, "");
        assert_eq!(press(&mut state, KeyCode::Char('q'), &[1]), Asked::Quit);
    }
}
