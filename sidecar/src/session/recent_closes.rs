//! The connections that closed last, for whoever follows one on a screen. They are kept only while somebody asks.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use flowcar_screen::line::MOST_CLOSED;

use crate::{flow::Flow, view::closed::ClosedRow};

/// How long after the last question closes are kept.
const KEPT: Duration = Duration::from_secs(300);

/// The closes since somebody asked for them, at most [`MOST_CLOSED`].
#[derive(Debug, Default)]
pub(super) struct RecentCloses {
    rows: VecDeque<ClosedRow>,
    asked: Option<Instant>,
}

// === impl RecentCloses ===

impl RecentCloses {
    /// Somebody asks: closes are kept from now on.
    pub(super) fn ask(&mut self, now: Instant) -> Vec<ClosedRow> {
        self.asked = Some(now);
        self.rows.iter().cloned().collect()
    }

    /// Keeps what closed, if somebody asks.
    pub(super) fn add(&mut self, closed: &[Flow], now: Instant) {
        let Some(asked) = self.asked else {
            return;
        };
        if now.saturating_duration_since(asked) > KEPT {
            *self = Self::default();
            return;
        }
        for row in closed.iter().filter_map(ClosedRow::of) {
            if self.rows.len() == MOST_CLOSED {
                self.rows.pop_front();
            }
            self.rows.push_back(row);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock, flow::example};

    #[test]
    fn closes_are_kept_while_somebody_asks() {
        let mut closes = RecentCloses::default();
        let began = clock::now();
        closes.add(&[example::closed(1)], began);
        assert!(closes.ask(began).is_empty());
        let cookies = |of: Vec<ClosedRow>| of.iter().map(|row| row.cookie).collect::<Vec<_>>();
        closes.add(&[example::closed(2), example::closed(3)], began);
        assert_eq!(cookies(closes.ask(began)), [2, 3]);
        // Each question begins the time anew.
        let soon = began + KEPT;
        closes.add(&[example::closed(4)], soon);
        assert_eq!(cookies(closes.ask(soon)), [2, 3, 4]);
        let later = soon + KEPT + Duration::from_secs(1);
        closes.add(&[example::closed(5)], later);
        assert!(closes.ask(later).is_empty());
    }

    #[test]
    fn oldest_close_makes_room() {
        let mut closes = RecentCloses::default();
        let now = clock::now();
        closes.ask(now);
        let flows: Vec<Flow> = (0..=MOST_CLOSED as u32).map(example::closed).collect();
        closes.add(&flows, now);
        let rows = closes.ask(now);
        assert_eq!((rows.len(), rows[0].cookie), (MOST_CLOSED, 1));
    }
}
