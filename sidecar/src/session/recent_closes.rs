//! The connections that closed last, for whoever follows one on a screen. They are kept only while somebody asks.

use std::{collections::VecDeque, time::Duration};

use flowcar_screen::line::MOST_CLOSED;

use crate::{
    flow::{Flow, Monotonic},
    view::closed::ClosedRow,
};

/// How long after the last question closes are kept.
const KEPT: Duration = Duration::from_secs(300);

/// The closes since somebody asked for them, at most [`MOST_CLOSED`], of connections that an answer had open: no other can be followed.
#[derive(Debug, Default)]
pub(super) struct RecentCloses {
    rows: VecDeque<ClosedRow>,
    asked: Option<Monotonic>,
}

// === impl RecentCloses ===

impl RecentCloses {
    /// Somebody asks: closes are kept from now on.
    pub(super) fn ask(&mut self, now: Monotonic) -> Vec<ClosedRow> {
        self.asked = Some(now);
        self.rows.iter().cloned().collect()
    }

    /// Whether anybody asks.
    pub(super) const fn is_asked(&self) -> bool {
        self.asked.is_some()
    }

    /// Keeps what closed, if somebody asks.
    pub(super) fn add(&mut self, closed: &[Flow], now: Monotonic) {
        let Some(asked) = self.asked else {
            return;
        };
        if Duration::from_nanos(now.since_ns(asked)) > KEPT {
            *self = Self::default();
            return;
        }
        // What began since the last answer was in none.
        let answered = closed.iter().filter(|flow| flow.started <= asked);
        for row in answered.filter_map(ClosedRow::of) {
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
    use crate::flow::example;

    const KEPT_NS: u64 = KEPT.as_nanos() as u64;

    #[test]
    fn closes_are_kept_while_somebody_asks() {
        let mut closes = RecentCloses::default();
        let began = Monotonic(1_000);
        closes.add(&[example::closed(1)], began);
        assert!(closes.ask(began).is_empty());
        let cookies = |of: Vec<ClosedRow>| of.iter().map(|row| row.cookie).collect::<Vec<_>>();
        closes.add(&[example::closed(2), example::closed(3)], began);
        assert_eq!(cookies(closes.ask(began)), [2, 3]);
        // Each question begins the time anew.
        let soon = Monotonic(began.0 + KEPT_NS);
        closes.add(&[example::closed(4)], soon);
        assert_eq!(cookies(closes.ask(soon)), [2, 3, 4]);
        let later = Monotonic(soon.0 + KEPT_NS + 1);
        closes.add(&[example::closed(5)], later);
        assert!(closes.ask(later).is_empty());
    }

    #[test]
    fn connection_that_no_answer_had_makes_no_room() {
        let mut closes = RecentCloses::default();
        let asked = Monotonic(1_000);
        closes.ask(asked);
        closes.add(&[example::closed(1)], asked);
        // They began and closed between two answers.
        let short = (2..=2 + MOST_CLOSED as u32).map(|isn| Flow {
            started: Monotonic(asked.0 + 1),
            ..example::closed(isn)
        });
        let short: Vec<Flow> = short.collect();
        closes.add(&short, Monotonic(2_000));
        let cookies = |of: Vec<ClosedRow>| of.iter().map(|row| row.cookie).collect::<Vec<_>>();
        assert_eq!(cookies(closes.ask(Monotonic(3_000))), [1]);
        // The next answer has those that are still open.
        closes.add(&short[..1], Monotonic(4_000));
        assert_eq!(cookies(closes.ask(Monotonic(5_000))), [1, 2]);
    }

    #[test]
    fn oldest_close_makes_room() {
        let mut closes = RecentCloses::default();
        let now = Monotonic(1_000);
        closes.ask(now);
        let flows: Vec<Flow> = (0..=MOST_CLOSED as u32).map(example::closed).collect();
        closes.add(&flows, now);
        let rows = closes.ask(now);
        assert_eq!((rows.len(), rows[0].cookie), (MOST_CLOSED, 1));
    }
}
